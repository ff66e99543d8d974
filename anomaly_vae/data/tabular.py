"""The base of all sources with named columns: labels, ids, groups, and rows as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data import conditions, time_column
from anomaly_vae.data.columns import UNIQUE, Reading, constancy, file_decimal, moves, profile
from anomaly_vae.data.matrix import matrix, types_of
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.readers.cells import NULLS, as_labels, as_names, canonical, distinct, is_number, is_text
from anomaly_vae.data.roles import LABELS, advice, is_rare_flag
from anomaly_vae.data.source import ROWS, Chunk, CodedText, Column, Layout
from anomaly_vae.data.spill import ArrayStore

MOST = 5  # number of columns that a note names
SENTENCE = 40  # mean number of characters above which text is no name of a row


class TabularSource(ABC):
    """A Source that reads from a reader. Subclasses implement the abstract methods and override no other."""

    kind: str
    rows_are_steps = False
    otherwise: str = ""

    def __init__(self, reader: Reader, config: DataConfig, labels: NDArray[np.str_] | None = None) -> None:
        """labels: (N,) of data in memory whose labels are not a column."""
        self.reader = reader
        self.config = config
        self.name = reader.name
        self.path = reader.path
        self._notes: tuple[str, ...] = ()
        self._labels = None if labels is None else CodedText.of([labels])
        reader.missing = config.missing
        reader.require([name for name in (config.id, config.group) if name], "column")

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about how to read the data; more is known after it was read."""
        return (*self.reader.notes, *self._notes)

    @notes.setter
    def notes(self, notes: tuple[str, ...]) -> None:
        self._notes = tuple(note for note in notes if note not in self.reader.notes)

    @cached_property
    @abstractmethod
    def why(self) -> str:
        """What the data was recognised as, and why."""

    @abstractmethod
    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """The layout, learned from the training rows alone."""

    @abstractmethod
    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """All data in chunks of at most `rows` rows."""

    @abstractmethod
    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        """The ids of the rows with the indices `rows`, (R,)."""

    @abstractmethod
    def preload(self, store: ArrayStore) -> None:
        """Reads into the store what would otherwise be read several times."""

    def labels(self) -> CodedText | None:
        """The labels as text, (N,). Raises DataError if the label column does not exist."""
        if self._labels is None and self.config.label is not None:
            self.reader.require([self.config.label], "label column")
            self._labels = CodedText.of(map(as_labels, self._cells(self.config.label)))
        return self._labels

    def column(self, name: str) -> NDArray[np.str_]:
        self.reader.require([name], "column")
        return np.concatenate([as_names(cells) for cells in self._cells(name)])

    def tables(self, rows: int) -> Iterator[pa.Table]:
        types: dict[str, pa.DataType] = dict.fromkeys(self.reader.columns, pa.string())
        for field in self.reader.peek.schema if self.reader.decimal is None else ():
            types[field.name] = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        yield from self.reader.batches(types, rows)

    def roles(self) -> NDArray[np.str_] | None:
        return None

    def image_files(self) -> None:
        return None

    def groups(self) -> CodedText | None:
        """The group of every row, (N,); None if the configuration names no group column."""
        return None if self.config.group is None else CodedText.of(map(as_names, self._cells(self.config.group)))

    def cells(self, name: str | None, rows: NDArray[np.intp]) -> NDArray[Any]:
        """The cells of column `name` at the indices `rows`, unchanged, (R,); without one the indices in the file."""
        if name is None:
            return self.reader.row_numbers(rows)
        is_wanted = np.zeros(self.count(), bool)
        is_wanted[rows] = True
        cells, first = [np.empty(0, np.str_)], 0
        for table in self.reader.batches({name: pa.string()}, ROWS):
            mask = pa.array(is_wanted[first : first + table.num_rows])
            cells.append(as_text(pc.filter(table[name], mask)))
            first += table.num_rows
        return np.concatenate(cells)[np.searchsorted(np.flatnonzero(is_wanted), rows)]

    def count(self) -> int:
        return self.reader.count()

    def digest(self) -> str:
        return self.reader.digest()

    def other_values(self, known: Mapping[str, Sequence[str]], most: int) -> dict[str, dict[str, int]]:
        """Column -> each of the first `most` values that are neither missing nor in `known`, and its number of rows;
        columns without any are left out. known: the known values by column name."""
        others: dict[str, dict[str, int]] = {name: {} for name in known}
        for table in self.reader.batches({name: pa.string() for name in known}, 1 << 16):
            for name, values in others.items():
                cells, codes = distinct(table[name])
                for cell, count in zip(cells, np.bincount(codes, minlength=len(cells) + 1).tolist(), strict=False):
                    text = canonical(cell)
                    is_other = text not in known[name] and text not in NULLS
                    if is_other and (text in values or len(values) < most):
                        values[text] = values.get(text, 0) + count
        return {name: values for name, values in others.items() if values}

    # --- for subclasses

    @property
    def special(self) -> dict[str, str]:
        """Columns that are never an input, each with the reason."""
        reasons = {n: f"named like a label; {advice(n)}" for n in self._named_like_labels()}
        reasons |= dict.fromkeys(self.reader.index, "the index that pandas saved")
        reasons |= dict.fromkeys(self.config.drop, "left out by data.drop")
        reasons |= dict.fromkeys(self.config.condition, "a condition")
        roles = {"label": self.config.label, "id": self.config.id, "group": self.config.group}
        return reasons | {name: f"the {role} column" for role, name in roles.items() if name}

    def _named_like_labels(self) -> list[str]:
        return [name for name in self.reader.columns if name.lower() in LABELS and name not in self.config.keep]

    def _cells(self, name: str) -> Iterator[pa.ChunkedArray]:
        return (batch[name] for batch in self.reader.batches({name: pa.string()}, ROWS))

    def load(self, special: Iterable[str], store: ArrayStore) -> None:
        """Reads every column into the store; those in `special` (labels, ids, times) as text, unchanged.

        Raises DataError, before reading, for a column of the configuration that does not exist.
        """
        self.reader.require([name for name in (self.config.label,) if name], "label column")
        self.reader.require(self.config.condition, "condition column")
        self.reader.require(self.config.drop, "data.drop:")
        self.reader.require(self.config.only_high, "data.only_high:")
        self.reader.require(self.config.keep, "data.keep:")
        self.reader.table(self._read_as_text(special), store)

    def _read_as_text(self, special: Iterable[str]) -> list[str]:
        """The columns that are read as text, unchanged: special ones and, in a file of decimal commas, those of
        numbers, for 1.234 may be a thousand there."""
        wanted = set(special)
        if self.reader.decimal and (self.config.decimal or self._file_decimal) == ",":
            wanted |= {field.name for field in self.reader.peek.schema if is_number(field.type)}
        return [name for name in self.reader.columns if name in wanted]

    @cached_property
    def _file_decimal(self) -> Literal[".", ","] | None:
        return file_decimal(self.reader)

    def inputs(
        self, rows: NDArray[np.intp], special: Mapping[str, str], held: NDArray[np.intp] | None
    ) -> tuple[list[Column], list[Column], dict[str, str]]:
        """The input columns, those that are watched, and the others with the reason, learned from the training rows.

        rows: their indices; held: of the held-out normals, in which a watched column is constant too. special: columns
        that are not inputs, with the reason; they are read as text, unchanged.
        Raises DataError for fewer than two rows, and for a cell that cannot be an input.
        """
        self.need_two(rows)
        self.reader.require(self.config.drop, "data.drop:")
        self.reader.require(self.config.only_high, "data.only_high:")
        self.reader.require(self.config.keep, "data.keep:")
        table = self.reader.table(self._read_as_text(special))
        columns: list[Column] = []
        watched: list[Column] = []
        left_out: dict[str, str] = {}
        notes: defaultdict[str, list[str]] = defaultdict(list)
        reading = Reading(
            most=self.config.max_categories,
            decimal=self.config.decimal,
            proven=self._file_decimal,
            keep=self.config.keep,
            steps=self.rows_are_steps,
        )
        for name in self.reader.columns:
            if name in special:
                left_out[name] = special[name]
                continue
            column, reason = profile(self.reader, name, table[name], rows, reading, notes)
            if column is None:
                left_out[name] = reason
            elif column.constant is None:
                columns.append(column)
            elif held is not None and moves(self.reader, column, table[name], held):
                left_out[name] = f"{constancy(column)} in the training rows, and another value among held-out normals"
            else:
                watched.append(column)
            self.reader.release()
        flags = [column.name for column in columns if is_rare_flag(table[column.name])]
        if len(flags) == 1 and self.config.label is None and self._labels is None and flags[0] not in self.config.keep:
            notes["flag"].append(f"column '{flags[0]}' holds few 1s among 0s; if it is a label, {advice(flags[0])}")
        said = [
            "; ".join(items[:MOST] + [f"and {len(items) - MOST} more"] * (len(items) > MOST))
            for items in notes.values()
        ]
        self.notes = tuple(dict.fromkeys((*self.notes, *said)))
        return columns, watched, left_out

    def row_id(self, left_out: dict[str, str]) -> str | None:
        """The column that names rows: the configured one, else the only one of text that is different in every row,
        times and sentences apart; the reason why it is left out becomes that."""
        if self.config.id is not None:
            return self.config.id
        names = [name for name, reason in left_out.items() if reason == UNIQUE and self._is_short(name)]
        if len(names) > 1:
            names = [name for name in names if time_column.candidate(self.reader, name, wanted=False) is None]
        if len(names) != 1:
            return None
        left_out[names[0]] = f"{UNIQUE}, so it is the id of the output; data.id can name another column"
        return names[0]

    def _is_short(self, name: str) -> bool:
        cells = self.reader.peek[name]
        return is_text(cells.type) and (pc.mean(pc.utf8_length(cells)).as_py() or 0) <= SENTENCE

    def conditions(self, rows: NDArray[np.intp]) -> tuple[Column, ...]:
        """The condition columns of the configuration, from the training rows."""
        self.reader.require(self.config.condition, "condition column")
        return conditions.learn(self, self.config.condition, rows, self.config.max_categories)

    def need_two(self, rows: NDArray[np.intp]) -> None:
        """Raises DataError for fewer than two training rows."""
        if len(rows) < 2:
            raise DataError(f"{self.path}: {plural(len(rows), 'row')} to train on; at least 2 are needed")

    def need_columns(self, columns: list[Column], watched: list[Column], left_out: Mapping[str, str]) -> None:
        """Raises DataError if every column is left out or watched."""
        if not columns:
            why = dict(left_out) | {column.name: constancy(column) for column in watched}
            reasons = "; ".join(f"'{name}': {reason}" for name, reason in list(why.items())[:5])
            raise DataError(f"{self.path}: no column is left to learn from ({reasons}); add a column that varies")

    def stream(
        self, layout: Layout, types: Mapping[str, pa.DataType], rows: int, id_: str | None
    ) -> Iterator[tuple[int, pa.Table, Chunk]]:
        """The rows in pieces: (index of the first row, table of the columns in `types`, chunk without values).

        rows: the largest number of rows of a piece. id_: the column of the ids; None: row indices.
        Raises DataError with the columns in `types` that do not exist.
        """
        self.reader.require(types, "input column")
        group = layout.group or self.config.group
        if group is not None:
            self.reader.require([group], "group column")
        names = [column.name for column in layout.conditions]
        self.reader.require(names, "condition column")
        all_types = dict(types) | {name: pa.string() for name in (group, id_, *names) if name is not None}
        first = 0
        for table in self.reader.batches(all_types, rows):
            end = first + table.num_rows
            chunk = Chunk(
                ids=self.reader.row_numbers(np.arange(first, end)) if id_ is None else as_text(table[id_]),
                values=np.empty(0),
                groups=None if group is None else as_names(table[group]),
                condition=conditions.encode([as_names(table[name]) for name in names], layout.conditions, self.path),
            )
            yield first, table, chunk
            first = end

    def matrices(
        self, layout: Layout, rows: int, id_: str | None, text: Iterable[str] = ()
    ) -> Iterator[tuple[int, pa.Table, Chunk]]:
        """The pieces of `stream`, with the layout's columns as values (N, F). The tables also hold the columns in
        `text`."""
        # a column without a value in training may as well be absent
        columns = [c for c in layout.columns if c.categories != () or c.name in self.reader.columns]
        self.reader.require([column.name for column in columns], "input column")
        types = types_of(self.reader, columns) | dict.fromkeys(text, pa.string())
        places = [layout.columns.index(column) for column in columns]
        for first, table, chunk in self.stream(layout, types, rows, id_):
            values = matrix(self.reader, table, columns, first)
            if len(columns) < len(layout.columns):
                present, values = values, np.full((len(values), len(layout.columns)), np.nan)
                values[:, places] = present
            yield first, table, replace(chunk, values=values)

    def id_of(self, layout: Layout) -> str | None:
        """The column of the ids: the configured one, else the layout's if it exists; None: there is none."""
        return self.config.id or (layout.id if layout.id in self.reader.columns else None)


def as_text(column: pa.ChunkedArray) -> NDArray[np.str_]:
    """The cells of a column of text, unchanged, (N,); a missing one becomes empty text."""
    return np.asarray(pc.fill_null(column, "").to_numpy(), dtype=np.str_)


def reader_of(data: Path | Reader, kind: str) -> Reader:
    """The reader of a file. Raises DataError for a folder or a picture."""
    if isinstance(data, Path):
        what = "a folder" if data.is_dir() else "a picture"
        raise DataError(f"{data}: {what}, expected a CSV or Parquet file for kind {kind}")
    return data


def column_names(layout: Layout) -> list[str]:
    """The names of the monitored quantities of named columns: the columns themselves."""
    return [column.name for column in layout.columns]


def column_values(chunk: Chunk) -> NDArray[np.float64]:
    """The monitored quantities of named columns, (N, F): the values themselves."""
    values: NDArray[np.float64] = chunk.values
    return values
