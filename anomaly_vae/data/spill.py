"""Where the arrays of a fit live: in memory while they are small, else in files that are mapped.

A mapped array is an array like any other: what reads it knows no difference, and its bits are the same. Its pages are
those of a file, which the system writes out and drops as it needs, and which `release` drops after a pass, so that what
a process holds does not grow with its data even where memory is free.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from anomaly_vae.core.errors import AnomalyVAEError, DataError
from anomaly_vae.core.files import explained, replacing


@dataclass(frozen=True)
class ArrayStore:
    """limit: bytes of an array, or of a file of data, up to which it is held in memory. folder: of the files of larger
    ones; None: where the system keeps temporary files, and none of them is kept for the next fit."""

    limit: int = sys.maxsize
    folder: Path | None = None

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike, order: Literal["C", "F"] = "C") -> NDArray[Any]:
        """An array to be filled. A mapped one has a file without a name, which is gone with the array or the process.

        Raises AnomalyVAEError, in one line, where the disk is too full for it: found here, not at the first write to a
        page that has no place.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self.limit:
            return np.empty(shape, dtype, order)
        with self._unnamed() as file:
            _allocate(file.fileno(), size)
            return np.memmap(file, dtype, "r+", shape=shape, order=order)

    def kept(self, name: str, write: Callable[[IO[bytes]], None], whole: Callable[[memoryview], bool]) -> mmap.mmap:
        """The content of a file that `write` writes, mapped. With a folder it is kept there under `name`, and written
        only where it is not there yet or not `whole`; of several processes one writes and the others wait for it.

        Raises AnomalyVAEError, in one line, where it cannot be written.
        """
        if self.folder is None:
            with self._unnamed() as file:
                write(file)
                file.flush()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        path = self.folder / name
        with _told(), explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _told(), _alone(path):
            if (found := _mapped(path, whole)) is None:
                with replacing(path) as beside, open(beside, "wb") as file:
                    write(file)
                found = _mapped(path, whole)
        assert found is not None
        return found

    @contextmanager
    def _unnamed(self) -> Iterator[IO[bytes]]:
        """A new file that has no name: it needs a disk, and no folder is made for it."""
        wanted = (self.folder or Path(tempfile.gettempdir())).absolute()
        folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
        with _told(), explained(folder), tempfile.TemporaryFile(dir=folder) as file:
            yield file


IN_MEMORY = ArrayStore()  # for data that is held in memory whatever its size


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array, or what it is a view of, lives in a file."""
    return _map_of(array) is not None


def release(array: Any) -> None:
    """Lets go of the pages of a mapped array, or of an mmap, that were touched: they are read again where they are
    needed again. Does nothing to an array in memory."""
    held = _map_of(array)
    if held is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        held.madvise(mmap.MADV_DONTNEED)


def _map_of(array: Any) -> mmap.mmap | None:
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array


def _allocate(descriptor: int, size: int) -> None:
    """Gives a file its size with its place on the disk, where the system can; else without."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _mapped(path: Path, whole: Callable[[memoryview], bool]) -> mmap.mmap | None:
    """A file, mapped; None where there is none, or one that was cut short."""
    try:
        with open(path, "rb") as file:
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # ValueError: an empty file
        return None
    with memoryview(found) as content:
        return found if whole(content) else None


@contextmanager
def _told() -> Iterator[None]:
    """An error of the disk with the settings that name it and that need less of it."""
    try:
        yield
    except AnomalyVAEError as error:
        if isinstance(error, DataError):  # of what was read
            raise
        raise AnomalyVAEError(f"{error} (tracking.folder), or hold more in memory (data.memory)") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process of this machine is within it for the same path."""
    import fcntl

    with explained(path), open(path.with_name(f".{path.name}.lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
