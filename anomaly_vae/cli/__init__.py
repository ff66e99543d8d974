"""The command line: each command parses its options, calls one workflow and prints. Data goes to stdout, messages to
stderr.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from anomaly_vae.cli import detect, latent, production, runs
from anomaly_vae.core.errors import AnomalyVAEError, UsageError
from anomaly_vae.core.threads import keep_memory
from anomaly_vae.core.version import __version__

COMMON = ("--debug", "-q", "--quiet")  # options that may also follow the name of a command


class Group(click.Group):
    """Prints an expected failure as one line and exits with its code; any other exception keeps its traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Moves the COMMON options to the front, where click expects the options of a group."""
        end = args.index("--") if "--" in args else len(args)
        common = [arg for arg in args[:end] if arg in COMMON]
        return super().parse_args(ctx, common + [arg for arg in args[:end] if arg not in COMMON] + args[end:])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except AnomalyVAEError as error:
            if ctx.params.get("debug"):
                raise
            # one line; blanks are kept, for they may be part of a name that is quoted for the shell
            click.echo(f"anomaly-vae: {' '.join(line.strip() for line in str(error).splitlines())}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # e.g. `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="anomaly-vae")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notes on stderr.")
@click.pass_context
def main(ctx: click.Context, debug: bool, quiet: bool) -> None:
    """Find anomalies with a VAE: fit on normal data, score new data, review the runs in MLflow.

    \b
    anomaly-vae fit                                      the embedded digits, end to end
    anomaly-vae fit sensors.csv --label anomaly          a table, series, pixel CSV or folder of pictures
    anomaly-vae score data.csv                           with the latest fitted detector
    """
    keep_memory()
    ctx.obj = {"quiet": quiet}
    if "TORCHELASTIC_RUN_ID" in os.environ and ctx.invoked_subcommand != "fit":
        raise UsageError(
            f"torchrun starts several processes, and `{ctx.invoked_subcommand}` is for one; `fit` is for several"
        )


for command in (*detect.COMMANDS, *latent.COMMANDS, *production.COMMANDS, *runs.COMMANDS):
    main.add_command(command)
