"""The command line: parse, call the workflow, print. Data goes to stdout, words to stderr."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from anomaly_vae import __version__
from anomaly_vae.errors import AnomalyVAEError, DataError, UsageError

if TYPE_CHECKING:
    from anomaly_vae.config import Config

COMMON = ("--debug", "-q", "--quiet")
KINDS = ["table", "series", "pixels", "images"]


class Group(click.Group):
    """Expected failures end in one line and their exit code; everything else is a bug and keeps its traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The options that every command has may also stand behind its name."""
        end = args.index("--") if "--" in args else len(args)
        common = [arg for arg in args[:end] if arg in COMMON]
        return super().parse_args(ctx, common + [arg for arg in args[:end] if arg not in COMMON] + args[end:])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AnomalyVAEError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"anomaly-vae: {' '.join(str(error).split())}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # `| head` has seen enough
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
    ctx.obj = {"quiet": quiet}


def settings(command: Callable[..., Any]) -> Any:
    """The options of every command that reads settings: -c and --set, resolved into `config`."""

    @click.option("-c", "--config", "config_file", metavar="FILE", help="YAML file with settings.")
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeatable.")
    @functools.wraps(command)
    def wrapped(config_file: str | None, overrides: tuple[str, ...], **options: Any) -> Any:
        return command(config_file=config_file, overrides=overrides, **options)

    return wrapped


MODEL = click.option("-m", "--model", metavar="RUN_ID|FOLDER", help="Detector; default: of the latest finished run.")


@main.command(short_help="Train a detector (default: on scikit-learn's digits).")
@click.argument("data", required=False)
@settings
@click.option("--kind", type=click.Choice(KINDS), help="Kind of data; default: recognised from the file.")
@click.option("--label", metavar="COLUMN", help="Column that tells normal from anomalous.")
@click.option(
    "--normal",
    multiple=True,
    metavar="VALUE",
    help="Label value that is normal; repeatable. Default: 0, false, normal, good, ...",
)
@click.option("--group", metavar="COLUMN", help="Column naming the machine of a series.")
@click.option("--id", "id_column", metavar="COLUMN", help="Column to report as id.")
@click.option("--false-alarm-rate", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="RATE",
              help="Choose the threshold for this rate: threshold.policy=fpr=RATE.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--seed", type=click.IntRange(0), help="Seed of everything.")
@click.option("--name", help="Name of the run.")
@click.option("-o", "--output", metavar="DIR", help="Also save the detector in this new folder.")
@click.option("--resume", metavar="RUN_ID", help="Continue a killed run from its last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of the table.")
@click.pass_context
def fit(
    ctx: click.Context, /, data: str | None, output: str | None, resume: str | None, as_json: bool, **options: Any
) -> None:
    """Train a detector on DATA (default: scikit-learn's digits, where 3 is normal)."""
    from anomaly_vae.config import EMBEDDED

    if resume and data:
        raise UsageError("--resume continues with the run's own data; leave DATA out")
    config = _load(options)
    data = data or config.data.path
    if data is None:
        config = _load(options, base=EMBEDDED)
    elif not resume:
        _require_there(data)
    from anomaly_vae import workflow
    from anomaly_vae.console import Console, fit_summary

    console = Console(ctx.obj["quiet"])
    try:
        result = workflow.fit(data, config, output=output, resume=resume, progress=console.progress, say=console.say)
    finally:
        console.close()
    for note in result.notes:
        console.say(f"note: {note}")
    click.echo(result.to_json() if as_json else fit_summary(result))


@main.command(short_help="Score every row, time step or picture of DATA.")
@click.argument("data")
@settings
@MODEL
@click.option("-o", "--output", metavar="FILE", help="Write here (.csv, .parquet, .json); default: CSV on stdout.")
@click.option("--threshold", type=float, metavar="NATS", help="Threshold instead of the detector's.")
@click.option("--explain", type=click.IntRange(1), metavar="N", help="Add the N columns that contribute most.")
@click.option("--maps", metavar="DIR", help="Draw heat maps over flagged pictures into this new folder.")
@click.option("--id", "id_column", metavar="COLUMN", help="Column to report as id.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@click.pass_context
def score(
    ctx: click.Context, /, data: str, model: str | None, threshold: float | None, explain: int | None,
    output: str | None, maps: str | None, id_column: str | None, **options: Any,
) -> None:  # fmt: skip
    """Score every row, time step or picture of DATA: id, score, its parts, p_value, is_anomaly."""
    config = _load(options)
    _require_there(data)
    from anomaly_vae import workflow
    from anomaly_vae.console import Console

    found = workflow.find(model, config)
    console = Console(ctx.obj["quiet"])
    detector = found.detector
    try:
        rows, alarms = workflow.score(
            data, detector, output=output, threshold=threshold, explain=explain or 0, maps=maps,
            id_column=id_column, progress=console.progress,
        )  # fmt: skip
    finally:
        console.close()
    by = f"--threshold {threshold:g}" if threshold is not None else f"{detector.threshold.value:.6g} nats"
    console.say(f"{alarms} of {rows} at or above the threshold ({by}), by {found.run_id or found.folder}")


@main.command()
@click.argument("data")
@settings
@MODEL
@click.option("--label", metavar="COLUMN", help="Label column; default: the one of the fit.")
@click.option("--normal", multiple=True, metavar="VALUE", help="Label value that is normal; repeatable.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of the table.")
def evaluate(
    data: str, model: str | None, label: str | None, normal: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Metrics of a fitted detector on new labelled DATA."""
    config = _load(options)
    _require_there(data)
    from anomaly_vae import workflow
    from anomaly_vae.console import metric_rows, table

    found = workflow.find(model, config)
    result = workflow.evaluate(data, found.detector, label=label, normal=normal, run_id=found.run_id)
    rows = [("rows", f"{result.metrics['rows']:.0f}, {result.metrics['anomalies']:.0f} of them anomalies")]
    rows += [*metric_rows(result.metrics), ("threshold", f"{result.threshold:.6g} nats ({result.policy})")]
    click.echo(result.to_json() if as_json else table(rows))


@main.command(short_help="Choose the threshold again, without training again.")
@settings
@MODEL
@click.option("--policy", required=True, metavar="POLICY", help="youden, f1, fpr=RATE, recall=RATE or cost=RATIO.")
def threshold(model: str | None, policy: str, **options: Any) -> None:
    """Choose the threshold again, from the fit's validation scores, without training again."""
    config = _load({**options, "policy": policy})
    from anomaly_vae import workflow
    from anomaly_vae.console import table, threshold_row

    found = workflow.find(model, config)
    before = found.detector.threshold
    after = workflow.rethreshold(found, policy).threshold
    click.echo(table([threshold_row("was", before), threshold_row("now", after)]))
    if after.note:
        click.echo(f"note: {after.note}", err=True)


@main.command("sample-data", short_help="Write a CSV to try things on.")
@click.argument("name", type=click.Choice(["digits", "table", "series"]))
@click.option("-o", "--output", metavar="FILE", help="Write here; default: stdout.")
def sample_data(name: str, output: str | None) -> None:
    """Write a CSV to try things on: scikit-learn's digits or breast_cancer, or a synthetic plant's sensors."""
    from anomaly_vae.data.samples import SAMPLES
    from anomaly_vae.output import replacing

    frame = SAMPLES[name]()
    if output is None:
        frame.to_csv(sys.stdout, index=False)
        return
    with replacing(output) as beside:
        frame.to_csv(beside, index=False)


@main.command()
@settings
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout instead of the table.")
def runs(limit: int, as_json: bool, **options: Any) -> None:
    """List the latest runs."""
    config = _load(options)
    from anomaly_vae import tracking
    from anomaly_vae.console import runs_table

    found = tracking.list_runs(config, limit)
    if as_json:
        import json

        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        click.echo(runs_table(found))


@main.command("config", short_help="Print the settings as YAML.")
@settings
def config_command(**options: Any) -> None:
    """Print the settings, with those of -c and --set applied, as YAML."""
    click.echo(_load(options).to_yaml(), nl=False)


@main.command()
def info() -> None:
    """Versions and devices, for a bug report."""
    from anomaly_vae.console import info_rows, table

    click.echo(table(info_rows()))


@main.command()
@settings
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port to listen on.")
def ui(host: str, port: int, **options: Any) -> None:
    """Open the MLflow UI on the store of the runs."""
    config = _load(options)
    from anomaly_vae import store, tracking

    store.serve_ui(config, tracking.require_store, host=host, port=port)


def _require_there(data: str) -> None:
    """The commonest slip is told before seconds of imports."""
    if not os.path.exists(data):
        raise DataError(f"{data}: no such file or folder")


# option -> the setting it is a shorthand for
SHORTHANDS = {
    "kind": "data.kind", "label": "data.label", "normal": "data.normal", "group": "data.group",
    "id_column": "data.id", "device": "device", "seed": "seed", "name": "tracking.name",
    "policy": "threshold.policy",
}  # fmt: skip


def _load(options: dict[str, Any], base: dict[str, Any] | None = None) -> Config:
    """The settings of -c, --set and the options that are shorthands for one, which win."""
    from anomaly_vae import config

    shorthands: dict[str, Any] = {}
    rate = options.get("false_alarm_rate")
    given = {**options, "policy": f"fpr={rate!r}" if rate else options.get("policy")}
    for option, setting in SHORTHANDS.items():
        value = given.get(option)
        if value is not None and value != ():
            shorthands[setting] = list(value) if isinstance(value, tuple) else value
    return config.load(options.get("config_file"), options.get("overrides") or (), base=base, shorthands=shorthands)
