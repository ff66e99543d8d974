"""The rows of another reader in another order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.spill import ArrayStore

LIMIT = 1 << 26  # bytes of a table that are held in memory to be put in order; a larger one is written to a file


class ReorderedReader(Reader):
    """A reader whose row i is row order[i] of another one; order (N,).

    Every pass needs all rows of the columns that it reads, in memory or, of a larger table, in a mapped file.
    """

    def __init__(self, reader: Reader, order: NDArray[np.intp]) -> None:
        self.path, self.name, self.columns, self.index = reader.path, reader.name, reader.columns, reader.index
        self.reading, self.decimal, self.missing = reader.reading, reader.decimal, reader.missing
        self._reader, self._order = reader, order

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._reader.notes

    @cached_property
    def peek(self) -> pa.Table:
        return self._reader.peek

    def size(self) -> int:
        return self._reader.size()

    def read(self, text: Collection[str]) -> pa.Table:
        return self._reader.read(text).take(self._order)

    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        table = self._reader.table(text, ArrayStore(0))
        pieces = np.array_split(self._order, -(-len(self._order) // arrow_stream.ROWS))
        arrow_stream.write(sink, (batch for rows in pieces for batch in table.take(rows).combine_chunks().to_batches()))

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        tables = self._reader.batches(types, rows)
        if self.size() <= LIMIT:
            table = pa.concat_tables(tables)
        else:
            batches = (batch for piece in tables for batch in piece.to_batches())
            kept = ArrayStore(0).kept("", lambda sink: arrow_stream.write(sink, batches), arrow_stream.is_complete)
            table = arrow_stream.table(kept)
        for first in range(0, len(self._order), rows):
            yield table.take(self._order[first : first + rows])

    @cached_property
    def rows(self) -> int:
        return len(self._order)

    @cached_property
    def _digest(self) -> str:
        return self._reader.digest()

    def row_numbers(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        return self._reader.row_numbers(self._order[rows])

    def place(self, row: int) -> str:
        return self._reader.place(int(self._order[row]))
