"""Delimited text: comma, semicolon or tab, plain or gzip, UTF-8 with or without a byte order mark."""

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
from anomaly_vae.data.readers.base import NULLS, PEEK, Reader, check_names, file_digest, plural, stem

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab"}
HEAD = 1 << 18  # bytes that the separator, the encoding and the header are found in
BLOCK = 1 << 22  # bytes parsed at a time while streaming: with pyarrow's read-ahead this bounds the memory
PACKED = 6  # times larger, about, is text than its gzip
# The types that pyarrow finds in a column of text, each tried where the one before does not hold all of its cells.
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
    """A CSV file. The header is the first line that is not empty; empty lines are no rows.

    Raises DataError when the file is empty, binary, not UTF-8, has no row below its header or a malformed header.
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
        # Rows are split faster where no cell can hold a line break, and only a quoted cell can.
        self._quoted = '"' in text
        names = next(csv.reader(lines[header:], delimiter=self._separator))
        self.columns = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(names)]
        self._check_header(lines[header + 1 :])

    # --- reading

    @cached_property
    def peek(self) -> pa.Table:
        lines: list[str] = []
        with self._text() as file:
            # Whole records: a quoted cell may run over several lines.
            records = csv.reader(_kept(file, lines), delimiter=self._separator)
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
        while True:  # once more for each column of which a later block holds what its first one does not let expect
            try:
                arrow_stream.write(sink, self._typed(types))
                return
            except _OtherTypeError as found:
                types[found.column] = found.type
                sink.seek(0)
                sink.truncate()

    def _typed(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Every row; columns that `types` does not name have the type of their first block."""
        known = dict(types)
        try:
            with self._bytes() as stream, pc_csv.open_csv(stream, **self._options(types)) as batches:
                known = {field.name: field.type for field in batches.schema}
                yield from batches
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            cell = NOT_OF_TYPE.search(str(error))
            name = self.columns[int(cell[1])] if cell else ""
            if cell and known.get(name) in TYPES[:-1]:
                raise _OtherTypeError(name, looser(known[name], cell[2])) from error
            self._explain(error, {name: type_ for name, type_ in types.items() if type_ == pa.string()})
        if any(pa.types.is_binary(type_) for type_ in known.values()):
            raise self._encoding()

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        held: list[pa.RecordBatch] = []
        size = 0
        try:
            with self._bytes() as stream, pc_csv.open_csv(stream, **self._options(types, only=True)) as batches:
                for batch in batches:
                    held.append(batch)
                    size += batch.num_rows
                    if size >= rows:
                        table = pa.Table.from_batches(held)
                        for first in range(0, size - rows + 1, rows):
                            yield table.slice(first, rows)
                        held = table.slice(size - size % rows).to_batches()
                        size %= rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._explain(error, types)
        if size:
            yield pa.Table.from_batches(held)

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
        """The row, and its line counted from 1, which a quoted line break or an empty line moves."""
        with self._text() as file:
            reader = csv.reader(file, delimiter=self._separator)
            found = -1  # the header
            for cells in reader:
                found += bool(cells)
                if found == row + 1:
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

    # --- what can be wrong with a file

    def _head(self) -> str:
        """The text of the first lines."""
        try:
            with gzip.open(self.path) if self._gzip else open(self.path, "rb") as file:
                raw = file.read(HEAD)
        except (OSError, EOFError, zlib.error) as error:
            raise self._broken() from error
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{self.path}: encoded as UTF-16; save the file as UTF-8")
        control = sum(raw.count(byte) for byte in (*range(1, 9), *range(14, 32)))  # no tab, no line break
        if b"\0" in raw or raw.startswith(BINARY) or control > len(raw) / 50:
            raise DataError(f"{self.path}: a binary file; expected CSV, Parquet or a folder of images")
        try:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(raw)
        except UnicodeDecodeError as error:
            raise self._encoding() from error
        if len(raw) == HEAD and "\n" in text:
            text = text[: text.rindex("\n")]  # the last line was cut
        return text

    def _sniff(self, lines: list[str]) -> str:
        """The separator of the header, with which the rows must agree."""
        widths = {s: len(next(csv.reader(lines, delimiter=s), [])) for s in SEPARATORS}
        best = max(widths, key=lambda s: widths[s])
        below = [line for line in lines[1:21] if line.strip()]
        if widths[best] == 1:
            return ","
        for other in SEPARATORS:
            # Text with a comma in it is common, so only a row that misses the header's separator is held against it.
            if other != best and below and all(best not in line and other in line for line in below):
                raise DataError(
                    f"{self.path}: mixed separators: the header has {SEPARATORS[best]}, the rows have"
                    f" {SEPARATORS[other]}; use one of them throughout"
                )
        if best != "," and any(re.search(rf"(^|{best})-?\d+,\d+({best}|$)", line) for line in below):
            raise DataError(f"{self.path}: numbers with a decimal comma; write them with a point, e.g. 0.5")
        return best

    def _check_header(self, below: list[str]) -> None:
        if not any(line.strip() for line in below):
            raise DataError(f"{self.path}: no rows below the header; expected at least one")
        numbers = [name for name in self.columns if re.fullmatch(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?", name)]
        if numbers and len(numbers) > len(self.columns) // 2:
            raise DataError(f"{self.path}: line {self._skip} holds numbers; expected a first line of column names")
        check_names(self.path, self.columns)

    def _explain(self, error: Exception, types: Mapping[str, pa.DataType]) -> NoReturn:
        """Raises the DataError that says where reading failed: the parser itself does not know the line."""
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
        """Raises DataError for the first row that has not as many fields as the header."""
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
                for number, line in enumerate(file, 1):  # noqa: B007  (told where decoding stops)
                    line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"line {number} holds the byte 0x{error.object[error.start]:02x}"
            return DataError(f"{self.path}: not UTF-8: {found}; save the file as UTF-8 (it may be Latin-1)")
        return DataError(f"{self.path}: not UTF-8; save the file as UTF-8")

    def _broken(self) -> DataError:
        return DataError(f"{self.path}: broken gzip file, its end is missing or damaged; copy or compress it again")


class _OtherTypeError(Exception):
    """A cell is not of the type that its column has had so far, and is one of `type`."""

    def __init__(self, column: str, type_: pa.DataType) -> None:
        super().__init__(column)
        self.column, self.type = column, type_


def looser(type_: pa.DataType, cell: str) -> pa.DataType:
    """The first type after `type_` that may hold a cell that it does not hold."""
    try:
        read = pc_csv.read_csv(
            io.BytesIO(f"{cell}\n".encode()), pc_csv.ReadOptions(column_names=["cell"]),
            pc_csv.ParseOptions(delimiter="\1", quote_char=False),
        )  # fmt: skip
    except pa.ArrowInvalid:  # of several lines
        return TYPES[-1]
    own = read["cell"].type
    return TYPES[max(TYPES.index(own) if own in TYPES else -1, TYPES.index(type_) + 1)]


def _kept(file: IO[str], lines: list[str]) -> Iterator[str]:
    """The lines of a file, each of which is added to `lines` as it is read."""
    for line in file:
        lines.append(line)
        yield line
