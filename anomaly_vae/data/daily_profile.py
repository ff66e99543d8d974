"""What a sensor usually does at a time of day and of week, as far as training shows it beyond chance.

A network that sees a window knows neither, and reconstructs a night's level at noon. What is usual at an hour is taken
off before it reads a step. As a condition beside the window the same knowledge costs power: the network learns the
wandering of the few days there are by heart (BENCHMARKS.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.settings import STRICT
from anomaly_vae.data.timestamps import DAY

MONDAY = 4  # days from 1970, which began on a Thursday
CYCLES, FINE = 3, 8  # cycles that training spans, and steps of a day, at least
HOURS, MOST = 24, 90  # parts of a day at most, and cycles of a test
FULL = 0.7  # share of its parts that a cycle has steps in, where it counts
DRAWS, CHANCE = 199, 0.01  # of the test, and its level
EXPLAINED = 0.1  # share of how a sensor varies within a day from which the day counts
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """days: of the cycle, 1 or 7 from Monday on. usual: B equal parts of it, each a row of F columns, what is usual
    there less the column's mean; 0 of one that does not follow the clock. offset: where in its part a row stands, 0-1;
    between rows it is linear."""

    __pydantic_config__ = STRICT
    days: int
    offset: float
    usual: tuple[tuple[float, ...], ...]

    def phase(self, local: Values) -> Values:
        """(N,) the place in the cycle, in parts, of times as a clock on the wall shows them."""
        period = self.days * DAY
        return (local + MONDAY * DAY) % period / period * len(self.usual) - self.offset

    def at(self, phase: Values, columns: slice = slice(None)) -> Values:
        """(N, F) what is usual at phases (N,), of some of the columns."""
        table, before = np.array(self.usual)[:, columns], np.floor(phase)
        row, rest = before.astype(np.intp) % len(table), (phase - before)[:, None]
        found: Values = table[row] * (1 - rest) + table[(row + 1) % len(table)] * rest
        return found


def learn(
    columns: Iterable[Values], local: Values, machines: NDArray[np.int32] | None, step: float, days: int, chosen: bool
) -> tuple[Profile | None, Values]:
    """The profile of F columns (N,), NaN where missing, and the share (F,) of how each varies within a day that it
    explains. local: (N,) times as a clock on the wall shows them. machines: (N,) of each step. step: the usual one.
    days: of the longest cycle. chosen: whatever is explained counts; else what may be chance does not.

    None where that is nothing, or there are too few cycles or steps of a day.
    """
    parts = min(HOURS, int(DAY // step))
    if not parts:
        return None, np.zeros(0)
    width = DAY / parts
    first = local.max() - MOST * 7 * DAY
    first = np.floor(max(first, local.min()) / width)  # cycles begin with the first step
    slots = np.floor(local / width).astype(np.intp) - int(first)
    count = int(slots.max()) // parts * parts + parts
    steps = np.stack([_means(x, slots, machines, count) for x in columns], axis=1)  # (count, F)
    shares = np.zeros(steps.shape[1])
    usual, longest = np.zeros((parts, len(shares))), 1
    for cycle in (1, 7):
        rows = cycle * parts
        rest = steps - np.tile(usual, (len(steps) // parts, 1))
        starts = np.arange(0, len(steps) - rows + 1, rows)
        starts = starts[[(~np.isnan(rest[start : start + rows])).any(1).mean() >= FULL for start in starts]]
        if cycle > days or len(starts) < CYCLES or (cycle == 1 and parts < FINE):
            continue
        runs = _runs(rest, starts, rows)
        share, shrink = _explained(runs)
        follows = share > (0.0 if chosen else max(_by_chance(rest, starts, rows), EXPLAINED if cycle == 1 else 0.0))
        if cycle == 1:
            shares = np.where(follows, share, 0.0)
        if follows.any():
            usual, longest = np.tile(usual, (cycle, 1)) + follows * shrink * runs.mean(0), cycle
    if not usual.any():
        return None, shares
    rows = longest * parts
    usual = np.roll(usual, (int(first) + MONDAY * parts) % rows, axis=0)
    offset = float((local / width % 1).mean())
    return Profile(longest, offset, tuple(map(tuple, usual.tolist()))), shares


def _means(x: Values, slots: NDArray[np.intp], machines: NDArray[np.int32] | None, count: int) -> Values:
    """(count,) means of the steps (N,) of each slot, each machine's own mean taken off; NaN without a step."""
    known = ~np.isnan(x) & (slots >= 0)
    x, slots = x[known], slots[known]
    if machines is not None:
        mine = machines[known]
        x = x - (np.bincount(mine, x) / np.maximum(np.bincount(mine), 1))[mine]
    counts = np.bincount(slots, minlength=count)
    means = np.bincount(slots, x - (x.mean() if len(x) else 0.0), count) / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.nan)


def _explained(runs: Values) -> tuple[Values, Values]:
    """Of cycles (D, B, F): (F,) the share of the squares of each that the mean of the others explains, and how much of
    that mean explains most, 0-1."""
    others = (runs.sum(0) - runs) / (len(runs) - 1)
    squares, size = np.square(runs).sum((0, 1)), np.square(others).sum((0, 1))
    shrink = np.clip((runs * others).sum((0, 1)) / np.where(size > 0, size, 1.0), 0.0, 1.0)
    left = np.square(runs - shrink * others).sum((0, 1))
    return np.where(squares > 0, 1 - left / np.where(squares > 0, squares, 1.0), 0.0), shrink


def _by_chance(steps: Values, starts: NDArray[np.intp], rows: int) -> float:
    """The share that the best column reaches by chance: cycles that begin up to half of one earlier or later, each by a
    time of its own, wander as sensors do, and lose what these do by the clock."""
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), MOST)).round().astype(np.intp)]
    moved = np.random.default_rng(0).integers(-(rows // 2), (rows + 1) // 2, size=(DRAWS, len(starts)))
    moved = (starts + moved).clip(0, len(steps) - rows)
    best = [_explained(_runs(steps, some, rows))[0].max() for some in moved]
    return float(np.quantile(best, 1 - CHANCE, method="higher"))


def _runs(steps: Values, starts: NDArray[np.intp], rows: int) -> Values:
    """(D, rows, F) of steps (S, F), less the mean of each run; 0 where there is no step."""
    runs = steps[starts[:, None] + np.arange(rows)]
    there = ~np.isnan(runs)
    means = np.where(there, runs, 0.0).sum(1, keepdims=True) / np.maximum(there.sum(1, keepdims=True), 1)
    found: Values = np.where(there, runs - means, 0.0)
    return found
