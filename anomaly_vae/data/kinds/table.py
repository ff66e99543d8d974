"""Tables: one row is one sample; numbers, truth values and categories, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.config import DataKind
from anomaly_vae.data.readers.base import plural
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.tabular import TabularSource


class TableSource(TabularSource):
    """A table of independent rows."""

    kind: DataKind = "table"

    @cached_property
    def why(self) -> str:
        columns = plural(len(self.reader.columns), "column")
        return f"a table: {plural(self.count(), 'row')} of {columns}, no time column in order"

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        return self.cells(self.id_of(layout), rows)

    def preload(self, store: ArrayStore) -> None:
        self.load(self.special, store)

    def learn(self, rows: NDArray[np.intp]) -> Layout:
        """Numbers become `Column(name)`, truth values and text of few values categorical columns.

        Constant columns, identifiers, free text and timestamps are left out. Raises DataError for fewer than two rows,
        infinite values, text in a column of numbers, or where no column is left.
        """
        columns, left_out = self.inputs(rows, self.special)
        self.need_columns(columns, left_out)
        config = self.config
        return Layout(
            "table", (len(columns),), tuple(columns), label=config.label, id=config.id,
            left_out=left_out, conditions=self.conditions(rows),
        )  # fmt: skip

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        for _, _, chunk in self.matrices(layout, rows, self.id_of(layout)):
            yield chunk
