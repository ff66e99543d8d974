"""A detector behind a DataFrame: rows in, the columns of `score` out. What a served model calls, without files.

`score_frame` is the page: everything that serves a detector from memory (MLflow's pyfunc, and through it HTTP, Spark
and Ray) goes through it. `interface` says what it takes and gives, for whoever must declare that beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.data.conditions import encode as encode_conditions
from anomaly_vae.data.images.decoding import Encoded, decode, encode
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.scores import Scores, join

if TYPE_CHECKING:
    import pandas as pd

IMAGE, ID = "image", "id"  # columns of pictures in a DataFrame: the bytes of an image file, and what to call it


@dataclass(frozen=True)
class Field:
    """One column of a DataFrame. any: a truth value, a number, a time or text."""

    name: str
    type: Literal["double", "long", "boolean", "string", "binary", "any"]
    required: bool = True


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
    threshold: instead of the detector's (nats). explain: so many columns or sensors that contribute most.
    Raises DataError for columns or cells that cannot be scored, UsageError for `explain` of pictures without columns.
    """
    import pandas as pd

    names = explained_names(detector, explain)
    scores = join(_scores(detector, frame, bool(explain)))
    alarm = scores.total >= (detector.threshold.value if threshold is None else threshold)
    return pd.DataFrame(score_columns(scores, detector, alarm, names, explain))


def score_columns(
    scores: Scores, detector: Detector, alarm: NDArray[np.bool_], names: list[str], explain: int
) -> dict[str, Any]:
    """The columns of a table of scores, in order; `names` and `explain`: see `explained_names`."""
    columns: dict[str, Any] = {"id": scores.ids, "score": scores.total, **scores.parts}
    columns |= {"p_value": detector.p_values(scores.total), "is_anomaly": alarm}
    if explain:
        order, shares = detector.contributions(scores, explain)
        for rank in range(order.shape[1]):
            columns[f"top{rank + 1}"] = [names[column] for column in order[:, rank]]
            columns[f"top{rank + 1}_share"] = np.round(shares[:, rank], 4)
    return columns


def explained_names(detector: Detector, explain: int) -> list[str]:
    """The names of what a score can be explained by. Raises UsageError to `explain` pictures, which have none."""
    names = [column.name for column in detector.layout.columns] or list(detector.layout.pixels)
    if explain and not names:
        raise UsageError("--explain names columns, and pictures have none; use --maps DIR for heat maps")
    return names


def interface(detector: Detector) -> Interface:
    """The columns that `score_frame` takes and gives."""
    layout = detector.layout
    if layout.kind == "images":
        conditions = (Field(column.name, "any") for column in layout.conditions)
        inputs: tuple[Field, ...] = (Field(IMAGE, "binary"), Field(ID, "string", False), *conditions)
    else:
        # what has a name and is no input: reported as id, or what tells steps and machines apart
        named = {layout.id: False, layout.time: False, layout.group: True}
        named |= dict.fromkeys((column.name for column in layout.conditions), True)
        others = tuple(Field(name, "any", required) for name, required in named.items() if name)
        # any: MLflow would refuse whole numbers in a column declared double, and a gap in one declared boolean
        names = [column.name for column in layout.columns] or layout.pixels
        inputs = (*(Field(name, "any") for name in names), *others)
    numbered = layout.kind != "images" and layout.id is None and layout.time is None
    parts = tuple(Field(name, "double") for name in detector.score_model.part_names)
    outputs = (Field("id", "long" if numbered else "string"), Field("score", "double"), *parts)
    return Interface(inputs, (*outputs, Field("p_value", "double"), Field("is_anomaly", "boolean")))


def example(detector: Detector) -> pd.DataFrame:
    """A DataFrame that `score_frame` takes, made of training means and first categories: nobody's data. One row, one
    window of a series, or a black picture."""
    import pandas as pd

    layout = detector.layout
    rows = detector.config.data.window if layout.kind == "series" else 1
    means = {element.column: element.shift for element in reversed(detector.scaler.elements)}  # the first of a column
    cells: dict[str, Any] = dict.fromkeys(layout.pixels, 0.0)
    for index, column in enumerate(layout.columns):
        cells[column.name] = means[index] if column.categories is None else column.categories[0]
    for column, known in zip(layout.conditions, detector.scaler.conditions, strict=True):
        cells[column.name] = known.mean if column.categories is None else column.categories[0]
    if layout.group:
        cells[layout.group] = "example"
    if layout.kind == "images":
        cells |= {IMAGE: encode(np.zeros(layout.shape, np.uint8)), ID: "black"}
    return pd.DataFrame({name: [cell] * (rows or 1) for name, cell in cells.items()})


def _scores(detector: Detector, frame: pd.DataFrame, explain: bool) -> Iterator[Scores]:
    if detector.layout.kind == "images":
        return detector.stream(_pictures(detector, frame), explain)
    layout, config = detector.layout, detector.config.data
    there = {name: name if name in frame.columns else None for name in (layout.id, layout.time) if name}
    changes = {"id": there.get(layout.id or ""), "time": there.get(layout.time or ""), "label": None}
    return detector.score_source(open_memory(frame, config.model_copy(update=changes)), explain)


def _pictures(detector: Detector, frame: pd.DataFrame) -> Iterator[Chunk]:
    """Pictures (N, C, H, W) from encoded files. Raises DataError naming the row that holds none."""
    if IMAGE not in frame.columns:
        raise DataError(
            f"memory: no column '{IMAGE}' (columns: {', '.join(map(str, frame.columns))}); it holds the bytes of an"
            " image file in each row, base64 in JSON"
        )
    ids = frame[ID].astype(str).to_numpy() if ID in frame.columns else np.arange(len(frame)).astype(str)
    layout, white = detector.layout, detector.layout.pixel_max
    channels, height, width = layout.shape
    for column in layout.conditions:
        if column.name not in frame.columns:
            raise DataError(f"memory: no condition column '{column.name}' beside '{IMAGE}'")
    texts = [frame[column.name].map(lambda v: "" if v != v or v is None else str(v)) for column in layout.conditions]
    given = encode_conditions([t.to_numpy(np.str_) for t in texts], layout.conditions, "memory")
    for first in range(0, len(frame), detector.chunk_rows):
        rows = slice(first, first + detector.chunk_rows)
        files = [_file(cell, first + i) for i, cell in enumerate(frame[IMAGE].iloc[rows])]
        pictures = np.stack([decode(file, channels, height, width, white) for file in files])
        yield Chunk(ids[rows], pictures, condition=None if given is None else given[rows])


def _file(cell: Any, row: int) -> Encoded:
    if not isinstance(cell, bytes | bytearray | memoryview):
        raise DataError(
            f"memory: row {row}, column '{IMAGE}': of type {type(cell).__name__}; expected the bytes of an image file"
        )
    return Encoded(bytes(cell), f"row {row}, column '{IMAGE}'")
