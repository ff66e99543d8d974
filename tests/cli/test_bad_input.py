"""Bad input ends in one line that says what was found and what would work, with nothing printed and nothing left behind."""

from __future__ import annotations

import errno
import gzip
import io
import shutil
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from anomaly_vae.cli import main
from anomaly_vae.core import files
from anomaly_vae.data import writers

OFF = ["--set", "tracking.enabled=false", "--set", "training.steps=40"]
Content = str | bytes


@dataclass(frozen=True)
class Case:
    """A command line over files that are written first: exit code, and texts that its one line holds.

    `<table>`, `<series>`, `<images>` in the command stand for fitted detectors; a file under such a name in `files`
    changes a copy of it.
    """

    name: str
    command: str
    says: tuple[str, ...]
    files: dict[str, Content] = field(default_factory=dict)
    code: int = 1


def csv(rows: int = 80, seed: int = 0, label: str | None = None, **columns: list[object]) -> str:
    """Three numeric columns a, b, c; a label column with 0 and, in the last quarter, 1; `columns` replace or add."""
    a = np.random.default_rng(seed).normal(size=rows)
    frame = pd.DataFrame({"a": a, "b": 2 * a + 1, "c": -a})
    if label:
        frame[label] = (np.arange(rows) >= rows * 3 // 4).astype(int)
    for name, values in columns.items():
        frame[name] = values
    return str(frame.round(4).to_csv(index=False))


def png(size: int = 12, shade: int = 128, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(-20, 20, (size, size))
    file = io.BytesIO()
    Image.fromarray((shade + noise).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def wide() -> bytes:
    """A PNG of 13,000 x 13,000 pixels by its header; nothing reads on."""
    content = bytearray(png())
    content[16:24] = (13_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def pictures(n: int, **more: bytes) -> dict[str, Content]:
    return {f"pics/{i:02d}.png": png(seed=i) for i in range(n)} | {f"pics/{name}.png": v for name, v in more.items()}


def parts(cut: int) -> dict[str, Content]:
    """MVTec's layout: 12 pictures to train on, 4 good and `cut` cut ones to test on, of which the first has a mask."""
    good = {f"parts/{part}/good/{i}.png": png(seed=i) for part, n in (("train", 12), ("test", 4)) for i in range(n)}
    bad = {f"parts/test/cut/{i}.png": png(shade=40, seed=i) for i in range(cut)}
    return {**good, **bad, "parts/ground_truth/cut/0_mask.png": png()}


def changed(text: str, row: int, column: int, cell: str) -> str:
    """The CSV with one cell replaced; rows count from 1 below the header."""
    lines = text.splitlines()
    cells = lines[row].split(",")
    cells[column] = cell
    lines[row] = ",".join(cells)
    return "\n".join(lines) + "\n"


TABLE = csv()
LINES = TABLE.splitlines()
BINARY = bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8))

CASES = [
    Case("missing file", "fit absent.csv", ("absent.csv: no such file or folder",)),
    Case("missing file to score", "score absent.csv -m <table>", ("absent.csv: no such file or folder",)),
    Case("empty file", "fit data.csv", ("data.csv", "empty"), {"data.csv": ""}),
    Case("header only", "fit data.csv", ("data.csv", "no rows"), {"data.csv": "a,b,c\n"}),
    Case("header only, to score", "score data.csv -m <table>", ("data.csv", "no rows"), {"data.csv": "a,b,c\n"}),
    Case("binary", "fit data.csv", ("data.csv",), {"data.csv": BINARY}),
    Case("binary to score", "score data.csv -m <table>", ("data.csv",), {"data.csv": BINARY}),
    Case("folder for a file", "fit folder --kind table", ("folder: a folder, expected a CSV or Parquet file",), {"folder/data.log": TABLE}),
    Case("folder for a file, to score", "score folder -m <table>", ("folder: a folder, expected a CSV or Parquet file",), {"folder/data.log": TABLE}),
    Case("folder without images", "fit folder", ("folder", "no image"), {"folder/data.log": TABLE}),
    Case("broken gzip", "fit data.csv.gz", ("data.csv.gz",), {"data.csv.gz": gzip.compress(TABLE.encode())[:-200]}),
    Case("no gzip inside", "fit data.csv.gz", ("data.csv.gz",), {"data.csv.gz": b"\x1f\x8bnonsense"}),
    Case("broken Parquet", "fit data.parquet", ("data.parquet", "Parquet"), {"data.parquet": b"PAR1" + BINARY}),
    Case("mixed separators", "fit data.csv", ("data.csv: mixed separators: line 41 has ';', the header has ','",), {"data.csv": "\n".join([*LINES[:40], *[line.replace(",", ";") for line in LINES[40:]]])}),
    Case("ragged row", "fit data.csv", ("data.csv: line 6 has 4 fields where the header has 3",), {"data.csv": "\n".join([*LINES[:5], "1,2,3,4", *LINES[6:]])}),
    Case("ragged row to score", "score data.csv -m <table>", ("data.csv: line 6 has 2 fields where the header has 3",), {"data.csv": "\n".join([*LINES[:5], "1,2", *LINES[6:]])}),
    Case("duplicate columns", "fit data.csv", ("data.csv", "'a'"), {"data.csv": TABLE.replace("a,b,c", "a,b,a")}),
    Case("missing column", "score data.csv -m <table>", ("data.csv", "'c'", "not found"), {"data.csv": TABLE.replace("a,b,c", "a,b,d")}),
    Case("missing label column", "fit data.csv --label fault", ("data.csv: label column 'fault' not found; the columns are 'a', 'b', 'c'",), {"data.csv": TABLE}),
    Case("missing id column", "score data.csv -m <table> --id nr", ("data.csv: column 'nr' not found",), {"data.csv": TABLE}),
    Case("nothing but missing cells", "fit data.csv", ("data.csv: no cell below the header holds anything",), {"data.csv": "a,b\n" + ",\n" * 40}),
    Case("infinity", "fit data.csv", ("data.csv: row 7 (line 8), column 'b': an infinite value",), {"data.csv": changed(TABLE, 7, 1, "inf")}),
    Case("infinity to score", "score data.csv -m <table>", ("data.csv: row 7 (line 8), column 'b': an infinite value",), {"data.csv": changed(TABLE, 7, 1, "-inf")}),
    Case("text among numbers", "fit data.csv", ("data.csv: row 7 (line 8), column 'b': 'broken' is not a number",), {"data.csv": changed(TABLE, 7, 1, "broken")}),
    Case("text among numbers to score", "score data.csv -m <table>", ("data.csv: row 7 (line 8), column 'b': 'broken' is not a number",), {"data.csv": changed(TABLE, 7, 1, "broken")}),
    Case("one row", "fit data.csv", ("data.csv: 1 normal row leaves",), {"data.csv": csv(1)}),
    Case("fewer rows than a window", "fit data.csv --kind series", ("data.csv", "window"), {"data.csv": csv(12)}),
    Case("fewer rows than a window, to score", "score data.csv -m <series>", ("data.csv: holds 5 time steps, fewer than the 8 of one window",), {"data.csv": csv(5)}),
    Case("all rows anomalous", "fit data.csv --label fault --normal ok", ("data.csv", "'fault'", "'ok'"), {"data.csv": csv(fault=[1] * 80)}),
    Case("no normal row to train on", "fit data.csv --kind series --label fault", ("data.csv", "normal rows"), {"data.csv": csv(fault=[1] * 60 + [0] * 20)}),
    Case("label without a value", "fit data.csv --label fault", ("data.csv: column 'fault' holds no label at all; leave --label out",), {"data.csv": csv(fault=[""] * 80)}),
    Case("label with one value, not normal", "fit data.csv --label fault", ("data.csv: column 'fault' holds only '1', which is not known as normal",), {"data.csv": csv(fault=[1] * 80)}),
    Case("label with three values", "fit data.csv --label fault", ("data.csv: column 'fault' holds 3 values ('0', '1', '2')", "--normal 0"), {"data.csv": csv(fault=[0] * 60 + [1, 2] * 10)}),
    Case("unknown normal value", "fit data.csv --label fault --normal 7", ("data.csv: column 'fault' has no value '7'",), {"data.csv": csv(label="fault")}),
    Case("no label to evaluate by", "evaluate data.csv -m <table>", ("data.csv", "--label"), {"data.csv": TABLE}),
    Case("evaluation label absent", "evaluate data.csv -m <table> --label fault", ("data.csv: label column 'fault' not found",), {"data.csv": TABLE}),
    Case("unreadable image", "fit pics", ("bad.png",), pictures(20, bad=b"this is no picture")),
    Case("truncated image", "fit pics", ("bad.png",), pictures(20, bad=png(64)[:-900])),
    Case("unreadable image to score", "score pics -m <images>", ("bad.png",), pictures(3, bad=b"this is no picture")),
    Case("truncated image to score", "score pics -m <images> --maps maps", ("bad.png",), pictures(3, bad=png(64)[:-900])),
    Case("image of a manifest is missing", "fit list.csv", ("list.csv", "gone.png"), {"list.csv": "path\n" + "".join(f"pics/{i:02d}.png\n" for i in range(20)) + "pics/gone.png\n", **pictures(20)}),
    Case("a picture of too many pixels", "score pics -m <images>", ("wide.png: 169000000 pixels, which would fill the memory; --set data.max_pixels=169000000 reads it",), pictures(3, wide=wide())),
    Case("a picture of more than a setting", "fit pics --set data.max_pixels=100", ("20 pictures cannot be read: 00.png (144 pixels, which",), pictures(20)),
    Case("no detector folder", "score data.csv -m ./absent", ("absent: no such detector folder",), {"data.csv": TABLE}),
    Case("folder is no detector", "score data.csv -m folder", ("folder: not a detector folder (detector.json is missing)",), {"data.csv": TABLE, "folder/x": "x"}),
    Case("detector incomplete", "score data.csv -m <table>", ("scaler.json is missing",), {"data.csv": TABLE, "<table>/scaler.json": ""}),
    Case("detector altered", "score data.csv -m <table>", ("threshold.json was altered",), {"data.csv": TABLE, "<table>/threshold.json": "{}"}),
    Case("detector weights altered", "score data.csv -m <table>", ("weights.safetensors was altered",), {"data.csv": TABLE, "<table>/weights.safetensors": b"\0" * 9}),
    Case("detector of another format", "score data.csv -m <table>", ("detector format 99 (anomaly-vae 7.0)", "reads formats 4 and 5"), {"data.csv": TABLE, "<table>/detector.json": '{"format": 99, "anomaly_vae": "7.0"}'}),
    Case("detector manifest is no JSON", "score data.csv -m <table>", ("detector.json: cannot be read as JSON",), {"data.csv": TABLE, "<table>/detector.json": "{"}),
    Case("no runs yet", "score data.csv", ("no runs in", "anomaly-vae fit"), {"data.csv": TABLE}),
    Case("unknown run", "score data.csv -m 0123456789ab", ("no runs in",), {"data.csv": TABLE}),
    Case("a list of images without their names", "fit list.csv --kind images", ("list.csv: column 'path' not found; the columns are 'file', 'x'",), {"list.csv": "file,x\na.png,1\n"}),
    Case("a list of several objects", "fit list.csv", ("column 'object' holds 2 objects ('a', 'b')", "--set data.object=a"), {**pictures(2), "list.csv": "path,object\npics/00.png,a\npics/01.png,b\n"}),
    Case("mask that is not there", "fit list.csv", ("list.csv: row 2 (line 3): no mask 'gone.png'",), {**pictures(2), "list.csv": "path,label,mask\npics/00.png,good,\npics/01.png,bad,gone.png\n"}),
    Case("one picture to train on", "fit pics/00.png", ("00.png: one picture; training needs a folder of normal pictures",), pictures(2)),
    Case("a pattern that the shell filled in", "score pics/00.png pics/01.png", ("2 files where one is expected; `anomaly-vae score pics`", "`anomaly-vae score 'pics/*.png' -o DIR`"), pictures(2), 2),
    Case("a path with blanks", "score my data.csv", ("quote a path with blanks: anomaly-vae score 'my data.csv'",), {"my data.csv": TABLE}, 2),
    Case("pictures of another ending", "fit pics", ("no images in this folder, and it holds 1 .heic", ".webp"), {"pics/a.heic": b"x"}),
    Case("mask of another size", "fit parts", ("1_mask.png: a mask of 9x9 pixels for a picture of 12x12",), {**parts(2), "parts/ground_truth/cut/1_mask.png": png(9)}),
    Case("several broken images", "fit parts", ("2 pictures cannot be read: train/good/x.png (", "train/good/y.png", "--skip-broken"), {**parts(1), "parts/train/good/x.png": b"x", "parts/train/good/y.png": b"y"}),
    Case("nothing but broken images", "fit pics --skip-broken", ("skipped 1 broken picture: x.png", "none is left"), {"pics/x.png": b"x"}),
    Case("output folder absent", "score data.csv -m <table> -o there/s.csv", ("there/s.csv: its folder does not exist",), {"data.csv": TABLE}),
    Case("output is a folder", "score data.csv -m <table> -o there.csv", ("there.csv: is a folder",), {"data.csv": TABLE, "there.csv/x": "x"}),
    Case("fit output is taken", "fit data.csv -o there", ("there: already there, and nothing is overwritten",), {"data.csv": TABLE, "there/x": "x"}),
    Case("heat maps folder is taken", "score pics -m <images> --maps there", ("there: already there, and nothing is overwritten",), {**pictures(3), "there/x": "x"}),
    Case("unknown output format", "score data.csv -m <table> -o s.xlsx", ("s.xlsx", ".csv, .parquet, .json"), {"data.csv": TABLE}, 2),
    Case("heat maps of a table", "score data.csv -m <table> --maps m", ("--maps draws over pictures", "--explain"), {"data.csv": TABLE}, 2),
    Case("columns of pictures", "score pics -m <images> --explain 2", ("--explain names columns", "--maps"), pictures(3), 2),
    Case("no finite threshold", "score data.csv -m <table> --threshold nan", ("threshold nan: not a finite number",), {"data.csv": TABLE}, 2),
    Case("no finite threshold for many", "score *.csv -m <table> --threshold inf -o s", ("threshold inf: not a finite number",), {"data.csv": TABLE}, 2),
    Case("spreadsheets read CSV", "score data.csv -m <table> --csv-safe -o s.json", ("--csv-safe is about CSV",), {"data.csv": TABLE}, 2),
    Case("name too long to write", f"score data.csv -m <table> -o {'x' * 300}.csv", ("the name is longer than the file system takes",), {"data.csv": TABLE}),
    Case("name too long to fit into", f"fit data.csv -o {'x' * 300}", ("the name is longer than the file system takes",), {"data.csv": TABLE}),
    Case("name of a detector too long", f"score data.csv -m ./{'x' * 300}", ("File name too long",), {"data.csv": TABLE}),
    Case("unknown setting", "fit data.csv --set training.epoch=3", ("training.epoch", "did you mean 'epochs'?"), {"data.csv": TABLE}, 2),
    Case("impossible setting", "fit data.csv --set training.lr=-1", ("training.lr", "greater than 0"), {"data.csv": TABLE}, 2),
    Case("missing settings file", "fit data.csv -c absent.yaml", ("absent.yaml: cannot read this configuration file",), {"data.csv": TABLE}, 2),
    Case("feedback without verdicts", "feedback data.csv -m <table>", ("data.csv: has no column 'verdict' or 'label' of verdicts; it has a, b, c; --label COLUMN",), {"data.csv": TABLE}),
    Case("feedback of other words", "feedback data.csv -m <table> --label fault", ("data.csv: 'maybe' in column 'fault' is no verdict; 1 for an anomaly", "--normal VALUE"), {"data.csv": csv(fault=["maybe"] * 80)}),
    Case("feedback on no row", "feedback ids.csv --data data.csv -m <table>", ("ids.csv: id 900 is in no row of data.csv",), {"data.csv": TABLE, "ids.csv": "id,verdict\n3,1\n900,0\n"}),
    Case("feedback and undo", "feedback data.csv --undo -m <table>", ("a FILE of verdicts, or --undo",), {"data.csv": TABLE}, 2),
    Case("nothing to undo", "feedback --undo -m <table>", ("no feedback that could be undone",), {}, 2),
    Case("unknown policy", "threshold -m <table> --policy best", ("'best' is no threshold policy",), {}, 2),
    Case("policy that needs anomalies", "threshold -m <table> --policy youden", ("needs labelled anomalies", "fpr=RATE"), {}),
    Case("too few pixels", "fit data.csv --kind pixels --set data.shape=[1,2,2]", ("data.csv: 3 pixel columns do not make pictures of data.shape=[1, 2, 2]",), {"data.csv": csv(80).replace("-", "")}),
]  # fmt: skip


def fitted(folder: Path) -> dict[str, Path]:
    """A detector of each kind that the cases need, without labels; the content of its data does not matter."""
    for name, content in (("table.csv", TABLE), ("series.csv", csv(200))):
        (folder / name).write_text(content, encoding="utf-8")
    write(folder, pictures(20))
    detectors = {}
    for name, more in (
        ("table", ["table.csv"]),
        ("series", ["series.csv", "--kind", "series", "--set", "data.window=8"]),
        ("images", ["pics", "--set", "data.size=12", "--set", "model.kind=conv2d"]),
    ):
        detectors[name] = folder / f"detector-{name}"
        data, *options = more
        result = CliRunner().invoke(main, ["fit", str(folder / data), *OFF, "-o", str(detectors[name]), *options])
        assert result.exit_code == 0, result.stderr
    return detectors


def write(folder: Path, files: dict[str, Content]) -> None:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)


def execute(case: Case, folder: Path, detectors: dict[str, Path]) -> tuple[Result, set[str]]:
    """What the command did in `folder`, the current one, and the names of what it left there."""
    command = case.command.split()
    for name, place in detectors.items():
        own = {key.split("/")[1]: value for key, value in case.files.items() if key.startswith(f"<{name}>/")}
        if own:
            place = Path(shutil.copytree(place, folder / f"copy-{name}"))
        for file, content in own.items():
            (place / file).unlink()
            if content:
                write(place, {file: content})
        command = [str(place) if word == f"<{name}>" else word for word in command]
    write(folder, {name: content for name, content in case.files.items() if not name.startswith("<")})
    before = contents(folder)
    options = OFF if command[0] == "fit" else []
    result = CliRunner().invoke(main, [*command, *options])
    return result, contents(folder) ^ before


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def one_line(result: Result) -> bool:
    """Whether stderr ends in one line of the program; before it a fit may have said what it took the data for."""
    *before, last = result.stderr.splitlines()
    return last.startswith("anomaly-vae: ") and len(before) <= 1 and all(" is " in line for line in before)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fitted(tmp_path_factory.mktemp("detectors"))


# The same tables where no array fits into memory: read by way of the disk, they end in the same lines.
CASES += [
    replace(case, name=f"{case.name}, from disk", command=f"{case.command} --set data.memory=0")
    for case in CASES
    if case.command.startswith("fit data.")
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_bad_input_ends_in_one_line(case: Case, workplace: Path, detectors: dict[str, Path]) -> None:
    result, left = execute(case, workplace, detectors)
    assert result.exit_code == case.code
    assert one_line(result), result.stderr
    missing = [text for text in case.says if text not in result.stderr.splitlines()[-1]]
    assert not missing, result.stderr
    assert result.stdout == ""
    assert left == set()


ROWS = pd.read_csv(io.StringIO(TABLE))
ACCEPTED = {
    "other column order": ROWS[["c", "a", "b"]].to_csv(index=False),
    "further column": ROWS.assign(remark="x").to_csv(index=False),
    "semicolons": ROWS.to_csv(index=False, sep=";"),
    "tabs": ROWS.to_csv(index=False, sep="\t"),
    "byte order mark": "\ufeff" + TABLE,
    "line ends of Windows": TABLE.replace("\n", "\r\n"),
    "gzip": gzip.compress(TABLE.encode()),
}


@pytest.mark.parametrize("content", ACCEPTED.values(), ids=[name.replace(" ", "-") for name in ACCEPTED])
def test_other_ways_to_write_the_same_table_score_the_same(
    content: Content, workplace: Path, detectors: dict[str, Path]
) -> None:
    write(workplace, {"plain.csv": TABLE, "other.csv": content})
    score = ["score", "-m", str(detectors["table"])]
    results = [CliRunner().invoke(main, [*score, name]) for name in ("plain.csv", "other.csv")]
    assert [result.exit_code for result in results] == [0, 0]
    assert results[0].stdout == results[1].stdout


def test_a_column_without_any_value_and_a_single_row_are_scored(workplace: Path, detectors: dict[str, Path]) -> None:
    write(workplace, {"data.csv": "a,b,c\n0.1,,-0.1\n"})
    result = CliRunner().invoke(main, ["score", "data.csv", "-m", str(detectors["table"])])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].startswith("0,")


def test_a_column_without_any_value_is_watched_and_named(workplace: Path) -> None:
    write(workplace, {"data.csv": csv(empty=[None] * 80)})
    result = CliRunner().invoke(main, ["fit", "data.csv", *OFF])
    assert result.exit_code == 0
    said = "watched for another value, which is an alarm: 'empty', no value in training; --set 'data.drop=[empty]'"
    assert result.stderr.count(said) == 1
    assert max(Counter(result.stderr.splitlines()).values()) == 1, "nothing is said twice"


@pytest.mark.parametrize(("name", "head"), [('"q" [°C], a', '"id","""q"" [°C], a"'), ("plain", "id,plain")])
def test_names_of_columns_are_written_quoted_where_they_need_it(tmp_path: Path, name: str, head: str) -> None:
    table = writers.batch({"id": ["x"], name: [1.5]})
    with writers.open_writer(tmp_path / "out.csv", table.schema) as write:
        write(table)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == f"{head}\nx,1.5\n"
    assert list(pd.read_csv(tmp_path / "out.csv").columns) == ["id", name]


def test_the_label_may_be_absent_at_scoring(workplace: Path) -> None:
    write(workplace, {"labelled.csv": csv(label="fault"), "new.csv": TABLE})
    assert CliRunner().invoke(main, ["fit", "labelled.csv", "--label", "fault", *OFF, "-o", "det"]).exit_code == 0
    results = [CliRunner().invoke(main, ["score", name, "-m", "./det"]) for name in ("labelled.csv", "new.csv")]
    assert [result.exit_code for result in results] == [0, 0]
    assert results[0].stdout == results[1].stdout


def test_an_image_of_another_size_is_scored(workplace: Path, detectors: dict[str, Path]) -> None:
    write(workplace, pictures(1, large=png(40)))
    result = CliRunner().invoke(main, ["score", "pics", "-m", str(detectors["images"])])
    assert result.exit_code == 0
    assert [line.split(",")[0] for line in result.stdout.splitlines()] == ["id", "00.png", "large.png"]


@pytest.mark.parametrize("name", ["s.csv", "s.parquet", "s.json"])
def test_a_full_disk_leaves_what_was_there(
    name: str, workplace: Path, detectors: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(workplace, {"data.csv": TABLE, name: "from before"})
    monkeypatch.setattr(writers.pyarrow.csv, "write_csv", full)
    monkeypatch.setattr(writers.pyarrow.parquet, "ParquetWriter", full)
    monkeypatch.setattr(writers.json, "dumps", full)
    result = CliRunner().invoke(main, ["score", "data.csv", "-m", str(detectors["table"]), "-o", name])
    assert result.exit_code == 1
    assert result.stderr == f"anomaly-vae: {name}: the disk is full; free some space or name a place on another disk\n"
    assert contents(workplace) == {"data.csv", name}
    assert (workplace / name).read_text() == "from before"


def test_a_disk_that_fills_while_a_detector_is_saved(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(workplace, {"data.csv": TABLE})
    monkeypatch.setattr(Path, "write_bytes", full)
    result = CliRunner().invoke(main, ["fit", "data.csv", *OFF, "-o", "det"])
    assert result.exit_code == 1
    assert one_line(result)
    assert ": the disk is full; free some space or name a place on another disk" in result.stderr
    assert result.stdout == ""
    assert contents(workplace) == {"data.csv"}


def test_a_read_only_folder_says_so(
    workplace: Path, detectors: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    write(workplace, {"data.csv": TABLE})
    (workplace / "closed").mkdir()
    # what a closed folder answers, to root too, who writes everywhere
    monkeypatch.setattr(files.tempfile, "mkstemp", denied)
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    for command in (
        ["score", "data.csv", "-m", str(detectors["table"]), "-o", "closed/s.csv"],
        ["fit", "data.csv", *OFF, "-o", "closed/det"],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1
        assert "closed" in result.stderr
        assert "no permission to write here" in result.stderr
        assert one_line(result)
        assert result.stdout == ""


def test_a_bad_row_late_in_a_long_file_leaves_nothing(workplace: Path, detectors: dict[str, Path]) -> None:
    rows = csv(70_000).splitlines()  # more than are read at a time
    rows[-1] = "1,2,three"
    write(workplace, {"data.csv": "\n".join(rows)})
    for place in (["-o", "s.csv"], []):
        result = CliRunner().invoke(main, ["score", "data.csv", "-m", str(detectors["table"]), *place])
        assert result.exit_code == 1
        assert "row 70000 (line 70001), column 'c': 'three' is not a number" in result.stderr
        assert result.stdout == ""
        assert contents(workplace) == {"data.csv"}
