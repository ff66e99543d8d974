"""promote, export, monitor and watch: putting a detector into use, and checking new data against its training."""

from __future__ import annotations

import json
import signal
from threading import Event
from typing import Any

import click

from anomaly_vae.cli.options import (
    AS_JSON,
    DEVICE,
    LABEL,
    MODEL,
    NORMAL,
    data_argument,
    load_config,
    require_there,
    settings,
)
from anomaly_vae.core.errors import RunError
from anomaly_vae.core.files import graph_format


@click.command("promote", short_help="Make the model of a run the champion, if it is no worse.")
@click.argument("run", metavar="RUN_ID")
@click.argument("data", required=False)
@settings
@LABEL
@NORMAL
@click.option("--name", metavar="NAME", help="Registered model anomaly-vae-NAME; default: the run's experiment.")
@click.option(
    "--force", is_flag=True, help="Promote also what is worse than the champion, or on rows that were trained on."
)
@AS_JSON
def promote_command(
    run: str,
    data: str | None,
    label: str | None,
    normal: tuple[str, ...],
    name: str | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Register the model of a run and make it the champion, after evaluating both on DATA.

    DATA is labelled; by default what the run was last evaluated on. A model whose AUROC is below the champion's is
    refused, with exit code 1, and so is one on DATA that either was trained on. The champion scores with
    -m models:/anomaly-vae-NAME@champion.
    """
    config = load_config(options)
    if data is not None:
        require_there(data)
    from anomaly_vae.cli.console import promotion_table
    from anomaly_vae.workflows.promote import promote

    promotion = promote(run, data, config, label=label, normal=normal, name=name, force=force)
    click.echo(promotion.to_json() if as_json else promotion_table(promotion))
    if promotion.refused:
        raise RunError(promotion.refused)


@click.command("export", short_help="Write the detector as ONNX, or as torch's .pt2.")
@settings
@MODEL
@click.option("--format", "kind", type=click.Choice(["onnx", "torch"]), help="Default: by the ending of FILE.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Write here: .onnx, or .pt2 for torch.export.load.")
@click.pass_context
def export_command(ctx: click.Context, /, model: str | None, kind: str | None, output: str, **options: Any) -> None:
    """Write the detector as one graph from raw values to the score and its parts, with scaler and threshold.

    The input `values` takes any number of rows (float64 in the order of the metadata's `columns`, a category as its
    place in `categories`, their number for a new one), of consecutive time steps, or of pictures (uint8).
    """
    config = load_config(options)
    kind = kind or graph_format(output)
    from anomaly_vae.cli.console import Console
    from anomaly_vae.workflows.export import export
    from anomaly_vae.workflows.opening import find

    opened = find(model, config)
    metadata = export(opened.detector, output, kind)
    Console(ctx.obj["quiet"]).say(
        f"{output}: values to {', '.join(json.loads(metadata['outputs']))} in nats, threshold"
        f" {float(metadata['threshold']):.6g}, by {opened.name}"
    )


RETRAIN = 3  # exit code of `monitor`


@click.command("monitor", short_help="Compare new DATA with training; exit 3 to retrain.")
@data_argument()
@settings
@MODEL
@click.option("--skip-broken", is_flag=True, help="Leave out pictures that cannot be decoded.")
@AS_JSON
@click.pass_context
def monitor_command(
    ctx: click.Context, /, data: str, model: str | None, skip_broken: bool, as_json: bool, **options: Any
) -> None:
    """Compare new DATA with what training looked like: alarms against the threshold's promise, and drift by column.

    Numbers by the Kolmogorov-Smirnov test, categories and missing cells by chi-squared, corrected for their number; a
    drift is also larger than a stability index of 0.2. Exit code 0: all is well; 3: fit again; 1: it cannot be told.
    """
    config = load_config(options)
    require_there(data)
    from anomaly_vae.cli.console import check_table
    from anomaly_vae.workflows.monitor import monitor
    from anomaly_vae.workflows.opening import find

    opened = find(model, config)
    check = monitor(data, opened.detector, run_id=opened.run_id, skip_broken=skip_broken, written=config.data.written)
    for note in check.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(check.to_json() if as_json else check_table(check))
    ctx.exit(RETRAIN if check.reasons else 0)


@click.command("watch", short_help="Score what arrives in a FOLDER, until it is stopped.")
@click.argument("folder", type=click.Path())
@settings
@MODEL
@click.option(
    "-o", "--output", required=True, metavar="DIR", help="Write FILE.scores.csv, and events of a series, here."
)
@click.option("--format", "ending", type=click.Choice(["csv", "parquet", "json"]), default="csv", show_default=True)
@click.option("--threshold", type=float, metavar="NATS", help="Threshold instead of the detector's.")
@click.option("--explain", type=click.IntRange(1), metavar="N", help="Add the N columns that contribute most.")
@click.option(
    "--every", type=click.FloatRange(0.01), default=2.0, show_default=True, metavar="SECONDS", help="Between two looks."
)
@click.option("--once", is_flag=True, help="Look once, and end: for cron.")
@DEVICE
@click.pass_context
def watch_command(
    ctx: click.Context, /, folder: str, model: str | None, output: str, ending: str, threshold: float | None,
    explain: int | None, every: float, once: bool, **options: Any,
) -> None:  # fmt: skip
    """Score the files of FOLDER, those that are added and those whose lines are appended, into a folder of scores.

    SIGTERM and Ctrl-C end it, with exit code 0, after the file at hand; the same command goes on from there. A grown
    file is scored again from its start: its scores are those of one `score` of the whole file.
    """
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    config = load_config(options)
    from anomaly_vae.cli.console import Console
    from anomaly_vae.data.readers.base import plural
    from anomaly_vae.workflows.opening import find
    from anomaly_vae.workflows.score import Options
    from anomaly_vae.workflows.watch import watch

    opened = find(model, config)
    rules = config.events if config.events.model_fields_set else None
    scoring = Options(threshold=threshold, explain=explain or 0, written=config.data.written, event_rules=rules)
    console = Console(ctx.obj["quiet"])
    files, _ = watch(
        folder, opened.detector, output, ending=ending, options=scoring, every=every, once=once, stop=stop,
        say=console.say,
    )  # fmt: skip
    console.say(f"{plural(files, 'file')} scored by {opened.name}")


COMMANDS = (export_command, monitor_command, promote_command, watch_command)
