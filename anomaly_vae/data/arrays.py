"""The source of pictures in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.pictures import shape_text, to_bytes
from anomaly_vae.data.readers.base import plural
from anomaly_vae.data.source import Chunk, CodedText, Layout
from anomaly_vae.data.spill import ArrayStore

CHANNELS = (1, 3)  # grey and colour


class ArraySource:
    """Pictures in memory: (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or floats in 0-1 or 0-255.

    The last axis holds the channels where its length alone is 1 or 3, as image libraries have them.

    Raises DataError for another number of axes, and for pixels that are missing or out of range.
    """

    kind: str = "pixels"
    name = path = "memory"
    notes: tuple[str, ...] = ()
    otherwise = ""

    def __init__(self, values: NDArray[Any], labels: NDArray[np.str_] | None = None) -> None:
        if values.ndim not in (3, 4) or 0 in values.shape:
            raise DataError(f"memory: pictures of shape {values.shape}; expected (N, H, W) or (N, C, H, W)")
        values = values[:, None] if values.ndim == 3 else values  # (N, C, H, W)
        if values.shape[3] == 4 < values.shape[1]:
            raise DataError(
                f"memory: pictures of shape {values.shape} with transparency; give X[..., :3], which is (N, H, W, 3)"
            )
        if values.shape[1] not in CHANNELS and values.shape[3] in CHANNELS:
            self.notes = (f"an array of shape {values.shape} was read as (N, H, W, C), its last axis as channels",)
            values = np.moveaxis(values, 3, 1)
        if values.dtype != np.uint8:
            is_valid = (values >= 0) & (values <= 255)
            if not is_valid.all():
                row = int(np.argwhere(~is_valid)[0][0])
                raise DataError(f"memory: picture {row} has a pixel that is missing or outside 0-255")
        self._values = values
        self._labels = None if labels is None else CodedText.of([labels])
        # Integers always mean 0-255, even if the pictures are so dark that no pixel is above 1.
        self._white = 1.0 if values.dtype.kind == "f" and values.max() <= 1 else 255.0
        self.why = f"{len(values)} pictures of {shape_text(values.shape[1:])}"

    def labels(self) -> CodedText | None:
        return self._labels

    def column(self, name: str) -> NDArray[np.str_]:
        if name != "label" or self._labels is None:
            raise DataError(f"memory: pictures have no column '{name}'")
        return self._labels[:]

    def tables(self, rows: int) -> Iterator[pa.Table]:
        raise DataError("memory: pictures have no columns to copy")

    def roles(self) -> NDArray[np.str_] | None:
        return None

    def image_files(self) -> None:
        return None

    def groups(self) -> None:
        return None

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        return rows

    def preload(self, store: ArrayStore) -> None:
        """Does nothing: the pictures are already in memory."""

    def count(self) -> int:
        return len(self._values)

    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """The shape of the pictures and their white. Raises DataError for fewer than two rows."""
        if len(rows) < 2:
            raise DataError(f"memory: {plural(len(rows), 'picture')} to train on; at least 2 are needed")
        return Layout("pixels", tuple(self._values.shape[1:]), pixel_max=self._white)

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Pictures (N, C, H, W), uint8. Raises DataError if their shape differs from the layout's."""
        if tuple(self._values.shape[1:]) != layout.shape:
            raise DataError(f"memory: {shape_text(self._values.shape[1:])}, expected {shape_text(layout.shape)}")
        white = layout.pixel_max if self._values.dtype.kind == "f" else 255.0
        for first in range(0, len(self._values), rows):
            values = self._values[first : first + rows]
            if values.dtype != np.uint8 and values.max() > white:
                raise DataError(f"memory: a pixel of {values.max():g}; the detector was fitted on values from 0 to 1")
            pictures = values if values.dtype == np.uint8 else to_bytes(values, white)
            yield Chunk(np.arange(first, first + len(values)), pictures)

    def digest(self) -> str:
        header = f"{self._values.shape} {self._values.dtype}".encode()
        return hashlib.blake2b(header + np.ascontiguousarray(self._values).tobytes(), digest_size=8).hexdigest()
