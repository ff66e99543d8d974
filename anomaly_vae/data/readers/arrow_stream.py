"""A table in a file of Arrow's stream format, mapped: its columns are views of the file, and take no memory.

The stream format and not the file format, for that one does not let a category's spellings change between batches, as
Parquet's row groups do.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import IO

import pyarrow as pa

VERSION = 1  # of what is written for the same content: a part of every file's name
ROWS = 1 << 17  # of a batch: few enough for memory, many enough that a column is not a crowd of small pieces
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream that was written to its end


def write(sink: IO[bytes], batches: Iterable[pa.RecordBatch]) -> None:
    """Batches of one schema, at least one, put together until they have ROWS rows."""
    held: list[pa.RecordBatch] = []
    writer = None
    for batch in batches:
        if writer is None:
            writer = pa.ipc.new_stream(sink, batch.schema)
        held.append(batch)
        if sum(len(one) for one in held) >= ROWS:
            _put(writer, held)
            held = []
    assert writer is not None, "a table has rows"
    if held:
        _put(writer, held)
    writer.close()


def is_complete(content: memoryview) -> bool:
    """Whether a stream was written to its end."""
    return bytes(content[-len(END) :]) == END


def table(content: mmap.mmap) -> pa.Table:
    """The table of a stream, which lives where its content does."""
    with pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(content))) as stream:
        return stream.read_all()


def _put(writer: pa.RecordBatchStreamWriter, batches: list[pa.RecordBatch]) -> None:
    """Pieces whose categories are spelled alike as one batch, others as they are."""
    for batch in pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches():
        writer.write_batch(batch)
