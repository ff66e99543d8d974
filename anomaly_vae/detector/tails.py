"""How high normals will score beyond what was seen: from held-out scores that depend on each other to a threshold.

What is aimed at is the mean: over repeated calibrations on a stationary series, a normal is at or above the threshold
with the stated probability. A threshold therefore stands the higher, the less is known. Only rates from `smallest_rate`
on are promised of a single calibration.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

REACH = 5.0  # autocorrelations are summed up to so many times the time that they sum to (Sokal 1997)
FEW = 30  # independent scores below which no shape of the tail is learned
FEWEST = 4  # independent scores that are assumed at least
EXCEEDANCES = 10.0  # independent exceedances that the tail is fitted to, where there are so many
SUPPORT = 5.0  # independent exceedances expected among held-out normals below which a rate is not promised
SHAPE = (0.05, 0.15)  # mean and standard deviation of the prior of a tail's shape
LARGEST = float(np.finfo(np.float64).max)


def independent_scores(scores: NDArray[np.float64], span: int = 1) -> float:
    """How many independent scores those of N consecutive steps (N,) are worth: N over their integrated autocorrelation
    time, which is estimated on their cube roots and is no shorter than `span` steps."""
    x = np.cbrt(scores) - np.cbrt(scores).mean()
    n = len(x)
    power = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    correlation = np.fft.irfft(power, 2 * n)[:n]
    if correlation[0] <= 0:
        return 1.0
    times = 2 * np.cumsum(correlation / correlation[0]) - 1
    enough = np.arange(n) >= REACH * times
    time = times[np.argmax(enough)] if enough.any() else times[-1]
    return float(max(1.0, n / max(time, span, 1.0)))


def smallest_rate(independent: float) -> float:
    """The smallest false-alarm rate that so many independent normals keep within a factor of 2 in nine of ten
    calibrations: one that SUPPORT of them exceed on average (by simulation, `tests/detector/test_tails.py`)."""
    return min(1.0, SUPPORT / independent)


def tail_threshold(scores: NDArray[np.float64], rate: float, independent: float) -> float:
    """The value (nats, finite) that a new normal reaches with probability `rate`, on average over calibrations, from
    positive scores (N,) of held-out normals that are worth `independent` ones."""
    if np.ptp(scores) <= 1e-12 * scores.max():
        return float(np.nextafter(scores.max(), np.inf))
    if rate >= 0.5:
        return float(np.quantile(scores, 1 - rate))
    if independent < FEW:
        return _predictive_t(scores, rate, max(independent, FEWEST))
    return _predictive_pareto(scores, rate, independent)


def _predictive_t(scores: NDArray[np.float64], rate: float, n: float) -> float:
    """The upper prediction limit of a normal variable, of which n were seen: mean and variance are estimates, so its
    quantile is Student's. Cube roots of sums of squares are nearly normal, however few (Wilson and Hilferty 1931)."""
    from scipy.stats import t

    x = np.cbrt(scores)
    deviation = x.std() * math.sqrt(n / (n - 1))
    root = float(x.mean() + t.isf(max(rate, 1e-200), n - 1) * deviation * math.sqrt(1 + 1 / n))
    return float(min(root, LARGEST ** (1 / 3) * 0.99) ** 3)


def _predictive_pareto(scores: NDArray[np.float64], rate: float, n: float) -> float:
    """The quantile of the predictive distribution of a tail beyond a high score: generalised Pareto (Pickands 1975),
    averaged over the posterior of its shape and scale, in which each exceedance counts as n / N independent ones."""
    share = min(0.5, max(0.1, EXCEEDANCES / n, 2 * rate))
    start = float(np.quantile(scores, 1 - share))
    beyond = np.sort(scores[scores > start] - start)
    if not len(beyond):
        return float(np.nextafter(start, np.inf))
    share = len(beyond) / len(scores)  # less than asked for, where scores tie
    if len(beyond) > 500:
        beyond = np.quantile(beyond, (np.arange(500) + 0.5) / 500)
    mean = float(beyond.mean())
    y = beyond / mean  # in units of the mean excess
    shapes = np.linspace(-0.5, 0.8, 53)[:, None]
    shapes[np.abs(shapes) < 1e-9] = 1e-9
    scales = np.exp(np.linspace(-2.5, 2.5, 81))
    fit = np.empty((len(shapes), len(scales)))  # mean log density of the exceedances
    for row, shape in zip(fit, shapes[:, 0], strict=True):
        inside = 1 + shape * y / scales[:, None]  # (scales, exceedances)
        logs = np.log(np.maximum(inside, 1e-300))
        row[:] = np.where(inside.min(axis=1) > 0, -(1 / shape + 1) * logs.mean(axis=1) - np.log(scales), -np.inf)
    posterior = n * share * fit - 0.5 * ((shapes - SHAPE[0]) / SHAPE[1]) ** 2
    weights = np.exp(posterior - posterior.max())
    weights /= weights.sum()

    def exceeds(excess: float) -> float:
        inside = np.maximum(1 + shapes * excess / scales, 1e-300)
        return share * float((weights * np.exp(-np.log(inside) / shapes)).sum())

    low, high = 0.0, 1.0
    while exceeds(high) > rate and high * mean < LARGEST / 4:
        low, high = high, 2 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if exceeds(middle) > rate else (low, middle)
    return max(start + high * mean, float(np.nextafter(start, np.inf)))
