"""Files in other forms than text: compressed, in archives, through pipes, in parts, of other programs."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.open import open_source
from anomaly_vae.data.readers import containers

VALUES = np.array([[0.5, 1], [1.5, 3], [-2, 7], [4, 0.25]])
FRAME = pd.DataFrame(VALUES, columns=["a", "b"])
CSV = FRAME.to_csv(index=False).encode()


def read(path: Path | str, **settings: object) -> np.ndarray:
    source = open_source(path, DataConfig.model_validate(settings))
    layout = source.learn(np.arange(source.count()))
    return np.concatenate([chunk.values for chunk in source.chunks(layout, 3)])


def by_arrow(name: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, name) as stream:
        stream.write(CSV)
    return bytes(sink.getvalue().to_pybytes())


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    FRAME.to_parquet(sink)
    return sink.getvalue()


def feather(**options: str) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(FRAME, sink, **options)
    return sink.getvalue()


def stream() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.Table.from_pandas(FRAME).schema) as writer:
        writer.write_table(pa.Table.from_pandas(FRAME))
    return sink.getvalue()


def numpy(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in FRAME.to_dict("records")).encode()
CONTENTS = {
    "members.csv.gz": gzip.compress(CSV[:12], mtime=0) + gzip.compress(CSV[12:]),
    "x.csv.bz2": bz2.compress(CSV[:12]) + bz2.compress(CSV[12:]),
    "x.csv.xz": lzma.compress(CSV),
    "x.csv.zst": by_arrow("zstd"),
    "x.csv.lz4": by_arrow("lz4"),
    "of_another_name.txt": lzma.compress(CSV),
    "x.zip": zipped({"folder/x.csv": CSV, "__MACOSX/x": b"junk"}),
    "twice.zip": zipped({"x": gzip.compress(CSV, mtime=0)}),
    "x.parquet": parquet(),
    "x.parquet.gz": gzip.compress(parquet()),
    "x.feather": feather(),
    "plain.feather": feather(compression="uncompressed"),
    "x.arrow": stream(),
    "x.jsonl": LINES,
    "x.jsonl.gz": gzip.compress(LINES, mtime=0),
    "x.json": json.dumps(FRAME.to_dict("records"), indent=1).encode(),
    "x.npz": numpy(any=VALUES),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_every_container_holds_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    np.testing.assert_array_equal(read(path), VALUES)
    assert open_source(path, DataConfig()).name == path.name.split(".")[0]


@pytest.mark.parametrize("name", ["x.csv.xz", "x.parquet", "x.jsonl", "members.csv.gz", "x.feather"])
def test_a_pipe_is_read_once_into_a_temporary_file(tmp_path: Path, name: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(CONTENTS[name],))
    writer.start()
    source = open_source(pipe, DataConfig())
    writer.join()
    layout = source.learn(np.arange(source.count()))
    for _ in range(2):  # as often as needed
        np.testing.assert_array_equal(np.concatenate([c.values for c in source.chunks(layout, 3)]), VALUES)
    assert source.name == "stdin"


@pytest.mark.parametrize("how", ["nobody", "late", "silent"])
def test_a_pipe_waits_for_its_writer_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(containers, "WAIT", 5 if how == "late" else 0.2)

    def write() -> None:
        time.sleep(0.3 if how == "late" else 0)
        with pipe.open("wb") as file:
            time.sleep(0.6 if how == "silent" else 0)  # longer than the wait, which is for a writer, not for its bytes
            file.write(CSV)

    if how == "nobody":
        with pytest.raises(DataError, match=r"pipe: a pipe that nobody writes to, after 0\.2 s"):
            read(pipe)
        return
    writer = threading.Thread(target=write)
    writer.start()
    np.testing.assert_array_equal(read(pipe), VALUES)
    writer.join()


@pytest.mark.parametrize("how", ["pipe", "file"])
def test_a_dash_is_stdin(tmp_path: Path, how: str) -> None:
    (tmp_path / "x.csv").write_bytes(CSV)
    ours = os.dup(0)
    try:
        if how == "pipe":
            given, end = os.pipe()
            os.write(end, CSV)
            os.close(end)
        else:
            given = os.open(tmp_path / "x.csv", os.O_RDONLY)
        os.dup2(given, 0)
        os.close(given)
        source = open_source("-", DataConfig())
        assert (source.name, source.path, source.count()) == ("stdin", "stdin", 4)
        assert len(source.column("a")) == 4
    finally:
        os.dup2(ours, 0)
        os.close(ours)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"a.csv": CSV, "b.csv": CSV}), r"a zip archive of 2 files \(a\.csv, b\.csv\); unpack it"),
        (zipped({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet"}), r"OpenDocument spreadsheet; save"),
        (b"SQLite format 3\0" + bytes(99), r"an SQLite database; save the table as CSV"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), r"an HDF5 file"),
        (b"\xd0\xcf\x11\xe0" + bytes(99), r"an old Excel workbook"),
        (b"\x80\x04\x95" + bytes(99), r"a pickle, which can run code"),
        (b"<!DOCTYPE html><html>log in</html>", r"a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"pointer of Git LFS"),
        (lzma.compress(CSV * 900)[:-40], r"broken xz file"),
        (by_arrow("zstd")[:-8], r"broken zstd file"),
        (zipped({"x": CSV * 99})[:-30], r"broken zip file"),
        (gzip.compress(bytes(257) + b"ustar" + bytes(99), mtime=0), r"a tar archive"),
        (b'{"a": 1, "b": 2}\n{"a": 3, b}\n', r"JSON of which line 2 is no object"),
        (b'{\n "a": [1, 2],\n "b": [3, 4]\n}\n', r"expected an object a line, or an array of objects"),
        (b"[[1, 2], [3, 4]]", r"JSON that is no table"),
        (numpy(a=VALUES, b=VALUES), r"arrays a \(4, 2\), b \(4, 2\); expected one array, or X"),
        (numpy(a=np.array([{"a": 1}], object)), r"an array of Python objects"),
        (numpy(a=np.arange(4.0)), r"an array of shape \(4,\)"),
        (feather()[:-20], r"not a readable Arrow or Feather file"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_values_of_several_types_in_json_become_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1, "b": 0.5}\n{"a": "n", "c": null}\n')
    source = open_source(path, DataConfig())
    assert source.column("a").tolist() == ["1", "n"]
    assert source.column("b").tolist() == ["0.5", ""]


def test_labels_beside_an_array_are_taken_and_said(tmp_path: Path) -> None:
    for values, shape in ((np.arange(12.0).reshape(6, 2) ** 2, (6, 2)), (np.zeros((6, 8, 8), np.uint8), (6, 1, 8, 8))):
        (tmp_path / "x.npz").write_bytes(numpy(X=values, y=np.array([0, 0, 0, 0, 0, 1])))
        source = open_source(tmp_path / "x.npz", DataConfig())
        labels = source.labels()
        assert labels is not None and labels[:].tolist() == ["0"] * 5 + ["1"]
        assert source.notes == ("the array y was taken as the labels; --set 'data.drop=[y]' leaves it out",)
        layout = source.learn(np.arange(6))
        assert next(iter(source.chunks(layout, 9))).values.shape == shape
        assert open_source(tmp_path / "x.npz", DataConfig(drop=("y",))).labels() is None


def test_the_first_sheet_of_a_workbook_is_read(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    for row in [["made by logger 7"], [], ["a", "b"], ["degC", "bar"], *VALUES.tolist(), [None, None], ["", None]]:
        sheet.append(row)
    book.create_sheet("other")
    book.save(tmp_path / "x.xlsx")
    np.testing.assert_array_equal(read(tmp_path / "x.xlsx"), VALUES)
    notes = open_source(tmp_path / "x.xlsx", DataConfig()).notes
    assert [note[:24] for note in notes] == [
        "the sheet 'Sheet' was re",
        "2 lines above the header",
        "line 4, below the names,",
    ]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_folder_of_parts_is_one_table_in_natural_order(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "the parts"
    folder.mkdir()
    for number, rows in ((2, FRAME[:1]), (10, FRAME[1:][["b", "a"]])):
        write = rows.to_csv if ending == "csv" else rows.to_parquet
        write(folder / f"part-{number}.{ending}", index=False)
    (folder / "_SUCCESS").touch()
    np.testing.assert_array_equal(read(folder), VALUES)
    source = open_source(folder, DataConfig())
    assert (source.name, source.count()) == ("the parts", 4)
    assert source.notes == ("read 2 files as one table",)
    FRAME.rename(columns={"b": "c"}).to_csv(folder / "part-11.csv", index=False)
    with pytest.raises(DataError, match=r"part-11\.csv: as in part-2.*, column 'b' not found"):
        open_source(folder, DataConfig())


def test_a_fault_in_a_part_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n3,5\n6,6\n")
    (tmp_path / "2.csv").write_text("a,b\n4,5\n7,x\n8,9\n")
    with pytest.raises(DataError, match=r"2\.csv, row 2 \(line 3\), column 'b': 'x' is not a number"):
        read(tmp_path)
    (tmp_path / "year=2024").mkdir()
    (tmp_path / "year=2024" / "3.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"partitioned by folders \(year=2024\)"):
        read(tmp_path)


def test_the_index_that_pandas_saved_is_no_input(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"]).query("a > -1")
    frame.to_parquet(tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", DataConfig())
    layout = source.learn(np.arange(source.count()))
    assert [column.name for column in layout.columns] == ["a", "b"]
    assert layout.left_out == {"__index_level_0__": "the index that pandas saved"}
    pq.write_table(pa.table({"a": [1.0, 2.0, 4.0], "b": [2.0, 1.0, 1.0]}), tmp_path / "new.parquet")
    new = open_source(tmp_path / "new.parquet", DataConfig())
    assert len(next(iter(new.chunks(layout, 9)))) == 3
