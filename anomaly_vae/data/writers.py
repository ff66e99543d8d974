"""Score tables to CSV, Parquet or JSON as they come; the file or stdout gets all of it or nothing."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from anomaly_vae.core.files import SCORES, replacing, require_ending

Write = Callable[[pa.RecordBatch], None]


@contextmanager
def open_writer(path: str | Path | None, schema: pa.Schema) -> Iterator[Write]:
    """A function that takes record batches of `schema`; the format follows the ending of `path`, None is stdout (CSV).

    Stdout too is written only after the last batch came, so that a bad row late in the input leaves no half result.
    Raises UsageError for an unknown ending, AnomalyVAEError where the place cannot be written.
    """
    if path is None:
        with tempfile.TemporaryFile() as spool:
            with _csv(spool, schema) as write:
                yield write
            spool.seek(0)
            shutil.copyfileobj(spool, sys.stdout.buffer, 1 << 20)
            sys.stdout.flush()
        return
    opener = {".csv": _csv, ".parquet": _parquet, ".json": _json}[require_ending(path, SCORES)]
    with replacing(path) as beside, open(beside, "wb") as file, opener(file, schema) as write:
        yield write


@contextmanager
def _csv(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    header = True

    def write(batch: pa.RecordBatch) -> None:
        nonlocal header
        # Arrow's "needed" quotes every text of a batch, not only those that need it
        style = "needed" if _special(batch) else "none"
        options = pyarrow.csv.WriteOptions(include_header=header, quoting_style=style, quoting_header="none")
        sink = io.BytesIO()
        pyarrow.csv.write_csv(batch, sink, options)
        file.write(sink.getbuffer())
        header = False

    yield write
    if header:
        write(pa.RecordBatch.from_pylist([], schema))


def _special(batch: pa.RecordBatch) -> bool:
    """Whether a text holds a comma, a quote or a line end."""
    texts = [column for column in batch.columns if pa.types.is_string(column.type)]
    return any(pc.any(pc.match_substring_regex(column, '[,"\r\n]')).as_py() for column in texts)


@contextmanager
def _parquet(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        yield writer.write_batch


@contextmanager
def _json(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    """An array of one object a row, one row a line."""
    first = True

    def write(batch: pa.RecordBatch) -> None:
        nonlocal first
        for row in batch.to_pylist():
            file.write((b"[\n" if first else b",\n") + json.dumps(row, ensure_ascii=False, default=str).encode())
            first = False

    yield write
    file.write(b"[]\n" if first else b"\n]\n")


def batch(columns: dict[str, Any]) -> pa.RecordBatch:
    """A record batch of named arrays (N,)."""
    return pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
