"""The command line: each command parses its options, calls one workflow and prints. Data goes to stdout, messages to
stderr.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click
from click.shell_completion import CompletionItem

from anomaly_vae.cli import detect, latent, production, runs
from anomaly_vae.core.errors import UsageError, told
from anomaly_vae.core.threads import collect_rarely, keep_memory
from anomaly_vae.core.version import __version__

PLACES = re.compile("FILE|FOLDER|DIR|data|file", re.I)  # what the help calls files and folders
COMMON = ("--debug", "-q", "--quiet")  # options that may also follow the name of a command


class FileName(click.types.StringParamType):
    """Text that is completed as the name of a file or folder."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Group(click.Group):
    """Prints any exception as one line and exits with its code; with --debug it keeps its traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Runs the command line; the last handler of every exception."""
        words = sys.argv[1:] if args is None else list(args)
        _require_streams()
        try:
            if any("\0" in word for word in words):
                raise UsageError(f"{next(w for w in words if chr(0) in w)}: a zero byte is in no name and no value")
            return super().main(args, *rest, **extra)
        except Exception as error:
            if "--debug" in words:
                raise
            line, code = told(error)
            _discard_stdout()
            with suppress(OSError):
                click.echo(f"anomaly-vae: {line}", err=True)
            sys.exit(code)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Moves the COMMON options to the front, where click expects the options of a group."""
        end = args.index("--") if "--" in args else len(args)
        common = [arg for arg in args[:end] if arg in COMMON]
        return super().parse_args(ctx, common + [arg for arg in args[:end] if arg not in COMMON] + args[end:])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = error.message.replace("\n", r"\n")  # type: ignore[misc]  # of a word of the command
            raise
        except BrokenPipeError:  # e.g. `| head`
            _discard_stdout()
            ctx.exit(0)


def _require_streams() -> None:
    """Ends the command where stdout is closed; a closed stdin or stderr becomes /dev/null.

    Left closed, its number would go to the next file that is opened, and what a library prints into that file.
    """
    is_closed = sys.stdout is None
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    if is_closed:
        with suppress(OSError):
            os.write(2, b"anomaly-vae: stdout is closed; send it to a file, or to /dev/null\n")
        sys.exit(1)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)


def _discard_stdout() -> None:
    """What is left in the buffer of a stdout that takes no more would raise once more when the process ends."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError):  # ValueError: no file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does: temporary files go, and the run is marked as killed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [number for number in ("SIGTERM", "SIGHUP") if hasattr(signal, number)]
    default = [getattr(signal, n) for n in signals if signal.getsignal(getattr(signal, n)) is signal.SIG_DFL]
    for number in default:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, signal.SIG_DFL)


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
    collect_rarely()
    ctx.with_resource(_stoppable())
    ctx.obj = {"quiet": quiet}
    if "TORCHELASTIC_RUN_ID" in os.environ and ctx.invoked_subcommand != "fit":
        raise UsageError(
            f"torchrun starts several processes, and `{ctx.invoked_subcommand}` is for one; `fit` is for several"
        )


def _complete_files(command: click.Command) -> None:
    """Makes the shell's completion offer files where a command takes one; click offers none for text."""
    for param in command.params:
        if isinstance(param.type, click.types.StringParamType) and PLACES.search(param.metavar or str(param.name)):
            param.type = FileName()
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _complete_files(inner)


for command in (*detect.COMMANDS, *latent.COMMANDS, *production.COMMANDS, *runs.COMMANDS):
    main.add_command(command)
_complete_files(main)
