"""The reader of CSV files: comma, semicolon or tab, plain or gzip, UTF-8 with or without a byte order mark."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, NoReturn

import pyarrow as pa
import pyarrow.csv as pc_csv

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.base import PEEK, Reader, check_names, file_digest, plural, stem
from anomaly_vae.data.readers.cells import NULLS

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab"}
HEAD = 1 << 18  # first bytes of a file, from which the separator, the encoding and the header are read
BLOCK = 1 << 22  # bytes parsed at a time while streaming; with pyarrow's read-ahead this bounds the memory
PACKED = 6  # approximate ratio of the size of text to that of its gzip
# The types that pyarrow infers for a CSV column, in the order in which it tries them.
TYPES = (
    pa.null(), pa.int64(), pa.bool_(), pa.date32(), pa.time32("s"), pa.timestamp("s"), pa.timestamp("ns"),
    pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.float64(), pa.string(),
)  # fmt: skip
NOT_OF_TYPE = re.compile(
    r"In CSV column #(\d+):.*CSV conversion error to .*: (?:invalid value|expected (?:a|no) [\w ]*in) '(.*?)'(?:\.|$)",
    re.DOTALL,
)
GZIP = b"\x1f\x8b"
BINARY = (b"PK\3\4", b"%PDF", b"BZh", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ")  # zip (xlsx, npz), PDF, bzip2, zstd, xz


class CsvReader(Reader):
    """A CSV file. The header is the first line that is not empty; empty lines are skipped.

    Raises DataError if the file is empty, binary or not UTF-8, and if its header is malformed or has no row below it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.name = stem(path)
        with open(path, "rb") as file:
            self._gzip = file.read(2) == GZIP
        text = self._head()
        lines = text.splitlines()
        header = next((i for i, line in enumerate(lines) if line.strip()), None)
        if header is None:
            raise DataError(f"{path}: the file is empty; expected a line of column names and rows below it")
        self._skip = header + 1
        self._separator = self._sniff(lines[header:])
        self.decimal = "," if self._separator == ";" else "."
        # Only a quoted cell can hold a line break; without one pyarrow splits rows faster.
        self._quoted = '"' in text
        names = next(csv.reader(lines[header:], delimiter=self._separator))
        self.columns = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(names)]
        self._check_header(lines[header + 1 :])

    # --- reading

    @cached_property
    def peek(self) -> pa.Table:
        lines: list[str] = []
        with self._text() as file:
            # Records are counted, not lines: a quoted cell may span several lines.
            records = csv.reader(_recorded(file, lines), delimiter=self._separator)
            for _ in zip(range(self._skip + PEEK), records, strict=False):
                pass
        options = self._options({})
        try:
            return pc_csv.read_csv(io.BytesIO("".join(lines).encode()), **options)
        except pa.ArrowInvalid as error:
            self._explain(error, {})

    def size(self) -> int:
        return Path(self.path).stat().st_size * (PACKED if self._gzip else 1)

    def read(self, text: Collection[str]) -> pa.Table:
        types = dict.fromkeys(text, pa.string())
        try:
            with self._bytes() as stream:
                table = pc_csv.read_csv(stream, **self._options(types, 1 << 24))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._explain(error, types)
        if any(pa.types.is_binary(field.type) for field in table.schema):
            raise self._encoding()
        return table

    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        types: dict[str, pa.DataType] = dict.fromkeys(text, pa.string())
        while True:  # pyarrow infers types from the first block; a column that later needs another type starts it anew
            try:
                arrow_stream.write(sink, self._typed(types))
                return
            except _OtherTypeError as error:
                types[error.column] = error.type
                sink.seek(0)
                sink.truncate()

    def _typed(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Every row; columns that `types` does not name get the type that their first block suggests.

        Raises _OtherTypeError if a later block does not have that type.
        """
        column_types = dict(types)
        try:
            with self._bytes() as stream, pc_csv.open_csv(stream, **self._options(types)) as batches:
                column_types = {field.name: field.type for field in batches.schema}
                yield from batches
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            match = NOT_OF_TYPE.search(str(error))
            name = self.columns[int(match[1])] if match else ""
            if match and column_types.get(name) in TYPES[:-1]:
                raise _OtherTypeError(name, looser(column_types[name], match[2])) from error
            self._explain(error, {name: type_ for name, type_ in types.items() if type_ == pa.string()})
        if any(pa.types.is_binary(type_) for type_ in column_types.values()):
            raise self._encoding()

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        done = 0
        try:
            for table in self._pieces(types, rows):
                yield table
                done += table.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            # pyarrow reads plain numbers alone: from here on cells are read as text and become numbers as ours
            yield from self._as_text(types, rows, done, error)

    def _as_text(self, types: Mapping[str, pa.DataType], rows: int, done: int, error: Exception) -> Iterator[pa.Table]:
        first = 0
        try:
            for table in self._pieces(dict.fromkeys(types, pa.string()), rows):
                if first >= done:
                    yield self._cast_all(table, types, first)
                first += table.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            self._explain(error, types)

    def _pieces(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        pending: list[pa.RecordBatch] = []
        n_pending = 0
        with self._bytes() as stream, pc_csv.open_csv(stream, **self._options(types, only=True)) as batches:
            for batch in batches:
                pending.append(batch)
                n_pending += batch.num_rows
                if n_pending >= rows:
                    table = pa.Table.from_batches(pending)
                    for first in range(0, n_pending - rows + 1, rows):
                        yield table.slice(first, rows)
                    pending = table.slice(n_pending - n_pending % rows).to_batches()
                    n_pending %= rows
        if n_pending:
            yield pa.Table.from_batches(pending)

    @cached_property
    def rows(self) -> int:
        types = {self.columns[0]: pa.string()}
        try:
            with self._bytes() as stream, pc_csv.open_csv(stream, **self._options(types, only=True)) as batches:
                return sum(batch.num_rows for batch in batches)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._explain(error, types)

    @cached_property
    def _digest(self) -> str:
        return file_digest(self.path)

    def place(self, row: int) -> str:
        """The number of the row and of its line, both from 1; quoted line breaks and empty lines count as lines."""
        with self._text() as file:
            reader = csv.reader(file, delimiter=self._separator)
            number = -1  # of the record; the header becomes 0
            for cells in reader:
                number += bool(cells)
                if number == row + 1:
                    return f"row {row + 1} (line {reader.line_num})"
        return f"row {row + 1}"

    def _options(self, types: Mapping[str, pa.DataType], block: int = 0, only: bool = False) -> dict[str, object]:
        return {
            "read_options": pc_csv.ReadOptions(
                column_names=self.columns, skip_rows=self._skip, block_size=block or BLOCK, use_threads=True
            ),
            "parse_options": pc_csv.ParseOptions(delimiter=self._separator, newlines_in_values=self._quoted),
            "convert_options": pc_csv.ConvertOptions(
                column_types=dict(types), include_columns=list(types) if only else [], null_values=list(NULLS)
            ),
        }

    def _bytes(self) -> pa.NativeFile:
        return pa.input_stream(self.path, compression="gzip" if self._gzip else None, buffer_size=1 << 20)

    def _text(self) -> IO[str]:
        opened = gzip.open(self.path) if self._gzip else open(self.path, "rb")  # noqa: SIM115  (the wrapper closes it)
        return io.TextIOWrapper(opened, encoding="utf-8-sig", errors="replace", newline="")

    # --- checks and error messages

    def _head(self) -> str:
        """The text of the first lines. Raises DataError for a file that is binary, broken or not UTF-8."""
        try:
            with gzip.open(self.path) if self._gzip else open(self.path, "rb") as file:
                raw = file.read(HEAD)
        except (OSError, EOFError, zlib.error) as error:
            raise self._broken() from error
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{self.path}: encoded as UTF-16; save the file as UTF-8")
        n_control = sum(raw.count(byte) for byte in (*range(1, 9), *range(14, 32)))  # without tabs and line breaks
        if b"\0" in raw or raw.startswith(BINARY) or n_control > len(raw) / 50:
            raise DataError(f"{self.path}: a binary file; expected CSV, Parquet or a folder of images")
        try:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(raw)
        except UnicodeDecodeError as error:
            raise self._encoding() from error
        if len(raw) == HEAD and "\n" in text:
            text = text[: text.rindex("\n")]  # the last line is incomplete
        return text

    def _sniff(self, lines: list[str]) -> str:
        """The separator of the header. Raises DataError if the rows below have another one."""
        widths = {s: len(next(csv.reader(lines, delimiter=s), [])) for s in SEPARATORS}
        best = max(widths, key=lambda s: widths[s])
        below = [line for line in lines[1:21] if line.strip()]
        if widths[best] == 1:
            return ","
        for other in SEPARATORS:
            # Text often holds a comma, so a row counts as different only if it lacks the header's separator.
            if other != best and below and all(best not in line and other in line for line in below):
                raise DataError(
                    f"{self.path}: mixed separators: the header has {SEPARATORS[best]}, the rows have"
                    f" {SEPARATORS[other]}; use one of them throughout"
                )
        return best

    def _check_header(self, below: list[str]) -> None:
        if not any(line.strip() for line in below):
            raise DataError(f"{self.path}: no rows below the header; expected at least one")
        numbers = [name for name in self.columns if re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?", name)]
        if numbers and len(numbers) > len(self.columns) // 2:
            raise DataError(f"{self.path}: line {self._skip} holds numbers; expected a first line of column names")
        check_names(self.path, self.columns)

    def _explain(self, error: Exception, types: Mapping[str, pa.DataType]) -> NoReturn:
        """Raises a DataError that says where reading failed; pyarrow does not report the place, so it is searched."""
        if isinstance(error, OSError) and self._gzip:
            raise self._broken() from error
        self._check_rows()
        if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
            raise self._encoding() from error
        first = 0
        texts = dict.fromkeys(types, pa.string())
        with self._bytes() as stream, pc_csv.open_csv(stream, **self._options(texts, only=True)) as batches:
            for batch in batches:
                self._cast_all(pa.table(batch), types, first)
                first += batch.num_rows
        raise DataError(f"{self.path}: cannot be read as CSV ({' '.join(str(error).split())[:200]})") from error

    def _check_rows(self) -> None:
        """Raises DataError for the first row whose number of fields differs from the header's."""
        width = len(self.columns)
        with self._text() as file:
            reader = csv.reader(file, delimiter=self._separator)
            for cells in reader:
                if not cells or len(cells) == width:
                    continue
                line = self._separator.join(cells)
                for other, name in SEPARATORS.items():
                    if other != self._separator and line.count(other) == width - 1:
                        raise DataError(
                            f"{self.path}: mixed separators: line {reader.line_num} has {name}, the header has"
                            f" {SEPARATORS[self._separator]}; use one of them throughout"
                        )
                fields = plural(len(cells), "field")
                raise DataError(
                    f"{self.path}: line {reader.line_num} has {fields} where the header has {width}; correct the line,"
                    " or quote a cell that holds the separator"
                )

    def _encoding(self) -> DataError:
        try:
            number = 0
            with gzip.open(self.path) if self._gzip else open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):  # noqa: B007  (used in the message)
                    line.decode("utf-8")
        except UnicodeDecodeError as error:
            place = f"line {number} holds the byte 0x{error.object[error.start]:02x}"
            return DataError(f"{self.path}: not UTF-8: {place}; save the file as UTF-8 (it may be Latin-1)")
        return DataError(f"{self.path}: not UTF-8; save the file as UTF-8")

    def _broken(self) -> DataError:
        return DataError(f"{self.path}: broken gzip file, its end is missing or damaged; copy or compress it again")


class _OtherTypeError(Exception):
    """A cell of `column` does not have the type of the cells before it; the column is to be read as `type`."""

    def __init__(self, column: str, type_: pa.DataType) -> None:
        super().__init__(column)
        self.column, self.type = column, type_


def looser(type_: pa.DataType, cell: str) -> pa.DataType:
    """The first of TYPES after `type_` that may hold `cell`, which is not of type `type_`."""
    try:
        table = pc_csv.read_csv(
            io.BytesIO(f"{cell}\n".encode()),
            read_options=pc_csv.ReadOptions(column_names=["cell"]),
            parse_options=pc_csv.ParseOptions(delimiter="\1", quote_char=False),
        )
    except pa.ArrowInvalid:  # the cell has several lines
        return TYPES[-1]
    cell_type = table["cell"].type
    return TYPES[max(TYPES.index(cell_type) if cell_type in TYPES else -1, TYPES.index(type_) + 1)]


def _recorded(file: IO[str], lines: list[str]) -> Iterator[str]:
    """The lines of a file; each is also appended to `lines`."""
    for line in file:
        lines.append(line)
        yield line
