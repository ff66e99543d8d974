"""The reader of Parquet files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.base import PEEK, Reader, check_names, file_digest, stem

BATCH = 1 << 16  # number of rows decoded at a time
PAGES = 1 << 20  # bytes of a column that are read at a time
CELL = 8  # bytes of a decoded cell, for most types; the file itself is compressed


class ParquetReader(Reader):
    """A Parquet file."""

    decimal = None

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.name = stem(path)
        try:
            # without a pre-buffer pages are read one by one; with it the reader loads a complete row group first,
            # which may be the complete file
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=PAGES)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a readable Parquet file; write it again, or use CSV") from error
        self.columns = list(self._file.schema_arrow.names)
        check_names(self.path, self.columns)
        if self.rows == 0:
            raise DataError(f"{path}: no rows; expected at least one")

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
        return file_digest(self.path)

    def _batches(self, columns: list[str], rows: int, stop: bool = False) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._file.iter_batches(rows, columns=columns):
                yield batch
                if stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: this Parquet file is damaged; write it again") from error
