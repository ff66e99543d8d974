"""Many files: the numbers of each file alone, whichever engine, and nothing done twice."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from anomaly_vae.cli import main
from anomaly_vae.core.engines import map_items
from anomaly_vae.core.errors import AnomalyVAEError, DataError, UsageError
from anomaly_vae.workflows import score_many

Fits = dict[str, dict[str, Any]]
PATTERN = "many/**/*.*"


@pytest.fixture
def many(fits: Fits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the table's rows in three files of many/ and its detector in det-table."""
    rows = pd.read_csv("table.csv")
    (tmp_path / "many" / "b").mkdir(parents=True)
    rows[:100].to_csv(tmp_path / "many" / "one.csv", index=False)
    rows[100:350].to_parquet(tmp_path / "many" / "two.parquet")
    rows[350:].to_csv(tmp_path / "many" / "b" / "three.csv.gz", index=False)
    (tmp_path / "many" / ".hidden.csv").write_text("no data")
    (tmp_path / "det-table").symlink_to(Path("det-table").absolute())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(*more: str, data: str = PATTERN) -> Result:
    return CliRunner().invoke(main, ["score", data, "-m", "./det-table", *more])


def content(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.parquet")}


def test_each_file_has_the_scores_it_has_alone(many: Path) -> None:
    done = score("-o", "scores")
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    assert "3 files, 0 of them scored before" in done.stderr
    assert sorted(content("scores")) == ["b/three.parquet", "one.parquet", "two.parquet"]
    for name, file in (("one", "one.csv"), ("two", "two.parquet"), ("b/three", "b/three.csv.gz")):
        found = pd.read_parquet(f"scores/{name}.parquet")
        assert set(found.pop("file")) == {file}
        assert score("-o", "alone.parquet", data=f"many/{file}").exit_code == 0
        pd.testing.assert_frame_equal(found, pd.read_parquet("alone.parquet"), check_exact=True)
    together = pd.read_parquet("scores")  # the job's own file is no part of the table
    assert len(together) == 569 and not together.duplicated(["file", "id"]).any()


def test_what_is_scored_is_not_scored_again(many: Path) -> None:
    assert score("-o", "scores").exit_code == 0
    first = {name: os.stat(f"scores/{name}").st_mtime_ns for name in content("scores")}
    Path("scores/one.parquet").unlink()
    os.utime("many/two.parquet", (1e9, 1e9))  # another file now, as `cp -p` or `mv` put it there: older than its scores
    again = score("-o", "scores")
    assert "3 files, 1 of them scored before" in again.stderr
    second = {name: os.stat(f"scores/{name}").st_mtime_ns for name in content("scores")}
    assert [name for name in first if first[name] == second[name]] == ["b/three.parquet"]
    assert "3 files, 3 of them scored before" in score("-o", "scores").stderr
    with open("scores/_scored.jsonl", "a") as file:
        file.write('{"one.csv": "1')  # as a full disk leaves it
    assert "3 files, 3 of them scored before" in score("-o", "scores").stderr
    other = score("-o", "scores", "--threshold", "3")
    assert (other.exit_code, "with other options; name a new folder" in other.stderr) == (2, True)


def test_a_bad_file_does_not_keep_the_others(many: Path) -> None:
    Path("many/a.csv").write_text("x\n1\n")
    done = score("-o", "scores", "--format", "csv")
    assert done.exit_code == 1
    last = done.stderr.splitlines()[-1]
    assert "anomaly-vae: 1 of 4 files could not be scored, the first: " in last and "many/a.csv: input column" in last
    assert sorted(path.name for path in Path("scores").rglob("*.csv")) == ["one.csv", "three.csv", "two.csv"]
    Path("many/a.csv").unlink()
    assert "3 files, 3 of them scored before" in score("-o", "scores", "--format", "csv").stderr


@pytest.mark.parametrize(
    ("data", "more", "code", "says"),
    [
        ("many/*.txt", ["-o", "s"], 1, "many/*.txt: no file matches"),
        (PATTERN, [], 2, "many files are scored into a folder; name it with -o DIR"),
        (PATTERN, ["-o", "s", "--maps", "m"], 2, "--maps draws over the pictures of one folder; score it alone"),
        ("many/one.csv", ["-o", "s.csv", "--format", "csv"], 2, "--format is for many files"),
        ("many/*.csv", ["-o", "many/b"], 2, "many/b: holds something else than scores; name a new folder"),
        (PATTERN, ["-o", "many/one.csv"], 1, "many/one.csv: is a file; name a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(many: Path, data: str, more: list[str], code: int, says: str) -> None:
    done = score(*more, data=data)
    assert (done.exit_code, done.stderr.count("\n")) == (code, 1), done.stderr
    assert says in done.stderr


def test_two_files_of_one_name_are_told(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"a\.csv and .*a\.parquet would both be scored into s/a\.csv"):
        score_many.partitions(f"{tmp_path}/*", "s", "csv")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'anomaly-vae\[ray\]'"):
        next(map_items("ray", lambda: str, [1]))


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(AnomalyVAEError, match=rf"no Ray cluster answers at {address} .*; start it, or unset RAY_ADDR"):
        next(map_items("ray", lambda: str, [1]))


# --- over a cluster of two workers -----------------------------------------------------------------------------------


def dying_once(marks: Path) -> Callable[[], Callable[[int], int]]:
    """Work of which item 2 kills its worker the first time, and item 9 cannot be done."""

    def make() -> Callable[[int], int]:
        def work(item: int) -> int:
            if item == 2 and not marks.exists():
                marks.touch()
                os._exit(1)
            if item == 9:
                raise DataError("item 9 is bad")
            return item * item

        return work

    return make


@pytest.mark.filterwarnings("ignore")  # of ray's own code
def test_a_cluster_scores_as_one_process_does(many: Path, cluster: None) -> None:
    assert score("-o", "here").exit_code == 0
    done = score("-o", "there", "--engine", "ray")
    assert done.exit_code == 0, done.stderr
    assert content("there") == content("here")
    assert json.loads(Path("there/_job.json").read_text()) == json.loads(Path("here/_job.json").read_text())


@pytest.mark.filterwarnings("ignore")
def test_an_item_of_a_lost_worker_is_done_again(tmp_path: Path, cluster: None) -> None:
    work = dying_once(tmp_path / "mark")
    assert sorted(map_items("ray", work, [0, 1, 2, 3])) == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert (tmp_path / "mark").exists()
    with pytest.raises(DataError, match="item 9 is bad"):
        list(map_items("ray", work, [9]))
