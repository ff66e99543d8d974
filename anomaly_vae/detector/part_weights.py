"""What each part of a score counts, by labelled anomalies: a logistic regression that starts from the plain sum.

The log-odds that a row is an anomaly are an intercept plus the weighted nats. A weight of 1 is what theory says of a
surprise: normals thin out as exp(-nats), so if anomalies do not, the log-odds rise by 1 a nat. The prior of a weight is
N(1, 1), cut at 0: an anomaly that the sum finds already says nothing new, and moves nothing. Weights that do not rank
the anomalies better when these are left out in turn, by two standard errors, are not used, lest labels cost what the
sum finds without them: on development tables a looser rule gained more, and lost on more of them (BENCHMARKS.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.scoring.scores import DECIMALS

SPREAD = 1.0  # standard deviation of a weight's prior, whose mean is 1
SURE = 2.0  # standard errors by which left-out anomalies must gain
FOLDS = 20  # in which weights are tried on rows that did not choose them; of fewer anomalies, one each
WORTH = 20  # anomalies that more of them count as: with the most that was measured, no part takes the score over
NOT_WEIGHTED = setting("scoring.weights", "none")

Nats = NDArray[np.float64]


@dataclass(frozen=True)
class Weighing:
    """weights: of each part; None: each counts as it is. totals: (n,) nats of the rows that chose them, each by weights
    that it did not choose. note: what was decided; empty where nothing was."""

    weights: dict[str, float] | None
    totals: Nats
    note: str = ""


def choose_weights(parts: Mapping[str, Nats], anomalous: NDArray[np.bool_], marked: NDArray[np.bool_]) -> Weighing:
    """The weights that rows with parts (n,) choose, some of which are `anomalous` (n,).

    marked: (n,) normal rows that a person looked at, each of which counts as much as an anomaly; the others do
    together.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # of systems of a few numbers, in which threads would only wait for each other
        return _chosen(np.stack(list(parts.values())), list(parts), anomalous, marked)


def _chosen(stacked: Nats, names: list[str], anomalous: NDArray[np.bool_], marked: NDArray[np.bool_]) -> Weighing:
    count = int(anomalous.sum())
    plain = np.round(stacked.sum(0), DECIMALS)
    if not count or anomalous.all():
        return Weighing(None, plain)
    if count == 1:
        return Weighing(None, plain, "one labelled anomaly cannot show that weights help: each part counts 1")
    weights, normal = _fitted(stacked, anomalous, marked), ~anomalous
    usual = (weights @ stacked[:, normal]).mean()
    totals, ranks = np.empty(len(plain)), np.empty((2, len(plain)))
    for kind in (anomalous, normal):
        rows = np.flatnonzero(kind)
        for fold in range(min(FOLDS, len(rows))):
            mine = rows[fold::FOLDS]
            others = np.delete(np.arange(len(plain)), mine)
            scores = _fitted(stacked[:, others], anomalous[others], marked[others]) @ stacked
            totals[mine] = scores[mine] * (usual / max(scores[normal].mean(), 1e-12))  # on the scale of `weights`
            ranks[:, mine] = [_shares_below(total[mine], total[normal]) for total in (plain, scores)]
    before, after = ranks[:, anomalous]
    said = (
        f"{count} labelled anomalies, left out in turn, rank at AUROC {after.mean():.4f} by weighted parts,"
        f" {before.mean():.4f} by 1"
    )
    gains = after - before
    # where anomalies lie below normals, a score that is 0 for all ranks them better, and finds none
    if after.mean() <= 0.5 or gains.mean() <= SURE * gains.std(ddof=1) / math.sqrt(count):
        return Weighing(None, plain, f"{said}, which is no sure gain: each part counts 1")
    chosen = dict(zip(names, weights.tolist(), strict=True))
    listed = ", ".join(
        f"{name} {weight:g}" for (name, weight), nats in zip(chosen.items(), stacked, strict=True) if nats.any()
    )
    return Weighing(chosen, totals.round(DECIMALS), f"{said}: parts count {listed}; {NOT_WEIGHTED} leaves them 1")


def _shares_below(scores: Nats, others: Nats) -> Nats:
    """(n,) the share of others that each score is above; what equals it counts half. Their mean is the AUROC."""
    ordered = np.sort(others)
    found: Nats = (
        (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2 / len(others)
    )
    return found


def _fitted(parts: Nats, anomalous: NDArray[np.bool_], marked: NDArray[np.bool_]) -> Nats:
    """The weights, to four decimals, of parts (P, n): the most probable ones."""
    from scipy.optimize import minimize
    from scipy.special import expit

    single = anomalous | marked
    counts = np.where(single, 1.0, anomalous.sum() / max((~single).sum(), 1)) * min(1.0, WORTH / anomalous.sum())

    def loss(x: Nats) -> tuple[float, Nats]:
        weights, intercept = x[:-1], x[-1]
        odds = weights @ parts + intercept
        residual = counts * (expit(odds) - anomalous)
        nats = counts @ np.logaddexp(0, np.where(anomalous, -odds, odds))
        prior = ((weights - 1) / SPREAD) ** 2
        return nats + prior.sum() / 2, np.r_[parts @ residual + (weights - 1) / SPREAD**2, residual.sum()]

    start = np.r_[np.ones(len(parts)), -np.median(parts.sum(0))]
    bounds = [(0, None)] * len(parts) + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    weights: Nats = found.x[:-1].round(4)
    return weights
