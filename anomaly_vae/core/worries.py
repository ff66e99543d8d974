"""Notes that give reason to doubt a detector or its scores, by gravity, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Self

MOST = 5  # lines of worries on the terminal


class Gravity(IntEnum):
    """What a worry is about, the gravest first."""

    USELESS = 0  # the scores hardly tell anomalies from normals
    BROKEN = 1  # a promise, e.g. of few false alarms, does not hold
    UNLIKE = 2  # the data is not like that of training
    UNREAD = 3  # part of the data was not read
    UNSURE = 4  # a figure is uncertain


class Worry(str):
    """A note that is a worry. Any note that is plain text is information; both may stand in `Source.notes`."""

    gravity: Gravity

    def __new__(cls, text: str, gravity: Gravity = Gravity.UNSURE) -> Self:
        worry = super().__new__(cls, text)
        worry.gravity = gravity
        return worry


def worries(notes: Iterable[str]) -> tuple[Worry, ...]:
    """The worries among notes, the gravest first."""
    return tuple(sorted((note for note in notes if isinstance(note, Worry)), key=lambda worry: worry.gravity))


def lines(notes: Iterable[str], more: str) -> list[str]:
    """Notes as lines of the terminal: information, then the gravest worries. more: where the rest can be read."""
    notes = tuple(dict.fromkeys(notes))
    told = [f"note: {note}" for note in notes if not isinstance(note, Worry)]
    grave = worries(notes)
    shown = grave if len(grave) <= MOST else grave[: MOST - 1]
    told += [f"worry: {worry}" for worry in shown]
    if len(shown) < len(grave):
        told.append(f"worry: and {len(grave) - len(shown)} more: {more}")
    return told
