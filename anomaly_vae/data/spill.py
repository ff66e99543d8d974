"""Storage of the arrays of a fit: in memory up to a limit, in memory-mapped files above it.

A mapped array has the same values and is used like any other. Its pages belong to a file: the system writes them out
and drops them when it needs memory, and `release` drops them after each pass, so that the resident memory of a process
does not grow with its data.
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
    """Where arrays and tables are stored.

    limit: the largest size in bytes that is held in memory, of an array or of a file of data. folder: where larger ones
    are written; None: where the system keeps temporary files, and nothing is kept for the next fit.
    """

    limit: int = sys.maxsize
    folder: Path | None = None

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike, order: Literal["C", "F"] = "C") -> NDArray[Any]:
        """An uninitialised array. The file of a mapped one has no name and is deleted with the array or the process.

        Raises AnomalyVAEError, in one line, if the disk is too full. The space is allocated here, because a later write
        to a page without space would kill the process.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self.limit:
            return np.empty(shape, dtype, order)
        with self._unnamed() as file:
            _allocate(file.fileno(), size)
            return np.memmap(file, dtype, "r+", shape=shape, order=order)

    def kept(
        self, name: str, write: Callable[[IO[bytes]], None], is_complete: Callable[[memoryview], bool]
    ) -> mmap.mmap:
        """The content that `write` writes to a file, mapped.

        With a folder, the file is kept there as `name` and written only if it does not exist or is not complete. If
        several processes ask for the same file, one writes it and the others wait.
        Raises AnomalyVAEError, in one line, if it cannot be written.
        """
        from filelock import FileLock

        if self.folder is None:
            with self._unnamed() as file:
                write(file)
                file.flush()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        path = self.folder / name
        with _settings_named(), explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if (content := _mapped(path, is_complete)) is None:
                    with replacing(path) as beside, open(beside, "wb") as file:
                        write(file)
                    content = _mapped(path, is_complete)
        assert content is not None
        return content

    @contextmanager
    def _unnamed(self) -> Iterator[IO[bytes]]:
        """A new file without a name, on the disk of `folder`, which need not exist."""
        wanted = (self.folder or Path(tempfile.gettempdir())).absolute()
        folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
        with _settings_named(), explained(folder), tempfile.TemporaryFile(dir=folder) as file:
            yield file


IN_MEMORY = ArrayStore()  # holds everything in memory


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array, or the array that it is a view of, is mapped from a file."""
    return _map_of(array) is not None


def release(array: Any) -> None:
    """Drops the pages of a mapped array, or of an mmap, from memory; later accesses read them again. Does nothing to an
    array in memory."""
    mapping = _map_of(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):  # Windows has none
        mapping.madvise(mmap.MADV_DONTNEED)


def _map_of(array: Any) -> mmap.mmap | None:
    """The mmap behind an array; None for an array in memory."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array


def _allocate(descriptor: int, size: int) -> None:
    """Sets the size of a file, and allocates its space on the disk if the system supports that."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _mapped(path: Path, is_complete: Callable[[memoryview], bool]) -> mmap.mmap | None:
    """The content of a file, mapped; None if the file does not exist or is not complete."""
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # ValueError: an empty file
        return None
    with memoryview(content) as view:
        return content if is_complete(view) else None


@contextmanager
def _settings_named() -> Iterator[None]:
    """Adds to an error of the disk the settings that choose the folder and the memory limit."""
    try:
        yield
    except AnomalyVAEError as error:
        if isinstance(error, DataError):  # an error of the data that was read
            raise
        raise AnomalyVAEError(f"{error} (tracking.folder), or hold more in memory (data.memory)") from error
