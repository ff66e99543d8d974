"""The area under the ROC curve with its uncertainty, and that of the difference of two detectors on the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of the intervals


def share_interval(count: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a share of which `count` of `of`, at least one, were seen (Clopper & Pearson 1934)."""
    from scipy.stats import beta

    outside = (1 - level) / 2
    low = 0.0 if count == 0 else float(beta.ppf(outside, count, of - count + 1))
    high = 1.0 if count == of else float(beta.ppf(1 - outside, count + 1, of - count))
    return low, high


@dataclass(frozen=True)
class Auroc:
    """An AUROC. influence: (K,) how far each independent unit, a row or a block of steps, moved it: the squares add up
    to its variance. units: number of them with anomalies, or with normals, whichever are fewer. anomalous: (N,)."""

    value: float
    anomalous: NDArray[np.bool_] = field(repr=False)
    influence: NDArray[np.float64] = field(repr=False)
    units: int

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, by DeLong's variance on the logit scale, which keeps it within 0 and 1.

        Where the classes do not overlap the variance is 0: there that of as many pairs as can be formed without using a
        row twice, each in the right order. None where either class is a single unit, and where all scores are equal.
        """
        if self.value in (0.0, 1.0) and self.units > 1:
            return share_interval(round(self.value * self.units), self.units)
        if self.units < 2 or not self.influence.any():
            return None
        middle = math.log(self.value / (1 - self.value))
        half = _half(self.influence) / (self.value * (1 - self.value))
        return 1 / (1 + math.exp(half - middle)), 1 / (1 + math.exp(-half - middle))

    def minus(self, other: Auroc) -> tuple[float, float, float] | None:
        """The difference from that of another detector on the same rows, and its 95 % interval (paired DeLong); None
        where either class is a single unit, and where the labels or the windows of the two differ."""
        same = np.array_equal(self.anomalous, other.anomalous) and self.influence.shape == other.influence.shape
        if self.units < 2 or not same:
            return None
        difference, half = self.value - other.value, _half(self.influence - other.influence)
        return difference, difference - half, difference + half


def _half(influence: NDArray[np.float64]) -> float:
    """Half the width of a 95 % interval."""
    from scipy.special import ndtri

    return float(ndtri((1 + LEVEL) / 2) * math.sqrt(float((influence**2).sum())))


def auroc(anomalous: NDArray[np.bool_], scores: NDArray[np.float64], window: int | None = None) -> Auroc | None:
    """The AUROC of scores (N,), anomalous (N,); None where a class is missing. window: steps, of a series.

    Variance: DeLong et al. 1988, by midranks (Sun & Xu 2014). Steps of a series are not independent: a labelled stretch
    of anomalies is one unit, and so are `window` normal steps that follow each other (Obuchowski 1997).
    """
    from scipy.stats import rankdata

    if anomalous.all() or not anomalous.any():
        return None
    ranks, placement, influence = rankdata(scores), np.empty(len(scores)), np.empty(len(scores))
    units = np.arange(len(scores)) if window is None else _units(anomalous, window)
    counts = []
    for here in (anomalous, ~anomalous):  # the share of the other class that each row is above
        placement[here] = (ranks[here] - rankdata(scores[here])) / (~here).sum()
    placement[~anomalous] = 1 - placement[~anomalous]  # that it is below
    value = float(placement[anomalous].mean())
    for here in (anomalous, ~anomalous):
        counts.append(len(np.unique(units[here])))
        correction = math.sqrt(counts[-1] / max(1, counts[-1] - 1))
        influence[here] = (placement[here] - value) / here.sum() * correction
    return Auroc(value, anomalous, np.bincount(units, influence).astype(np.float64), min(counts))


def _units(anomalous: NDArray[np.bool_], window: int) -> NDArray[np.intp]:
    """(N,) the number of the unit that each step is in: one of a labelled stretch, or of `window` normal steps."""
    starts = np.r_[True, anomalous[1:] != anomalous[:-1]]
    since = np.arange(len(anomalous)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
    units: NDArray[np.intp] = np.cumsum(starts | (~anomalous & (since % window == 0))) - 1
    return units
