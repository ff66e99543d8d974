"""What reconstruction leaves of the steps of a series: the level part is fitted to it, and what that part says of steps
that it has not seen is computed from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.datasets import segment_starts
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.spill import release
from anomaly_vae.scoring.parts.sensor_level import PIECE, SensorLevel
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import DECIMALS, Scores


@dataclass(frozen=True)
class StepResiduals:
    """What reconstruction leaves of every step of a series, machine after machine.

    values: (N, C) mean residual over the windows that cover a step, scaled units. order: (N,) row number of each.
    machines: (N,) the number of each step's machine. first: (N,) whether a segment begins there: a machine, or what
    follows a gap in time.
    """

    values: NDArray[np.float64]
    order: NDArray[np.intp]
    machines: NDArray[np.int32]
    first: NDArray[np.bool_]

    def fit(self, level: SensorLevel, known: NDArray[np.intp]) -> None:
        """Fits the level part to the rows in `known`, which are normal, with a break between segments."""
        usable = np.isin(self.order, known)
        if self.first[1:].any():
            usable &= ~self.first
        level.fit_residuals(self.values, usable)

    def cross_scores(
        self, level: SensorLevel, train: NDArray[np.intp], normals: NDArray[np.intp], scores: Scores
    ) -> NDArray[np.float64]:
        """(n,) the scores of the held-out normals (row numbers) as those of steps that `level` has not seen: each half
        in time of a machine's is scored by a level fitted to the training rows and the other half. scores: of the
        normals, by the level that has seen all."""
        place = np.empty(int(self.order.max()) + 1, np.intp)  # of a row number in `order`
        place[self.order] = np.arange(len(self.order))
        machine = self.machines[place[normals]]
        counts = np.bincount(machine)
        rank = np.empty(len(normals), np.intp)
        by_machine = np.argsort(machine, kind="stable")
        rank[by_machine] = np.arange(len(normals)) - np.repeat(np.cumsum(counts) - counts, counts)
        early = rank < counts[machine] / 2
        nats = np.empty((2, len(normals)))
        for half in (early, ~early):
            other = SensorLevel(self.values.shape[1], level.weight)
            self.fit(other, np.r_[train, normals[~half]])
            nats[:, half] = self._nats(other)[:, place[normals[half]]]
        parts = dict(zip((level.column, *level.further_columns), np.round(nats, DECIMALS), strict=True))
        return replace(scores, parts=scores.parts | parts).total

    def _nats(self, level: SensorLevel) -> NDArray[np.float64]:
        """(2, N) recon and level of every step, in the order of `values`."""
        found = np.empty((2, len(self.values)))
        starts = np.flatnonzero(self.first)
        for start, end in zip(starts, np.r_[starts[1:], len(self.values)], strict=True):
            stream, done = level.stream(), start
            for here in range(start, end, PIECE):
                stop = min(here + PIECE, end)
                for row, nats in zip(found, stream.push(self.values[here:stop], stop == end), strict=True):
                    row[done : done + len(nats)] = nats.sum(axis=1)
                done += len(nats)
                release(self.values)
        return found


def step_residuals(scorer: Scorer, data: LoadedData, rows: NDArray[np.intp]) -> StepResiduals:
    """Of some rows of a series, which are in order."""
    machines = np.zeros(len(rows), np.int32) if data.groups is None else data.groups[rows]
    by_machine = np.argsort(machines, kind="stable")
    place = np.empty_like(by_machine)
    place[by_machine] = np.arange(len(rows))
    values = data.store.empty((len(rows), len(scorer.scaler.column)), np.float64)
    first = 0
    for piece in scorer.residuals(chunk for _, chunk in data.pieces(rows)):
        values[place[first : first + len(piece)]] = piece
        first += len(piece)
        release(values)
    machines = machines[by_machine]
    after_gap = None if data.after_gap is None else data.after_gap[rows][by_machine]
    assert scorer.window
    starts = segment_starts(machines, after_gap, len(rows), scorer.window)
    return StepResiduals(values, rows[by_machine], machines, starts)
