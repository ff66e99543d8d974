"""Verdicts of a person on alarms: weighs the parts of a score and chooses its threshold again, without training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from anomaly_vae.core.advice import option
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.worries import Worry
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.open import open_reader, open_source
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import as_labels, as_names
from anomaly_vae.data.source import CodedText
from anomaly_vae.data.tabular import TabularSource
from anomaly_vae.detector.calibration import Calibration
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.feedback import give, judged, undo, verdicts_of
from anomaly_vae.detector.thresholds import Threshold
from anomaly_vae.workflows.opening import Model, reopen
from anomaly_vae.workflows.threshold import replace_detector, require_changeable

COLUMNS = ("verdict", "label")  # of verdicts, where there is no column of the fit's labels


@dataclass(frozen=True)
class Feedback:
    """What verdicts changed.

    anomalies, normals: numbers of verdicts. before, after: thresholds. was, now: what each part counts; None: as it is.
    notes: what was decided.
    """

    data: str
    anomalies: int
    normals: int
    before: Threshold
    after: Threshold
    was: dict[str, float] | None
    now: dict[str, float] | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def feedback(
    path: str,
    model: Model,
    *,
    data: str | None = None,
    label: str | None = None,
    normal: tuple[str, ...] = (),
    id_column: str | None = None,
    weights: str | None = None,
) -> Feedback:
    """Give a detector verdicts on samples, and save it in its folder or log it to its run.

    Parameters
    ----------
    path : str
        The samples as `score` reads them, with a column of verdicts: 1 for an anomaly, 0 for a false alarm, empty for
        neither. With `data`, their ids and verdicts alone, e.g. what `score` wrote with a further column.
    model : Model
        The detector and its location; see `opening.find`.
    data : str, optional
        The samples, where `path` holds only ids.
    label : str, optional
        The column of verdicts; None: that of the fit's labels, `verdict` or `label`.
    normal : tuple of str
        Verdicts that mean normal; all others then mean an anomaly.
    id_column : str, optional
        The column of ids, of the samples and of the verdicts.
    weights : str, optional
        `scoring.weights` instead of that of the fit.

    Raises
    ------
    UsageError
        If the model is a version in the registry, which cannot change.
    DataError
        If the samples or verdicts cannot be read.
    """
    require_changeable(model)
    detector = model.detector
    if data is None:
        rows = _of_samples(path, detector, label, normal)
    else:
        rows = _of_ids(path, data, detector, label, normal, id_column)
    changed, note = give(detector, rows, path, weights)
    found = _compared(path, rows, detector, changed, tuple(filter(None, (note, *_notes(changed, rows)))))
    what = f"{found.anomalies} right, {found.normals} false: {path}"
    replace_detector(model, changed, {"feedback": what}, asdict(found))
    return found


def undo_feedback(model: Model) -> Feedback:
    """Take the latest verdicts back: the scores and the threshold are again those before them.

    Raises UsageError if there are none, or the model is a version in the registry.
    """
    require_changeable(model)
    changed = undo(model.detector)
    last = model.detector.verdicts[-1]
    found = _compared(last.before.data, last.rows, model.detector, changed, ())
    replace_detector(model, changed, {"feedback": f"undone: {found.data}"}, {"undone": True, **asdict(found)})
    return found


def _compared(data: str, rows: Calibration, before: Detector, after: Detector, notes: tuple[str, ...]) -> Feedback:
    anomalies = int(rows.anomalous.sum())
    weights = (before.score_model.weights, after.score_model.weights)
    return Feedback(data, anomalies, len(rows) - anomalies, before.threshold, after.threshold, *weights, notes)


def _notes(changed: Detector, rows: Calibration) -> Iterable[str]:
    """What became of the verdicts, and what they cannot change. changed: the detector with them."""
    normals = int((~rows.anomalous).sum())
    if normals:
        yield (
            f"{normals} normal verdicts are among the {len(changed.normal)} normals that choose the threshold; where"
            " only alarms were looked at, new normals reach it less often than it says"
        )
    if changed.calibration is None and changed.training is not None:
        again = int(np.isin(rows.hashes, changed.training.hashes).sum())
        if again:
            yield Worry(
                f"{again} verdicts are of {KINDS[changed.layout.kind].noun} that calibrated this detector, which keeps"
                " nothing but their scores: these count once more, an anomaly among the normals too; fit again with"
                " these labels to count each once"
            )
    watched = int(((rows.alarms > 0) & ~rows.anomalous).sum())
    if watched:
        names = ", ".join(changed.score_model.cells)
        yield Worry(
            f"{watched} false alarms are of cells that training had no value like ({names}), and stay alarms at any"
            " threshold; fit again with such rows"
        )


def _of_samples(path: str, detector: Detector, label: str | None, normal: tuple[str, ...]) -> Calibration:
    """The verdicts that stand beside the samples themselves."""
    config, column = detector.config, "label"
    if KINDS[detector.layout.kind].folders:
        source = open_source(path, config.labelled(label, ()).data)
    else:
        source = open_source(path, config.data.model_copy(update={"label": None}))
    if isinstance(source, TabularSource):
        column = _verdict_column(source.reader, label, config.data.label or source.config.label)
        labels: CodedText | None = CodedText.of([source.column(column)])
    else:
        labels = source.labels()
    if labels is None:
        raise DataError(
            f"{path}: has no labels that could be verdicts; {option('--label', 'COLUMN')} names their column"
        )
    return judged(detector, source, verdicts_of(labels, path, column, normal or config.data.normal))


def _of_ids(
    path: str, data: str, detector: Detector, label: str | None, normal: tuple[str, ...], id_column: str | None
) -> Calibration:
    """The verdicts on samples of other data, by their ids."""
    reader = open_reader(path)
    column, name = _verdict_column(reader, label, detector.config.data.label), id_column or "id"
    reader.require([name], "column of ids")
    cells = pa.concat_tables(reader.batches({name: pa.string(), column: pa.string()}, 1 << 16))
    verdicts = verdicts_of(
        CodedText.of([as_labels(cells[column])]), path, column, normal or detector.config.data.normal
    )
    given = ~np.isnan(verdicts)
    verdicts, ids = verdicts[given], as_names(cells[name])[given]
    source = reopen(data, detector, id_column)
    names = as_names(pa.chunked_array([pa.array(source.ids(detector.layout, np.arange(source.count())).astype(str))]))
    found = np.full(len(names), np.nan)
    order = np.argsort(names, kind="stable")
    first, behind = (np.searchsorted(names[order], ids, side) for side in ("left", "right"))
    for problem, what in ((behind == first, "is in no"), (behind - first > 1, "is in more than one")):
        if problem.any():
            raise DataError(
                f"{path}: id {ids[problem.argmax()]} {what} row of {data}; {option('--id', 'COLUMN')} names another id"
            )
    found[order[first]] = verdicts
    return judged(detector, source, found)


def _verdict_column(reader: Reader, label: str | None, fitted: str | None) -> str:
    """The column of verdicts. Raises DataError where there is none."""
    names = (label,) if label else (*filter(None, [fitted]), *COLUMNS)
    found = next((name for name in names if name in reader.columns), None)
    if found is None:
        raise DataError(
            f"{reader.path}: has no column {' or '.join(map(repr, names))} of verdicts; it has"
            f" {', '.join(reader.columns[:12])}; {option('--label', 'COLUMN')} names another"
        )
    return found
