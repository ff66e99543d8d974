"""Tables in files of Arrow's stream format. The files are memory-mapped, and columns are views of them.

The stream format is used because the dictionary of a categorical column may differ between its batches, as it does
between the row groups of a Parquet file; Arrow's file format does not allow that.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import IO

import pyarrow as pa

VERSION = 2  # part of every file's name; raise it when the same table is written differently
ROWS = 1 << 17  # number of rows of a batch: bounds the memory, and keeps the number of pieces of a column small
END = b"\xff\xff\xff\xff\0\0\0\0"  # the last bytes of a complete stream


def write(sink: IO[bytes], batches: Iterable[pa.RecordBatch]) -> None:
    """Writes one or more batches of the same schema, merged into batches of at least ROWS rows."""
    pending: list[pa.RecordBatch] = []
    writer = None
    for batch in batches:
        if writer is None:
            writer = pa.ipc.new_stream(sink, batch.schema)
        pending.append(batch)
        if sum(map(len, pending)) >= ROWS:
            _put(writer, pending)
            pending = []
    assert writer is not None, "a table has rows"
    if pending:
        _put(writer, pending)
    writer.close()


def is_complete(content: memoryview) -> bool:
    """Whether a stream was written completely."""
    return bytes(content[-len(END) :]) == END


def table(content: mmap.mmap) -> pa.Table:
    """The table of a mapped stream; its columns are views of `content`."""
    with pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(content))) as stream:
        return stream.read_all()


def _put(writer: pa.RecordBatchStreamWriter, batches: list[pa.RecordBatch]) -> None:
    """Writes batches as one, as far as their categorical columns can share one dictionary."""
    for batch in pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches():
        writer.write_batch(batch)
