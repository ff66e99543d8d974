"""A damaged file of any format is a DataError that names it, never an exception of the library that reads it."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.open import open_source
from anomaly_vae.data.readers.tables import _depth

FRAME = pd.DataFrame({"a": np.arange(60.0), "b": ["x", "y"] * 30})


def read(path: Path) -> None:
    """Reads a file as a fit does, to its end."""
    source = open_source(path, DataConfig(kind="table"))
    layout = source.learn(np.arange(source.count()))
    for chunk in source.chunks(layout, 50):
        chunk.values.sum()


def of_checksum() -> bytes:
    content = bytearray(gzip.compress(FRAME.to_csv(index=False).encode() + b'1,"x\n', mtime=0))
    content[-8] ^= 1
    return bytes(content)


def of_member(content: bytes, member: str, old: bytes, new: bytes) -> bytes:
    """A zip archive in which a member is changed, with checksums that hold."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(made, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(old, new) if name == member else before.read(name))
    return made.getvalue()


def of_excel() -> bytes:
    pytest.importorskip("openpyxl", reason="the extra `excel` is not installed")
    file = io.BytesIO()
    FRAME.to_excel(file, index=False)
    return of_member(file.getvalue(), "xl/worksheets/sheet1.xml", b"</row>", b"</raw>")


def of_array() -> bytes:
    file = io.BytesIO()
    np.savez(file, X=np.zeros((60, 2)))
    return of_member(file.getvalue(), "X.npy", b"(60, 2)", b"(60, 2 ")


def of_scalars() -> bytes:
    file = io.BytesIO()
    np.savez(file, X=np.zeros(()), y=np.zeros(()))
    return file.getvalue()


def of_category() -> bytes:
    """A Feather file of categories of which one is beyond the last."""
    codes = pa.DictionaryArray.from_buffers(
        pa.dictionary(pa.int8(), pa.string()), 2, [None, pa.py_buffer(b"\x00\x07")], pa.array(["x", "y"])
    )
    sink = pa.BufferOutputStream()
    table = pa.table({"a": [1.0, 2.0], "b": codes})
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return bytes(sink.getvalue())


def of_text() -> bytes:
    """A Parquet file of text that is not UTF-8."""
    file = io.BytesIO()
    raw = pa.array([b"\xc3\x28", b"y"], pa.binary())
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": pa.Array.from_buffers(pa.string(), 2, raw.buffers())}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data.csv.gz", of_checksum, "broken gzip file"),
        ("data.xlsx", of_excel, "an Excel workbook that cannot be read"),
        ("data.npz", of_array, "a NumPy file that is damaged"),
        ("data.npz", of_scalars, r"arrays X \(\), y \(\); expected"),
        ("data.feather", of_category, "not a readable Arrow or Feather file"),
        ("data.parquet", of_text, "this Parquet file is damaged"),
        ("data.json", lambda: b'[{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}]", "JSON of brackets 9002 deep"),
        ("data.jsonl", lambda: b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "JSON of brackets 100000 deep"),
        ("data.json", lambda: b'[{"a": ' + b"9" * 5000 + b"}]", "JSON that cannot be read"),
        ("data.json", lambda: b'[{"a": "\\ud800"}, {"a": "b"}]', "JSON that cannot be read"),
        ("data.jsonl", lambda: b'{"a": 1}\n{"a": 2, "\xff": 1}\n', "not UTF-8: line 2 holds the byte 0xff"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(
    name: str, content: Callable[[], bytes], reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content())
    with pytest.raises(DataError, match=f"{name}: {reason}"):
        read(tmp_path / name)


def test_a_note_of_pandas_that_is_damaged_costs_nothing_but_the_index(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(FRAME)
    for note in (b"{", b"\xff", b"[1]", b'{"index_columns": 3}'):
        pq.write_table(table.replace_schema_metadata({b"pandas": note}), tmp_path / "data.parquet")
        read(tmp_path / "data.parquet")


@pytest.mark.parametrize(
    ("text", "depth"),
    [(b"", 0), (b"[]" * 50, 1), (b'[{"a[": "b"}]', 2), (rb'{"a": "\"[[[["}', 1), (rb'{"a": "\\", "b": [[1]]}', 3)],
)
def test_the_depth_of_json_does_not_count_brackets_in_text(text: bytes, depth: int) -> None:
    assert _depth(text) == depth
