"""A detector behind a DataFrame: rows in, the columns of `score` out. What a served model calls, without files.

`score_frame` is the page: everything that serves a detector from memory (MLflow's pyfunc, and through it HTTP, Spark
and Ray) goes through it. `interface` says what it takes and gives, for whoever must declare that beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.data.frames import Field, sent_ids
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.reasons import Words, reason_columns, reasons
from anomaly_vae.scoring.scores import Scores, join, numbered

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Interface:
    """What `score_frame` takes and gives for one detector, without what the parameter `explain` adds."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]


def score_frame(
    detector: Detector, frame: pd.DataFrame, *, threshold: float | None = None, explain: int = 0
) -> pd.DataFrame:
    """The columns of `anomaly-vae score` for the rows of a DataFrame, in order: id, score, parts, p_value, is_anomaly.

    frame: the columns of the training data by name, whatever their order; others are ignored. A series is all steps
    of a stretch of time, at least one window. Pictures from files: `image`, the bytes of an image file each, and `id`.
    A column `id` comes back as it is, where training knew no other id and no time.
    threshold: instead of the detector's (nats). explain: so many columns or sensors that contribute most.
    Raises DataError for columns or cells that cannot be scored and where there is no row, UsageError for an `explain`
    below 0 or of pictures without columns, and for a threshold that is not finite.
    """
    import pandas as pd

    if explain < 0:
        raise UsageError(f"explain {explain}: expected a number of columns, or 0")
    if not len(frame):
        raise DataError("memory: no row; send at least one")
    at_least = detector.alarm_threshold(threshold)
    require_columns(detector, explain)
    chunks = KINDS[detector.layout.kind].frame_chunks(frame, detector.layout, detector.config.data, detector.chunk_rows)
    stream = list(detector.score_chunks(chunks, bool(explain)))
    scores = join(stream)
    columns = score_columns(scores, detector, scores.total >= at_least)
    if explain:
        chunk = Chunk.join(chunk for chunk, _ in stream)
        chunk = chunk if chunk.places is None else chunk.take(np.argsort(chunk.places))
        found = reason_columns(detector, chunk, reasons(detector, chunk, scores, explain, columns["is_anomaly"]))
        columns |= {name: pd.Series(cells, dtype=object).where(pd.notna(cells), None) for name, cells in found.items()}
    if (ids := sent_ids(frame, detector.layout)) is not None:
        columns["id"] = ids.to_numpy()
    return pd.DataFrame(columns)


def score_columns(scores: Scores, detector: Detector, alarm: NDArray[np.bool_], raw: bool = False) -> dict[str, Any]:
    """The columns of a table of scores, in order. raw: with the raw nats of each part, behind all parts."""
    columns: dict[str, Any] = {"id": scores.ids, "score": scores.total, **scores.parts}
    if raw:
        columns |= {f"{name}_raw": nats for name, nats in (scores.raw or scores.parts).items()}
    return columns | {"p_value": detector.p_values(scores.total), "is_anomaly": alarm}


def require_columns(detector: Detector, explain: int) -> None:
    """Raises UsageError to `explain` pictures, which have no columns."""
    if explain and not (detector.layout.columns or detector.layout.pixels):
        raise UsageError("--explain names columns, and pictures have none; use --maps DIR for heat maps")


def explanation(detector: Detector, X: Any, most: int) -> pd.DataFrame:
    """See `Detector.explain`."""
    import pandas as pd

    if not (detector.layout.columns or detector.layout.pixels):
        raise UsageError(
            "pictures have no columns; detector.maps(detector.parts(X, explain=True)) has their pixels' nats"
        )
    words, by_trial = Words(detector), KINDS[detector.layout.kind].view == "rows"
    lines = []
    for chunk, scores, numbers in numbered(detector.score_source(detector.opened(X), explain=True)):
        found = reasons(detector, chunk, scores, most, scores.total >= detector.threshold.value)
        rows = numbers if chunk.places is None else chunk.places
        values = chunk.values.reshape(len(chunk), -1)
        for row, rank in np.argwhere(found.columns >= 0):
            column = int(found.columns[row, rank])
            value = float(values[row, column])
            usual = words.usual(column, chunk, row, found.suiting[row, rank], by_trial)
            nats, share = found.nats[row, rank], found.shares[row, rank]
            lines.append((rows[row], words.names[column], words.value(column, value), usual, nats, share))
    table = pd.DataFrame(lines, columns=["row", "column", "value", "usual", "nats", "share"])
    return table.sort_values("row", kind="stable", ignore_index=True)


def interface(detector: Detector) -> Interface:
    """The columns that `score_frame` takes and gives."""
    layout, kind = detector.layout, KINDS[detector.layout.kind]
    inputs = kind.frame_fields(layout)
    numbered = not kind.folders and layout.id is None and layout.time is None
    parts = tuple(Field(name, "double") for name in detector.score_model.part_names)
    outputs = (Field("id", "long" if numbered else "string"), Field("score", "double"), *parts)
    return Interface(inputs, (*outputs, Field("p_value", "double"), Field("is_anomaly", "boolean")))


def example(detector: Detector) -> pd.DataFrame:
    """A DataFrame that `score_frame` takes, made of training means and first categories: nobody's data. One row, one
    window of a series, or a black picture."""
    import pandas as pd

    layout = detector.layout
    rows = detector.window or 1
    means = {element.column: element.shift for element in reversed(detector.scaler.elements)}  # the first of a column
    cells: dict[str, Any] = {}
    for index, column in enumerate(layout.columns):
        if column.categories is None:
            cells[column.name] = means.get(index, column.constant)
        else:
            cells[column.name] = column.categories[0] if column.categories else None
    for column, known in zip(layout.conditions, detector.scaler.conditions, strict=True):
        cells[column.name] = known.mean if column.categories is None else column.categories[0]
    cells |= KINDS[layout.kind].frame_example(layout)
    frame = pd.DataFrame({name: [cell] * rows for name, cell in cells.items()})
    if layout.profile is not None and layout.time is not None and layout.step is not None:
        times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(rows) * layout.step, unit="s")
        frame[layout.time] = times.astype(str) if layout.time_of_day is None else times.strftime("%Y-%m-%d")
        if layout.time_of_day is not None:
            frame[layout.time_of_day] = times.strftime("%H:%M:%S")
    return frame
