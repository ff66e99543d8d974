"""Tables from files and from memory behind one reader: column names, the first rows, the whole, or a stream."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.spill import IN_MEMORY, ArrayStore, release

# What people and programs write for a missing cell. "none" in lower case is missing from this list on purpose: in
# practice it is a category ("no garage"), while "None" is what Python writes for a missing value.
NULLS = (
    "", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NaT", "null", "NULL", "None", "?",
)  # fmt: skip
PEEK = 1000  # rows that recognition looks at
SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".parquet", ".pq")


class Reader(ABC):
    """A table of named columns that is read whole or as a stream.

    path: as shown in messages. name: of the data. columns: in the order of the file, distinct.
    """

    path: str
    name: str
    columns: list[str]
    _table: pa.Table | None = None  # every row, once it was asked for
    _mapped: mmap.mmap | None = None  # what that table is a view of, if it is one

    @cached_property
    @abstractmethod
    def peek(self) -> pa.Table:
        """The first rows, at most PEEK, with the types they seem to have."""

    def table(self, text: Collection[str] = (), store: ArrayStore = IN_MEMORY) -> pa.Table:
        """Every row, in the store, kept for the next call; the columns in `text` exactly as they are written.

        A file above the store's limit is written as Arrow piece by piece, once, and its table is a view of that. Raises
        AnomalyVAEError where the disk has no place for it.
        """
        if self._table is None and self.size() <= store.limit:
            self._table = self.read(text)
        if self._table is None:
            what = f"{arrow_stream.VERSION} {type(self).__name__} {sorted(text)} {self.digest()}"
            name = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
            write = partial(self.write, text=text)
            self._mapped = store.kept(f"tables/{name}.arrow", write, arrow_stream.is_complete)
            self._table = arrow_stream.table(self._mapped)
        return self._table

    def release(self) -> None:
        """Lets go of the pages of a mapped table that were read."""
        release(self._mapped)

    def batches(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        """The named columns as the given types (float64, string), `rows` rows at a time, in constant memory: of the
        table where it was read, else from the file.

        Raises DataError with the row and the column of a cell that is not of its type.
        """
        if self._table is None:
            yield from self.stream(types, rows)
            return
        for first in range(0, self._table.num_rows, rows):
            yield self._cast_all(self._table.slice(first, rows), types, first)
            self.release()

    def count(self) -> int:
        """The number of rows."""
        return self.rows if self._table is None else int(self._table.num_rows)

    def digest(self) -> str:
        """16 hex digits that change with the content."""
        return self._digest

    # --- for the kinds of file

    @abstractmethod
    def size(self) -> int:
        """About how many bytes the table takes in memory."""

    @abstractmethod
    def read(self, text: Collection[str]) -> pa.Table:
        """Every row in memory; the columns in `text` exactly as they are written."""

    @abstractmethod
    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        """The same table into an empty file, as `arrowfile` reads it, in constant memory."""

    @abstractmethod
    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        """What `batches` promises, from the file."""

    @cached_property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows, from the file."""

    @cached_property
    @abstractmethod
    def _digest(self) -> str:
        """Of the content."""

    # --- for all of them

    def place(self, row: int) -> str:
        """How a person finds the row with this index from 0."""
        return f"row {row + 1}"

    def require(self, names: Iterable[str], why: str) -> None:
        """Raises DataError where one of the columns does not exist."""
        missing = [name for name in names if name not in self._known]
        if missing:
            raise DataError(f"{self.path}: {why} {_names(missing)} not found; the columns are {_names(self.columns)}")

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.columns)

    def _cast_all(self, table: pa.Table, types: Mapping[str, pa.DataType], first: int) -> pa.Table:
        """The columns of `types` from rows that start at row `first`."""
        return pa.table({name: self._cast(table[name], name, type_, first) for name, type_ in types.items()})

    def _cast(self, column: pa.ChunkedArray, name: str, type_: pa.DataType, first: int) -> pa.ChunkedArray:
        if column.type == type_:
            return column
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_floating(type_) and is_text(column.type):
            return self._numbers(column, name, first).cast(type_)
        try:
            # Integers beyond 2**53 are rounded, as every other reader of numbers does.
            return pc.cast(column, type_, safe=not pa.types.is_floating(type_))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            expected = "text" if type_ == pa.string() else "numbers"
            raise DataError(
                f"{self.path}: column '{name}' holds {column.type}, expected {expected}; {_drop(name)}"
            ) from error

    def _numbers(self, column: pa.ChunkedArray, name: str, first: int) -> pa.ChunkedArray:
        """Text as float64; raises DataError naming the first cell that is no number."""
        numbers, bad = parse_numbers(column)
        if bad is not None:
            row, cell = bad
            raise self.not_a_number(first + row, name, cell)
        return numbers

    def not_a_number(self, row: int, name: str, cell: str) -> DataError:
        return DataError(
            f"{self.path}: {self.place(row)}, column '{name}': {cell[:40]!r} is not a number; correct it, leave it"
            f" empty if it is missing, or {_drop(name)}"
        )


class MemoryReader(Reader):
    """Columns that are in memory already."""

    def __init__(self, table: pa.Table, name: str = "memory") -> None:
        self.path = "memory"
        self.name = name
        self.columns = list(table.column_names)
        check_names(self.path, self.columns)
        self._held = table

    @cached_property
    def peek(self) -> pa.Table:
        return self._held.slice(0, PEEK)

    def size(self) -> int:
        return 0  # that a store would have to find a place for

    def read(self, text: Collection[str]) -> pa.Table:
        return self._held

    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        arrow_stream.write(sink, self._held.to_batches())

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        for first in range(0, self.rows, rows):
            yield self._cast_all(self._held.slice(first, rows), types, first)

    @cached_property
    def rows(self) -> int:
        return int(self._held.num_rows)

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(str(self._held.schema.remove_metadata()).encode(), digest_size=8)
        for column in self._held.columns:
            # By value, not by buffer: a slice shares its buffers with the rows around it.
            digest.update(_bytes(column))
        return digest.hexdigest()


def from_array(values: NDArray[Any], name: str = "memory") -> MemoryReader:
    """A 2-D array (N, F) as columns x0, x1, ..."""
    return _memory(values.T, [f"x{i}" for i in range(values.shape[1])], name)


def from_frame(frame: Any, name: str = "memory") -> MemoryReader:
    """A pandas DataFrame; its index is no column."""
    types = set(frame.dtypes)
    # pandas takes 30 us to hand out a column: all of them at once where they are numbers of one type
    alike = len(types) == 1 and all(isinstance(type_, np.dtype) and type_.kind in "fiub" for type_ in types)
    columns = frame.to_numpy().T if alike else (column for _, column in frame.items())
    return _memory(columns, [str(column) for column in frame.columns], name)


def _memory(columns: Iterable[Any], names: list[str], name: str) -> MemoryReader:
    return MemoryReader(pa.table([_column(values) for values in columns], names=names), name)


def _column(values: Any) -> pa.Array:
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # Objects of several types: as text, of which the numbers are found again.
        missing = [v is None or v != v for v in values]
        column = pa.array([None if m else str(v) for m, v in zip(missing, values, strict=True)], pa.string())
    return pc.cast(column, pa.float32()) if pa.types.is_float16(column.type) else column


def _bytes(column: pa.ChunkedArray) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"": pa.chunked_array([column.combine_chunks()], column.type)})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def parse_number(text: str) -> float | None:
    """The number a cell holds, nan if it is missing, None if it is text."""
    text = text.strip()
    if text in NULLS:
        return float("nan")
    try:
        # Python reads 1_000 as a number; no other program does.
        return None if "_" in text else float(text)
    except ValueError:
        return None


def parse_numbers(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, tuple[int, str] | None]:
    """Text cells as float64 (missing and text: NaN), and the first cell that is text: (row, cell), or None."""
    with contextlib.suppress(pa.ArrowInvalid):
        return pc.cast(column, pa.float64()), None
    cells, codes = distinct(column)
    parsed = [parse_number(cell) for cell in cells]
    values = np.array([np.nan if number is None else number for number in parsed] + [np.nan])[codes]
    # Distinct cells stand in the order of first appearance, so the first text among them is the first in the column.
    bad = next((code for code, number in enumerate(parsed) if number is None), None)
    found = None if bad is None else (int(np.argmax(codes == bad)), cells[bad])
    return pa.chunked_array([pa.array(values)]), found


def distinct(column: pa.ChunkedArray | pa.Array) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct cells of text in the order of first appearance, and (N,) their codes; missing is the last + 1.

    What is then done to each distinct cell costs nothing beside a column of millions.
    """
    coded = pc.dictionary_encode(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    cells: list[str] = coded.dictionary.to_pylist()
    return cells, pc.fill_null(coded.indices, len(cells)).to_numpy(zero_copy_only=False).astype(np.intp)


def canonical(text: str) -> str:
    """One spelling for one value, whatever type a file stores it as: 1.0 and 1 are "1", True and TRUE are "true"."""
    text = text.strip()
    lower = text.lower()
    if lower in ("true", "false"):
        return lower
    number = parse_number(text)
    return str(int(number)) if number is not None and number.is_integer() and abs(number) < 2**53 else text


def as_labels(column: pa.ChunkedArray | pa.Array) -> NDArray[np.str_]:
    """(N,) cells as canonical text; a missing cell is empty text."""
    cells, codes = distinct(pc.cast(column, pa.string()))
    spelled = [canonical(cell) for cell in cells]
    return np.array(["" if cell in NULLS else cell for cell in spelled] + [""], dtype=np.str_)[codes]


def check_names(path: str, names: list[str]) -> None:
    """Raises DataError for a column name that occurs twice."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{path}: the column name {_names(twice)} occurs more than once; rename one of them")


def file_digest(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def stem(path: str | Path) -> str:
    """The name of a data file without its endings: runs/train.csv.gz -> train."""
    name = Path(path).name
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return name


def plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _names(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _drop(name: str) -> str:
    return f"leave the column out with --set 'data.drop=[{name}]'"
