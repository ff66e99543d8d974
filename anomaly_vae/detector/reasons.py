"""Why a sample has its score: the columns or sensors that make it, with the value each has and the one that is usual.

Of a row, each reason is an experiment: a column is given the value of training that suits the rest of the row best,
and the row is scored again. What the score loses are the nats of that column, whatever part of the score they are of;
the next column is sought in the row so mended. Reasons and the score of the mended row therefore add up to the score.
Steps of a series are read in windows, and pixels are many: there the nats are those that each has in the score's parts
above what it has on average in normal samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.trained_rows import RowHasher
from anomaly_vae.scoring.parts import DISTANCES, PARTS
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores

NORMAL, TYPICAL = (
    0.95,
    0.5,
)  # shares of held-out normals whose scores are usual; of whose scores shares are counted from
QUANTILES = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98)  # of a column's training values that are tried
COMMON = (0.05, 0.95)  # quantiles between which a value is called usual
NINE_IN_TEN = 1.645  # deviations about the mean that hold as many of a Gaussian
NEXT = 3  # columns that are tried with all values: so many by their median, and by their nats of reconstruction
LEAST, AT_LEAST = 0.01, 3  # nats of a reason; reasons that are sought, however few are asked for
WIDE = 64  # columns that are tried with their median
MEASURED = {PARTS[name][0] for name in DISTANCES}  # columns of the score
SLAB = 8192  # rows that are scored at once


@dataclass(frozen=True)
class Reasons:
    """The K largest reasons of N samples. columns: (N, K) positions, -1 where there is no further reason. nats, shares:
    (N, K) of the score, and their share of the nats above that of a typical normal sample. suiting: (N, K) the value
    with which a row is least anomalous, as `Chunk.values` has it; NaN for a missing one and where none was sought."""

    columns: NDArray[np.intp]
    nats: NDArray[np.float64]
    shares: NDArray[np.float64]
    suiting: NDArray[np.float64]

    @classmethod
    def none(cls, n: int, most: int) -> Reasons:
        columns = np.full((n, most), -1, np.intp)
        return cls(columns, np.zeros((n, most)), np.zeros((n, most)), np.full((n, most), np.nan))

    def first(self, most: int) -> Reasons:
        """At most so many, by their nats: the column that is mended first has few where another one hides it."""
        order = np.argsort(-self.nats, axis=1, kind="stable")[:, :most]
        return Reasons(*(np.take_along_axis(getattr(self, field.name), order, axis=1) for field in fields(self)))

    def put(self, rows: NDArray[np.intp], found: Reasons) -> None:
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(found, field.name)


def reasons(detector: Detector, chunk: Chunk, scores: Scores, most: int, flagged: NDArray[np.bool_]) -> Reasons:
    """Of samples and their scores, made with `explain`. flagged: (N,) which are alarms.

    A sample has reasons if it is flagged, or scores above 19 in 20 held-out normals; and as many until the rest of
    its score is usual in this sense.
    """
    usual, typical = np.quantile(detector.normal, (NORMAL, TYPICAL))
    found = Reasons.none(len(chunk), most)
    rows = np.flatnonzero((flagged | (scores.total > usual)) & (scores.total > typical))
    if not len(rows):
        return found
    if KINDS[detector.layout.kind].view != "rows":
        found.put(rows, _excess(detector, scores.take(rows), most))
        return found
    some = Trials(detector).reasons(chunk.take(rows), scores.total[rows], max(most, AT_LEAST), usual).first(most)
    above = scores.total[rows, None] - typical
    left = (above - np.cumsum(some.nats, axis=1) + some.nats) / above  # before each reason
    found.put(rows, replace(some, shares=np.minimum(some.nats / above, left.clip(0))))
    return found


def _excess(detector: Detector, scores: Scores, most: int) -> Reasons:
    """By the nats that each element has above its usual ones."""
    assert scores.elements is not None
    columns, shares = detector.contributions(scores, most)
    excess = (scores.elements - detector.normal_mean).reshape(len(scores), -1).astype(np.float64)
    nats = np.take_along_axis(excess, columns, axis=1)
    found, there = Reasons.none(len(scores), most), slice(columns.shape[1])
    found.columns[:, there], found.nats[:, there] = np.where(nats > 0, columns, -1), nats.clip(0)
    found.shares[:, there] = shares
    return found


class Trials:
    """Rows with other values in single columns, and their scores."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.scorer = Scorer(detector.score_model, detector.scaler, detector.layout, None)
        by_name = {reference.name: reference for reference in detector.references}
        self.sorted: list[NDArray[np.float64]] = []  # of a number, values of training rows
        self.tried: list[NDArray[np.float64]] = []  # values of each column, the first the most usual one
        for column in detector.layout.columns:
            reference = by_name[column.name]
            if column.constant is not None:
                values = np.array([column.constant if column.categories != () else np.nan])
            elif column.categories is not None:
                values = np.argsort(-np.array(reference.counts[:-1]), kind="stable")[: len(QUANTILES)].astype(float)
            else:
                x = reference.values
                values = x[np.unique(np.round(np.array(QUANTILES) * (len(x) - 1)).astype(int))] if len(x) else x
                values = np.roll(values, -(len(values) // 2))
            if reference.missing and column.constant is None:
                values = np.r_[values, np.nan]
            self.sorted.append(reference.values)
            self.tried.append(values)

    def reasons(self, chunk: Chunk, scores: NDArray[np.float64], most: int, usual: float) -> Reasons:
        """Of rows and their scores (N,), without shares: until what is left of the score is at most `usual`."""
        found, values = Reasons.none(len(chunk), most), chunk.values.copy()
        rows = np.arange(len(chunk))
        trained_on = self._trained_on(chunk)
        total = self._score(chunk, values, rows, trained_on)[0]
        scores = scores.copy()
        for rank in range(min(most, values.shape[1])):
            totals, suiting = self.best(chunk, values, rows, trained_on)
            for done in found.columns[rows, :rank].T:
                totals[np.arange(len(rows)), done] = np.inf
            columns = totals.argmin(axis=1)
            nats = total[rows] - totals.min(axis=1)
            ok = np.flatnonzero(nats >= LEAST)
            rows, columns = rows[ok], columns[ok]
            found.columns[rows, rank], found.nats[rows, rank] = columns, nats[ok]
            found.suiting[rows, rank] = values[rows, columns] = suiting[ok, columns]
            total[rows] -= nats[ok]
            scores[rows] -= nats[ok]
            rows = rows[scores[rows] > usual]
            if not len(rows):
                break
        return found

    def alone(self, chunk: Chunk) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N, F) each: the nats that rows lose if one column is mended, -inf where none was tried, and with which
        value."""
        rows, trained_on = np.arange(len(chunk)), self._trained_on(chunk)
        totals, suiting = self.best(chunk, chunk.values, rows, trained_on)
        return self._score(chunk, chunk.values, rows, trained_on)[0][:, None] - totals, suiting

    def _trained_on(self, chunk: Chunk) -> NDArray[np.bool_]:
        """(N,) which rows the detector was trained on. Such a row is its own neighbour, whatever is altered in it: the
        parts that measure distances to training rows do not count there."""
        known = self.detector.trained_rows
        if known is None:
            return np.zeros(len(chunk), bool)
        hasher = RowHasher(self.detector.layout)
        hasher.add(chunk)
        return known.contains(hasher.hashes())

    def best(
        self, chunk: Chunk, values: NDArray[np.float64], rows: NDArray[np.intp], trained_on: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of some rows (n,) of the values (N, F), which need not be those of the chunk: the scores (n, F) with the most
        suiting value in each column, infinite where none was tried, and these values."""
        n, width = len(rows), values.shape[1]
        totals, suiting = np.full((n, width), np.inf), np.full((n, width), np.nan)

        def attempt(at: NDArray[np.intp], columns: NDArray[np.intp], tried: Sequence[NDArray[np.float64]]) -> None:
            counts = [len(values) for values in tried]
            at, columns = np.repeat(at, counts), np.repeat(columns, counts)
            cells = np.concatenate([np.empty(0), *tried])
            for first in range(0, len(at), SLAB):
                a, c, v = (x[first : first + SLAB] for x in (at, columns, cells))
                altered = values[rows[a]]
                altered[np.arange(len(a)), c] = v
                scored, _ = self._score(chunk, altered, rows[a], trained_on)
                order = np.argsort(-scored, kind="stable")  # of several values of a cell the best is written last
                a, c, v, scored = a[order], c[order], v[order], scored[order]
                better = scored < totals[a, c]
                totals[a[better], c[better]], suiting[a[better], c[better]] = scored[better], v[better]

        _, elements = self._score(chunk, values[rows], rows, trained_on, True)
        assert elements is not None
        excess = np.full((n, width), np.inf)  # columns that are watched come first
        excess[:, : elements.shape[1]] = elements - self.detector.normal_mean
        by_excess = _ranks(-excess)
        at, columns = np.nonzero(by_excess < WIDE)
        attempt(at, columns, [self.tried[column][:1] for column in columns])
        at, columns = np.nonzero((_ranks(totals) < NEXT) | (by_excess < NEXT))
        attempt(at, columns, [self.tried[column][1:] for column in columns])
        at, columns = np.arange(n), totals.argmin(axis=1)
        beside = [self._beside(c, v) for c, v in zip(columns, suiting[at, columns], strict=True)]
        attempt(at, columns, beside)
        return totals, suiting

    def _beside(self, column: int, value: float) -> NDArray[np.float64]:
        """Training values between a value that was tried and its neighbours among these."""
        x, tried = self.sorted[column], np.sort(self.tried[column])
        if np.isnan(value) or not len(x):
            return np.empty(0)
        place = int(np.searchsorted(tried, value))  # missing ones come last
        low, high = tried[max(0, place - 1)], tried[min(int((~np.isnan(tried)).sum()) - 1, place + 1)]
        first, last = np.searchsorted(x, low), np.searchsorted(x, high, "right") - 1
        return np.unique(x[np.linspace(first, last, len(QUANTILES)).round().astype(int)])

    def _score(
        self, chunk: Chunk, values: NDArray[np.float64], rows: NDArray[np.intp], trained_on: NDArray[np.bool_],
        explain: bool = False,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:  # fmt: skip
        """(n,) scores, and elements, of rows of the chunk with these values (n, F). trained_on: (N,) of the chunk."""
        condition = None if chunk.condition is None else chunk.condition[rows]
        scores = self.scorer.samples(Chunk(chunk.ids[rows], values, condition=condition), explain)
        distances = np.sum([np.zeros(len(rows)), *(v for name, v in scores.parts.items() if name in MEASURED)], axis=0)
        return scores.total - distances * trained_on[rows], scores.elements


class Words:
    """Cells and what is usual in their columns, for a person to read."""

    def __init__(self, detector: Detector) -> None:
        self.layout = detector.layout
        self.names = [column.name for column in self.layout.columns] or list(self.layout.pixels)
        self.by_name = {reference.name: reference for reference in detector.references}
        self.differences = {element.column for element in detector.scaler.elements if element.how == "difference"}
        self.profile = detector.scaler.profile
        self.sensors = {element.column: element for element in detector.scaler.elements}

    def value(self, column: int, value: float) -> float | str:
        """What a cell holds: a number in the units of the file, or the name of a category."""
        if np.isnan(value):
            return "missing"
        if not self.layout.columns:
            return float(value * self.layout.pixel_max / 255)
        categories = self.layout.columns[column].categories
        if categories is None:
            return float(value)
        return categories[int(value)] if value < len(categories) else "a new category"

    def usual(self, column: int, chunk: Chunk, row: int, suiting: float = np.nan, known: bool = False) -> str:
        """Where a value is unusual by itself, the usual ones: nine in ten training values of a number, of a sensor that
        follows the clock at this time; the three most frequent categories. Where it is not, the one that suits the rest
        of the row best, if it is `known`."""
        if not self.layout.columns:
            return ""
        about, reference = self.layout.columns[column], self.by_name[self.names[column]]
        value = float(chunk.values[row, column])
        if about.constant is not None:
            return self.text(column, about.constant if about.categories != () else np.nan)
        is_usual = False
        if reference.categories:
            order = np.argsort(-np.array(reference.counts[:-1]), kind="stable")[:3]
            text = ", ".join(reference.categories[place] for place in order)
            is_usual = value < len(reference.categories)
        elif self._follows_clock(column):
            assert self.profile is not None and chunk.condition is not None
            sensor, phase = self.sensors[column], chunk.condition[row : row + 1, -1]
            middle = sensor.shift + float(self.profile.at(phase, slice(column, column + 1))[0, 0])
            reach = NINE_IN_TEN * sensor.scale
            return f"{middle - reach:.4g} to {middle + reach:.4g} at this time"
        elif len(reference.values):
            low, high = np.quantile(reference.values, COMMON)
            text = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
            text = f"changes by {text} a step" if column in self.differences else text
            is_usual = low <= value <= high
        else:
            text = "missing"
        return f"{self.text(column, suiting, 4)} in such {KINDS[self.layout.kind].noun}" if known and is_usual else text

    def _follows_clock(self, column: int) -> bool:
        follows = self.profile is not None and any(part[column] for part in self.profile.usual)
        return follows and column not in self.differences

    def text(self, column: int, value: float, digits: int = 12) -> str:
        cell = self.value(column, value)
        return cell if isinstance(cell, str) else f"{cell:.{digits}g}"


def reason_columns(detector: Detector, chunk: Chunk, found: Reasons) -> dict[str, Any]:
    """Of each reason five columns of a table of scores: its name, value, usual value, nats and share; None, and NaN of
    numbers, where there is none."""
    words, by_trial = Words(detector), KINDS[detector.layout.kind].view == "rows"
    values = chunk.values.reshape(len(chunk), -1)
    table: dict[str, Any] = {}
    for rank, (columns, suiting) in enumerate(zip(found.columns.T, found.suiting.T, strict=True)):
        texts = np.full((3, len(chunk)), None, object)
        for row in np.flatnonzero(columns >= 0):
            column, value = int(columns[row]), float(values[row, columns[row]])
            usual = words.usual(column, chunk, int(row), suiting[row], by_trial)
            texts[:, row] = words.names[column], words.text(column, value), usual
        top = f"top{rank + 1}"
        table |= dict(zip((top, f"{top}_value", f"{top}_usual"), texts, strict=True))
        for name, numbers in (("nats", found.nats), ("share", found.shares)):
            table[f"{top}_{name}"] = np.where(columns >= 0, numbers[:, rank].round(4), np.nan)
    return table


def _ranks(x: NDArray[np.float64]) -> NDArray[np.intp]:
    """(N, F) the rank of each element in its row, from 0 for the smallest."""
    ranks: NDArray[np.intp] = np.argsort(np.argsort(x, axis=1, kind="stable"), axis=1, kind="stable")
    return ranks
