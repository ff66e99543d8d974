"""Files that are read at once: Arrow, JSON and NumPy as tables in memory, and Excel as text."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.readers.base import file_digest
from anomaly_vae.data.readers.containers import DataFile, spill
from anomaly_vae.data.readers.csv import CsvReader
from anomaly_vae.data.readers.memory import MemoryReader, from_array, from_frame
from anomaly_vae.data.readers.parquet import pandas_index

DEEPEST = 100  # nested brackets of JSON; rows of a table have two
NOT_MARKS = bytes(set(range(256)) - set(b'"[]{}'))


def from_arrow(file: DataFile) -> MemoryReader:
    """A Feather or Arrow file, mapped, or an Arrow stream. Raises DataError if it is damaged or has no rows."""
    place = file.unpacked()
    try:
        source = pa.memory_map(place.place)
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
        table.validate(full=True)  # what is trusted to be within its buffers is read beyond them
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file.path}: not a readable Arrow or Feather file; write it again") from error
    return _named(MemoryReader(table), place)


def from_json(file: DataFile) -> MemoryReader:
    """JSON lines, or an array of objects; an object is a row. Raises DataError for other JSON, with the line."""
    from pyarrow.json import ReadOptions, read_json

    content = file.head(None)
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:  # pyarrow would read it, and fail where a name of a column is asked for
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise DataError(
            f"{file.path}: not UTF-8: line {line} holds the byte 0x{byte:02x}; save the file as UTF-8"
        ) from error
    if (depth := _depth(content)) > DEEPEST:
        raise DataError(f"{file.path}: JSON of brackets {depth} deep; expected rows of values")
    lines = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        if lines.startswith(b"["):
            raise pa.ArrowInvalid("pyarrow reads lines only")
        options = ReadOptions(block_size=max(1 << 20, min(len(content), (1 << 31) - 1)))
        table = read_json(io.BytesIO(content), options)
        if table.num_rows == 1 and b"\n" in lines.strip():
            raise pa.ArrowInvalid("one object of several lines")
    except pa.ArrowInvalid:  # also for a value of another type than those above
        import pandas as pd

        try:
            frame = pd.DataFrame(_objects(file.path, content.decode("utf-8-sig")))
            return _named(from_frame(frame), file)
        except ValueError as error:  # a number of thousands of digits, half of a surrogate pair
            raise DataError(f"{file.path}: JSON that cannot be read ({str(error)[:200]}); write it again") from error
    return _named(MemoryReader(table), file)


def _depth(content: bytes) -> int:
    """How deep the brackets of JSON are nested: thousands overflow the stack, of pyarrow with a crash."""
    if b"\\" in content:
        content = re.sub(rb"\\.", b"", content, flags=re.DOTALL)
    marks = content.translate(None, NOT_MARKS).replace(b'""', b"")  # two quotes side by side open and close nothing
    brackets = np.frombuffer(re.sub(rb'"[^"]*"', b"", marks), np.uint8)
    opens = np.isin(brackets, list(b"[{")).view(np.int8)
    return int(np.cumsum(2 * opens - 1, dtype=np.int32).max(initial=0))


def _objects(path: str, text: str) -> Any:
    """The objects of an array, or of one on each line."""
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: broken JSON in line {error.lineno} ({error.msg}); write it again") from error
    else:
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}: JSON of which line {number} is no object ({error.msg}); expected an object a line, or an"
                    " array of objects"
                ) from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: JSON that is no table; expected an object a line, or an array of objects")
    return rows


def from_excel(file: DataFile, config: DataConfig) -> CsvReader:
    """The first sheet of a workbook, as the text file that Excel would save it as.

    Raises DataError if openpyxl is not installed, and if the sheet is empty or the file is damaged.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"{file.path}: an Excel workbook, which the extra `excel` reads (pip install 'anomaly-vae[excel]'); install"
            " it, or save the sheet as CSV"
        ) from error
    try:
        book = openpyxl.load_workbook(file.place, read_only=True, data_only=True)
        first, *others = book.worksheets
        first.reset_dimensions()  # some programs write wrong ones
        rows = [list(row) for row in first.iter_rows(values_only=True)]
    except Exception as error:  # openpyxl raises exceptions of any type
        raise DataError(f"{file.path}: an Excel workbook that cannot be read; save its sheet as CSV") from error
    used = [[i for i, cell in enumerate(row) if cell is not None] for row in rows]
    width = max((columns[-1] + 1 for columns in used if columns), default=0)

    def write(sink: IO[bytes]) -> None:
        text = io.TextIOWrapper(sink, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([_cell(row[i] if i < len(row) else None) for i in range(width)] for row in rows)
        text.detach()

    place, held = spill(write)
    copy = replace(file, place=place, held=(held, file.held))
    names = ", ".join(repr(sheet.title) for sheet in others[:10])
    note = f"the sheet {first.title!r} was read, not {names}; save another one as CSV to read it"
    written = config.model_copy(update={"separator": ",", "encoding": None})
    return CsvReader(copy, written, (note,) if others else ())


def _cell(value: Any) -> str:
    """A cell as text; moments as ISO 8601."""
    return "" if value is None else str(value)


def arrays(file: DataFile) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The array of a .npy file, or of a .npz with one array or X and y: (values, labels or None).

    Raises DataError for others, and for objects, which could run code when they are loaded.
    """
    place = file.unpacked().place
    try:
        if file.format == "numpy":
            return np.load(place, mmap_mode="r", allow_pickle=False), None
        with np.load(place, allow_pickle=False) as archive:
            found = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # of any type, where the header is damaged
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise DataError(f"{file.path}: an array of Python objects; save an array of numbers") from error
        raise DataError(f"{file.path}: a NumPy file that is damaged; save it again") from error
    by_name = {name.lower(): array for name, array in found.items()}
    if len(found) == 1:
        return next(iter(found.values())), None
    if by_name.keys() == {"x", "y"} and by_name["y"].ndim == 1 and by_name["x"].shape[:1] == by_name["y"].shape:
        return by_name["x"], by_name["y"]
    names = ", ".join(f"{name} {array.shape}" for name, array in list(found.items())[:10])
    raise DataError(f"{file.path}: arrays {names}; expected one array, or X (N, ...) and the labels y (N,)")


def from_numpy(file: DataFile, values: NDArray[Any], labels: NDArray[Any] | None) -> MemoryReader:
    """An array (N, F) as a table with columns x0, x1, ...; labels (N,) as a column y. A structured array (N,) has the
    columns of its fields. Raises DataError for another shape."""
    if values.dtype.names and values.ndim == 1:
        table = pa.table({name: np.ascontiguousarray(values[name]) for name in values.dtype.names})
    elif values.ndim == 2 and 0 not in values.shape and values.dtype.kind in "fiub":
        table = from_array(values).read(())
    else:
        raise DataError(
            f"{file.path}: an array of shape {values.shape} and type {values.dtype}; expected numbers of shape (N, F),"
            " (N, H, W) or (N, C, H, W)"
        )
    return _named(MemoryReader(table if labels is None else table.append_column("y", pa.array(labels))), file)


def _named(reader: MemoryReader, file: DataFile) -> MemoryReader:
    """The reader with what belongs to its file. Raises DataError if there are no rows or no columns."""
    if reader.rows == 0 or not reader.columns:
        raise DataError(f"{file.path}: no rows; expected at least one")
    reader.path, reader.name = file.path, file.name
    reader.index = pandas_index(reader.peek.schema)
    reader._digest = file_digest(file.place)
    return reader
