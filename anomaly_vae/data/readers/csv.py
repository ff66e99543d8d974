"""The reader of text files: columns separated by a character or by blanks, with a header; plain or compressed."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.base import PEEK, Reader, check_names, file_digest, plural
from anomaly_vae.data.readers.cells import NULLS, is_number, is_text
from anomaly_vae.data.readers.containers import BOMS, BROKEN, BUFFER, DataFile, spill
from anomaly_vae.data.readers.dialect import DECIMAL_COMMA, SEPARATORS, recognise, split_blanks

HEAD, LONGEST = 1 << 18, 1 << 26  # first bytes from which the dialect is decided; at most, if lines are long
LINES = 8  # complete lines that the head has to hold
BLOCK = 1 << 20  # bytes parsed at a time: bounds the memory, and 16 MB take 2.5 times the CPU time of 1 MB
LONG_ROW = 1 << 24  # the longest row that is read, where one does not fit a block
PEEK_CHARS = 1 << 25  # characters from which `peek` is read, at most
FAILED = (pa.ArrowException, UnicodeDecodeError, *BROKEN)  # what reading raises


@dataclass(frozen=True)
class Survey:
    """What only a pass over all cells tells: the number of rows, the indices in the file of those without any cell, and
    the columns with cells that are not of the type of the first rows, or are no numbers."""

    rows: int
    empty: NDArray[np.intp]
    text: frozenset[str]


class CsvReader(Reader):
    """A text file. Empty lines and rows of separators alone are skipped; the latter are counted, and keep their number.

    Raises DataError if the file is empty, binary or of another encoding, if its header is malformed or has no row below
    it, and for what `dialect.recognise` refuses.
    """

    def __init__(self, file: DataFile, config: DataConfig, notes: tuple[str, ...] = ()) -> None:
        """notes: what was decided before."""
        self.path, self.name = file.path, file.name
        self._file, self._of = file, file.place  # the digest is of the file itself, not of a copy
        text, is_all = self._head(config)
        self._dialect = dialect = recognise(self.path, text, is_all, config)
        self._notes = (*notes, *dialect.notes)
        self._block = max(BLOCK, 8 * max(map(len, text.splitlines()), default=0))
        self._separator, self._lines = dialect.separator, dialect.lines
        self.decimal = "," if "," in dialect.decimal or dialect.separator == ";" else "."
        self._start = len(text[: dialect.offset].encode(self._encoding)) + self._mark  # of the first row, in bytes
        names = [re.sub(r"\s*[\r\n]+\s*", " ", name.strip()) for name in dialect.names]
        self.columns = [name or f"Unnamed: {i}" for i, name in enumerate(names)]
        if not text[dialect.offset :].strip():
            raise DataError(f"{self.path}: no rows below the header; expected at least one")
        check_names(self.path, self.columns)
        self.reading = f"{replace(dialect, notes=())} {self._encoding}"
        if self._separator == " ":
            self._separate()

    @property
    def notes(self) -> tuple[str, ...]:
        survey: Survey | None = vars(self).get("_survey")
        n_empty = 0 if survey is None else len(survey.empty)
        if not n_empty:
            return self._notes
        assert survey is not None
        number = f"{n_empty} empty row" + (" was" if n_empty == 1 else "s were")
        first = self._place_in_file(int(survey.empty[0]))
        return (*self._notes, f"{number} skipped, the first is {first}; the other rows keep their numbers")

    # --- reading

    @cached_property
    def peek(self) -> pa.Table:
        lines: list[str] = []
        n_quotes = n_rows = n_chars = 0
        blank = f'{self._separator}" \t\r\n'
        with self._file.intact(), self._text() as file:
            for line in file:
                n_quotes, n_chars = n_quotes + line.count('"'), n_chars + len(line)
                if n_quotes % 2 == 0:  # else a quoted cell goes on in the next line
                    if not line.strip(blank):
                        continue
                    n_rows += 1
                lines.append(line)
                if n_quotes % 2 == 0 and (n_rows == PEEK or n_chars > PEEK_CHARS):
                    break
        if not n_rows:
            raise DataError(f"{self.path}: no cell below the header holds anything; expected at least one row")
        text = "".join(lines).encode()
        options = self._options({}, quoted=True) | {
            "read_options": pc_csv.ReadOptions(column_names=self.columns, block_size=len(text) + 1)
        }
        try:
            table = pc_csv.read_csv(io.BytesIO(text), **options)
        except FAILED as error:
            self._explain(_UnreadableError(error))
        if any(pa.types.is_binary(field.type) for field in table.schema):
            raise self._not_encoded()
        return table

    def size(self) -> int:
        return self._file.size()

    def read(self, text: Collection[str]) -> pa.Table:
        for types in self._attempts(self._table_types(text)):
            try:
                return pa.Table.from_batches(list(self._batches(types)))
            except _UnreadableError as error:
                failure = error
        return self._explain(failure)

    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        for types in self._attempts(self._table_types(text)):
            sink.seek(0)
            sink.truncate()
            try:
                arrow_stream.write(sink, self._batches(types))
                return
            except _UnreadableError as error:
                failure = error
        self._explain(failure)

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        first = 0  # index of the next row to be yielded
        for read in self._attempts(types):
            try:
                for table in _sized(self._batches(read), rows, first):
                    yield self._cast_all(self._with_points(table, types), types, first)
                    first += table.num_rows
                return
            except _UnreadableError as error:
                failure = error
        self._explain(failure)

    @cached_property
    def rows(self) -> int:
        if "_survey" not in vars(self):
            try:
                count = sum(batch.num_rows for batch in self._batches({self.columns[0]: pa.string()}))
            except _UnreadableError as error:
                self._explain(error)
        return self._survey.rows - len(self._survey.empty) if "_survey" in vars(self) else count

    @cached_property
    def _digest(self) -> str:
        return file_digest(self._of)

    def row_numbers(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        survey: Survey | None = vars(self).get("_survey")
        if survey is None or not len(survey.empty):
            return rows
        return rows + np.searchsorted(survey.empty - np.arange(len(survey.empty)), rows, "right")

    def place(self, row: int) -> str:
        """The number of the row and of its line, both from 1; quoted line breaks and empty lines count as lines."""
        return self._place_in_file(int(self.row_numbers(np.array([row]))[0]))

    def _place_in_file(self, row: int) -> str:
        number = -1
        with self._text() as file:
            reader = csv.reader(file, delimiter=self._separator)
            for cells in reader:
                number += bool(cells)
                if number == row:
                    return f"row {row + 1} (line {self._lines + reader.line_num})"
        return f"row {row + 1}"

    # --- types

    def _table_types(self, text: Collection[str]) -> dict[str, pa.DataType]:
        """The types of a table's columns by the first rows: float64, text, or what else those rows are."""
        types = {}
        for name in self.columns:
            type_ = self.peek[name].type
            is_other = name in text or is_text(type_) or pa.types.is_null(type_)
            types[name] = pa.string() if is_other else pa.float64() if is_number(type_) else type_
        return types

    def _attempts(self, types: Mapping[str, pa.DataType]) -> Iterator[dict[str, pa.DataType]]:
        """The types to read columns as, so that `types` can be made of them: by the first rows, then by a pass over all
        rows, in the end text."""
        if "_survey" not in vars(self):
            text = {name for name in types if is_text(self.peek[name].type)}
            yield {name: pa.string() if name in text else type_ for name, type_ in types.items()}
        yield {name: pa.string() if name in self._survey.text else type_ for name, type_ in types.items()}
        yield dict.fromkeys(types, pa.string())

    @cached_property
    def _survey(self) -> Survey:
        types = {name: type_ for name, type_ in self._table_types(()).items() if type_ != pa.string()}
        text = {name for name in self.columns if is_text(self.peek[name].type)}
        rows, empty = 0, []
        self._block = max(self._block, LONG_ROW)  # a row that is longer than a block is a reason to be here
        try:
            for batch in self._parsed(dict.fromkeys(self.columns, pa.string())):
                blank = _blank_rows(batch)
                if blank is not None:
                    empty.append(rows + np.flatnonzero(blank))
                for name in types.keys() - text:
                    if not _are(self._pointed(batch[name]), types[name]):
                        text.add(name)
                rows += batch.num_rows
        except _UnreadableError as error:
            self._explain(error)
        indices = np.concatenate(empty) if empty else np.empty(0, np.intp)
        if len(indices) == rows:
            raise DataError(f"{self.path}: no cell below the header holds anything; expected at least one row")
        return Survey(rows, indices, frozenset(text))

    def _with_points(self, table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
        """Text that is to be numbers, with a decimal point for the decimal comma."""
        if self._dialect.decimal == ".":
            return table
        wanted = [n for n in table.column_names if is_text(table[n].type) and not is_text(types[n])]
        for name in wanted:
            table = table.set_column(table.column_names.index(name), name, self._pointed(table[name]))
        return table

    def _pointed(self, cells: pa.ChunkedArray) -> pa.ChunkedArray:
        if self._dialect.decimal == ".":
            return cells
        is_decimal = pc.match_substring_regex(cells, f"^\\s*{DECIMAL_COMMA.pattern}\\s*$")
        points = pc.replace_substring(pc.replace_substring(cells, ".", ""), ",", ".")
        return pc.if_else(is_decimal, points, cells)

    # --- parsing

    def _batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """The columns in `types`, without the rows that are empty."""
        first = 0  # index in the file
        for batch in self._parsed(types):
            last = first + batch.num_rows
            if "_survey" in vars(self) or _blank_rows(batch) is not None:
                empty = self._survey.empty
                here = empty[np.searchsorted(empty, first) : np.searchsorted(empty, last)] - first
                if len(here):
                    is_kept = np.ones(batch.num_rows, bool)
                    is_kept[here] = False
                    batch = batch.filter(pa.array(is_kept))
            first = last
            yield batch

    def _parsed(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """The columns in `types`. Raises _UnreadableError for what is not of these types, and for all that is wrong."""
        options = self._options(types, self._quoted)
        try:
            with self._bytes() as stream, pc_csv.open_csv(stream, **options) as batches:
                yield from batches
        except FAILED as error:
            raise _UnreadableError(error) from error

    def _options(self, types: Mapping[str, pa.DataType], quoted: bool) -> dict[str, object]:
        encoding = "utf8" if self._encoding == "utf-8" else self._encoding
        return {
            "read_options": pc_csv.ReadOptions(
                column_names=self.columns, block_size=self._block, use_threads=True, encoding=encoding
            ),
            # only a quoted cell can hold a line break; without one pyarrow splits rows faster
            "parse_options": pc_csv.ParseOptions(delimiter=self._separator, newlines_in_values=quoted),
            "convert_options": pc_csv.ConvertOptions(
                column_types=dict(types),
                include_columns=list(types),
                null_values=list(NULLS),
                decimal_point=self._dialect.decimal,
            ),
        }

    @cached_property
    def _quoted(self) -> bool:
        """Whether there may be a quote anywhere in the file."""
        if self._file.compression is not None:
            return True
        block = bytearray(BUFFER)
        with open(self._file.place, "rb", buffering=0) as file:
            while size := file.readinto(block):
                if block.find(b'"', 0, size) >= 0:
                    return True
        return False

    def _bytes(self) -> pa.NativeFile:
        """The stream of the rows, from the first one on."""
        stream = self._file.open()
        stream.read(self._start)
        return stream

    def _text(self) -> IO[str]:
        """The text of the rows, from the first one on."""
        return io.TextIOWrapper(self._bytes(), encoding=self._encoding, errors="replace", newline="")

    def _separate(self) -> None:
        """Replaces the file by a copy of its rows with one tab for each run of blanks."""

        def write(sink: IO[bytes]) -> None:
            with self._text() as text:
                for line in text:
                    cells = split_blanks(line)
                    sink.write(("\t".join(map(_quoted, cells)) + "\n").encode())

        with self._file.intact():
            place, held = spill(write)
        self._file = replace(self._file, place=place, held=(held, self._file.held), compression=None)
        self._encoding, self._start, self._separator = "utf-8", 0, "\t"

    # --- checks and error messages

    def _head(self, config: DataConfig) -> tuple[str, bool]:
        """The text of the first lines, and whether these are all. Raises DataError for a file that is binary, broken or
        of another encoding."""
        size = HEAD
        while True:
            raw = self._file.head(size)
            is_all = len(raw) < size
            text = self._decoded(raw, config.encoding)
            end = max(text.rfind("\n"), text.rfind("\r")) + 1
            if not is_all and text.endswith("\r"):  # a line feed may follow
                end = max(text[:-1].rfind("\n"), text[:-1].rfind("\r")) + 1
            if is_all or _has_lines(text[:end]):
                return (text if is_all else text[:end]), is_all
            if size >= LONGEST:
                raise DataError(f"{self.path}: no {LINES} lines in the first {size >> 20} MB; expected one line a row")
            size *= 4

    def _decoded(self, raw: bytes, encoding: str | None) -> str:
        bom = next((bom for bom in BOMS if raw.startswith(bom)), b"")
        self._mark, self._encoding = len(bom), BOMS.get(bom, encoding or "utf-8")
        self._encoding = codecs.lookup(self._encoding).name
        if not bom and encoding is None:
            n_control = sum(raw.count(byte) for byte in (*range(1, 9), *range(14, 32)))  # without tabs and line breaks
            zeros = raw[1::2].count(0), raw[::2].count(0)
            if min(zeros) == 0 and max(zeros) > 0.4 * len(raw):
                utf16 = setting("data.encoding", "utf-16-le" if zeros[0] else "utf-16-be")
                raise DataError(f"{self.path}: UTF-16 without a mark, which {utf16} reads")
            if b"\0" in raw or n_control > len(raw) / 50:
                raise DataError(f"{self.path}: a binary file; expected CSV, Parquet or a folder of images")
        try:
            return codecs.getincrementaldecoder(self._encoding)().decode(raw[len(bom) :])
        except UnicodeDecodeError as error:
            raise self._not_encoded() from error

    def _explain(self, failure: _UnreadableError) -> NoReturn:
        """Raises a DataError that says where reading failed; pyarrow does not report the place, so it is searched."""
        error = failure.error
        if isinstance(error, BROKEN) and not isinstance(error, pa.ArrowException | UnicodeDecodeError):
            raise self._file.broken() from error
        with self._file.intact():
            self._check_encoding()
            self._check_rows()
        raise DataError(f"{self.path}: cannot be read as CSV ({' '.join(str(error).split())[:200]})") from error

    def _check_rows(self) -> None:
        """Raises DataError for the first row whose number of fields differs from the header's."""
        width = len(self.columns)
        with self._text() as file:
            reader, before = csv.reader(file, delimiter=self._separator), 0
            for cells in reader:
                first, before = self._lines + before + 1, reader.line_num
                if not cells or len(cells) == width:
                    continue
                number, line = self._lines + reader.line_num, self._separator.join(cells)
                if max(cell.count("\n") for cell in cells) > number - first:  # the last line ends within a cell
                    raise DataError(
                        f"{self.path}: a quote in line {first} is not closed; close it, or double a quote"
                        " that belongs to the text"
                    )
                for other, name in SEPARATORS.items():
                    if other not in (self._separator, " ") and line.count(other) == width - 1 > 0:
                        raise DataError(
                            f"{self.path}: mixed separators: line {number} has {name}, the header has"
                            f" {SEPARATORS.get(self._separator, repr(self._separator))}; use one of them throughout"
                        )
                fields = plural(len(cells), "field")
                raise DataError(
                    f"{self.path}: line {number} has {fields} where the header has {width}; correct the line, or quote"
                    " a cell that holds the separator"
                )

    def _check_encoding(self) -> None:
        """Raises DataError for the first line that is not of the encoding."""
        with self._bytes() as stream:
            decoder = codecs.getincrementaldecoder(self._encoding)()
            try:
                while piece := stream.read(BUFFER):
                    decoder.decode(piece)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                raise self._not_encoded() from error

    def _not_encoded(self) -> DataError:
        """The error for a file that is not of its encoding; it is returned, not raised."""
        what = "UTF-8" if self._encoding == "utf-8" else self._encoding
        otherwise = f"save the file as UTF-8, or {setting('data.encoding', 'cp1252')} reads it as Latin-1"
        number = 0
        with self._file.intact(), self._file.open() as stream:
            for number, line in enumerate(io.BufferedReader(stream), 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    byte = error.object[error.start]
                    return DataError(f"{self.path}: not {what}: line {number} holds the byte 0x{byte:02x}; {otherwise}")
        return DataError(f"{self.path}: not {what}; {otherwise}")


class _UnreadableError(Exception):
    """Reading failed, by no fault of who takes what was read."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _has_lines(text: str) -> bool:
    """Whether text holds LINES lines that are not empty and do not end within quotes."""
    count = n_quotes = 0
    for line in io.StringIO(text, newline=""):
        n_quotes += line.count('"')
        count += n_quotes % 2 == 0 and bool(line.strip())
        if count == LINES:
            return True
    return False


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[\t"\r\n]', cell) else cell


def _sized(batches: Iterable[pa.RecordBatch], rows: int, first: int) -> Iterator[pa.Table]:
    """The rows from index `first` on, in tables of `rows` rows; the last one may have fewer."""
    pending: list[pa.RecordBatch] = []
    n_pending, to_skip = 0, first
    for batch in batches:
        skipped = min(to_skip, batch.num_rows)
        to_skip -= skipped
        pending.append(batch.slice(skipped))
        n_pending += batch.num_rows - skipped
        if n_pending >= rows:
            table = pa.Table.from_batches(pending)
            for start in range(0, n_pending - rows + 1, rows):
                yield table.slice(start, rows)
            pending = table.slice(n_pending - n_pending % rows).to_batches()
            n_pending %= rows
    if n_pending:
        yield pa.Table.from_batches(pending)


def _blank_rows(batch: pa.RecordBatch) -> NDArray[np.bool_] | None:
    """The rows whose cells are all missing or blank, (N,); None if there are none."""
    blank = None
    for column in sorted(batch.columns, key=lambda column: is_text(column.type)):
        if is_text(column.type):
            is_blank = pc.or_(pc.equal(pc.binary_length(column), 0), pc.ascii_is_space(column))
        elif column.null_count:
            is_blank = column.is_null()
        else:
            return None
        blank = is_blank if blank is None else pc.and_(blank, is_blank)
        if not pc.any(blank).as_py():
            return None
    return None if blank is None else np.asarray(blank)


def _are(cells: pa.Array, type_: pa.DataType) -> bool:
    """Whether text can be read as a type, by the rules of pyarrow's CSV."""
    cells = pc.ascii_trim_whitespace(cells)
    try:
        pc.cast(pc.if_else(pc.is_in(cells, pa.array(NULLS)), None, cells), type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
