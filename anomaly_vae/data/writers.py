"""Writers of score tables as CSV, Parquet or JSON; the file or stdout receives the complete table or nothing."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from anomaly_vae.core.errors import AnomalyVAEError, escaped
from anomaly_vae.core.files import SCORES, replacing, require_ending

Write = Callable[[pa.RecordBatch], None]
Open = Callable[[IO[bytes], pa.Schema], AbstractContextManager[Write]]


@contextmanager
def open_writer(path: str | Path | None, schema: pa.Schema, csv_safe: bool = False) -> Iterator[Write]:
    """Opens a writer: a function that takes record batches of `schema`.

    path: its suffix chooses the format; None: CSV to stdout. Stdout too is written only after the last batch, so that a
    bad row late in the input leaves no incomplete result; a terminal is shown control characters escaped. csv_safe:
    texts of a CSV that a spreadsheet would compute begin with an apostrophe.
    Raises UsageError for an unknown suffix, AnomalyVAEError if the file cannot be written.
    """
    csv = partial(_csv, safe=csv_safe)
    if path is None:
        with tempfile.TemporaryFile() as spool:
            with csv(spool, schema) as write:
                yield write
            spool.seek(0)
            with _stdout_explained():
                if sys.stdout.isatty():  # a person reads it, whose terminal would obey what an id holds
                    sys.stdout.writelines(escaped(line.decode()) for line in spool)
                else:
                    shutil.copyfileobj(spool, sys.stdout.buffer, 1 << 20)
                sys.stdout.flush()
        return
    openers: dict[str, Open] = {".csv": csv, ".parquet": _parquet, ".json": _json}
    opener = openers[require_ending(path, SCORES)]
    with replacing(path) as beside, open(beside, "wb") as file, opener(file, schema) as write:
        yield write


@contextmanager
def _stdout_explained() -> Iterator[None]:
    """Raises what keeps stdout from taking the table as an AnomalyVAEError; a reader that has read enough is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AnomalyVAEError(f"stdout: {error.strerror}; what arrived there is incomplete") from error


@contextmanager
def _csv(file: IO[bytes], schema: pa.Schema, safe: bool) -> Iterator[Write]:
    header = True

    def write(batch: pa.RecordBatch) -> None:
        nonlocal header
        batch = _without_formulas(batch) if safe else batch
        # Arrow's "needed" quotes every text of a batch, not only those that need quotes
        texts = [column for column in batch.columns if pa.types.is_string(column.type)]
        cells, names = (
            "needed" if _need_quotes(text) else "none" for text in (texts, [pa.array(batch.schema.names, pa.string())])
        )
        options = pyarrow.csv.WriteOptions(include_header=header, quoting_style=cells, quoting_header=names)
        sink = io.BytesIO()
        pyarrow.csv.write_csv(batch, sink, options)
        file.write(sink.getbuffer())
        header = False

    yield write
    if header:
        write(pa.RecordBatch.from_pylist([], schema))


def _without_formulas(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With an apostrophe before texts that begin as a formula does (OWASP, CSV injection)."""

    def marked(column: pa.Array) -> pa.Array:
        return (
            pc.replace_substring_regex(column, "^([=+@\t\r-])", "'\\1") if pa.types.is_string(column.type) else column
        )

    return pa.RecordBatch.from_arrays([marked(column) for column in batch.columns], names=batch.schema.names)


def _need_quotes(texts: Iterable[pa.Array]) -> bool:
    """Whether any text holds a comma, a quote or a line break."""
    return any(pc.any(pc.match_substring_regex(text, '[,"\r\n]')).as_py() for text in texts)


@contextmanager
def _parquet(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        yield writer.write_batch


@contextmanager
def _json(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    """An array with one object for each row, each on a line of its own."""
    is_empty = True

    def write(batch: pa.RecordBatch) -> None:
        nonlocal is_empty
        for row in batch.to_pylist():
            file.write((b"[\n" if is_empty else b",\n") + json.dumps(row, ensure_ascii=False, default=str).encode())
            is_empty = False

    yield write
    file.write(b"[]\n" if is_empty else b"\n]\n")


def batch(columns: dict[str, Any]) -> pa.RecordBatch:
    """A record batch of arrays (N,) by column name. None and NaN are missing; a column of them alone is text."""

    def array(values: Any) -> pa.Array:
        found = pa.array(values, from_pandas=True)
        return found.cast(pa.string()) if pa.types.is_null(found.type) else found

    return pa.RecordBatch.from_pydict({name: array(values) for name, values in columns.items()})
