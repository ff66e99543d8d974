"""What a long computation tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]  # (what, done, of how many if known)
Say = Callable[[str], None]  # a line for the user
EpochCallback = Callable[[int, int, dict[str, float]], None]  # (epoch, number of epochs, metrics)
