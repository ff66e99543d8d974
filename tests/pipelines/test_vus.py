"""VUS-PR by hand, and against a literal, slow implementation of the published definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.vus import buffered, ranges, softened, vus_pr

HALF = math.sqrt(1 / 2)  # what a label is worth one step beside a range, at width 2


def test_by_hand() -> None:
    anomalous = np.array([False, True, False, False])
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    # Widths 0 and 1 have no buffer: the anomaly is found second, where precision is 1/2.
    plain = 1 / 2
    # At width 2 steps 0 and 2 are worth HALF. The first alarm, step 0, hits HALF of (1 + 1 + HALF) / 2; the second all.
    recall = HALF / ((2 + HALF) / 2)
    soft = recall * HALF + (1 - recall) * (1 + HALF) / 2
    assert vus_pr(anomalous, scores, window=2, thresholds=4) == pytest.approx((plain + plain + soft) / 3)
    assert vus_pr(anomalous, scores, window=0, thresholds=4) == pytest.approx(plain)


def test_pieces_by_hand() -> None:
    anomalous = np.array([1, 0, 0, 0, 0, 1, 1, 0, 0, 1], bool)
    found = ranges(anomalous)
    assert found == [(0, 0), (5, 6), (9, 9)]
    assert buffered(found, 2, 10) == [(0, 1), (4, 7), (8, 9)]
    assert buffered(found, 4, 10) == [(0, 2), (3, 9)]  # 6 + 2 and 9 - 2 overlap
    assert buffered(found, 0, 10) == found
    beside = [1, HALF, 0, 0, HALF, 1, 1, HALF, HALF, 1]
    assert softened(anomalous, found, 2) == pytest.approx(np.array(beside))


def test_a_perfect_score_and_no_anomaly() -> None:
    anomalous = np.array([False] * 30 + [True] * 5 + [False] * 30)
    assert vus_pr(anomalous, softened(anomalous, ranges(anomalous), 20), window=0) == pytest.approx(1.0)
    assert math.isnan(vus_pr(np.zeros(10, bool), np.arange(10.0)))


@pytest.mark.parametrize("seed", range(6))
def test_against_the_literal_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 140))
    anomalous = np.zeros(n, bool)
    for start in rng.integers(0, n - 5, 3):
        anomalous[start : start + int(rng.integers(1, 12))] = True
    anomalous[-1] = seed % 2 == 0
    scores = np.round(rng.normal(size=n) + 1.5 * anomalous, 1)  # with ties
    assert vus_pr(anomalous, scores, window=15, thresholds=20) == pytest.approx(literal(anomalous, scores, 15, 20))


def literal(anomalous: NDArray[np.bool_], scores: NDArray[np.float64], window: int, thresholds: int) -> float:
    """Paparrizos et al. 2022, step by step and one threshold at a time."""
    n = len(scores)
    runs = []
    for t in range(n):
        if anomalous[t] and (t == 0 or not anomalous[t - 1]):
            runs.append([t, t])
        if anomalous[t]:
            runs[-1][1] = t
    ordered = sorted(scores, reverse=True)
    cuts = [ordered[int(place)] for place in np.linspace(0, n - 1, thresholds)]
    areas = []
    for width in range(window + 1):
        half = width // 2
        label = [1.0 if flag else 0.0 for flag in anomalous]
        for first, last in runs:
            for t in range(n):
                distance = first - t if t < first else t - last
                if 0 < distance <= half:
                    label[t] = min(1.0, label[t] + math.sqrt(1 - distance / width))
        events = [[first - half, last + half] for first, last in runs]
        merged = [events[0]]
        for event in events[1:]:
            if event[0] > merged[-1][1]:
                merged.append(event)
            else:
                merged[-1][1] = event[1]
        area, before = 0.0, 0.0
        for cut in cuts:
            alarm = [score >= cut for score in scores]
            hits = sum(value for value, alarmed in zip(label, alarm, strict=True) if alarmed)
            charged = sum(1.0 if anomalous[t] else label[t] * alarm[t] for t in range(n))
            recall = min(hits / ((anomalous.sum() + charged) / 2), 1)
            seen = sum(any(alarm[t] for t in range(max(first, 0), min(last, n - 1) + 1)) for first, last in merged)
            now = recall * seen / len(merged)
            area += (now - before) * hits / sum(alarm)
            before = now
        areas.append(area)
    return float(np.mean(areas))
