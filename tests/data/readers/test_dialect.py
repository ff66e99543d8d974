"""How text files are written: what is recognised from their head, and what is said or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.open import open_source
from anomaly_vae.data.readers import csv, dialect
from anomaly_vae.data.readers.csv import CsvReader
from anomaly_vae.data.tabular import TabularSource

ROWS = [[f"{i / 8 - 3:.3f}", f"{i * i % 37}.5", f"{i * 7 % 11}.25"] for i in range(40)]


def text(names: list[str], separator: str = ",", rows: list[list[str]] = ROWS) -> str:
    return "".join(separator.join(row) + "\n" for row in [names, *rows])


def opened(path: Path, content: str, **settings: object) -> TabularSource:
    path.write_bytes(content.encode())
    source = open_source(path, DataConfig.model_validate(settings))
    assert isinstance(source, TabularSource)
    return source


KDD = "".join(f"{i * 7 % 40},{('tcp', 'udp')[i % 2]},{500 + i * i % 900},{i % 255}\n" for i in range(60))


@pytest.mark.parametrize(
    ("content", "names", "note"),
    [
        (text(["Temp, in C", "Flow, in l", "Load"], "\t"), ["Temp, in C", "Flow, in l", "Load"], ""),
        (text(["2019", "2020", "2021"]), ["2019", "2020", "2021"], ""),  # names that are numbers
        (text(["0", "1", "2"]), ["0", "1", "2"], ""),
        (text(["id", "2019", "2021"]), ["id", "2019", "2021"], ""),
        ("Log\nSerial: 8\n\n" + text(["a", "b", "c"]), ["a", "b", "c"], r"3 lines above .*data\.skip=0 .*header=1"),
        ("Logger,7\nSerial,08\n" + text(["a", "b"], rows=[r[:2] for r in ROWS]), ["a", "b"], r"2 lines above"),
        ("Line 3; shift 2\n;;\n" + text(["a", "b", "c"], ";"), ["a", "b", "c"], r"2 lines above"),
        (text(["a", "b", "c"], rows=[["degC", "l/min", "kg"], *ROWS]), ["a", "b", "c"], r"line 2.*units \('degC', "),
        (text(["a", "b", "c"], rows=[["NA", "NA", ""], *ROWS]), ["a", "b", "c"], ""),  # a row without values is no unit
        (text(["a", "b", "c"], rows=[["", "x", "x"], *ROWS[:9]]).replace("x", "0.5"), ["a", "b", "c"], ""),
        ("#by 7\n#a,b,c\n" + text(["x"] * 3).split("\n", 1)[1], ["#a", "b", "c"], ""),
        (text(["#3", "b", "c"]), ["#3", "b", "c"], ""),
        (text(["a", "b", "c"], "  "), ["a", "b", "c"], r"runs of blanks"),
        (text(["a", "b", "c"], ";").replace(".", ","), ["a", "b", "c"], r"decimal comma.*data\.decimal=\."),
        (text(["name", "city", "c"], rows=[[f"n{i}", "Rome", "x"] for i in range(9)]), ["name", "city", "c"], ""),
        ('"a\nb","c ""d""",e\n' + text(["x"] * 3).split("\n", 1)[1], ["a b", 'c "d"', "e"], ""),
    ],
)  # fmt: skip
def test_the_names_are_found_and_what_was_decided_is_said(
    tmp_path: Path, content: str, names: list[str], note: str
) -> None:
    import re

    source = opened(tmp_path / "x.csv", content)
    assert source.reader.columns == names
    assert re.search(note, "; ".join(source.notes)) if note else source.notes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (KDD, r"line 1 holds numbers; expected a first line of column names.*data\.header=0"),
        (text(["0.5", "1.5", "7.25"]), r"line 1 holds numbers"),
        ("# made by 7\n" + KDD, r"line 2 holds numbers.*data\.skip=1 --set data\.header=0"),
        ("7,0,0,5\n" * 9, r"line 1 holds numbers"),
        (text(["a", "b", "c"], rows=[["mean", "sum", "count of"], *ROWS]), r"both line 1 and line 2 could be the"),
        ("Temp (C)   Flow (l/min)\n1.5   2.5\n2.5   3.5\n", r"2 numbers a row, separated by blanks, below 4 words"),
        ("a,b\n" + "1,2,3\n" * 5, r"line 2 has 3 fields where the header has 2"),
        ("name,city\nAnn,Rome, IT\nBob,Oslo, NO\n", r"line 2 has 3 fields where the header has 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_refused_with_what_would_work(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "x.csv", content).count()


def test_settings_decide_what_was_recognised(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    bare = opened(path, KDD, header=0)
    assert (bare.reader.columns, bare.count()) == (["x0", "x1", "x2", "x3"], 60)
    named = opened(path, text(["0.5", "1.5", "7.25"]), header=1)
    assert (named.reader.columns, named.count()) == (["0.5", "1.5", "7.25"], 40)
    skipped = opened(path, "a,b\n1,2\nc,d\n3,4\n5,6\n", skip=2)
    assert (skipped.reader.columns, skipped.count()) == (["c", "d"], 2)
    two = opened(path, text(["a", "b", "c"], rows=[["mean", "sum", "count of"], *ROWS]), header=2)
    assert (two.reader.columns, two.count()) == (["a", "b", "c"], 40)
    assert opened(path, text(["a", "b,c"], ":", [row[:2] for row in ROWS]), separator=":").reader.columns == [
        "a",
        "b,c",
    ]
    points = opened(path, text(["a", "b", "c"], ";").replace(".", ","), decimal=".")
    assert points.reader.peek.schema.field("a").type == "string"
    path.write_bytes("Größe,b\n1,2\n3,5\n".encode("cp1252"))
    assert open_source(path, DataConfig(encoding="cp1252")).column("Größe").tolist() == ["1", "3"]


@pytest.mark.parametrize("n_columns", [5000, 20_000])
def test_a_header_of_any_length_is_read(tmp_path: Path, n_columns: int) -> None:
    names = [f"plant_a/line_3/station_{i:05d}/temperature" for i in range(n_columns)]
    source = opened(tmp_path / "x.csv", text(names, rows=[[f"{r}.5"] * n_columns for r in range(3)]))
    assert source.reader.columns == names
    assert source.reader.table()[names[-1]].to_pylist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize("limit", [1 << 30, 0])
@pytest.mark.parametrize("block", [1 << 22, 1 << 13])
def test_quotes_far_down_keep_rows_and_lines(
    tmp_path: Path, block: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomaly_vae.data.spill import ArrayStore

    monkeypatch.setattr(csv, "BLOCK", block)
    n = 30_000
    quoted = '"line 1\n  at step 2, ""x""\nended"'
    rows = [f"k{i},{i}.5,{quoted if i > 25_000 else 'fine'}\n" for i in range(n)]
    source = opened(tmp_path / "x.csv", "key,a,message\n" + "".join(rows))
    table = source.reader.table(["key"], ArrayStore(limit))
    assert table["key"].to_pylist() == [f"k{i}" for i in range(n)]
    assert table["a"].to_pylist() == [i + 0.5 for i in range(n)]
    assert source.reader.place(25_001) == "row 25002 (line 25005)"


@pytest.mark.parametrize("place", ["end", "middle"])
def test_empty_rows_are_skipped_and_counted_and_the_others_keep_their_numbers(tmp_path: Path, place: str) -> None:
    lines = [",".join(row) for row in ROWS]
    at = 10 if place == "middle" else 40
    lines[at:at] = [",,", " , ,", '"",,']
    content = "a,b,c\n" + "\n".join(lines) + "\n"
    source, streamed = (opened(tmp_path / "x.csv", content) for _ in range(2))
    layout = source.learn(np.arange(source.count()))
    expected = [i for i in range(43) if not at <= i < at + 3]
    for each in (source, streamed):
        chunks = list(each.chunks(layout, 7))
        assert np.concatenate([chunk.ids for chunk in chunks]).tolist() == expected
        values = np.concatenate([chunk.values for chunk in chunks])
        np.testing.assert_array_equal(values, np.array(ROWS, float))
        assert each.notes == (
            f"3 empty rows were skipped, the first is row {at + 1} (line {at + 2}); the other rows keep their numbers",
        )
    assert source.ids(layout, np.array([11, 39])).tolist() == [expected[11], expected[39]]
    assert source.reader.place(39) == f"row {expected[39] + 1} (line {expected[39] + 2})"


def test_a_row_may_be_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "BLOCK", 1 << 12)
    rows = [[str(i), "x" * (100_000 if i == 15_000 else 9)] for i in range(20_000)]
    reader = opened(tmp_path / "x.csv", text(["a", "b"], rows=rows)).reader
    assert reader.table(["a"])["a"].to_pylist() == [row[0] for row in rows]


def test_rows_of_marks_for_missing_cells_are_no_empty_rows(tmp_path: Path) -> None:
    source = opened(tmp_path / "x.csv", "a,b\n1,2\nNA,NA\n,NA\n3,5\n")
    assert source.count() == 4
    assert source.reader.table()["a"].to_pylist() == [1, None, None, 3]
    assert source.notes == ()


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_a_cell_of_another_type_far_down_makes_its_column_text(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomaly_vae.data.spill import ArrayStore

    monkeypatch.setattr(csv, "BLOCK", 1 << 12)
    rows = [[str(i), f"{i}.5", "true" if i % 2 else "false", ""] for i in range(3000)]
    rows[2500] = ["n.a.", "NA", "yes", "7"]
    reader = opened(tmp_path / "x.csv", text(["a", "b", "c", "d"], rows=rows)).reader
    table = reader.table((), ArrayStore(limit))
    assert [str(field.type) for field in table.schema] == ["string", "double", "string", "string"]
    assert table["a"].to_pylist() == [row[0] for row in rows]
    assert table["b"].to_pylist() == [None if i == 2500 else i + 0.5 for i in range(3000)]


def test_a_stream_goes_on_with_text_where_a_cell_is_no_plain_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setattr(csv, "BLOCK", 1 << 12)
    rows = [[f"{i}.5", f"{i}"] for i in range(3000)]
    rows[2500][0] = " nan "  # the converter reads no blanks around a mark
    reader = opened(tmp_path / "x.csv", text(["a", "b"], rows=rows)).reader
    assert isinstance(reader, CsvReader)
    tables = list(reader.stream({"b": pa.string(), "a": pa.float64()}, 700))
    assert [table.num_rows for table in tables] == [700, 700, 700, 700, 200]
    joined = pa.concat_tables(tables)
    assert joined["b"].to_pylist() == [row[1] for row in rows]
    values = joined["a"].to_numpy()
    np.testing.assert_array_equal(values, [np.nan if i == 2500 else i + 0.5 for i in range(3000)])


def test_a_long_file_whose_last_line_is_cut_names_that_line(tmp_path: Path) -> None:
    content = text(["a", "b", "c"], rows=ROWS * 500)
    with pytest.raises(DataError, match=r"line 20001 has 2 fields where the header has 3"):
        opened(tmp_path / "x.csv", content[:-6]).reader.table()
    with pytest.raises(DataError, match=r"a quote in line 42 is not closed"):
        opened(tmp_path / "x.csv", content.replace("\n-3.000", '\n"-3.000', 2).replace('\n"', "\n", 1)).reader.table()


def test_a_long_cell_that_is_almost_a_number_is_told_from_one_at_once() -> None:
    assert [dialect._kind("1," * 200_000 + end) for end in ("0", "x")] == ["number", "text"]
