"""What a report shows of scored rows, kept while they stream by: counts, the worst rows, mistakes, a random sample.

Memory does not grow with the rows, but for the scores of labelled ones, whose labels are in memory too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.images.masks import ImageFiles
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.scores import Scores, join, numbered

ROWS = 100  # of a table
BYTES = 1 << 26  # of the pictures behind one table, which has fewer rows where they are large
PICTURES = 8  # of a figure
DRAWN = 20_000  # rows drawn at random, where there are more and nothing is labelled
STEPS = 4_000  # of a series that are drawn, each of more steps where there are more
MACHINES = 8  # of a series whose steps are kept; which of them is the worst is only known at the end


@dataclass(frozen=True)
class Rows:
    """Some rows: their numbers in the data (N,), what they hold, their scores with elements, and whether each is
    labelled as an anomaly (N,)."""

    numbers: NDArray[np.intp]
    chunk: Chunk
    scores: Scores
    is_anomaly: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: NDArray[np.intp]) -> Rows:
        return Rows(self.numbers[rows], self.chunk.take(rows), self.scores.take(rows), self.is_anomaly[rows])

    def joined(self, other: Rows) -> Rows:
        pairs = [(replace(rows.chunk, places=None), rows.scores) for rows in (self, other)]
        return Rows(
            np.r_[self.numbers, other.numbers],
            Chunk.join(chunk for chunk, _ in pairs),
            join(pairs),
            np.r_[self.is_anomaly, other.is_anomaly],
        )


class Smallest:
    """The rows with the smallest keys among those that were added. count: number of these."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self.rows: Rows | None = None
        self._keys = np.empty(0)

    def __len__(self) -> int:
        return 0 if self.rows is None else len(self.rows)

    def add(self, keys: NDArray[Any], rows: Rows, among: NDArray[np.bool_] | None = None) -> None:
        """Further rows with their keys (N,); among: (N,) those that are meant; None: all."""
        at = np.arange(len(keys)) if among is None else np.flatnonzero(among)
        self.count += len(at)
        at = at[np.argsort(keys[at], kind="stable")[: self.most]]
        if len(self) == self.most:
            at = at[keys[at] < self._keys[-1]]
        if not len(at):
            return
        joined = rows.take(at) if self.rows is None else self.rows.joined(rows.take(at))
        keys = np.r_[self._keys, keys[at]]
        order = np.argsort(keys, kind="stable")[: self.most]
        self._keys, self.rows = keys[order], joined.take(order)


class Steps:
    """The steps of one machine, each of STEPS points at most that of the lowest and highest of several steps."""

    def __init__(self, sensors: int) -> None:
        self._size = 1  # steps of a point
        self._low, self._high = np.empty((0, sensors + 1)), np.empty((0, sensors + 1))  # the score comes last
        self._ids, self._is_anomaly = np.empty(0, object), np.empty(0, bool)

    def add(self, ids: NDArray[Any], values: NDArray[Any], total: NDArray[Any], is_anomaly: NDArray[np.bool_]) -> None:
        """Further steps: ids (n,), values (n, C), scores (n,), whether each is labelled as an anomaly (n,)."""
        both = np.column_stack([values, total])
        new = _merged((both, both, ids.astype(object), is_anomaly), self._size)
        old = (self._low, self._high, self._ids, self._is_anomaly)
        merged = tuple(np.concatenate(pair) for pair in zip(old, new, strict=True))
        while len(merged[0]) > STEPS:
            self._size *= 2
            merged = _merged(merged, 2)
        self._low, self._high, self._ids, self._is_anomaly = merged

    @property
    def highest(self) -> float:
        return float(self._high[:, -1].max())

    def points(self) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Ids (P,), values (P, C), scores (P,), whether labelled as an anomaly (P,)."""
        if self._size == 1:
            both, twice = self._low, 1
        else:
            both, twice = np.stack([self._low, self._high], axis=1).reshape(-1, self._low.shape[1]), 2
        ids = np.array(self._ids.tolist()).repeat(twice)
        return ids, both[:, :-1], both[:, -1], self._is_anomaly.repeat(twice)

    def rename(self, ids: Callable[[NDArray[np.intp]], NDArray[Any]]) -> None:
        self._ids = ids(self._ids.astype(np.intp)).astype(object)


def _merged(points: tuple[NDArray[Any], ...], size: int) -> tuple[NDArray[Any], ...]:
    """Each `size` points as one."""
    low, high, ids, is_anomaly = points
    starts = np.arange(0, len(ids), size)
    return (np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts), ids[starts],
            np.logical_or.reduceat(is_anomaly, starts))  # fmt: skip


class ScoredRows:
    """Scored rows as they pass.

    count, alarms: numbers of rows, and of those at or above the threshold. labelled: whether it is known which are
    anomalies. worst, false_alarms (the highest first), misses (the lowest first) and usual (nearest to the median of
    held-out normals): see `Smallest`. machines: name -> `Steps` of a series, of the first machines.
    """

    def __init__(self, detector: Detector, labelled: bool, image_files: ImageFiles | None = None) -> None:
        """image_files: the files of pictures, for their masks."""
        self.detector, self.labelled, self.image_files = detector, labelled, image_files
        layout = detector.layout
        self.kind, self.names = KINDS[layout.kind], [column.name for column in layout.columns]
        self.count = self.alarms = 0
        most = ROWS
        if self.kind.pictures:
            most = max(PICTURES, min(ROWS, BYTES // (math.prod(layout.shape) + 4 * math.prod(layout.shape[1:]))))
        self.worst, self.usual = Smallest(most), Smallest(PICTURES // 2)
        self.false_alarms, self.misses = Smallest(most // 2), Smallest(most // 2)
        self.machines: dict[str, Steps] = {}
        self._median = float(np.median(detector.normal)) if len(detector.normal) else 0.0
        self._rng = np.random.default_rng(detector.config.seed)
        self._drawn: list[NDArray[np.float64]] = []  # pieces (n, 5): score, recon, kl, anomalous, key of the draw

    def watch(
        self, stream: Iterable[tuple[Chunk, Scores]], tested: NDArray[np.bool_] | None = None,
        anomalous: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[Chunk, Scores]]:  # fmt: skip
        """The stream as it is, scores with elements. tested: (N,) the rows that count; None: all. anomalous: (N,)."""
        for chunk, scores, rows in numbered(stream):
            here = np.arange(len(rows)) if tested is None else np.flatnonzero(tested[rows])
            if len(here):
                is_anomaly = np.zeros(len(here), bool) if anomalous is None else anomalous[rows[here]]
                numbers = rows if chunk.places is None else chunk.places
                self.add(Rows(numbers[here], chunk.take(here), scores.take(here), is_anomaly))
            yield chunk, scores

    def add(self, rows: Rows) -> None:
        """Further rows, those of a series in the order of each machine."""
        scores, is_anomaly = rows.scores, rows.is_anomaly
        total = scores.total
        is_alarm = total >= self.detector.threshold.value
        self.count, self.alarms = self.count + len(rows), self.alarms + int(is_alarm.sum())
        self.worst.add(-total, rows)
        if self.labelled:
            self.false_alarms.add(-total, rows, is_alarm & ~is_anomaly)
            self.misses.add(total, rows, ~is_alarm & is_anomaly)
        if self.kind.pictures:
            self.usual.add(np.abs(total - self._median), rows, ~is_anomaly)
        if self.kind.view == "curves":
            self._add_steps(rows, total)
        key = self._rng.random(len(rows))
        self._drawn.append(np.column_stack([total, scores.parts["recon"], scores.parts["kl"], is_anomaly, key]))
        if not self.labelled:
            drawn = np.concatenate(self._drawn)
            self._drawn = [drawn[np.argsort(drawn[:, 4], kind="stable")[:DRAWN]] if len(drawn) > DRAWN else drawn]

    def _add_steps(self, rows: Rows, total: NDArray[np.float64]) -> None:
        groups = np.full(len(rows), "") if rows.chunk.groups is None else rows.chunk.groups
        for name in dict.fromkeys(groups.tolist()):
            if name in self.machines or len(self.machines) < MACHINES:
                steps, at = self.machines.setdefault(name, Steps(len(self.names))), np.flatnonzero(groups == name)
                steps.add(rows.scores.ids[at], rows.chunk.values[at], total[at], rows.is_anomaly[at])

    @property
    def drawn(self) -> NDArray[np.float64]:
        """(N, 4) score, recon, kl (nats) and whether each is an anomaly: all rows, or DRAWN where none is labelled."""
        return np.concatenate(self._drawn)[:, :4]

    def rename(self, ids: Callable[[NDArray[np.intp]], NDArray[Any]]) -> None:
        """Replaces ids that are row numbers by those that a person knows; ids: reads those of row numbers (n,)."""
        kept = [kind for kind in (self.worst, self.usual, self.false_alarms, self.misses) if kind.rows is not None]
        numbers = [kind.rows.scores.ids for kind in kept if kind.rows is not None]
        wanted = np.unique(np.concatenate(numbers)).astype(np.intp)
        names = ids(wanted)
        for kind in kept:
            assert kind.rows is not None
            named = names[np.searchsorted(wanted, kind.rows.scores.ids.astype(np.intp))]
            kind.rows = replace(kind.rows, scores=replace(kind.rows.scores, ids=named))
        for steps in self.machines.values():
            steps.rename(ids)
