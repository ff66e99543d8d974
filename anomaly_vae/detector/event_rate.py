"""The threshold of a series at which so many events a day are found among its held-out normal steps."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import EventsConfig
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.detector.tails import SUPPORT

JUMP = 1 << 32  # steps that a jump in time counts as, so that no event goes on over it


@dataclass(frozen=True)
class HeldOutSteps:
    """scores: (n,) nats of held-out normal steps, in order of time, group after group. positions: (n,) rising numbers
    that differ by the steps between two, and by JUMP between groups, or where time jumps."""

    scores: NDArray[np.float64]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, data: LoadedData, rows: NDArray[np.intp], scores: NDArray[np.float64]) -> HeldOutSteps:
        """scores: (n,) of some of the rows of a series."""
        order = np.arange(len(data)) if data.groups is None else np.argsort(data.groups, kind="stable")
        starts = np.zeros(len(data), bool) if data.after_gap is None else data.after_gap[order]
        if data.groups is not None:
            starts[1:] |= np.diff(data.groups[order]) != 0
        place = np.empty(len(data), np.int64)
        place[order] = np.arange(len(data)) + JUMP * np.cumsum(starts)
        in_time = np.argsort(place[rows])
        return cls(scores[in_time], place[rows][in_time])

    def edge(self, events: int, rules: EventsConfig) -> float:
        """The highest score such that the steps at or above it are so many events; the lowest, if none is."""
        root = np.arange(len(self.scores))  # of each alarm another of its event, at last the one that stands for it
        size, active, count = np.zeros(len(root), np.intp), list[int](), 0

        def find(i: int) -> int:
            while root[i] != i:
                root[i] = i = int(root[root[i]])
            return i

        order = np.argsort(-self.scores, kind="stable")
        for rank, i in enumerate(order.tolist()):
            at, size[i] = bisect_left(active, i), 1
            count += rules.shortest == 1
            for other in active[max(0, at - 1) : at + 1]:  # the alarms beside it
                if abs(self.positions[other] - self.positions[i]) <= rules.gap + 1:
                    a, b = find(other), find(i)
                    if a == b:  # the two beside it are of one event
                        continue
                    both = size[a] + size[b]
                    count += int(both >= rules.shortest) - sum(int(size[x] >= rules.shortest) for x in (a, b))
                    root[b], size[a] = a, both
            active.insert(at, i)
            is_last = rank + 1 == len(order) or self.scores[order[rank + 1]] < self.scores[i]
            if is_last and count >= events:
                return float(self.scores[i])
        return float(self.scores[order[-1]])


def require_clock(per_day: float | None) -> float:
    """The steps a day. Raises DataError where they are not known."""
    if per_day is None:
        raise DataError(
            "threshold policy events=RATE is events a day, and this data has no times in regular steps; name its time"
            " column with data.time, or use tail=RATE, a share of the steps"
        )
    return per_day


def event_threshold(
    rate: float, steps: HeldOutSteps | None, per_day: float | None, rules: EventsConfig
) -> tuple[float, float, str]:
    """(threshold in nats, the events a day that it promises, note) so that on average at most `rate` events a day are
    found in normal data.

    It stands just above the k-th highest event of D held-out days, k = rate * D: events of normal data are a Poisson
    process, and the rate beyond its k-th is k / D on average over calibrations. Raises DataError without a clock, and
    for a detector that kept no steps in order.
    """
    per_day = require_clock(per_day)
    if steps is None:
        raise DataError(
            f"threshold policy events={rate:g} needs held-out steps in their order, which this detector does not keep:"
            " an older version saved it; fit again, or use tail=RATE"
        )
    days = len(steps.scores) / per_day
    allowed, note = math.floor(rate * days + 1e-9), ""
    if allowed == 0:
        note = (
            f"{days:.3g} days of held-out normal steps support no fewer than {1 / days:.2g} events a day; asked for"
            f" {rate:g}, the threshold stands just above their highest score, and how many events a day it lets through"
            " is not known; longer data, or tail=RATE, which extrapolates, would work"
        )
        allowed, rate = 1, 1 / days
    elif allowed < SUPPORT:
        note = (
            f"{days:.3g} days of held-out normal steps hold {allowed} event{'s' if allowed > 1 else ''} at that rate:"
            f" below {SUPPORT / days:.2g} a day it is promised on average, not within a factor of 2"
        )
    return float(np.nextafter(steps.edge(allowed, rules), np.inf)), rate, note
