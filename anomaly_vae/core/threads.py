"""Threads that work beside the main one, and memory that stays with the process for the next operation to use."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T", bound=Sized)
# of glibc's malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 32 << 20  # bytes; glibc takes no larger threshold for memory of its own


def keep_memory() -> None:
    """Tells glibc's malloc to keep what is freed; elsewhere nothing.

    A step allocates and frees the same few megabytes over and over. By default glibc hands them back each time, and the
    kernel gives them out again page by page: a third of a training step on a virtual machine.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def prefetched(items: Iterable[T], rows: int = 0) -> Iterator[T]:
    """The same items, the next one being made in another thread while one is used.

    rows: of every item but the last. One that has fewer is the last, and no thread is started to find that out.
    """
    source = iter(items)
    first = next(source, None)
    if first is None:
        return
    if len(first) < rows:
        yield first
        yield from source
        return
    with ThreadPoolExecutor(1, "prefetch") as reader:
        coming = reader.submit(next, source, None)
        yield first
        while (item := coming.result()) is not None:
            coming = reader.submit(next, source, None)
            yield item


@cache
def workers() -> ThreadPoolExecutor:
    """One thread a core, each computing whole blocks alone: cores wait for each other once a chunk instead of in every
    operation, and a score's bits do not depend on how many there are."""
    import torch

    return ThreadPoolExecutor(torch.get_num_threads(), "score", lambda: torch.set_num_threads(1))
