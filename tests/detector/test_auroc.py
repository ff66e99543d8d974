"""AUROC with its interval: by hand, and against the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_vae.detector.auroc import Auroc, auroc

ANOMALOUS = np.array([False, False, False, False, True, True])
SCORES = np.array([1.0, 2.0, 3.0, 5.0, 4.0, 6.0])


def area(anomalous: np.ndarray, scores: np.ndarray, window: int | None = None) -> Auroc:
    found = auroc(anomalous, scores, window)
    assert found is not None
    return found


def test_delong_by_hand() -> None:
    """The anomalies 4 and 6 are above 3/4 and 4/4 of the normals; these are below 1, 1, 1 and 1/2 of the anomalies.

    Variances about 7/8: (1/64 + 1/64) / 1 = 1/32 and (3/64 + 9/64) / 3 = 1/16, so 1/32/2 + 1/16/4 = 1/32 in all.
    """
    found = area(ANOMALOUS, SCORES)
    assert found.value == 7 / 8
    assert (found.influence**2).sum() == pytest.approx(1 / 32)
    half = 1.959964 * math.sqrt(1 / 32) / (7 / 8 * 1 / 8)
    expected = [1 / (1 + math.exp(-(math.log(7) + sign * half))) for sign in (-1, 1)]
    assert found.interval() == pytest.approx(expected, abs=1e-6)


def test_the_difference_by_hand() -> None:
    """The other scores put 4 above all: anomalies 1, 1 and normals 1, 1, 1, 1, so no variance of its own, and the
    variance of the difference is that of the first: -1/8 +- 1.96 * sqrt(1/32)."""
    other = area(ANOMALOUS, np.array([1.0, 2.0, 3.0, 3.5, 4.0, 6.0]))
    half = 1.959964 * math.sqrt(1 / 32)
    assert area(ANOMALOUS, SCORES).minus(other) == pytest.approx((-1 / 8, -1 / 8 - half, -1 / 8 + half))
    assert other.interval() == pytest.approx((math.sqrt(0.025), 1.0)), "2 pairs of 2 in order: Clopper-Pearson"
    assert area(ANOMALOUS, SCORES).minus(area(~ANOMALOUS, SCORES)) is None, "of other labels"


def test_against_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    anomalous = rng.random(300) < 0.3
    common = rng.normal(size=300)
    first, second = (np.round(common + rng.normal(size=300) + shift * anomalous, 1) for shift in (1.0, 1.6))  # ties
    mine, theirs = area(anomalous, first), area(anomalous, second)
    assert mine.value == pytest.approx(roc_auc_score(anomalous, first))
    drawn = [rng.multinomial(side.sum(), np.full(side.sum(), 1 / side.sum()), 4000) for side in (anomalous, ~anomalous)]
    boot = np.empty((4000, 2))
    for place, scores in enumerate((first, second)):
        pairs = np.sign(scores[anomalous][:, None] - scores[~anomalous]) / 2 + 0.5  # 1: in order, 1/2: a tie
        boot[:, place] = ((drawn[0] @ pairs) * drawn[1]).sum(axis=1) / pairs.size
    assert math.sqrt((mine.influence**2).sum()) == pytest.approx(boot[:, 0].std(), rel=0.05)
    difference, low, high = mine.minus(theirs)
    assert (low, high) == pytest.approx(np.quantile(boot[:, 0] - boot[:, 1], [0.025, 0.975]), abs=0.005)
    assert low < difference < high < 0


def test_steps_count_as_much_as_they_are_independent() -> None:
    """Each of 60 independent values stands for 8 steps: the interval is that of 60, not of 480."""
    rng = np.random.default_rng(1)
    anomalous = np.tile([False, True], 30)
    scores = rng.normal(size=60) + anomalous
    alone, steps = area(anomalous, scores), (np.repeat(anomalous, 8), np.repeat(scores, 8))
    assert area(*steps, 8).interval() == pytest.approx(alone.interval())
    assert area(*steps, 8).units == 30
    narrow = area(*steps).interval()
    assert narrow[0] > alone.interval()[0] + 0.05
    one = np.arange(20) > 15
    assert area(one, np.arange(20.0), 4).interval() is None, "a single event tells nothing of the next"
    assert auroc(np.zeros(3, bool), np.arange(3.0)) is None
    assert area(ANOMALOUS, np.ones(6)).interval() is None
