"""VUS-PR: the volume under the surface of precision, recall and buffer width, for anomalies that are ranges of time.

J. Paparrizos, P. Boniol, T. Palpanas, R. Tsay, A. Elmore, M. Franklin: "Volume Under the Surface: A New Accuracy
Evaluation Measure for Time-Series Anomaly Detection", PVLDB 15(11), 2022. This computes what the published code of
TSB-AD 1.5 (Apache-2.0, TheDatumOrg/TSB-AD, `basic_metricor.RangeAUC_volume_opt`) does, with its defaults of windows up
to 100 steps and 250 thresholds, all thresholds at once.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Ranges = list[tuple[int, int]]  # first and last step of each


def vus_pr(
    anomalous: NDArray[np.bool_], scores: NDArray[np.float64], window: int = 100, thresholds: int = 250
) -> float:
    """The mean over buffer widths 0 .. `window` of the range-AUC-PR; NaN where nothing is anomalous."""
    anomalous = np.asarray(anomalous, bool)
    if not anomalous.any():
        return float("nan")
    found = ranges(anomalous)
    cuts = -np.sort(-scores)[np.linspace(0, len(scores) - 1, thresholds).astype(int)]
    alarms = scores[None, :] >= cuts[:, None]  # (thresholds, N)
    weights = alarms.astype(np.float32)
    counted = np.concatenate([np.zeros((thresholds, 1), np.int32), np.cumsum(alarms, axis=1, dtype=np.int32)], axis=1)
    total, positives = counted[:, -1], int(anomalous.sum())
    areas = []
    for width in range(window + 1):
        soft = softened(anomalous, found, width)
        hits = weights @ soft.astype(np.float32)
        beside = weights @ np.where(anomalous, 0, soft).astype(np.float32)  # buffer steps count only where alarmed
        recall = np.minimum(hits / ((positives + positives + beside) / 2), 1)
        events = buffered(found, width, len(scores))
        existence = sum((counted[:, last + 1] > counted[:, first]).astype(float) for first, last in events)
        rates = np.concatenate([[0.0], recall * existence / len(events)])
        areas.append(float(np.diff(rates) @ (hits / total)))
    return float(np.mean(areas))


def ranges(anomalous: NDArray[np.bool_]) -> Ranges:
    """The runs of anomalous steps."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], anomalous.astype(int), [0]])))
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def buffered(found: Ranges, width: int, n: int) -> Ranges:
    """The ranges with half a width on both sides, joined where they touch."""
    half, joined = width // 2, []
    first = max(found[0][0] - half, 0)
    for (_, last), (following, _) in itertools.pairwise(found):
        if last + half < following - half:
            joined.append((first, last + half))
            first = following - half
    return [*joined, (first, min(found[-1][1] + half, n - 1))]


def softened(anomalous: NDArray[np.bool_], found: Ranges, width: int) -> NDArray[np.float64]:
    """(N,) labels in 0-1 that fall off as sqrt(1 - distance / width) over half a width beside each range."""
    soft = anomalous.astype(float)
    for first, last in found if width else []:
        after = np.arange(last + 1, min(last + width // 2 + 1, len(soft)))
        soft[after] += np.sqrt(1 - (after - last) / width)
        before = np.arange(max(first - width // 2, 0), first)
        soft[before] += np.sqrt(1 - (first - before) / width)
    return np.asarray(np.minimum(soft, 1))
