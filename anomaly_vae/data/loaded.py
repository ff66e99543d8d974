"""All rows of a source, in memory or in a mapped file, for the several passes of a fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.source import Chunk, CodedText, Layout, Source
from anomaly_vae.data.spill import ArrayStore, release


@dataclass(frozen=True)
class LoadedData:
    """The N rows of a source.

    values: (N, *shape) as in `Chunk`, in the store; those of tables and series are in Fortran order, because the scaler
    reads them column by column. machines: the group of each step of a series; None for a single one. condition: (N, K),
    None if the layout has none. after_gap: (N,) see `Chunk`.
    """

    source: Source
    layout: Layout
    store: ArrayStore
    values: NDArray[Any]
    machines: CodedText | None = None
    condition: NDArray[np.float64] | None = None
    after_gap: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def groups(self) -> NDArray[np.int32] | None:
        """The number of each row's group, (N,), in the order of the groups' names; None for a single one."""
        return None if self.machines is None else self.machines.codes

    def take(self, rows: NDArray[np.intp]) -> Chunk:
        """The rows with the indices `rows`; their ids are the indices."""
        groups = None if self.machines is None else self.machines[rows]
        condition = None if self.condition is None else self.condition[rows]
        after_gap = None if self.after_gap is None else self.after_gap[rows]
        return Chunk(rows, np.ascontiguousarray(self.values[rows]), groups, condition, after_gap)

    def pieces(self, rows: NDArray[np.intp]) -> Iterator[tuple[slice, Chunk]]:
        """The rows with the indices `rows` in chunks, each with its slice of `rows`."""
        for first in range(0, len(rows), self.layout.chunk_rows):
            piece = slice(first, first + self.layout.chunk_rows)
            yield piece, self.take(rows[piece])
            release(self.values)

    def columns(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
        """Each column of a table, or sensor of a series, at the indices `rows`, (R,)."""
        for index in range(self.values.shape[1]):
            yield self.values[rows, index]
            release(self.values)

    def ids(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """The ids of the rows with the indices `rows`, (R,), as `Chunk.ids` defines them."""
        return self.source.ids(self.layout, rows)


def load_data(source: Source, layout: Layout, store: ArrayStore) -> LoadedData:
    """Reads every row of a source. Raises DataError if one cannot be read."""
    values: NDArray[Any] | None = None
    conditions, gaps, first = [], [], 0
    for chunk in source.chunks(layout, layout.chunk_rows):
        if values is None:
            shape = (source.count(), *chunk.values.shape[1:])
            values = store.empty(shape, chunk.values.dtype, "F" if len(shape) == 2 else "C")
        values[first : first + len(chunk)] = chunk.values
        release(values)
        if chunk.condition is not None:
            conditions.append(chunk.condition)
        if chunk.after_gap is not None:
            gaps.append(chunk.after_gap)
        first += len(chunk)
    assert values is not None, "a source has rows"
    condition = np.concatenate(conditions) if conditions else None
    after_gap = np.concatenate(gaps) if gaps else None
    return LoadedData(source, layout, store, values, source.groups(), condition, after_gap)
