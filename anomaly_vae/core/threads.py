"""Worker threads, and settings of the process that save work: malloc's, and those of Python's garbage collection."""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T", bound=Sized)
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # constants of glibc's malloc.h
LARGEST = 32 << 20  # bytes; the largest value that glibc accepts for MMAP_THRESHOLD


def keep_memory() -> None:
    """Makes glibc's malloc keep freed memory; does nothing with other C libraries.

    Every training step allocates and frees the same few megabytes. By default glibc returns them to the kernel each
    time, which then supplies them again page by page: a third of the time of a step on a virtual machine.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def collect_rarely() -> None:
    """Makes Python look for reference cycles once in 50,000 new objects instead of 700, and not at its exit.

    Importing torch and MLflow makes a million objects, all of which stay; looking through them was a fifth of the CPU
    time of the imports. What has no cycle is still freed at once.
    """
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)


def prefetched(items: Iterable[T], rows: int = 0) -> Iterator[T]:
    """The same items; while the caller uses one, another thread makes the next.

    rows: the number of rows of every item but the last, if known. If the first item has fewer, it is the last one, and
    no thread is started.
    """
    iterator = iter(items)
    first = next(iterator, None)
    if first is None:
        return
    if len(first) < rows:
        yield first
        yield from iterator
        return
    with ThreadPoolExecutor(1, "prefetch") as reader:
        future = reader.submit(next, iterator, None)
        yield first
        while (item := future.result()) is not None:
            future = reader.submit(next, iterator, None)
            yield item


@cache
def workers() -> ThreadPoolExecutor:
    """One thread for each core; each computes complete blocks with a single thread of torch.

    The cores synchronise once for each chunk instead of in every operation, and the bits of a score do not depend on
    their number.
    """
    import torch

    return ThreadPoolExecutor(torch.get_num_threads(), "score", lambda: torch.set_num_threads(1))
