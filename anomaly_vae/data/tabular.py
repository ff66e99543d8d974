"""What every source with named columns has in common: labels, ids, groups, and rows as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data import conditions
from anomaly_vae.data.columns import LABELS, matrix, profile, types_of
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.readers.cells import NULLS, as_labels, canonical, distinct
from anomaly_vae.data.source import ROWS, Chunk, CodedText, Column, Layout
from anomaly_vae.data.spill import ArrayStore


class TabularSource(ABC):
    """A Source over a reader. The methods that are written here are final; a kind adds the abstract ones."""

    kind: str
    notes: tuple[str, ...] = ()

    def __init__(self, reader: Reader, config: DataConfig, labels: NDArray[np.str_] | None = None) -> None:
        """labels: (N,) of data in memory that has no label column."""
        self.reader = reader
        self.config = config
        self.name = reader.name
        self.path = reader.path
        self._labels = None if labels is None else CodedText.of([labels])
        reader.require([name for name in (config.id, config.group) if name], "column")

    @cached_property
    @abstractmethod
    def why(self) -> str:
        """What the data was taken for, and by which sign."""

    @abstractmethod
    def learn(self, rows: NDArray[np.intp]) -> Layout:
        """The layout, from the training rows alone."""

    @abstractmethod
    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """The data from its beginning, at most `rows` samples at a time."""

    @abstractmethod
    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(R,) what scores of some rows are reported against."""

    @abstractmethod
    def preload(self, store: ArrayStore) -> None:
        """Reads into the store what would else be read several times."""

    def labels(self) -> CodedText | None:
        """(N,) the labels as text. Raises DataError where the label column does not exist."""
        if self._labels is None and self.config.label is not None:
            self.reader.require([self.config.label], "label column")
            self._labels = CodedText.of(self._text(self.config.label))
        return self._labels

    def column(self, name: str) -> NDArray[np.str_]:
        self.reader.require([name], "column")
        return np.concatenate(list(self._text(name)))

    def roles(self) -> NDArray[np.str_] | None:
        return None

    def image_files(self) -> None:
        return None

    def groups(self) -> CodedText | None:
        """(N,) the group of every row, None where the configuration names no group column."""
        return None if self.config.group is None else CodedText.of(self._text(self.config.group))

    def cells(self, name: str | None, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(R,) cells of some rows as they are written; without a column the numbers of the rows."""
        if name is None:
            return rows
        wanted = np.zeros(self.count(), bool)
        wanted[rows] = True
        found, first = [np.empty(0, np.str_)], 0
        for table in self.reader.batches({name: pa.string()}, ROWS):
            here = pa.array(wanted[first : first + table.num_rows])
            found.append(as_text(pc.filter(table[name], here)))
            first += table.num_rows
        return np.concatenate(found)[np.searchsorted(np.flatnonzero(wanted), rows)]

    def count(self) -> int:
        return self.reader.count()

    def digest(self) -> str:
        return self.reader.digest()

    def other_values(self, known: Mapping[str, Sequence[str]], most: int) -> dict[str, list[str]]:
        """Of each column the first values, at most so many, that are neither known nor missing."""
        found: dict[str, list[str]] = {name: [] for name in known}
        for table in self.reader.batches({name: pa.string() for name in known}, 1 << 16):
            for name, values in found.items():
                spelled = dict.fromkeys(canonical(value) for value in distinct(table[name])[0])
                new = [v for v in spelled if v not in known[name] and v not in NULLS and v not in values]
                values += new[: most - len(values)]
        return {name: values for name, values in found.items() if values}

    # --- for the kinds

    @property
    def special(self) -> dict[str, str]:
        """Columns that are never an input, and why."""
        found = dict.fromkeys(self.config.drop, "left out by data.drop")
        found |= dict.fromkeys(self._labelled(), "named like a label; data.label can name it")
        found |= dict.fromkeys(self.config.condition, "a condition")
        roles = {"label": self.config.label, "id": self.config.id, "group": self.config.group}
        return found | {name: f"the {role} column" for role, name in roles.items() if name}

    def _labelled(self) -> list[str]:
        return [name for name in self.reader.columns if name.lower() in LABELS]

    def _text(self, name: str) -> Iterator[NDArray[np.str_]]:
        return (as_labels(batch[name]) for batch in self.reader.batches({name: pa.string()}, ROWS))

    def load(self, special: Iterable[str], store: ArrayStore) -> None:
        """Reads every column into the store, those in `special` as they are written: labels, ids and times.

        Raises DataError for a column of the configuration that does not exist, before hours of reading.
        """
        self.reader.require([name for name in (self.config.label,) if name], "label column")
        self.reader.require(self.config.condition, "condition column")
        self.reader.require(self.config.drop, "data.drop:")
        self.reader.table([name for name in special if name in self.reader.columns], store)

    def inputs(self, rows: NDArray[np.intp], special: Mapping[str, str]) -> tuple[list[Column], dict[str, str]]:
        """The columns that are inputs, and the others with the reason, from the training rows.

        special: columns that are none, and why. They are kept as they are written, for labels, ids and times.

        Raises DataError for fewer than two rows, and where no column is left.
        """
        self.need_two(rows)
        self.reader.require(self.config.drop, "data.drop:")
        table = self.reader.table([name for name in special if name in self.reader.columns])
        columns: list[Column] = []
        left_out: dict[str, str] = {}
        for name in self.reader.columns:
            if name in special:
                left_out[name] = special[name]
                continue
            column, reason = profile(self.reader, name, table[name], rows, self.config.max_categories)
            if column is None:
                left_out[name] = reason
            else:
                columns.append(column)
            self.reader.release()
        return columns, left_out

    def conditions(self, rows: NDArray[np.intp]) -> tuple[Column, ...]:
        """The condition columns of the configuration, from the training rows."""
        self.reader.require(self.config.condition, "condition column")
        return conditions.learn(self, self.config.condition, rows, self.config.max_categories)

    def need_two(self, rows: NDArray[np.intp]) -> None:
        if len(rows) < 2:
            raise DataError(f"{self.path}: {plural(len(rows), 'row')} to train on; at least 2 are needed")

    def need_columns(self, columns: list[Column], left_out: Mapping[str, str]) -> None:
        """Raises DataError where every column was left out."""
        if not columns:
            reasons = "; ".join(f"'{name}': {reason}" for name, reason in list(left_out.items())[:5])
            raise DataError(f"{self.path}: no column is left to learn from ({reasons}); add a column that varies")

    def stream(
        self, layout: Layout, types: Mapping[str, pa.DataType], rows: int, id_: str | None
    ) -> Iterator[tuple[int, pa.Table, Chunk]]:
        """Index of the first row, the columns of `types`, and a chunk that lacks only its values.

        Raises DataError naming the columns of `types` that do not exist.
        """
        self.reader.require(types, "input column")
        group = self.config.group or layout.group
        if group is not None:
            self.reader.require([group], "group column")
        given = [column.name for column in layout.conditions]
        self.reader.require(given, "condition column")
        wanted = dict(types) | {name: pa.string() for name in (group, id_, *given) if name is not None}
        first = 0
        for table in self.reader.batches(wanted, rows):
            end = first + table.num_rows
            chunk = Chunk(
                ids=np.arange(first, end) if id_ is None else as_text(table[id_]),
                values=np.empty(0),
                groups=None if group is None else as_labels(table[group]),
                condition=conditions.encode([as_labels(table[n]) for n in given], layout.conditions, self.path),
            )
            yield first, table, chunk
            first = end

    def matrices(
        self, layout: Layout, rows: int, id_: str | None, text: Iterable[str] = ()
    ) -> Iterator[tuple[int, pa.Table, Chunk]]:
        """As `stream`, with the columns of the layout as values (N, F); the columns in `text` are read beside them."""
        self.reader.require([column.name for column in layout.columns], "input column")
        types = types_of(self.reader, layout.columns) | dict.fromkeys(text, pa.string())
        for first, table, chunk in self.stream(layout, types, rows, id_):
            yield first, table, replace(chunk, values=matrix(self.reader, table, layout.columns, first))

    def id_of(self, layout: Layout) -> str | None:
        """The column of the ids: as configured, else the one of the layout where it exists."""
        return self.config.id or self._known(layout.id)

    def _known(self, name: str | None) -> str | None:
        return name if name in self.reader.columns else None


def as_text(column: pa.ChunkedArray) -> NDArray[np.str_]:
    """(N,) cells as they are written; a missing one is empty text."""
    return np.asarray(pc.fill_null(column, "").to_numpy(), dtype=np.str_)


def columns_of(given: Path | Reader, kind: str) -> Reader:
    """The columns of a file. Raises DataError for a folder."""
    if isinstance(given, Path):
        raise DataError(f"{given}: a folder, expected a CSV or Parquet file for kind {kind}")
    return given


def column_names(layout: Layout) -> list[str]:
    """What is monitored of named columns: each of them."""
    return [column.name for column in layout.columns]


def column_values(chunk: Chunk) -> NDArray[np.float64]:
    """(N, F) the cells themselves."""
    values: NDArray[np.float64] = chunk.values
    return values
