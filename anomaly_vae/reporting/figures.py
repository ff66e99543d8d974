"""The figures of a fit, and tables of its most anomalous test rows and of its mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.images.masks import ImageFiles
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.detector.anomaly_maps import resized
from anomaly_vae.detector.dataframe import score_columns
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import Event, event_columns
from anomaly_vae.detector.fit import Fit
from anomaly_vae.detector.reasons import Reasons, reasons
from anomaly_vae.reporting.report import Figure, Table
from anomaly_vae.reporting.summary import Summary
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores

PICTURES = 8  # in a figure with their reconstructions
STEPS = 4_000  # of a series, at most
SHARED = 500  # rows at most that the figure of columns is of
ROWS, EXPLAINED = 100, 3  # of a table, and columns named for each row

Drawn = tuple[str, str, str, Any]  # name, title, alt of a report.Figure, and the matplotlib Figure


class TestRows:
    """The test rows of a fit, their scores and labels. is_anomaly: (N,), all False where nothing is labelled."""

    def __init__(self, detector: Detector, fit: Fit, image_files: ImageFiles | None = None) -> None:
        self.detector, self.fit = detector, fit
        self.rows = self.fit.split.reported
        self.scores, is_anomaly = self.fit.part(self.rows)  # without elements
        self.labelled = is_anomaly is not None
        self.is_anomaly = np.zeros(len(self.scores), bool) if is_anomaly is None else is_anomaly
        self.total = self.scores.total
        self.alarm = self.total >= detector.threshold.value
        self.image_files = image_files
        self.names = [column.name for column in detector.layout.columns]

    def at(self, rows: NDArray[np.intp]) -> Scores:
        """The scores of a few test rows, with their elements and the user's ids."""
        return self.fit.shown(self.rows[rows])

    def reasons(self, rows: NDArray[np.intp], most: int) -> Reasons:
        """Of some test rows, alarms or not."""
        chunk = self.fit.data.take(self.rows[rows])
        return reasons(self.detector, chunk, self.at(rows), most, np.ones(len(rows), bool))

    @property
    def pictures(self) -> bool:
        return KINDS[self.detector.layout.kind].pictures

    def worst_first(self) -> NDArray[np.intp]:
        """Test rows by their score, the highest first."""
        order: NDArray[np.intp] = np.argsort(-self.total, kind="stable")
        return order

    def false_alarms(self) -> NDArray[np.intp]:
        """Normal rows at or above the threshold, the highest first; empty where nothing is labelled."""
        order = self.worst_first()
        return order[self.labelled & self.alarm[order] & ~self.is_anomaly[order]]

    def misses(self) -> NDArray[np.intp]:
        """Anomalous rows below the threshold, the lowest first."""
        order = self.worst_first()[::-1]
        return order[~self.alarm[order] & self.is_anomaly[order]]


def pictures(detector: Detector, fit: Fit, summary: Summary, image_files: ImageFiles | None) -> list[Figure]:
    """Every figure of a fit. image_files: the files of pictures, for their masks."""
    from anomaly_vae.reporting import plots

    shown = TestRows(detector, fit, image_files)
    drawn = chain(_quality(shown, summary), _of_kind(shown), _latents(shown))  # one figure in memory at a time
    return [Figure(name=name, title=title, alt=alt, png=plots.png(figure)) for name, title, alt, figure in drawn]


def _quality(shown: TestRows, summary: Summary) -> Iterator[Drawn]:
    """How well the scores separate anomalies from normals, and whether the p-values are calibrated."""
    from anomaly_vae.reporting import plots

    is_anomaly, total, cut = shown.is_anomaly, shown.total, shown.detector.threshold.value
    figure = plots.score_histogram(total[~is_anomaly], total[is_anomaly] if is_anomaly.any() else None, cut)
    yield "score_histogram", "Scores of the test data, and the threshold", f"Histogram. {summary.verdict()}", figure
    if is_anomaly.any() and not is_anomaly.all():
        others = {choice.policy: choice.threshold for choice in summary.choices if not choice.chosen}
        auroc, auprc = summary.metrics["auroc"], summary.metrics["auprc"]
        alt = f"ROC curve with AUROC {auroc:.3f} and the points of {len(others) + 1} policies."
        yield "roc", "ROC curve, and where each policy would stand", alt, plots.roc(is_anomaly, total, cut, others)
        alt = f"Precision against recall; area {auprc:.3f}."
        yield "precision_recall", "Precision and recall", alt, plots.precision_recall(is_anomaly, total, cut)
    parts = shown.scores.parts
    no_other_part = set(parts) == {"recon", "kl"}
    figure = plots.parts(parts["recon"], parts["kl"], is_anomaly, cut if no_other_part else None)
    yield "parts", "Which part of the score tells", "Scatter of reconstruction against KL, in nats.", figure
    normal = total[~is_anomaly]
    if len(normal):
        figure = plots.calibration(shown.detector.p_values(normal), len(shown.detector.normal))
        alt = f"Share of {len(normal)} normal test rows at or below each p-value, beside the diagonal."
        yield "calibration", "Whether p-values keep their promise on normals", alt, figure


def _latents(shown: TestRows) -> Iterator[Drawn]:
    """The curves of training, and the KL of the latent dimensions."""
    from anomaly_vae.reporting import plots

    epochs = shown.fit.history.epochs
    curves = {key: [epoch[key] for epoch in epochs] for key in epochs[0]}
    yield "training", "Training", f"Loss, reconstruction and KL over {len(epochs)} epochs.", plots.training(curves)
    kl, active = shown.fit.kl, shown.fit.active
    figure = plots.kl_per_dimension(kl, active if len(active) == len(kl) else None)  # a group may be many units
    yield "kl_per_dimension", "KL of each latent dimension", f"Bars; {active.sum()} units are active.", figure
    figure = plots.kl_by_epoch(shown.fit.history.kl)
    yield "kl_by_epoch", "KL of each latent dimension over epochs", "Heat map of KL by epoch and dimension.", figure


def _of_kind(shown: TestRows) -> Iterator[Drawn]:
    """The figures that only a series, a table or pictures have."""

    view = KINDS[shown.detector.layout.kind].view
    if view == "curves":
        yield _series(shown)
    elif view == "rows":
        yield _columns(shown)
    else:
        order = shown.worst_first()
        normal = order[~shown.is_anomaly[order]]
        rows = np.r_[order[: PICTURES // 2], normal[len(normal) // 2 :][: PICTURES - PICTURES // 2]]
        title = "The most anomalous pictures beside typical normal ones"
        what = "reconstructions and maps" if shown.detector.score_model.reconstructs else "maps"
        yield "reconstructions", title, f"Originals, {what} of excess nats.", _rebuilt(shown, rows)
        for name, title, rows in (
            ("false_alarms", "The worst false alarms", shown.false_alarms()),
            ("misses", "The anomalies that look most normal", shown.misses()),
        ):
            if len(rows):
                alt = f"{title}: {len(rows[:PICTURES])} of {len(rows)}, with {what} of excess nats."
                yield name, f"{title} ({len(rows)} in all)", alt, _rebuilt(shown, rows[:PICTURES])


def _series(shown: TestRows) -> Drawn:
    """The last time steps of the test."""
    from anomaly_vae.reporting import plots

    rows = shown.rows[-STEPS:]
    scores = shown.fit.shown(rows)
    _, is_anomaly = shown.fit.part(rows)
    figure = plots.series(
        times=scores.ids,
        values=shown.fit.data.take(rows).values,
        names=shown.names,
        scores=scores.total,
        threshold=shown.detector.threshold.value,
        labels=is_anomaly,
    )
    return "series", "Sensors and score over the test's time steps", "Sensors above, score and threshold below.", figure


def _columns(shown: TestRows) -> Drawn:
    """The columns behind the most anomalous tenth of the test rows, or the first SHARED of these."""
    from anomaly_vae.reporting import plots

    top = shown.worst_first()[: min(SHARED, max(1, len(shown.scores) // 10))]
    found, mean = shown.reasons(np.sort(top), len(shown.names)), np.zeros(len(shown.names))
    there = found.columns >= 0
    np.add.at(mean, found.columns[there], found.shares[there] / len(top))
    best = np.argsort(-mean)[:15]
    figure = plots.table_parts([shown.names[i] for i in best], mean[best])
    alt = f"Bars; {shown.names[best[0]]} comes first with {mean[best[0]]:.0%}."
    return "columns", "Columns behind the most anomalous tenth", alt, figure


def _rebuilt(shown: TestRows, rows: NDArray[np.intp]) -> Any:
    """A figure of some test pictures with their maps, the outlines of their masks, and their reconstructions, if the
    model reads pictures."""
    from anomaly_vae.reporting import plots

    detector, scores, image_files = shown.detector, shown.at(rows), shown.image_files
    chosen = shown.fit.data.take(shown.rows[rows])
    rebuilt = None
    if detector.score_model.reconstructs:
        rebuilt = Scorer(detector.score_model, detector.scaler, detector.layout, None).reconstruct(chosen).clip(0, 1)
    maps, masks = detector.maps(scores), None
    if image_files is not None and image_files.masked:
        full_size = (image_files.mask(int(row)).astype(np.float32) for row in shown.rows[rows])
        masks = np.stack([resized(mask, maps.shape[1:]) > 0.5 for mask in full_size])
    names = ["/".join(str(id_).split("/")[-2:])[-20:] for id_ in scores.ids]
    titles = [
        f"{name}\n{shown.total[row]:.0f} nats{', anomaly' if shown.is_anomaly[row] else ''}"
        for name, row in zip(names, rows, strict=True)
    ]
    assert detector.pixels is not None
    return plots.reconstructions(
        originals=chosen.values.astype(np.float32) / 255,
        reconstructions=rebuilt,
        maps=maps,
        titles=titles,
        threshold=detector.pixels.value,
        masks=masks,
    )


def tables(detector: Detector, fit: Fit, events: Sequence[Event] | None = None) -> list[Table]:
    """The most anomalous test rows and, where there are labels, the mistakes, each with what explains its score; and
    the events of a series."""
    shown = TestRows(detector, fit)
    top = shown.worst_first()[:ROWS]
    explanation = (
        "at: the picture's hottest pixel, row and column"
        if shown.pictures
        else "made_by: the columns that contribute most, with their shares"
    )
    heads, cells = _cells(shown, top)
    tables = [
        Table(
            name="most_anomalous",
            title="The most anomalous test rows",
            text=f"The highest scores, in nats; {explanation}.",
            heads=heads,
            cells=cells,
        )
    ]
    false, missed = shown.false_alarms()[: ROWS // 2], shown.misses()[: ROWS // 2]
    if len(false) or len(missed):
        text = "False alarms, the highest first, then missed anomalies, the lowest first."
        heads, cells = _cells(shown, np.r_[false, missed])
        tables.append(Table(name="mistakes", title="Mistakes", text=text, heads=heads, cells=cells))
    if events is not None:
        rules = detector.config.events
        text = (
            f"Stretches of alarms in the test, in order of time; one goes on over up to {rules.gap} steps below the"
            " threshold. top1 is the sensor with most of the nats above the usual."
        )
        heads, cells = _lines(event_columns(events, detector))
        tables.append(Table(name="events", title="Events", text=text, heads=heads, cells=cells))
    return tables


def _cells(shown: TestRows, rows: NDArray[np.intp]) -> tuple[list[str], list[list[Any]]]:
    """Heads and cells of a table of some test rows."""
    scores = shown.at(rows)
    columns = score_columns(scores, shown.detector, shown.alarm[rows])
    if shown.labelled:
        columns["labelled"] = np.where(shown.is_anomaly[rows], "anomalous", "normal")
    columns |= _places(shown, scores) if shown.pictures else _causes(shown, rows)
    return _lines(columns)


def _lines(columns: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Heads and lines of a table that is given by column."""
    lists = {name: np.asarray(values).tolist() for name, values in columns.items()}
    return list(lists), [list(cells) for cells in zip(*lists.values(), strict=True)]


def _causes(shown: TestRows, rows: NDArray[np.intp]) -> dict[str, Any]:
    """The column `made_by`: the columns that contribute most to each score."""
    found = shown.reasons(rows, EXPLAINED)
    made_by = [
        ", ".join(f"{shown.names[c]} {share:.0%}" for c, share in zip(columns, shares, strict=True) if c >= 0)
        for columns, shares in zip(found.columns, found.shares, strict=True)
    ]
    return {"made_by": made_by}


def _places(shown: TestRows, scores: Scores) -> dict[str, Any]:
    """The column `at`: the hottest pixel of each picture."""
    maps = shown.detector.maps(scores)
    peaks = [np.unravel_index(int(heat.argmax()), heat.shape) for heat in maps]
    return {"at": [f"{row}, {column}" for row, column in peaks]}
