"""The interface of all readers: column names, the first rows, the complete table, or a stream of tables."""

from __future__ import annotations

import hashlib
import mmap
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.cells import PLAIN, NumberFormat, is_text, parse_numbers
from anomaly_vae.data.spill import IN_MEMORY, ArrayStore, release

SHOWN = 5  # number of further cells that a message names
PEEK = 1000  # number of first rows from which the kind of data is recognised
SUFFIXES = (  # of data files
    ".csv", ".tsv", ".txt", ".dat", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".parquet", ".pq", ".feather",
    ".arrow", ".json", ".jsonl", ".ndjson", ".xlsx", ".npy", ".npz",
)  # fmt: skip


class Reader(ABC):
    """A table of named columns that is read at once or as a stream.

    path: the file's path, as messages show it. name: the name of the data. columns: distinct names, in the order of
    the file. index: the columns that pandas saved its index in. reading: how the file is read, where that was decided.
    """

    path: str
    name: str
    columns: list[str]
    index: tuple[str, ...] = ()
    reading: str = ""
    decimal: Literal[".", ","] | None = "."  # of text, the likely decimal mark; None: numbers are stored as such
    missing: tuple[str, ...] = ()  # further marks of a missing cell
    _table: pa.Table | None = None  # every row, after `table` was called
    _mapped: mmap.mmap | None = None  # the mapped file that `_table` is a view of, if any

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about how to read the file; more is known after it was read."""
        return ()

    @cached_property
    @abstractmethod
    def peek(self) -> pa.Table:
        """The first rows, at most PEEK, with the types that their cells suggest."""

    def table(self, text: Collection[str] = (), store: ArrayStore = IN_MEMORY) -> pa.Table:
        """Every row; the table is kept for the next call. The columns in `text` are read as text, unchanged.

        A file above the store's limit is converted to an Arrow file once, piece by piece, and the table is a view of
        that mapped file. Raises AnomalyVAEError if the disk has no space for it.
        """
        if self._table is None and self.size() <= store.limit:
            self._table = self.read(text)
        if self._table is None:
            key = f"{arrow_stream.VERSION} {type(self).__name__} {self.reading} {sorted(text)} {self.digest()}"
            name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
            write = partial(self.write, text=text)
            self._mapped = store.kept(f"tables/{name}.arrow", write, arrow_stream.is_complete)
            self._table = arrow_stream.table(self._mapped)
        return self._table

    def release(self) -> None:
        """Drops the pages of a mapped table from memory; see `spill.release`."""
        release(self._mapped)

    def batches(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        """The columns in `types`, converted to those types (float64, string), in tables of `rows` rows.

        The rows come from the table if it was read before, else from the file in constant memory.
        Raises DataError with the row and the column of a cell that cannot be converted.
        """
        if self._table is None:
            n_rows = 0
            for table in self.stream(types, rows):
                n_rows += table.num_rows
                yield table
            self.__dict__["rows"] = n_rows  # so that `count` needs no pass of its own
            return
        for first in range(0, self._table.num_rows, rows):
            yield self._cast_all(self._table.slice(first, rows), types, first)
            self.release()

    def count(self) -> int:
        """The number of rows."""
        return self.rows if self._table is None else int(self._table.num_rows)

    def digest(self) -> str:
        """The digest of the content, as 16 hexadecimal digits."""
        return self._digest

    # --- what each file format implements

    @abstractmethod
    def size(self) -> int:
        """The approximate size of the table in memory, in bytes."""

    @abstractmethod
    def read(self, text: Collection[str]) -> pa.Table:
        """Every row, in memory; the columns in `text` as text, unchanged."""

    @abstractmethod
    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        """Writes the table of `read` to an empty file in the format of `arrow_stream`, in constant memory."""

    @abstractmethod
    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        """The tables of `batches`, read from the file."""

    @cached_property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows in the file."""

    @cached_property
    @abstractmethod
    def _digest(self) -> str:
        """The digest of the content."""

    # --- shared by all file formats

    def place(self, row: int) -> str:
        """The position of a row for messages. row: its index, from 0."""
        return f"row {row + 1}"

    def row_numbers(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The indices in the file, from 0, of the rows with the indices `rows`: more where empty rows were skipped."""
        return rows

    def require(self, names: Iterable[str], why: str) -> None:
        """Raises DataError if one of the columns does not exist. why: what the columns are, for the message."""
        missing = [name for name in names if name not in self._column_set]
        if missing:
            raise DataError(f"{self.path}: {why} {_names(missing)} not found; the columns are {_names(self.columns)}")

    @cached_property
    def _column_set(self) -> frozenset[str]:
        return frozenset(self.columns)

    def _cast_all(self, table: pa.Table, types: Mapping[str, pa.DataType], first: int) -> pa.Table:
        """The columns in `types`, converted. first: the index of the table's first row in the file, for messages."""
        return pa.table({name: self._cast(table[name], name, type_, first) for name, type_ in types.items()})

    def _cast(self, column: pa.ChunkedArray, name: str, type_: pa.DataType, first: int) -> pa.ChunkedArray:
        if column.type == type_:
            return column
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_floating(type_) and is_text(column.type):
            return self.numbers(column, name, first).cast(type_)
        try:
            # Integers beyond 2**53 are rounded, as in pandas and NumPy.
            return pc.cast(column, type_, safe=not pa.types.is_floating(type_))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            expected = "text" if type_ == pa.string() else "numbers"
            raise DataError(
                f"{self.path}: column '{name}' holds {str(column.type)[:60]}, expected {expected}; {_drop(name)}"
            ) from error

    def numbers(self, column: pa.ChunkedArray, name: str, first: int, format_: NumberFormat = PLAIN) -> pa.ChunkedArray:
        """Text as float64. Raises DataError with the first cell that is not a number."""
        numbers, bad = parse_numbers(column, format_, self.missing)
        if bad is not None:
            row, cell = bad
            raise self.not_a_number(first + row, name, cell)
        return numbers

    def not_a_number(self, row: int, name: str, cell: str, others: Sequence[tuple[int, str]] = ()) -> DataError:
        """The error for a cell of column `name` that should be a number; it is returned, not raised.

        others: further such cells, as (row index, text).
        """
        texts = list(dict.fromkeys([cell, *(text for _, text in others)]))
        more = ""
        if others:
            listed = ", ".join(f"{other + 1} ({text[:40]!r})" for other, text in others[:SHOWN])
            rest = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            more = f", nor {'is row' if len(others) == 1 else 'are rows'} {listed}{rest}"
        marks = setting("data.missing", texts) if len(texts) <= SHOWN and max(map(len, texts)) <= 40 else ""
        return DataError(
            f"{self.path}: {self.place(row)}, column '{name}': {cell[:40]!r} is not a number{more}; correct it, "
            + (f"read it as missing with {marks}, " if marks else "leave it empty if it is missing, ")
            + f"or {_drop(name)}"
        )


def check_names(path: str, names: list[str]) -> None:
    """Raises DataError if a column name occurs more than once."""
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(f"{path}: the column name {_names(repeated)} occurs more than once; rename one of them")


def file_digest(path: str | Path) -> str:
    """The BLAKE2b digest of a file's bytes, as 16 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def stem(path: str | Path) -> str:
    """The name of a data file without its folder and suffixes: runs/train.csv.gz -> train."""
    name = Path(path).name
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return name


def plural(count: int, word: str) -> str:
    """A number with its noun: "1 row", "2 rows"."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def _names(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _drop(name: str) -> str:
    return f"leave the column out with {setting('data.drop', [name])}"
