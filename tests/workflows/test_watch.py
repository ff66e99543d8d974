"""A watched folder: the scores of each file are those of one `score` of it, whenever its lines came."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from anomaly_vae.core.errors import UsageError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.workflows import watch as page
from anomaly_vae.workflows.score import Options, score
from anomaly_vae.workflows.watch import watch

Fits = dict[str, dict[str, Any]]


@pytest.fixture
def series(fits: Fits, tmp_path: Path) -> tuple[Detector, list[bytes], Path]:
    """The detector of the sample series, the lines of 120 of its steps with their header, and an empty folder."""
    lines = Path("series.csv").read_bytes().splitlines(keepends=True)[:121]
    (tmp_path / "in").mkdir()
    return Detector.load("det-series", "cpu"), lines, tmp_path


def look(detector: Detector, folder: Path) -> tuple[tuple[int, int], list[str]]:
    said: list[str] = []
    return watch(str(folder / "in"), detector, str(folder / "out"), once=True, say=said.append), said


def test_appended_lines_give_the_scores_and_events_of_the_whole_file(
    series: tuple[Detector, list[bytes], Path],
) -> None:
    detector, lines, folder = series
    file = folder / "in" / "log.csv"
    whole = b"".join(lines)
    for end in (len(b"".join(lines[:71])), len(b"".join(lines[:90])) + 5, len(whole)):
        file.write_bytes(whole[:end])
        (files, _), said = look(detector, folder)
        assert files == 1
        assert ("its last line has no newline yet" in " ".join(said)) == (not whole[:end].endswith(b"\n"))
        (folder / "part.csv").write_bytes(whole[: whole.rfind(b"\n", 0, end) + 1])
        options = Options(events=str(folder / "events.csv"))
        score(str(folder / "part.csv"), detector, output=str(folder / "scores.csv"), options=options)
        for what in ("scores", "events"):
            assert (folder / "out" / f"log.csv.{what}.csv").read_bytes() == (folder / f"{what}.csv").read_bytes()
    file.write_bytes(whole + lines[-1][:9])  # half a line more is nothing to score
    assert look(detector, folder)[0] == (0, 0)


def test_a_restart_scores_nothing_twice_and_a_kill_before_the_record_loses_nothing(
    series: tuple[Detector, list[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, lines, folder = series
    (folder / "in" / "deep").mkdir()
    (folder / "in" / "deep" / "a.csv").write_bytes(b"".join(lines))
    (folder / "in" / "b.csv").write_bytes(b"".join(lines[:80]))
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise SystemExit(137)

        patch.setattr(page, "record", killed)
        with pytest.raises(SystemExit):
            look(detector, folder)
    assert look(detector, folder)[0][0] == 2
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.scores.csv")}
    assert sorted(path.relative_to(folder / "out").as_posix() for path in before) == [
        "b.csv.scores.csv", "deep/a.csv.scores.csv",
    ]  # fmt: skip
    assert look(detector, folder)[0] == (0, 0)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_cannot_be_read_is_named_once_and_the_watch_goes_on(
    series: tuple[Detector, list[bytes], Path],
) -> None:
    detector, lines, folder = series
    (folder / "in" / "bad.csv").write_text("no;header\n")
    (folder / "in" / "log.csv").write_bytes(b"".join(lines[:80]))
    stop, said = threading.Event(), list[str]()

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("log.csv") and "threshold" in line:
            if (folder / "in" / "log.csv").stat().st_size == len(b"".join(lines)):
                stop.set()
            (folder / "in" / "bad.csv").write_text("no;header\nstill\n")
            (folder / "in" / "log.csv").write_bytes(b"".join(lines))

    signal.alarm(60)
    found = watch(str(folder / "in"), detector, str(folder / "out"), every=0.01, stop=stop, say=say)
    signal.alarm(0)
    assert found[0] == 2
    assert [line.partition(":")[0] for line in said].count("bad.csv") == 1
    assert not list((folder / "out").glob("bad.csv*"))


def test_a_watch_refuses_a_file_and_the_scores_of_something_else(
    series: tuple[Detector, list[bytes], Path],
) -> None:
    detector, _, folder = series
    with pytest.raises(UsageError, match="no such folder; watch takes a folder"):
        watch("series.csv", detector, str(folder / "out"), once=True)
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("")
    with pytest.raises(UsageError, match="holds something else than scores"):
        look(detector, folder)
