"""Reading delimited files and Parquet: what is accepted, and what each broken file is told."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.readers import csv
from anomaly_vae.data.readers.base import stem
from anomaly_vae.data.readers.cells import as_labels, canonical, parse_number

HEADER = "a,b\n"
ROWS = "0.5,1\n1.5,3\n-2,7\n"
VALUES = [[0.5, 1.0], [1.5, 3.0], [-2.0, 7.0]]


def read(path: Path, rows: int = 1000, **settings: object) -> np.ndarray:
    source = open_source(path, DataConfig.model_validate(settings))
    layout = source.learn(np.arange(source.count()))
    return np.concatenate([chunk.values for chunk in source.chunks(layout, rows)])


def streamed(path: Path, **settings: object) -> np.ndarray:
    """The same from the file, not from a table in memory."""
    config = DataConfig.model_validate(settings)
    learned, fresh = open_source(path, config), open_source(path, config)
    layout = learned.learn(np.arange(learned.count()))
    return np.concatenate([chunk.values for chunk in fresh.chunks(layout, 2)])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("comma.csv", (HEADER + ROWS).encode()),
        ("semicolon.csv", (HEADER + ROWS).replace(",", ";").encode()),
        ("tab.tsv", (HEADER + ROWS).replace(",", "\t").encode()),
        ("mark.csv", (HEADER + ROWS).encode("utf-8-sig")),
        ("gzip.csv.gz", gzip.compress((HEADER + ROWS).encode(), mtime=0)),
        ("gzip_of_another_name.csv", gzip.compress((HEADER + ROWS).encode(), mtime=0)),
        ("windows.csv", (HEADER + ROWS).replace("\n", "\r\n").encode()),
        ("spaces.csv", (HEADER + ROWS).replace(",", ", ").encode()),
        ("empty_lines.csv", ("\n" + HEADER + ROWS.replace("\n", "\n\n")).encode()),
        ("no_last_line_break.csv", (HEADER + ROWS).rstrip().encode()),
        ("quoted.csv", (HEADER + ROWS).replace("1.5", '"1.5"').encode()),
        ("old_mac.csv", (HEADER + ROWS).replace("\n", "\r").encode()),
        ("pipe.csv", (HEADER + ROWS).replace(",", "|").encode()),
        ("blanks.txt", (HEADER + ROWS).replace(",", "   ").replace("\n", " \n ").encode()),
        ("aligned.dat", b"#    a  b\n   0.5  1\n   1.5  3\n    -2  7\n"),
        ("utf16.csv", (HEADER + ROWS).encode("utf-16")),
        ("utf16.csv.gz", gzip.compress((HEADER + ROWS).encode("utf-16"), mtime=0)),
        ("excel.csv", ("sep=;\n" + (HEADER + ROWS).replace(",", ";")).encode()),
        ("decimal_comma.csv", (HEADER + ROWS).replace(",", ";").replace(".", ",").encode()),
        ("preamble.csv", ("Device: logger 7\n\nNote, of 2024\n" + HEADER + ROWS).encode()),
        ("comments.csv", ("# logger 7\n# x, y\n" + HEADER + ROWS).encode()),
        ("commented_names.csv", ("#made by 7\n# " + HEADER + ROWS).replace("# a", "#a").encode()),
        ("units.csv", (HEADER + "degC,l/min\n" + ROWS).encode()),
        ("trailing.csv", (HEADER + ROWS).replace("\n", ",\n").encode()),
        ("trailing_rows.csv", (HEADER + ROWS.replace("\n", ",\n")).encode()),
        ("of_r.txt", b'"a" "b"\n"1" 0.5 1\n"2" 1.5 3\n"3" -2 7\n'),
        ("line_break_in_a_name.csv", ('"a\n(m)",b\n' + ROWS).encode()),
    ],
)
def test_every_spelling_of_a_table_is_read_alike(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path), VALUES)
    np.testing.assert_array_equal(streamed(path), VALUES)


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    columns = {"a": pa.array([0.5, 1.5, -2], pa.float32()), "b": pa.array([1, 3, 7], pa.int16())}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    np.testing.assert_array_equal(read(tmp_path / "x.parquet"), VALUES)


def test_missing_cells_are_nan_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    nulls = ["", "NA", "nan", "null", "None", "?"]
    path.write_text("a,b\n" + "".join(f"{null},{i}\n" for i, null in enumerate(nulls)) + "3,9\n4,2\n")
    np.testing.assert_array_equal(np.isnan(read(path)[:, 0]), [True] * 6 + [False] * 2)


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_chunks_have_the_asked_size_and_lose_no_row(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "BLOCK", 64)  # bytes: many blocks, so that chunks are cut and joined
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "".join(f"{i * i},{i}.25\n" for i in range(20)))
    layout = open_source(path, DataConfig()).learn(np.arange(20))
    streamed = open_source(path, DataConfig())  # has learned nothing, so nothing of it is in memory
    chunks = list(streamed.chunks(layout, rows))
    assert [len(chunk) for chunk in chunks] == [min(rows, 20 - first) for first in range(0, 20, rows)]
    assert np.concatenate([chunk.ids for chunk in chunks]).tolist() == list(range(20))
    expected = [[i * i, i + 0.25] for i in range(20)]
    np.testing.assert_array_equal(np.concatenate([chunk.values for chunk in chunks]), expected)


def test_streaming_and_the_file_in_memory_give_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n" + "".join(f"{i / 7},{'xyz'[i % 3]},{'' if i % 4 else i}\n" for i in range(50)))
    learned, fresh = open_source(path, DataConfig()), open_source(path, DataConfig())
    layout = learned.learn(np.arange(50))
    for one, other in zip(learned.chunks(layout, 20), fresh.chunks(layout, 20), strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def test_a_quoted_line_break_moves_the_line_and_not_the_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n" + "".join(f'{i},"u\nv{i % 2}",{i * i}\n' for i in range(6)) + "7,u,bad\n")
    with pytest.raises(DataError, match=r"row 7 \(line 14\), column 'c': 'bad' is not a number"):
        read(path)


def test_a_quoted_cell_may_lie_across_the_end_of_what_is_peeked_at(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "".join(f'{i * i},"u\nv\nw{i % 2}"\n' for i in range(1500)))
    np.testing.assert_array_equal(read(path), [[i * i, i % 2] for i in range(1500)])


def test_integers_too_large_for_a_float_are_rounded() -> None:
    values = np.array([[2**53 + 1], [5]])
    source = open_memory(values, DataConfig())
    (chunk,) = source.chunks(source.learn(np.arange(2)), 9)
    np.testing.assert_array_equal(chunk.values, [[2.0**53], [5.0]])


def put(content: str | bytes, name: str = "bad.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "none.csv", r"none\.csv: no such file"),
        (lambda folder: folder, r"no images in this folder"),
        (put(""), r"the file is empty"),
        (put("\n \n"), r"the file is empty"),
        (put("a,b\n"), r"no rows below the header"),
        (put(b"\1\2\0\3" * 9), r"a binary file; expected CSV"),
        (put(b"PK\x03\x04" + bytes(range(65, 99))), r"broken zip file"),
        (put(gzip.compress((HEADER + ROWS * 900).encode())[:-30], "x.csv.gz"), r"x\.csv\.gz: broken gzip"),
        (put(b"\x1f\x8bnonsense", "x.csv.gz"), r"broken gzip"),
        (put("a;b\n1,2\n3,4\n"), r"mixed separators: the header has ';', the rows have ','"),
        (put("a,b\n1,2\n3;4\n5,6\n"), r"mixed separators: line 3 has ';', the header has ','"),
        (put("a,b\n1,2\n3,4,5\n"), r"line 3 has 3 fields where the header has 2"),
        (put("a,b\n1,2\n3\n"), r"line 3 has 1 field where the header has 2"),
        (put("a,b,a\n1,2,3\n"), r"the column name 'a' occurs more than once"),
        (put("0.5,1.5\n2.5,3.5\n"), r"line 1 holds numbers; expected a first line of column names"),
        (put("a,b\n1,2\n3,inf\n"), r"row 2 \(line 3\), column 'b': an infinite value"),
        (put("a,b\n" + "1,2\n3,4\n" * 5 + "abc,6\n"), r"row 11 \(line 12\), column 'a': 'abc' .*data\.drop=\[a\]"),
        (put("a,b\n1,2\n"), r"1 row to train on; at least 2"),
        (put("a,b\n,\n,\n"), r"no cell below the header holds anything"),
        (put("a,b\nNA,\nNA,\n"), r"no column is left.*'a': no value"),
        (put("a,b\n1,2\n1,2\n"), r"no column is left.*'a': constant \(1\)"),
        (put("a,b\n1,gr\u00fcn\n2,rot\n".encode("latin-1")), r"not UTF-8: line 2 holds the byte 0xfc.*encoding=cp"),
        (put("a,b\n1,2\n".encode("utf-16-le")), r"UTF-16 without a mark, which --set data\.encoding=utf-16-le reads"),
        (put(b"PAR1 is not enough PAR1", "x.parquet"), r"not a readable Parquet file"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(tmp_path: Path, write: Callable[[Path], Path], message: str) -> None:
    path = write(tmp_path)
    with pytest.raises(DataError, match=message) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bad", ["1,2,3", "x,1", "inf,1", "1;2"])
def test_a_fault_far_down_a_streamed_file_names_its_line(
    tmp_path: Path, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good.csv"
    good.write_text("a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(2000)).replace("1,1\n", "1.5,1\n", 1))
    layout = open_source(good, DataConfig()).learn(np.arange(2000))
    monkeypatch.setattr(csv, "BLOCK", 1 << 10)
    path = tmp_path / "bad.csv"
    path.write_text(good.read_text() + bad + "\n")
    with pytest.raises(DataError, match=r"line 2002"):
        for _ in open_source(path, DataConfig()).chunks(layout, 100):
            pass


def test_labels_have_one_spelling() -> None:
    assert [canonical(text) for text in ["0", "0.0", "1.0", "TRUE", "False", " good ", "1.5", "01", "a1"]] == [
        "0", "0", "1", "true", "false", "good", "1.5", "01", "a1",
    ]  # fmt: skip
    assert as_labels(pa.array([1.0, 0.0, None])).tolist() == ["1", "0", ""]
    assert as_labels(pa.array([True, False])).tolist() == ["true", "false"]


def test_numbers_are_what_other_programs_read_as_numbers() -> None:
    assert parse_number(" 1e-3 ") == 0.001
    assert parse_number("1_000") is None
    assert np.isnan(parse_number("NA") or 0)


def test_the_name_of_a_file_has_no_endings() -> None:
    assert [stem("x/train.csv.gz"), stem("v1.2.parquet"), stem("plain")] == ["train", "v1.2", "plain"]


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("1.csv", "2.csv", "3.csv"))
    one.write_text("a\n1\n")
    same.write_text("a\n1\n")
    other.write_text("a\n2\n")
    digests = [open_source(path, DataConfig()).digest() for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    values = np.arange(6.0).reshape(3, 2)
    in_memory = [open_memory(x, DataConfig()).digest() for x in (values, values.copy(), values + 1)]
    assert in_memory[0] == in_memory[1] != in_memory[2]
