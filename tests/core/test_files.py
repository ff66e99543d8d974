"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from anomaly_vae.core import files
from anomaly_vae.core.errors import AnomalyVAEError, DataError
from anomaly_vae.core.files import new_folder, replacing, replacing_folder, require_free


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def fill(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    write(folder / "inside.txt", text)


# Each way of writing: how it begins, how the place is filled, and where the text is found.
WAYS: dict[str, tuple[Callable[[Path], AbstractContextManager[Path]], Callable[[Path, str], None], str]] = {
    "file": (replacing, write, ""),
    "new folder": (new_folder, fill, "inside.txt"),
    "folder": (replacing_folder, fill, "inside.txt"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_leaves_nothing_of_the_new_and_all_of_the_old(tmp_path: Path, way: str) -> None:
    begin, put, _ = WAYS[way]
    place = tmp_path / "result.csv"
    if way != "new folder":
        put(place, "old")
    before = names(tmp_path)

    def fail() -> None:
        with begin(place) as beside:
            put(beside, "half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert names(tmp_path) == before
    if way != "new folder":
        assert (place / WAYS[way][2]).read_text() == "old"


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_seen_before_success(tmp_path: Path, way: str) -> None:
    begin, put, inside = WAYS[way]
    place = tmp_path / "result.csv"
    if way != "new folder":
        put(place, "old")
    with begin(place) as beside:
        put(beside, "new")
        assert beside != place
        assert (place / inside).read_text() == "old" if place.exists() else way == "new folder"
    assert (place / inside).read_text() == "new"
    assert names(tmp_path) == ["result.csv"]


def test_permissions_are_those_of_any_new_file_or_of_the_old_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, begin, put, expected in (
            ("file", replacing, write, 0o640),
            ("folder", new_folder, fill, 0o750),
        ):
            with begin(tmp_path / name) as beside:
                put(beside, "new")
            assert mode(tmp_path / name) == expected
        (tmp_path / "file").chmod(0o604)
        with replacing(tmp_path / "file") as beside:
            write(beside, "newer")
        assert mode(tmp_path / "file") == 0o604
    finally:
        os.umask(before)


def test_a_temporary_file_keeps_the_ending(tmp_path: Path) -> None:
    with replacing(tmp_path / "scores.parquet") as beside:
        assert beside.suffix == ".parquet"
        assert beside.parent == tmp_path
        write(beside, "")


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission to write here"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_the_system_refuses_is_said_in_one_line(tmp_path: Path, way: str, code: int, hint: str) -> None:
    begin, put, inside = WAYS[way]
    place = tmp_path / "result.csv"
    if way != "new folder":
        put(place, "old")
    before = names(tmp_path)

    def refuse() -> None:
        with begin(place) as beside:
            put(beside, "half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(AnomalyVAEError) as caught:
        refuse()
    assert str(caught.value).startswith(f"{place}: {hint}")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    if way != "new folder":
        assert (place / inside).read_text() == "old"


def test_a_full_disk_at_the_rename_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "scores.csv"
    write(place, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def store() -> None:
        with replacing(place) as beside:
            write(beside, "new")
            monkeypatch.setattr(files.os, "replace", full)

    with pytest.raises(AnomalyVAEError, match="the disk is full"):
        store()
    assert names(tmp_path) == ["scores.csv"]
    assert place.read_text() == "old"


def test_a_folder_that_was_not_filled_does_not_cost_the_old_one(tmp_path: Path) -> None:
    fill(tmp_path / "detector", "old")

    def forget() -> None:
        with replacing_folder(tmp_path / "detector"):
            pass

    with pytest.raises(AnomalyVAEError):
        forget()
    assert names(tmp_path) == ["detector"]
    assert (tmp_path / "detector" / "inside.txt").read_text() == "old"


def test_a_missing_folder_and_a_folder_for_a_file_are_named(tmp_path: Path) -> None:
    for place, said in ((tmp_path / "absent" / "x.csv", "its folder does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(AnomalyVAEError, match=said), replacing(place):
            pytest.fail("nothing to write to")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(AnomalyVAEError, match="no permission to write here"), replacing(closed / "x.csv"):
        pytest.fail("nothing to write to")
    with pytest.raises(AnomalyVAEError, match="no permission to write here"):
        require_free(closed / "new")


def test_no_permission_is_asked_for_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(AnomalyVAEError, match=f"{tmp_path}: no permission to write here"):
        require_free(tmp_path / "a" / "b")


def test_what_exists_is_not_overwritten_by_a_new_folder(tmp_path: Path) -> None:
    fill(tmp_path / "full", "old")
    write(tmp_path / "file", "old")
    (tmp_path / "empty").mkdir()
    for name in ("full", "file"):
        with (
            pytest.raises(AnomalyVAEError, match="already there, and nothing is overwritten"),
            new_folder(tmp_path / name),
        ):
            pytest.fail("nothing to write to")
    for name in ("empty", "deep/er"):
        with new_folder(tmp_path / name) as beside:
            fill(beside, "new")
        assert (tmp_path / name / "inside.txt").read_text() == "new"


KILLED = """
import os, sys
from pathlib import Path
from anomaly_vae.core.files import new_folder, replacing, scratch_folder
with replacing(Path("s.csv")) as file, new_folder("det") as folder, scratch_folder(".") as scratch:
    for place in (folder, scratch):
        (place / "inside.txt").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_with_the_next_write_and_what_a_living_one_uses_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / ".s.csv.av1-mine.txt.bak", "of somebody else, by its name")
    kept = names(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        in_use = names(tmp_path)
        assert len(in_use) == len(kept) + 3
        monkeypatch.setattr(files, "YOUNG", -1)  # old enough to be left behind, but locked
        with replacing(tmp_path / "other.csv") as beside:
            write(beside, "new")
        assert set(in_use) < set(names(tmp_path))
        process.kill()
    with replacing(tmp_path / "other.csv") as beside:
        write(beside, "newer")
    assert names(tmp_path) == sorted([*kept, "other.csv"])


def test_a_folder_that_appeared_meanwhile_and_names_too_long_are_told(tmp_path: Path) -> None:
    def late() -> None:
        with new_folder(tmp_path / "det") as beside:
            fill(beside, "new")
            fill(tmp_path / "det", "of another")

    with pytest.raises(AnomalyVAEError, match="det: already there, and nothing is overwritten"):
        late()
    assert (tmp_path / "det" / "inside.txt").read_text() == "of another"
    for begin in (replacing, new_folder):
        with pytest.raises(AnomalyVAEError, match="the name is longer than the file system takes"), begin("x" * 300):
            pytest.fail("nothing to write to")


def test_a_device_is_no_data_and_a_pipe_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"/dev/zero: a device; expected a file, a folder or a pipe"):
        files.require_readable("/dev/zero")
    with pytest.raises(DataError, match="cannot be read"):
        files.require_readable("x" * 300)
    for place in (tmp_path, tmp_path / "pipe.csv"):
        files.require_readable(place)
