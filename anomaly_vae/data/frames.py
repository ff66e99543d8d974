"""DataFrames that a served model receives: named columns, or the bytes of image files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.conditions import encode as encode_conditions
from anomaly_vae.data.images.decoding import Encoded, decode, encode, limit_pixels
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.source import Chunk, Layout

if TYPE_CHECKING:
    import pandas as pd

IMAGE, ID = "image", "id"  # the columns of pictures in a DataFrame: the bytes of an image file, and the picture's id


@dataclass(frozen=True)
class Field:
    """One column of a DataFrame. The type `any` stands for a truth value, a number, a time or text."""

    name: str
    type: Literal["double", "long", "boolean", "string", "binary", "any"]
    required: bool = True


def column_fields(layout: Layout) -> tuple[Field, ...]:
    """The columns of a table, a series or a pixel table, and `id`, which comes back, where no other has that name."""
    required = {
        layout.id: False,
        layout.time: layout.profile is not None,
        layout.time_of_day: layout.profile is not None,
        layout.group: True,
    }
    required |= dict.fromkeys((column.name for column in layout.conditions), True)
    others = tuple(Field(name, "any", is_required) for name, is_required in required.items() if name)
    # any: MLflow would refuse integers in a column declared double, and a missing cell in one declared boolean
    # a column without a value in training may as well be absent
    columns = [Field(column.name, "any", column.categories != ()) for column in layout.columns]
    fields = (*(columns or (Field(name, "any") for name in layout.pixels)), *others)
    return fields if any(field.name == ID for field in fields) else (*fields, Field(ID, "any", False))


def column_chunks(frame: pd.DataFrame, layout: Layout, config: DataConfig, rows: int) -> Iterator[Chunk]:
    """A DataFrame of named columns in chunks. The columns of ids and times may be absent; labels are not read."""
    present = {name: name if name in frame.columns else None for name in (layout.id, layout.time) if name}
    changes = {"id": present.get(layout.id or ""), "time": present.get(layout.time or ""), "label": None}
    return open_memory(frame, config.model_copy(update=changes | {"kind": layout.kind})).chunks(layout, rows)


def sent_ids(frame: pd.DataFrame, layout: Layout) -> pd.Series | None:
    """The column `id` of a DataFrame of rows that have no other name: neither the layout's id nor a time."""
    inputs = {column.name for column in (*layout.columns, *layout.conditions)} | {*layout.pixels, layout.group}
    if ID in inputs or ID not in frame.columns or {layout.id, layout.time} & set(frame.columns):
        return None
    return frame[ID]


def column_example(layout: Layout) -> dict[str, Any]:
    """Example cells for what is not in `layout.columns`: pixels, and the name of a group."""
    cells: dict[str, Any] = dict.fromkeys(layout.pixels, 0.0)
    return cells | ({layout.group: "example"} if layout.group else {})


def picture_fields(layout: Layout) -> tuple[Field, ...]:
    """The columns of a DataFrame of image files."""
    conditions = (Field(column.name, "any") for column in layout.conditions)
    return (Field(IMAGE, "binary"), Field(ID, "string", False), *conditions)


def picture_chunks(frame: pd.DataFrame, layout: Layout, config: DataConfig, rows: int) -> Iterator[Chunk]:
    """Pictures (N, C, H, W), decoded from the bytes of image files. Raises DataError with the row of a bad cell."""
    if IMAGE not in frame.columns:
        raise DataError(
            f"memory: no column '{IMAGE}' (columns: {', '.join(map(str, frame.columns))}); it holds the bytes of an"
            " image file in each row, base64 in JSON"
        )
    ids = frame[ID].astype(str).to_numpy() if ID in frame.columns else np.arange(len(frame)).astype(str)
    channels, height, width = layout.shape
    for column in layout.conditions:
        if column.name not in frame.columns:
            raise DataError(f"memory: no condition column '{column.name}' beside '{IMAGE}'")
    texts = [frame[column.name].map(lambda v: "" if v != v or v is None else str(v)) for column in layout.conditions]
    condition = encode_conditions([t.to_numpy(np.str_) for t in texts], layout.conditions, "memory")
    limit_pixels(config.max_pixels)
    for first in range(0, len(frame), rows):
        piece = slice(first, first + rows)
        files = [_file(cell, first + i) for i, cell in enumerate(frame[IMAGE].iloc[piece])]
        pictures = np.stack([decode(file, channels, height, width, layout.pixel_max) for file in files])
        yield Chunk(ids[piece], pictures, condition=None if condition is None else condition[piece])


def picture_example(layout: Layout) -> dict[str, Any]:
    """A black picture as an example row."""
    return {IMAGE: encode(np.zeros(layout.shape, np.uint8)), ID: "black"}


def _file(cell: Any, row: int) -> Encoded:
    if not isinstance(cell, bytes | bytearray | memoryview):
        raise DataError(
            f"memory: row {row}, column '{IMAGE}': of type {type(cell).__name__}; expected the bytes of an image file"
        )
    return Encoded(bytes(cell), f"row {row}, column '{IMAGE}'")
