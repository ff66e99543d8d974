"""Types of the functions that a long computation calls to report its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]  # (name of the work, number done, total or None if unknown)
Say = Callable[[str], None]  # (a line for the user)
EpochCallback = Callable[[int, int, dict[str, float]], None]  # (epoch, number of epochs, metrics)
