"""Memory that is freed stays with the process, for the next operation to use."""

from __future__ import annotations

import ctypes
import sys

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
