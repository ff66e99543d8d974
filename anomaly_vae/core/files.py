"""Atomic writing of files and folders: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from anomaly_vae.core.errors import AnomalyVAEError, UsageError

SCORES = (".csv", ".parquet", ".json")  # suffixes of score tables
GRAPHS = {".onnx": "onnx", ".pt2": "torch"}  # suffix of an exported detector -> its format


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; it is renamed to `path` on success and removed on failure.

    Raises AnomalyVAEError, in one line, if the folder is missing or read-only, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise AnomalyVAEError(f"{path}: is a folder; name a file to write to")
    with explained(path):
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix, delete=False
        ) as f:
            beside = Path(f.name)
        try:
            yield beside
            os.chmod(beside, stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder, which is renamed to `path` on success and removed on failure.

    Raises AnomalyVAEError unless `path` does not exist or is an empty folder.
    """
    path = Path(path)
    require_free(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield beside
            os.chmod(beside, 0o777 & ~_umask())
            os.replace(beside, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Gives the path of a folder to create; on success that folder replaces the folder `path`."""
    path = Path(path)
    with explained(path):
        work = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
        try:
            yield work / "new"
            os.replace(path, work / "old")
            try:
                os.replace(work / "new", path)
            except OSError:
                os.replace(work / "old", path)
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)


def make_folder(path: str | Path) -> None:
    """Creates the folder `path` if it does not exist. Raises AnomalyVAEError, in one line, if that fails."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise AnomalyVAEError(f"{path}: is a file; name a folder")
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


def require_free(path: str | Path) -> None:
    """Raises AnomalyVAEError unless `path` can become a new folder. Check this before hours of training."""
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise AnomalyVAEError(f"{path}: already there, and nothing is overwritten; name a new folder")
    parent = next(p for p in (path, *path.absolute().parents) if p.is_dir())
    if not os.access(parent, os.W_OK):
        raise AnomalyVAEError(f"{parent}: no permission to write here; name another folder")


def require_ending(path: str | Path, endings: Collection[str], otherwise: str = "") -> str:
    """The suffix of a file name, in lower case. Raises UsageError if it is not one of `endings`.

    otherwise: what else would work, for the message. Check this early, before slow imports.
    """
    ending = Path(path).suffix.lower()
    if ending not in endings:
        choices = ", ".join(endings)
        raise UsageError(f"{path}: cannot tell the format from this name; end it in {choices}{otherwise}")
    return ending


def graph_format(path: str | Path) -> str:
    """The format of an exported detector, onnx or torch, from its suffix. Raises UsageError for another suffix."""
    return GRAPHS[require_ending(path, GRAPHS, ", or give --format")]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises an OSError about `path` as an AnomalyVAEError, in one line that says what would work."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: "the disk is full; free some space or name a place on another disk",
            errno.EDQUOT: "the disk quota is used up; name a place on another disk",
            errno.EROFS: "the file system is read-only; name another place",
            errno.EACCES: "no permission to write here; name another place",
            errno.EPERM: "no permission to write here; name another place",
            errno.ENOENT: "its folder does not exist; create it first",
        }.get(error.errno or 0, error.strerror or str(error))
        raise AnomalyVAEError(f"{path}: {hint}") from error
