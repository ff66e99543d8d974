"""Arrays and DataFrames as readers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.data.readers import arrow_stream
from anomaly_vae.data.readers.base import PEEK, Reader, check_names


class MemoryReader(Reader):
    """A table that is already in memory."""

    decimal = None

    def __init__(self, table: pa.Table, name: str = "memory") -> None:
        self.path = "memory"
        self.name = name
        self.columns = list(table.column_names)
        check_names(self.path, self.columns)
        self._held = table

    @cached_property
    def peek(self) -> pa.Table:
        return self._held.slice(0, PEEK)

    def size(self) -> int:
        return 0  # bytes that reading would add

    def read(self, text: Collection[str]) -> pa.Table:
        return self._held

    def write(self, sink: IO[bytes], text: Collection[str]) -> None:
        arrow_stream.write(sink, self._held.to_batches())

    def stream(self, types: Mapping[str, pa.DataType], rows: int) -> Iterator[pa.Table]:
        for first in range(0, self.rows, rows):
            yield self._cast_all(self._held.slice(first, rows), types, first)

    @cached_property
    def rows(self) -> int:
        return int(self._held.num_rows)

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(str(self._held.schema.remove_metadata()).encode(), digest_size=8)
        for column in self._held.columns:
            # The values, not the buffers: a slice shares its buffers with the rows around it.
            digest.update(_bytes(column))
        return digest.hexdigest()


def from_array(values: NDArray[Any], name: str = "memory") -> MemoryReader:
    """An array (N, F) as a reader with columns x0, x1, ..."""
    return _memory(values.T, [f"x{i}" for i in range(values.shape[1])], name)


def from_arrow(table: Any, name: str = "memory") -> MemoryReader:
    """A table of Arrow's kin, such as polars, as a reader."""
    held = pa.table(table)

    def plain(type_: pa.DataType) -> pa.DataType:
        """Views, which few functions of pyarrow take, as strings."""
        if pa.types.is_dictionary(type_):
            return pa.dictionary(type_.index_type, plain(type_.value_type))
        return pa.string() if pa.types.is_string_view(type_) else type_

    return MemoryReader(held.cast(pa.schema([(field.name, plain(field.type)) for field in held.schema])), name)


def from_frame(frame: Any, name: str = "memory") -> MemoryReader:
    """A pandas DataFrame as a reader; the index of the frame is ignored unless it holds times, which are a column, of
    its name or `time`."""
    kind = getattr(frame.index.dtype, "kind", "")
    if kind in "Mm" or hasattr(frame.index.dtype, "freq"):
        name_ = next(n for n in (frame.index.name, "time", "index") if n is not None and n not in frame.columns)
        times = frame.index.total_seconds() if kind == "m" else frame.index  # seconds since the start
        frame = frame.reset_index(drop=True)
        frame.insert(0, name_, times)
    types = set(frame.dtypes)
    # pandas takes 30 us to return one column, so columns of one numeric type are taken out together
    one_type = len(types) == 1 and all(isinstance(type_, np.dtype) and type_.kind in "fiub" for type_ in types)
    columns = frame.to_numpy().T if one_type else (column for _, column in frame.items())
    return _memory(columns, [str(column) for column in frame.columns], name)


def _memory(columns: Iterable[Any], names: list[str], name: str) -> MemoryReader:
    return MemoryReader(pa.table([_column(values) for values in columns], names=names), name)


def _column(values: Any) -> pa.Array:
    if hasattr(values, "dt") and hasattr(values.dtype, "freq"):  # a period is the time when it begins
        values = values.dt.to_timestamp()
    if hasattr(values, "dt") and values.dtype.kind == "m":
        values = values.dt.total_seconds()
    try:
        column = pa.array(values, from_pandas=True)
        inner = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if isinstance(inner, pa.BaseExtensionType):  # intervals, say
            raise pa.ArrowTypeError(str(inner))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        # Objects of several types become text; `columns.profile` recognises the numbers among it.
        is_missing = [value is None or value != value for value in values]
        texts = [None if missing else str(value) for missing, value in zip(is_missing, values, strict=True)]
        column = pa.array(texts, pa.string())
    return pc.cast(column, pa.float32()) if pa.types.is_float16(column.type) else column


def _bytes(column: pa.ChunkedArray) -> bytes:
    """The values of a column as an Arrow stream."""
    sink = pa.BufferOutputStream()
    table = pa.table({"": pa.chunked_array([column.combine_chunks()], column.type)})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())
