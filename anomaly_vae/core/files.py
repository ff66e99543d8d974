"""Atomic writing of files and folders: written under a temporary name, then renamed.

A temporary name holds the process, which keeps it locked while it lives; whoever writes next to what a killed process
left behind removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from anomaly_vae.core.errors import AnomalyVAEError, DataError, UsageError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]

SCORES = (".csv", ".parquet", ".json")  # suffixes of score tables
REPORTS = (".html", ".htm")
GRAPHS = {".onnx": "onnx", ".pt2": "torch"}  # suffix of an exported detector -> its format
TAKEN = "already there, and nothing is overwritten; name a new folder"
TEMPORARY = re.compile(r"\..*\.av(\d+)-\w+(\.\w+)?")
YOUNG = 60  # seconds within which a temporary name may not be locked yet by its process, where that process lives


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; it is renamed to `path` on success and removed on failure.

    Raises AnomalyVAEError, in one line, if the folder is missing or read-only, or the disk is full.
    """
    path = Path(path)
    with explained(path):
        if path.is_dir():
            raise AnomalyVAEError(f"{path}: is a folder; name a file to write to")
        with _temporary(path, is_folder=False) as beside:
            yield beside
            os.chmod(beside, stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
            os.replace(beside, path)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder, which is renamed to `path` on success and removed on failure.

    Raises AnomalyVAEError unless `path` does not exist or is an empty folder.
    """
    path = Path(path)
    require_free(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path, is_folder=True) as beside:
            yield beside
            os.chmod(beside, 0o777 & ~_umask())
            os.replace(beside, path)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Gives the path of a folder to create; on success that folder replaces the folder `path`."""
    path = Path(path)
    with explained(path), _temporary(path, is_folder=True) as work:
        yield work / "new"
        os.replace(path, work / "old")
        try:
            os.replace(work / "new", path)
        except OSError:
            os.replace(work / "old", path)
            raise


@contextmanager
def scratch_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """Gives a folder that is deleted after the context. parent: where; None: where the system keeps temporary files."""
    place = Path(parent or tempfile.gettempdir()) / "anomaly-vae"
    with ExitStack() as stack:
        with explained(place.parent):  # not what fails inside, which is about other files
            folder = stack.enter_context(_temporary(place, is_folder=True))
        yield folder


@contextmanager
def _temporary(path: Path, is_folder: bool) -> Iterator[Path]:
    """Gives a new temporary file or folder beside `path`, which is removed at the end if it is still there."""
    folder, prefix = path.absolute().parent, f".{path.name[:40]}.av{os.getpid()}-"
    _remove_left_behind(folder)
    if is_folder:
        beside = Path(tempfile.mkdtemp(dir=folder, prefix=prefix))
    else:
        descriptor, name = tempfile.mkstemp(path.suffix[:20], prefix, folder)
        os.close(descriptor)
        beside = Path(name)
    lock = locked(beside)
    try:
        yield beside
    finally:
        _remove(beside)
        if lock is not None:
            os.close(lock)


def _remove_left_behind(folder: Path) -> None:
    """Removes what killed processes left in a folder: by its name, its process and its lock."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = TEMPORARY.fullmatch(entry.name)
            if match is None or int(match[1]) == os.getpid():
                continue
            from psutil import pid_exists

            with suppress(OSError):
                young = time.time() - entry.stat(follow_symlinks=False).st_mtime < YOUNG
                if not (pid_exists(int(match[1])) and (young or fcntl is None)):
                    _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    lock = locked(path)
    if lock is not None or fcntl is None:
        _remove(path)
    if lock is not None:
        os.close(lock)


def locked(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder until it is closed, as the end of its process does; None if
    another process holds it, it cannot be opened, or this system has no locks."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def make_folder(path: str | Path) -> None:
    """Creates the folder `path` if it does not exist. Raises AnomalyVAEError, in one line, if that fails."""
    path = Path(path)
    with explained(path):
        if path.exists() and not path.is_dir():
            raise AnomalyVAEError(f"{path}: is a file; name a folder")
        path.mkdir(parents=True, exist_ok=True)


def require_free(path: str | Path) -> None:
    """Raises AnomalyVAEError unless `path` can become a new folder. Check this before hours of training."""
    path = Path(path)
    with explained(path):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise AnomalyVAEError(f"{path}: {TAKEN}")
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


def require_apart(data: str | None, *outputs: str | None) -> None:
    """Raises UsageError where a file to be written is the data that is read, or another file to be written."""
    named = [(path, os.path.realpath(path)) for path in (None if data == "-" else data, *outputs) if path]
    for place, (path, real) in enumerate(named):
        if real in [other for _, other in named[:place]]:
            what = "the data, which would be overwritten" if data and real == os.path.realpath(data) else "named twice"
            raise UsageError(f"{path}: {what}; name another file to write")


def require_readable(path: str | Path) -> None:
    """Raises DataError for what does not exist, cannot be looked at, or is a device, which may never end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise DataError(f"{path}: a device; expected a file, a folder or a pipe")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
            errno.ENAMETOOLONG: "the name is longer than the file system takes; choose a shorter one",
            errno.ENOTEMPTY: TAKEN,
            errno.EEXIST: TAKEN,
        }.get(error.errno or 0, error.strerror or str(error))
        raise AnomalyVAEError(f"{path}: {hint}") from error
