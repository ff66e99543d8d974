"""The figures of scored rows and of a fit, and tables of the worst rows, of mistakes, of events and of drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from anomaly_vae.detector.anomaly_maps import resized
from anomaly_vae.detector.dataframe import score_columns
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import Event, event_columns
from anomaly_vae.detector.fit import Fit
from anomaly_vae.detector.monitoring import Check
from anomaly_vae.detector.reasons import Reasons, reasons
from anomaly_vae.reporting.report import Figure, Table
from anomaly_vae.reporting.scored_rows import PICTURES, Rows, ScoredRows
from anomaly_vae.reporting.summary import DRIFT_HEADS, Summary, drift_cells
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores

EXPLAINED = 3  # columns named for each row of a table

Drawn = tuple[str, str, str, Any]  # name, title, alt of a report.Figure, and the matplotlib Figure


def pictures(scored: ScoredRows, summary: Summary, fit: Fit | None = None) -> list[Figure]:
    """Every figure of scored rows and, where these are the test of a fit, of the fit."""
    from anomaly_vae.reporting import plots

    drawn = chain(_quality(scored, summary), _of_kind(scored), () if fit is None else _latents(fit))  # one in memory
    return [Figure(name=name, title=title, alt=alt, png=plots.png(figure)) for name, title, alt, figure in drawn]


def _quality(scored: ScoredRows, summary: Summary) -> Iterator[Drawn]:
    """How well the scores separate anomalies from normals, and whether the p-values are calibrated."""
    from anomaly_vae.reporting import plots

    detector, (total, recon, kl, flags) = scored.detector, scored.drawn.T
    is_anomaly, cut = flags > 0, scored.detector.threshold.value
    some = "" if len(total) == scored.count else f" ({len(total):,} of {scored.count:,}, drawn at random)"
    figure = plots.score_histogram(total[~is_anomaly], total[is_anomaly] if is_anomaly.any() else None, cut)
    yield "score_histogram", f"Scores and the threshold{some}", f"Histogram. {summary.verdict()}", figure
    if is_anomaly.any() and not is_anomaly.all():
        others = {choice.policy: choice.threshold for choice in summary.choices if not choice.chosen}
        auroc, auprc = summary.metrics["auroc"], summary.metrics["auprc"]
        alt = f"ROC curve with AUROC {auroc:.3f} and the points of {len(others) + 1} policies."
        yield "roc", "ROC curve, and where each policy would stand", alt, plots.roc(is_anomaly, total, cut, others)
        alt = f"Precision against recall; area {auprc:.3f}."
        yield "precision_recall", "Precision and recall", alt, plots.precision_recall(is_anomaly, total, cut)
    no_other_part = set(detector.score_model.part_names) == {"recon", "kl"}
    figure = plots.parts(recon, kl, is_anomaly if scored.labelled else None, cut if no_other_part else None)
    yield "parts", f"Which part of the score tells{some}", "Scatter of reconstruction against KL, in nats.", figure
    normal = total[~is_anomaly]
    if len(normal):
        figure = plots.calibration(detector.p_values(normal), len(detector.normal), scored.labelled)
        what = "normal rows" if scored.labelled else "rows"
        alt = f"Share of {len(normal)} {what} at or below each p-value, beside the diagonal."
        yield "calibration", f"Whether p-values of {what} keep the promise for normals{some}", alt, figure


def _latents(fit: Fit) -> Iterator[Drawn]:
    """The curves of training, and the KL of the latent dimensions."""
    from anomaly_vae.reporting import plots

    epochs = fit.history.epochs
    curves = {key: [epoch[key] for epoch in epochs] for key in epochs[0]}
    yield "training", "Training", f"Loss, reconstruction and KL over {len(epochs)} epochs.", plots.training(curves)
    kl, active = fit.kl, fit.active
    figure = plots.kl_per_dimension(kl, active if len(active) == len(kl) else None)  # a group may be many units
    yield "kl_per_dimension", "KL of each latent dimension", f"Bars; {active.sum()} units are active.", figure
    figure = plots.kl_by_epoch(fit.history.kl)
    yield "kl_by_epoch", "KL of each latent dimension over epochs", "Heat map of KL by epoch and dimension.", figure


def _of_kind(scored: ScoredRows) -> Iterator[Drawn]:
    """The figures that only a series, a table or pictures have."""
    if scored.kind.view == "curves":
        yield _series(scored)
    elif scored.kind.view == "rows":
        yield _columns(scored)
    else:
        assert scored.worst.rows is not None
        shown = scored.worst.rows.take(np.arange(min(PICTURES // 2, len(scored.worst))))
        shown = shown if scored.usual.rows is None else shown.joined(scored.usual.rows)
        what = "reconstructions and maps" if scored.detector.score_model.reconstructs else "maps"
        title, alt = "The most anomalous pictures beside typical ones", f"Originals, {what} of excess nats."
        yield "reconstructions", title, alt, _rebuilt(scored, shown)
        for name, title, kept in (
            ("false_alarms", "The worst false alarms", scored.false_alarms),
            ("misses", "The anomalies that look most normal", scored.misses),
        ):
            if kept.rows is not None:
                shown = kept.rows.take(np.arange(min(PICTURES, len(kept))))
                alt = f"{title}: {len(shown)} of {kept.count}, with {what} of excess nats."
                yield name, f"{title} ({kept.count} in all)", alt, _rebuilt(scored, shown)


def _series(scored: ScoredRows) -> Drawn:
    """The steps of the machine with the highest score."""
    from anomaly_vae.reporting import plots

    name, steps = max(scored.machines.items(), key=lambda machine: machine[1].highest)
    times, values, total, is_anomaly = steps.points()
    figure = plots.series(
        times=times,
        values=values,
        names=scored.names,
        scores=total,
        threshold=scored.detector.threshold.value,
        labels=is_anomaly if scored.labelled else None,
    )
    of = f" of {name}, the worst of {len(scored.machines)}" if len(scored.machines) > 1 else ""
    return "series", f"Sensors and score over time{of}", "Sensors above, score and threshold below.", figure


def _columns(scored: ScoredRows) -> Drawn:
    """The columns behind the most anomalous rows: a tenth of all, as far as they are kept."""
    from anomaly_vae.reporting import plots

    assert scored.worst.rows is not None
    top = scored.worst.rows.take(np.arange(min(max(1, scored.count // 10), len(scored.worst))))
    found, mean = _reasons(scored, top, len(scored.names)), np.zeros(len(scored.names))
    there = found.columns >= 0
    np.add.at(mean, found.columns[there], found.shares[there] / len(top))
    best = np.argsort(-mean)[:15]
    figure = plots.table_parts([scored.names[i] for i in best], mean[best])
    alt = f"Bars; {scored.names[best[0]]} comes first with {mean[best[0]]:.0%}."
    return "columns", f"Columns behind the {len(top)} most anomalous rows", alt, figure


def _rebuilt(scored: ScoredRows, rows: Rows) -> Any:
    """A figure of some pictures with their maps, the outlines of their masks, and their reconstructions, if the model
    reads pictures."""
    from anomaly_vae.reporting import plots

    detector, scores, image_files, rebuilt = scored.detector, rows.scores, scored.image_files, None
    if detector.score_model.reconstructs:
        scorer = Scorer(detector.score_model, detector.scaler, detector.layout, None)
        rebuilt = scorer.reconstruct(rows.chunk).clip(0, 1)
    maps, masks = detector.maps(scores), None
    if image_files is not None and image_files.masked:
        full_size = (image_files.mask(int(row)).astype(np.float32) for row in rows.numbers)
        masks = np.stack([resized(mask, maps.shape[1:]) > 0.5 for mask in full_size])
    names = ["/".join(str(id_).split("/")[-2:])[-20:] for id_ in scores.ids]
    titles = [
        f"{name}\n{total:.0f} nats{', anomaly' if is_anomaly else ''}"
        for name, total, is_anomaly in zip(names, scores.total, rows.is_anomaly, strict=True)
    ]
    assert detector.pixels is not None
    return plots.reconstructions(
        originals=rows.chunk.values.astype(np.float32) / 255,
        reconstructions=rebuilt,
        maps=maps,
        titles=titles,
        threshold=detector.pixels.value,
        masks=masks,
    )


def tables(scored: ScoredRows, events: Sequence[Event] | None = None, check: Check | None = None) -> list[Table]:
    """The most anomalous rows and, where there are labels, the mistakes, each with what explains its score; the events
    of a series; how the data differs from training."""
    assert scored.worst.rows is not None
    explanation = (
        "at: the picture's hottest pixel, row and column"
        if scored.kind.pictures
        else "made_by: the columns that contribute most, with their shares"
    )
    heads, cells = _cells(scored, scored.worst.rows)
    tables = [
        Table(
            name="most_anomalous",
            title=f"The most anomalous {scored.kind.noun}",
            text=f"The highest scores, in nats; {explanation}.",
            heads=heads,
            cells=cells,
        )
    ]
    wrong = [kept.rows for kept in (scored.false_alarms, scored.misses) if kept.rows is not None]
    if wrong:
        text = "False alarms, the highest first, then missed anomalies, the lowest first."
        heads, cells = _cells(scored, wrong[0] if len(wrong) == 1 else wrong[0].joined(wrong[1]))
        tables.append(Table(name="mistakes", title="Mistakes", text=text, heads=heads, cells=cells))
    if events is not None:
        rules = scored.detector.config.events
        text = (
            f"Stretches of alarms, in order of time; one goes on over up to {rules.gap} steps below the threshold. top1"
            " is the sensor with most of the nats above the usual."
        )
        heads, cells = _lines(event_columns(events, scored.detector))
        tables.append(Table(name="events", title="Events", text=text, heads=heads, cells=cells))
    if check is not None:
        text = (
            f"{check.alarms} of {check.rows} rows are alarms; {check.low:.1%} to {check.high:.1%} are, if all are"
            f" normal and as in training. {sum(finding.drifted for finding in check.findings)} of {len(check.findings)}"
            " quantities drifted: p, corrected for their number, is below 0.01 and the stability index above 0.2."
        )
        text += "".join(f" {name} has another value in {n} rows." for name, n in check.moved.items())
        drift = drift_cells(check.findings)
        tables.append(Table(name="drift", title="Drift against training", text=text, heads=DRIFT_HEADS, cells=drift))
    return tables


def _cells(scored: ScoredRows, rows: Rows) -> tuple[list[str], list[list[Any]]]:
    """Heads and cells of a table of some rows."""
    detector, scores = scored.detector, rows.scores
    columns = score_columns(scores, detector, scores.total >= detector.threshold.value)
    if scored.labelled:
        columns["labelled"] = np.where(rows.is_anomaly, "anomalous", "normal")
    columns |= _places(detector, scores) if scored.kind.pictures else _causes(scored, rows)
    return _lines(columns)


def _lines(columns: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Heads and lines of a table that is given by column."""
    lists = {name: np.asarray(values).tolist() for name, values in columns.items()}
    return list(lists), [list(cells) for cells in zip(*lists.values(), strict=True)]


def _reasons(scored: ScoredRows, rows: Rows, most: int) -> Reasons:
    """Of some rows, alarms or not."""
    return reasons(scored.detector, rows.chunk, rows.scores, most, np.ones(len(rows), bool))


def _causes(scored: ScoredRows, rows: Rows) -> dict[str, Any]:
    """The column `made_by`: the columns that contribute most to each score."""
    found = _reasons(scored, rows, EXPLAINED)
    made_by = [
        ", ".join(f"{scored.names[c]} {share:.0%}" for c, share in zip(columns, shares, strict=True) if c >= 0)
        for columns, shares in zip(found.columns, found.shares, strict=True)
    ]
    return {"made_by": made_by}


def _places(detector: Detector, scores: Scores) -> dict[str, Any]:
    """The column `at`: the hottest pixel of each picture."""
    peaks = [np.unravel_index(int(heat.argmax()), heat.shape) for heat in detector.maps(scores)]
    return {"at": [f"{row}, {column}" for row, column in peaks]}
