"""All rows of a source, for a fit: it goes through them piece by piece, several times, wherever they live."""

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
    """N rows.

    values: (N, *shape) as `Chunk` has them, in the store; of tables and series one column after the other, for they are
    scaled column by column. machines: of a series of several. condition: (N, K), None where the layout has none.
    """

    source: Source
    layout: Layout
    store: ArrayStore
    values: NDArray[Any]
    machines: CodedText | None = None
    condition: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def groups(self) -> NDArray[np.int32] | None:
        """(N,) the number of each row's machine, in the order of their names; None for a single one."""
        return None if self.machines is None else self.machines.codes

    def take(self, rows: NDArray[np.intp]) -> Chunk:
        """Some of the rows, their numbers as ids."""
        groups = None if self.machines is None else self.machines[rows]
        condition = None if self.condition is None else self.condition[rows]
        return Chunk(rows, np.ascontiguousarray(self.values[rows]), groups, condition)

    def pieces(self, rows: NDArray[np.intp]) -> Iterator[tuple[slice, Chunk]]:
        """Some of the rows in chunks, each with its place in `rows`."""
        for first in range(0, len(rows), self.layout.chunk_rows):
            here = slice(first, first + self.layout.chunk_rows)
            yield here, self.take(rows[here])
            release(self.values)

    def columns(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
        """(R,) of some of the rows, one column of a table or sensor of a series after the other."""
        for index in range(self.values.shape[1]):
            yield self.values[rows, index]
            release(self.values)

    def ids(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(R,) what scores of some of the rows are reported against."""
        return self.source.ids(self.layout, rows)


def load_data(source: Source, layout: Layout, store: ArrayStore) -> LoadedData:
    """Every row of a source. Raises DataError where one cannot be read."""
    values: NDArray[Any] | None = None
    conditions, first = [], 0
    for chunk in source.chunks(layout, layout.chunk_rows):
        if values is None:
            shape = (source.count(), *chunk.values.shape[1:])
            values = store.empty(shape, chunk.values.dtype, "F" if len(shape) == 2 else "C")
        values[first : first + len(chunk)] = chunk.values
        release(values)
        if chunk.condition is not None:
            conditions.append(chunk.condition)
        first += len(chunk)
    assert values is not None, "a source has rows"
    condition = np.concatenate(conditions) if conditions else None
    return LoadedData(source, layout, store, values, source.groups(), condition)
