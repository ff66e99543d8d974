"""The kind of pixel tables: one row is one picture, one column one pixel. Arrays of pictures are of this kind too."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.frames import column_chunks, column_example, column_fields
from anomaly_vae.data.kinds.kind import Kind
from anomaly_vae.data.pictures import DEFAULTS, light, light_names, no_elements, picture_dataset, shape_text, to_bytes
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.readers.cells import is_number
from anomaly_vae.data.roles import LABELS, is_identifier
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.tabular import TabularSource, reader_of

NAMED = re.compile(r"^(pixel|pix|px)[\W_]*\d+([\W_x]+\d+)*$|^\d+x\d+(x\d+)?$", re.IGNORECASE)
FEW_NAMED = 4  # number of columns named like pixels from which a table is a pixel table
FEW_PIXELS = 784  # number of columns of 0-255, of any name, from which a table is a pixel table
ROWS = 4096  # number of rows that `learn` reads at a time, which bounds its memory


def pixel_columns(reader: Reader, config: DataConfig) -> list[str]:
    """The columns named like pixels; if there are none, all columns of numbers without another role."""
    other = {config.label, config.id, config.group, config.time, *config.drop, *config.condition}
    numbers = [name for name in reader.columns if is_number(reader.peek[name].type) and name not in other]
    named = [name for name in reader.columns if NAMED.match(name) and name not in other]
    if len(named) >= FEW_NAMED:
        return named
    return [name for name in numbers if name.lower() not in LABELS and not is_identifier(name)]


class PixelSource(TabularSource):
    """A pixel table."""

    kind: str = "pixels"

    @cached_property
    def why(self) -> str:
        names = pixel_columns(self.reader, self.config)
        if not names:
            return f"a pixel table: {self.count()} pictures, no column of numbers"
        low, high = _range(self.reader, names)
        return f"a pixel table: {plural(self.count(), 'picture')} of {len(names)} pixels, values {low:g} to {high:g}"

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        return self.cells(self.id_of(layout), rows)

    def preload(self, store: ArrayStore) -> None:
        """Does nothing: the file is read as a stream, and a fit keeps one byte for each pixel."""

    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """The pixel columns in the order of the file, the shape of a picture, and whether white is 1 or 255.

        Raises DataError if the columns do not make a picture of the configured shape, and for values out of range.
        """
        self.need_two(rows)
        names = pixel_columns(self.reader, self.config)
        shape = self._shape(len(names))
        white = 1.0 if self._largest(names, rows) <= 1 else 255.0
        reasons, pixels = self.special, set(names)
        left_out = {n: reasons.get(n, "not a pixel") for n in self.reader.columns if n not in pixels}
        return Layout(
            kind=self.kind,
            shape=shape,
            conditions=self.conditions(rows),
            pixels=tuple(names),
            pixel_max=white,
            label=self.config.label,
            id=self.config.id,
            left_out=left_out,
        )

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Pictures (N, C, H, W), uint8. Raises DataError for a pixel that is missing or out of range."""
        names = layout.pixels or tuple(pixel_columns(self.reader, self.config))
        if len(names) != math.prod(layout.shape):
            raise DataError(f"{self.path}: {len(names)} pixel columns, expected {shape_text(layout.shape)}")
        types = dict.fromkeys(names, pa.float32())
        for first, table, chunk in self.stream(layout, types, rows, self.id_of(layout)):
            values = _values(table, names)
            self._check(values, names, np.arange(first, first + len(values)), layout.pixel_max)
            pictures = to_bytes(values, layout.pixel_max).reshape(-1, *layout.shape)
            yield replace(chunk, values=pictures)

    def _shape(self, pixels: int) -> tuple[int, ...]:
        """The shape (C, H, W) of a picture of `pixels` values: the configured one, else a grey square."""
        side = math.isqrt(pixels)
        if self.config.shape is not None:
            shape = (1,) * (3 - len(self.config.shape)) + self.config.shape
            if len(shape) == 3 and math.prod(shape) == pixels:
                return shape
            raise DataError(
                f"{self.path}: {pixels} pixel columns do not make pictures of data.shape={list(self.config.shape)};"
                f" leave columns out with data.drop, or give the [channels,height,width] of {pixels} values"
            )
        if not pixels or side * side != pixels:
            raise DataError(
                f"{self.path}: {pixels} pixel columns make no square picture; give"
                f" {setting('data.shape', ['C', 'H', 'W'])}, leave columns that are no pixels out with data.drop, or"
                " read the file with --kind table"
            )
        return 1, side, side

    def _largest(self, names: Sequence[str], rows: NDArray[np.intp]) -> float:
        """The largest pixel of the training rows. Raises DataError for one that is missing or out of range."""
        is_training = np.zeros(self.count(), dtype=bool)
        is_training[rows] = True
        largest, first = 0.0, 0
        for table in self.reader.batches(dict.fromkeys(names, pa.float32()), ROWS):
            training_rows = first + np.flatnonzero(is_training[first : first + table.num_rows])
            values = _values(table, names)[training_rows - first]
            if len(values):
                self._check(values, names, training_rows, 255.0)
                largest = max(largest, float(values.max()))
            first += table.num_rows
        return largest

    def _check(self, values: NDArray[np.float32], names: Sequence[str], rows: NDArray[np.intp], white: float) -> None:
        """Raises DataError for a pixel that is missing or not in 0 to `white`.

        values: (N, P) pixels of the columns `names` (P) in the rows with the indices `rows` (N,).
        """
        is_valid = (values >= 0) & (values <= white)  # false for NaN
        if is_valid.all():
            return
        row, column = np.argwhere(~is_valid)[0]
        value = values[row, column]
        problem = "a missing pixel" if np.isnan(value) else f"the value {value:g}"
        raise DataError(
            f"{self.path}: {self.reader.place(int(rows[row]))}, column '{names[column]}': {problem}; expected a number"
            f" from 0 to {white:g}" + (" as in the training rows" if white == 1 else ", or --kind table")
        )


def _values(table: pa.Table, names: Sequence[str]) -> NDArray[np.float32]:
    """The columns `names` as (N, P), NaN for a missing cell."""
    values = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for i, name in enumerate(names):
        values[:, i] = table[name].to_numpy()
    return values


def _range(reader: Reader, names: Sequence[str]) -> tuple[float, float]:
    """The smallest and the largest value of the first rows; NaN if there is none."""
    ranges = [pc.min_max(reader.peek[name]).as_py() for name in names if is_number(reader.peek[name].type)]
    low = min((r["min"] for r in ranges if r["min"] is not None), default=math.nan)
    high = max((r["max"] for r in ranges if r["max"] is not None), default=math.nan)
    return float(low), float(high)


def looks_like_pixels(reader: Reader, config: DataConfig) -> bool:
    """Whether the columns are named like pixels, or are integers in 0-255 whose number is a large square."""
    if sum(bool(NAMED.match(name)) for name in reader.columns) >= FEW_NAMED:
        return True
    names = pixel_columns(reader, config)
    if len(names) < FEW_PIXELS or math.isqrt(len(names)) ** 2 != len(names):
        return False
    columns = (reader.peek[name] for name in names)
    return all(pa.types.is_integer(column.type) for column in columns) and _range(reader, names)[1] <= 255


def _recognises(data: Path | Reader, config: DataConfig) -> float:
    return 0.8 * (isinstance(data, Reader) and (config.shape is not None or looks_like_pixels(data, config)))


def _open(data: Path | Reader, config: DataConfig, labels: NDArray[np.str_] | None) -> PixelSource:
    return PixelSource(reader_of(data, "pixels"), config, labels)


PIXELS = Kind(
    name="pixels",
    noun="pictures",
    view="pictures",
    nearest="gradients",
    reads="reads every row as a picture",
    defaults=DEFAULTS,
    recognises=_recognises,
    open=_open,
    elements=no_elements,
    limit=1.0,
    dataset=picture_dataset,
    monitored=light_names,
    quantities=light,
    frame_fields=column_fields,
    frame_chunks=column_chunks,
    frame_example=column_example,
)
