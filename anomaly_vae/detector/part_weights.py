"""What each part of a score counts, by labelled anomalies: a logistic regression that starts from the plain sum.

The log-odds that a row is an anomaly are an intercept plus the weighted nats. A weight of 1 is what theory says of a
surprise: normals thin out as exp(-nats), so if anomalies do not, the log-odds rise by 1 a nat. The prior of a weight is
N(1, 1), cut at 0: one anomaly that the sum finds already says nothing new, and moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.scoring.scores import DECIMALS, weighted

SPREAD = 1.0  # standard deviation of a weight's prior, whose mean is 1
FOLDS = 20  # in which weights are tried on rows that did not choose them; of fewer anomalies, one each
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
    together. Where weights do not rank the rows better that did not choose them, each part counts as it is.
    """
    from sklearn.metrics import roc_auc_score

    stacked, count = np.stack(list(parts.values())), int(anomalous.sum())
    plain = np.round(np.sum(list(parts.values()), axis=0), DECIMALS)
    if not count or anomalous.all():
        return Weighing(None, plain)
    if count == 1:
        return Weighing(None, plain, "one labelled anomaly cannot show that weights help: each part counts as it is")
    folds = np.empty(len(plain), np.intp)
    for rows in (np.flatnonzero(anomalous), np.flatnonzero(~anomalous)):
        folds[rows] = np.arange(len(rows)) % min(FOLDS, count)
    totals = np.empty(len(plain))
    for fold in range(min(FOLDS, count)):
        others, mine = folds != fold, folds == fold
        weights = dict(zip(parts, _fitted(stacked[:, others], anomalous[others], marked[others]), strict=True))
        mine_parts = weighted({name: nats[mine] for name, nats in parts.items()}, weights)
        totals[mine] = np.round(np.sum(list(mine_parts.values()), axis=0), DECIMALS)
    before, after = (float(roc_auc_score(anomalous, scores)) for scores in (plain, totals))
    ranked = f"{count} labelled anomalies, left out in turn, rank at AUROC {after:.4f} by weighted parts, {before:.4f}"
    if after <= before:
        return Weighing(None, plain, f"{ranked} without: each part counts as it is")
    chosen = dict(zip(parts, _fitted(stacked, anomalous, marked), strict=True))
    listed = ", ".join(f"{name} {weight:g}" for name, weight in chosen.items() if parts[name].any())
    return Weighing(
        chosen, totals, f"parts count by their labels: {listed} ({ranked} without); {NOT_WEIGHTED} does not"
    )


def _fitted(parts: Nats, anomalous: NDArray[np.bool_], marked: NDArray[np.bool_]) -> list[float]:
    """The weights, to four decimals, of parts (P, n): the most probable ones."""
    from scipy.optimize import minimize
    from scipy.special import expit

    single = anomalous | marked
    counts = np.where(single, 1.0, anomalous.sum() / max((~single).sum(), 1))

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
    return [round(float(weight), 4) for weight in found.x[:-1]]
