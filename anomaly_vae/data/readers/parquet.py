"""The reader of Parquet files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.base import PEEK, Reader, check_names, file_digest
from anomaly_vae.data.readers.containers import DataFile

BATCH = 1 << 16  # number of rows decoded at a time
PAGES = 1 << 20  # bytes of a column that are read at a time
CELL = 8  # bytes of a decoded cell, for most types; the file itself is compressed


class ParquetReader(Reader):
    """A Parquet file."""

    decimal = None

    def __init__(self, file: DataFile) -> None:
        self.path, self.name = file.path, file.name
        self._place = file.unpacked()
        try:
            # without a pre-buffer pages are read one by one; with it the reader loads a complete row group first,
            # which may be the complete file
            self._file = pq.ParquetFile(self._place.place, pre_buffer=False, buffer_size=PAGES)
            self.columns = list(self._file.schema_arrow.names)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path}: not a readable Parquet file; write it again, or use CSV") from error
        self.index = pandas_index(self._file.schema_arrow)
        check_names(self.path, self.columns)
        if self.rows == 0:
            raise DataError(f"{self.path}: no rows; expected at least one")

    @cached_property
    def peek(self) -> pa.Table:
        batches = self._batches(self.columns, PEEK, stop=True)
        return pa.Table.from_batches(batches, schema=self._file.schema_arrow)

    def size(self) -> int:
        return self.rows * len(self.columns) * CELL

    def read(self, text: Collection[str]) -> pa.Table:
        return pa.Table.from_batches(self._batches(self.columns, BATCH), schema=self._file.schema_arrow)

    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        arrow_stream.write(sink, self._batches(self.columns, BATCH))

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        first = 0
        for batch in self._batches(list(types), rows):
            yield self._cast_all(pa.table(batch), types, first)
            first += batch.num_rows

    @cached_property
    def rows(self) -> int:
        return int(self._file.metadata.num_rows)

    @cached_property
    def _digest(self) -> str:
        return file_digest(self._place.place)

    def _batches(self, columns: list[str], rows: int, stop: bool = False) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._file.iter_batches(rows, columns=columns):
                batch.validate(full=True)  # indices of categories, and UTF-8, are not checked by the decoder
                yield batch
                if stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: this Parquet file is damaged; write it again") from error


def pandas_index(schema: pa.Schema) -> tuple[str, ...]:
    """The columns in which pandas saved the index of a frame; none where its note is damaged."""
    with suppress(ValueError, AttributeError, TypeError, RecursionError):
        saved = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        return tuple(name for name in saved if isinstance(name, str) and name in schema.names)  # others are ranges
    return ()
