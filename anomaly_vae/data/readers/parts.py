"""The reader of a folder of files that are the parts of one table."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO

import pyarrow as pa

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.base import SUFFIXES, Reader
from anomaly_vae.data.readers.cells import is_number

BATCH = 1 << 16  # rows read at a time


class PartsReader(Reader):
    """The rows of several files, one after the other; columns are matched by name.

    Raises DataError, which names the file, if one has other columns than the first.
    """

    def __init__(self, folder: Path, parts: Sequence[Reader]) -> None:
        self.path, self.name = str(folder), folder.resolve().name
        self._parts = parts
        self.columns, self.index = parts[0].columns, parts[0].index
        self.reading = " ".join(part.reading for part in parts)
        for part in parts[1:]:
            part.require(self.columns, f"as in {Path(parts[0].path).name}, column")
            parts[0].require(part.columns, f"as in {Path(part.path).name}, column")

    @property
    def notes(self) -> tuple[str, ...]:
        noted = [f"{Path(part.path).name}: {note}" for part in self._parts for note in part.notes]
        return (f"read {len(self._parts)} files as one table", *noted[:5], *(["..."] if len(noted) > 5 else []))

    @cached_property
    def peek(self) -> pa.Table:
        return self._parts[0].peek

    def size(self) -> int:
        return sum(part.size() for part in self._parts)

    def read(self, text: Collection[str]) -> pa.Table:
        try:
            return pa.concat_tables(self.stream(self._types(text), BATCH))
        except DataError:
            return pa.concat_tables(self.stream(self._types(self.columns), BATCH))

    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        try:
            arrow_stream.write(sink, self._batches(self._types(text)))
        except DataError:
            sink.seek(0)
            sink.truncate()
            arrow_stream.write(sink, self._batches(self._types(self.columns)))

    def _batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        return itertools.chain.from_iterable(table.to_batches() for table in self.stream(types, BATCH))

    def _types(self, text: Collection[str]) -> dict[str, pa.DataType]:
        """The types that all parts are read as: what the first rows of all are, float64 for numbers, else text."""
        types = {}
        for name in self.columns:
            found = {part.peek[name].type for part in self._parts} - {pa.null()}
            if name not in text and found and all(map(is_number, found)):
                types[name] = pa.float64()
            else:
                types[name] = found.pop() if name not in text and len(found) == 1 else pa.string()
        return types

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        pending: list[pa.Table] = []
        n_pending = 0
        for part in self._parts:
            for table in part.batches(types, rows):
                pending.append(table)
                n_pending += table.num_rows
                if n_pending >= rows:
                    joined = pa.concat_tables(pending)
                    yield joined.slice(0, rows)
                    pending, n_pending = [joined.slice(rows)], n_pending - rows
        if n_pending:
            yield pa.concat_tables(pending)

    @cached_property
    def rows(self) -> int:
        return sum(part.count() for part in self._parts)

    @cached_property
    def _digest(self) -> str:
        digests = " ".join(f"{Path(part.path).name} {part.digest()}" for part in self._parts)
        return hashlib.blake2b(digests.encode(), digest_size=8).hexdigest()

    def place(self, row: int) -> str:
        part, first = self._part_of(row)
        return f"{Path(part.path).name}, {part.place(row - first)}"

    def _part_of(self, row: int) -> tuple[Reader, int]:
        first = 0
        for part in self._parts[:-1]:
            if row < first + part.count():
                return part, first
            first += part.count()
        return self._parts[-1], first


def open_parts(folder: Path, open_one: Callable[[Path], Reader]) -> PartsReader | None:
    """The data files below a folder as one table, in natural order of their paths; None if there are none.

    Raises DataError if they are of folders that stand for values of a column, and if they differ in columns.
    """
    files = [file for file in folder.rglob("*") if is_part(file, folder)]
    if not files:
        return None
    for file in files:
        if keys := [name for name in file.relative_to(folder).parts[:-1] if "=" in name]:
            raise DataError(
                f"{folder}: partitioned by folders ({keys[0]}), whose values are in no file; write it without them, or"
                " name one of these folders"
            )
    return PartsReader(folder, [open_one(file) for file in sorted(files, key=lambda file: _natural(str(file)))])


def is_part(file: Path, folder: Path) -> bool:
    """Whether a file below a folder is named like a data file. Names that begin with . or _ are not, as in Spark."""
    is_hidden = any(name.startswith((".", "_")) for name in file.relative_to(folder).parts)
    return file.suffix.lower() in SUFFIXES and not is_hidden and file.is_file()


def _natural(text: str) -> list[tuple[int, str]]:
    """A key by which part-2 is before part-10."""
    return [(int(piece), "") if piece.isdigit() else (0, piece) for piece in re.split(r"(\d+)", text)]
