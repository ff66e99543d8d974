"""fit, score, evaluate and threshold."""

from __future__ import annotations

import glob
import os
from typing import Any

import click

from anomaly_vae.cli.options import (
    AS_JSON,
    DEVICE,
    ID_COLUMN,
    LABEL,
    MODEL,
    NORMAL,
    SKIP_BROKEN,
    data_argument,
    load_config,
    require_there,
    settings,
)
from anomaly_vae.core.engines import ENGINES, Engine
from anomaly_vae.core.errors import UsageError
from anomaly_vae.core.files import REPORTS, SCORES, require_ending
from anomaly_vae.data.kinds import KINDS


@click.command("fit", short_help="Train a detector (default: on scikit-learn's digits).")
@data_argument(required=False)
@settings
@click.option("--kind", type=click.Choice(list(KINDS)), help="Kind of data; default: recognised from the file.")
@click.option("--label", metavar="COLUMN", help="Column that tells normal from anomalous.")
@click.option(
    "--normal",
    multiple=True,
    metavar="VALUE",
    help="Label value that is normal; repeatable. Default: 0, false, normal, good, ...",
)
@click.option("--group", metavar="COLUMN", help="Column naming the machine of a series.")
@click.option(
    "--condition",
    multiple=True,
    metavar="COLUMN",
    help="Column to judge under, never judged itself: class, machine, mode; repeatable.",
)
@ID_COLUMN
@click.option(
    "--false-alarm-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="RATE",
    help="Choose the threshold for this rate: threshold.policy=fpr=RATE.",
)
@click.option(
    "--contamination",
    type=click.FloatRange(0, 0.5, max_open=True),
    metavar="RATE",
    help="Share of unlabelled rows that are anomalies, where it is known: so many train nothing; 0: none is.",
)
@SKIP_BROKEN
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--seed", type=click.IntRange(0), help="Seed of everything.")
@click.option("--name", help="Name of the run.")
@click.option("-o", "--output", metavar="DIR", help="Also save the detector in this new folder.")
@click.option(
    "--scores",
    metavar="FILE",
    help="Also write the scores of every row of DATA, each by models that never saw it (.csv, .parquet, .json).",
)
@click.option("--resume", metavar="RUN_ID", help="Continue a killed run from its last checkpoint.")
@AS_JSON
@click.pass_context
def fit_command(
    ctx: click.Context, /, data: str | None, output: str | None, scores: str | None, resume: str | None,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train a detector on DATA (default: scikit-learn's digits, where 3 is normal)."""
    from anomaly_vae.detector.configuration import EMBEDDED

    if scores:
        require_ending(scores, SCORES)
    if resume and data:
        raise UsageError("--resume continues with the run's own data; leave DATA out")
    config = load_config(options)
    data = data or config.data.path
    if data is None:
        config = load_config(options, base=EMBEDDED)
    elif not resume:
        require_there(data)
    from anomaly_vae.cli.console import Console, fit_summary
    from anomaly_vae.core import distributed
    from anomaly_vae.workflows.fit import fit

    with Console(ctx.obj["quiet"] or not distributed.is_lead()) as console, distributed.job(config.device):
        result = fit(
            data, config, output=output, scores=scores, resume=resume, progress=console.progress, say=console.say
        )
    if not distributed.is_lead():
        return
    console.tell(result.notes, "the report of the run has all" if result.run_id else "--json prints all")
    click.echo(result.to_json() if as_json else fit_summary(result))


@click.command("score", short_help="Score every row, time step or picture of DATA.")
@data_argument()
@settings
@MODEL
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR",
    help="Write here (.csv, .parquet, .json; many files: a folder); default: CSV on stdout.",
)
@click.option(
    "--format", "ending", type=click.Choice(["parquet", "csv", "json"]), help="Of many files' scores; default: parquet."
)
@click.option("--engine", type=click.Choice(ENGINES), help="Score many files here or over a Ray cluster (RAY_ADDRESS).")
@click.option("--threshold", type=float, metavar="NATS", help="Threshold instead of the detector's.")
@click.option(
    "--events", metavar="FILE", help="Also write the events of a series, stretches of alarms, into this file."
)
@click.option("--explain", type=click.IntRange(1), metavar="N", help="Add the N columns that contribute most.")
@click.option("--report", metavar="FILE", help="Also write what a fit reports, of DATA, as one page (.html).")
@click.option("--keep", is_flag=True, help="Copy the columns of DATA too, behind those of the scores.")
@click.option("--top", type=click.IntRange(1), metavar="N", help="Write only the N highest scores, the highest first.")
@click.option(
    "--elbo",
    type=click.IntRange(1),
    metavar="K",
    help="Add the negative ELBO (nats) of K posterior draws; the score itself decodes the posterior mean.",
)
@click.option("--raw", is_flag=True, help="Add each part's raw nats, before it was turned into its surprise.")
@click.option(
    "--csv-safe", is_flag=True, help="An apostrophe before texts of a CSV that a spreadsheet would take for a formula."
)
@click.option("--maps", metavar="DIR", help="Draw maps over the flagged pictures into this new folder.")
@click.option("--all-maps", is_flag=True, help="With --maps: over all pictures, not only the flagged ones.")
@click.option("--map-values", is_flag=True, help="With --maps: also write each map as .npy, float32 nats.")
@ID_COLUMN
@SKIP_BROKEN
@DEVICE
@click.pass_context
def score_command(
    ctx: click.Context,
    /,
    data: str,
    model: str | None,
    threshold: float | None,
    events: str | None,
    explain: int | None,
    report: str | None,
    keep: bool,
    top: int | None,
    elbo: int | None,
    raw: bool,
    csv_safe: bool,
    output: str | None,
    ending: str | None,
    engine: Engine | None,
    maps: str | None,
    all_maps: bool,
    map_values: bool,
    id_column: str | None,
    **options: Any,
) -> None:
    """Score every row, time step or picture of DATA: id, score, its parts, p_value, is_anomaly.

    DATA may be a pattern in quotes, 'folder/*.parquet': each file is then scored into one of its own in the folder -o.
    """
    config = load_config(options)
    many = engine is not None or (glob.has_magic(data) and not os.path.exists(data))
    if not many:
        require_there(data)
    if many and not output:
        raise UsageError("many files are scored into a folder; name it with -o DIR")
    if many and maps:
        raise UsageError("--maps draws over the pictures of one folder; score it alone")
    if many and events:
        raise UsageError("--events is of one series; score it alone")
    if many and report:
        raise UsageError("--report is of one file; score it alone")
    if events:
        require_ending(events, SCORES)
    if report:
        require_ending(report, REPORTS)
    if ending and not many:
        raise UsageError("--format is for many files; the format of one follows the ending of -o FILE")
    if output and not many:
        require_ending(output, SCORES)
    if csv_safe and not (ending == "csv" if many else output is None or output.lower().endswith(".csv")):
        raise UsageError("--csv-safe is about CSV; -o FILE.csv, or --format csv of many files, would work")
    if (all_maps or map_values) and not maps:
        raise UsageError("--all-maps and --map-values say what --maps DIR writes; name that folder too")
    from anomaly_vae.cli.console import Console
    from anomaly_vae.workflows.opening import find
    from anomaly_vae.workflows.score import Maps, Options, score

    scoring = Options(
        threshold=threshold,
        explain=explain or 0,
        id_column=id_column,
        skip_broken=config.data.skip_broken,
        elbo=elbo or 0,
        raw=raw,
        written=config.data.written,
        csv_safe=csv_safe,
        max_pixels=config.data.max_pixels,
        events=events,
        event_rules=config.events if config.events.model_fields_set else None,
        keep=keep,
        top=top or 0,
        report=report,
    )
    opened = find(model, config)
    with Console(ctx.obj["quiet"]) as console:
        if many:
            from anomaly_vae.workflows.score_many import score_many

            assert output
            rows, alarms = score_many(
                data,
                opened.detector,
                output,
                engine=engine or "local",
                ending=ending or "parquet",
                options=scoring,
                device=config.device,
                progress=console.progress,
                say=console.say,
            )
        else:
            rows, alarms = score(
                data,
                opened.detector,
                output=output,
                options=scoring,
                maps=Maps(maps, all=all_maps, values=map_values) if maps else None,
                model=opened.name,
                progress=console.progress,
                say=console.say,
            )
    used = f"--threshold {threshold:g}" if threshold is not None else f"{opened.detector.threshold.value:.6g} nats"
    console.say(f"{alarms} of {rows} at or above the threshold ({used}), by {opened.name}")


@click.command("explain", short_help="Draw why one row, time step or picture of DATA has its score.")
@data_argument()
@click.option("--row", required=True, metavar="ID", help="Its id, or else its row number, counted from 0.")
@settings
@MODEL
@click.option("-o", "--output", default="explained.png", show_default=True, metavar="FILE", help="Draw here (.png).")
@ID_COLUMN
@DEVICE
@AS_JSON
@click.pass_context
def explain_command(
    ctx: click.Context, /, data: str, row: str, model: str | None, output: str, id_column: str | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Draw a row beside the training values of its columns, a time step with the sensors around it, or a picture with
    its map; and list the reasons of its score."""
    require_there(data)
    require_ending(output, [".png"])
    config = load_config(options)
    from anomaly_vae.cli.console import Console, explanation_table
    from anomaly_vae.workflows.explain import explain
    from anomaly_vae.workflows.opening import find

    opened = find(model, config)
    with Console(ctx.obj["quiet"]) as console:
        found = explain(data, opened.detector, row, output, id_column=id_column, say=console.say)
    click.echo(found.to_json() if as_json else explanation_table(found))
    console.say(f"drawn in {output}")


@click.command("evaluate")
@data_argument()
@settings
@MODEL
@LABEL
@NORMAL
@click.option(
    "--nll",
    "draws",
    type=click.IntRange(1),
    metavar="K",
    help="Instead, how probable the model finds the normal rows: the importance-weighted bound of K draws.",
)
@click.option(
    "--nll-rows",
    "most",
    type=click.IntRange(2),
    default=1000,
    show_default=True,
    metavar="N",
    help="Rows, drawn at random, that --nll is taken over.",
)
@click.option("--report", metavar="FILE", help="Also write what a fit reports, of DATA, as one page (.html).")
@SKIP_BROKEN
@DEVICE
@AS_JSON
@click.pass_context
def evaluate_command(
    ctx: click.Context,
    /,
    data: str,
    model: str | None,
    label: str | None,
    normal: tuple[str, ...],
    draws: int | None,
    most: int,
    report: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Metrics of a fitted detector on new labelled DATA, or with --nll the likelihood of its model."""
    config = load_config(options)
    require_there(data)
    if report:
        require_ending(report, REPORTS)
    if report and draws is not None:
        raise UsageError("--report shows the metrics, and --nll measures something else instead; leave one of them out")
    from anomaly_vae.cli.console import Console, bound_table, evaluation_table
    from anomaly_vae.workflows.evaluate import evaluate, evidence
    from anomaly_vae.workflows.opening import find

    opened = find(model, config)
    if draws is not None:
        with Console(ctx.obj["quiet"]) as console:
            bound = evidence(
                data,
                opened.detector,
                draws=draws,
                rows=most,
                label=label,
                normal=normal,
                skip_broken=config.data.skip_broken,
                unlabelled=config.data.unlabelled,
                written=config.data.written,
                run_id=opened.run_id,
                progress=console.progress,
            )
        click.echo(bound.to_json() if as_json else bound_table(bound))
        return
    result = evaluate(
        data,
        opened.detector,
        label=label,
        normal=normal,
        skip_broken=config.data.skip_broken,
        unlabelled=config.data.unlabelled,
        written=config.data.written,
        run_id=opened.run_id,
        report=report,
        model=opened.name,
    )
    Console(ctx.obj["quiet"]).tell(result.notes, "--json prints all")
    click.echo(result.to_json() if as_json else evaluation_table(result))


@click.command("threshold", short_help="Choose the threshold again, without training again.")
@settings
@MODEL
@click.option(
    "--policy",
    metavar="POLICY",
    help="youden, f1, fpr=RATE, recall=RATE, cost=RATIO, or of a series events=1 (a day), tail=RATE;"
    " default: list what each gives.",
)
def threshold_command(model: str | None, policy: str | None, **options: Any) -> None:
    """Choose the threshold again, from the fit's validation scores, without training again; or list the candidates."""
    config = load_config({**options, "policy": policy})
    from anomaly_vae.cli.console import candidates_table, threshold_table
    from anomaly_vae.workflows.opening import find
    from anomaly_vae.workflows.threshold import rethreshold

    opened = find(model, config)
    if policy is None:
        click.echo(candidates_table(opened.detector, model))
        return
    before = opened.detector.threshold
    after = rethreshold(opened, policy).threshold
    click.echo(threshold_table(before, after))
    if after.note:
        click.echo(f"note: {after.note}", err=True)


@click.command("feedback", short_help="Weigh the score by verdicts on alarms, without training again.")
@click.argument("file", required=False)
@settings
@MODEL
@click.option("--data", metavar="DATA", help="The rows, where FILE holds their ids and verdicts alone.")
@click.option("--label", metavar="COLUMN", help="Column of verdicts; default: that of the fit, verdict or label.")
@click.option("--normal", multiple=True, metavar="VALUE", help="Verdict that means normal; repeatable. Default: 0, ...")
@ID_COLUMN
@click.option("--undo", is_flag=True, help="Take the latest verdicts back: the former scores and threshold.")
@AS_JSON
@click.pass_context
def feedback_command(
    ctx: click.Context, /, file: str | None, model: str | None, data: str | None, label: str | None,
    normal: tuple[str, ...], id_column: str | None, undo: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Choose the weights of the score's parts and its threshold again, by verdicts on rows: no training.

    FILE holds rows as `score` reads them, with a column of verdicts: 1 for an anomaly, 0 for a false alarm, empty for
    neither; or with --data DATA their ids, as `score` wrote them.
    """
    if undo == bool(file) or (undo and data):
        raise UsageError("one of the two: a FILE of verdicts, or --undo of the latest ones")
    for path in filter(None, (file, data)):
        require_there(path)
    config = load_config(options)
    from anomaly_vae.cli.console import Console, feedback_table
    from anomaly_vae.workflows.feedback import feedback, undo_feedback
    from anomaly_vae.workflows.opening import find

    opened = find(model, config)
    if file is None:
        found = undo_feedback(opened)
    else:
        found = feedback(
            file, opened, data=data, label=label, normal=normal, id_column=id_column, weights=config.scoring.weights
        )
    Console(ctx.obj["quiet"]).tell(found.notes, "--json prints all")
    click.echo(found.to_json() if as_json else feedback_table(found))


COMMANDS = (fit_command, score_command, explain_command, evaluate_command, threshold_command, feedback_command)
