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
    events = ranges(anomalous)
    cuts = -np.sort(-scores)[np.linspace(0, len(scores) - 1, thresholds).astype(int)]
    alarms = scores[None, :] >= cuts[:, None]  # (thresholds, N)
    weights = alarms.astype(np.float32)
    none = np.zeros((thresholds, 1), np.int32)
    alarm_counts = np.concatenate([none, np.cumsum(alarms, axis=1, dtype=np.int32)], axis=1)  # (thresholds, N + 1)
    total, positives = alarm_counts[:, -1], int(anomalous.sum())
    areas = []
    for width in range(window + 1):
        labels = softened(anomalous, events, width)
        hits = weights @ labels.astype(np.float32)
        beside = weights @ np.where(anomalous, 0, labels).astype(np.float32)  # buffer steps count only where alarmed
        recall = np.minimum(hits / ((positives + positives + beside) / 2), 1)
        widened = buffered(events, width, len(scores))
        existence = sum((alarm_counts[:, last + 1] > alarm_counts[:, first]).astype(float) for first, last in widened)
        rates = np.concatenate([[0.0], recall * existence / len(widened)])
        areas.append(float(np.diff(rates) @ (hits / total)))
    return float(np.mean(areas))


def ranges(anomalous: NDArray[np.bool_]) -> Ranges:
    """The ranges of consecutive anomalous steps."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], anomalous.astype(int), [0]])))
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def buffered(events: Ranges, width: int, n: int) -> Ranges:
    """The ranges, extended by half of `width` on both sides and joined where they touch."""
    half, joined = width // 2, []
    first = max(events[0][0] - half, 0)
    for (_, last), (following, _) in itertools.pairwise(events):
        if last + half < following - half:
            joined.append((first, last + half))
            first = following - half
    return [*joined, (first, min(events[-1][1] + half, n - 1))]


def softened(anomalous: NDArray[np.bool_], events: Ranges, width: int) -> NDArray[np.float64]:
    """Labels in 0-1, (N,), that fall as sqrt(1 - distance / width) over half of `width` beside each range."""
    labels = anomalous.astype(float)
    for first, last in events if width else []:
        after = np.arange(last + 1, min(last + width // 2 + 1, len(labels)))
        labels[after] += np.sqrt(1 - (after - last) / width)
        before = np.arange(max(first - width // 2, 0), first)
        labels[before] += np.sqrt(1 - (first - before) / width)
    return np.asarray(np.minimum(labels, 1))
