"""Columns of the input beside those of its scores, and the rows with the highest scores alone; in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from anomaly_vae.data.source import Layout, Source


class KeptColumns:
    """The columns of a source, copied beside tables of its rows that come in the same order.

    A column that is named like one of those tables gets the prefix `input_`; the id column, which they have as `id`, is
    not copied under that name again. notes: what was renamed or cannot be copied.
    """

    def __init__(self, source: Source, layout: Layout, rows: int) -> None:
        """rows: that are read at a time. Raises DataError for data that has no columns."""
        self._tables, self._layout = source.tables(rows), layout
        self._waiting: list[pa.Table] = []
        self._names: dict[str, str] | None = None  # of a column -> in the output
        self.notes: list[str] = []

    def beside(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the columns of the next rows."""
        while sum(table.num_rows for table in self._waiting) < len(batch):
            self._waiting.append(next(self._tables))
        table = pa.concat_tables(self._waiting)
        self._waiting, table = [table.slice(len(batch))], table.slice(0, len(batch)).combine_chunks()
        if self._names is None:
            self._names = self._named(table.schema, batch.schema.names)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, output in self._names.items():
            cells = table[name]
            columns[output] = cells.chunk(0) if cells.num_chunks else pa.array([], cells.type)
        return pa.RecordBatch.from_pydict(columns)

    def _named(self, schema: pa.Schema, taken: Sequence[str]) -> dict[str, str]:
        names: dict[str, str] = {}
        for field in schema:
            if pa.types.is_nested(field.type):
                self.notes.append(f"column '{field.name}' holds {str(field.type)[:60]} and is not copied")
            elif field.name != "id" or self._layout.id != "id":
                name = field.name
                while name in taken or (name != field.name and name in schema.names):
                    name = f"input_{name}"
                if name != field.name:
                    self.notes.append(f"column '{field.name}' is copied as '{name}': the scores have one of its name")
                names[field.name] = name
        return names


class HighestRows:
    """The `most` rows with the highest scores of batches with a column `score`."""

    def __init__(self, most: int) -> None:
        self._most, self._kept = most, list[pa.RecordBatch]()

    def add(self, batch: pa.RecordBatch) -> None:
        table = pa.Table.from_batches([*self._kept, batch])
        order = np.argsort(-table["score"].to_numpy(), kind="stable")[: self._most]
        self._kept = table.take(order).combine_chunks().to_batches()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The highest first; of equal scores the one that came first."""
        yield from self._kept
