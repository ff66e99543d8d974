"""A first look at unlabelled rows, without a model: which of them look least like the bulk."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts.distances import place, principal_axes
from anomaly_vae.scoring.parts.tails import Tails

BULK = 0.75  # share of the rows that the robust views and the second pass are fitted to
NEAREST = 0.1  # share of the rows that the distance to is taken: more than most groups of anomalies hold
REFERENCES = 2048  # rows that distances are measured to
ROUNDS = 5  # of concentration, of the robust covariance
FEW_VALUES, BINS = 30, 20  # distinct values up to which a column is counted value by value, and bins of one with more
AXES = 64  # principal axes, beside the length of the rest, that a covariance is taken of
SHRINK = 0.01  # of the mean variance that every axis has at least

Nats = NDArray[np.float64]


def suspicion(x: Tensor, rows: RowInputs, seed: int) -> Nats:
    """(N,) the sum of the surprises of five views of scaled rows x (N, E), each robust to many anomalies: the distance
    to the row that a tenth of all are nearer than, isolation (Liu et al. 2008), distances by the covariance of the
    most concentrated three quarters (as in MCD, Rousseeuw 1999), tails, and how rare each value is."""
    from sklearn.ensemble import IsolationForest

    tails = Tails(rows)
    tails.fit_rows(x)
    read = rows(x).clamp(-1e3, 1e3)
    forest = IsolationForest(random_state=seed).fit(read.numpy())
    views = [
        _far(read, seed),
        -forest.score_samples(read.numpy()),
        _concentrated(read.double()),
        tails.of_rows(x).double().numpy(),
        _rare(read.double().numpy()),
    ]
    total: Nats = np.sum([_surprise(view) for view in views], axis=0)
    return total


def bulk(suspicions: Nats, share: float = BULK) -> NDArray[np.bool_]:
    """(N,) whether each row is of the least suspicious share."""
    order, kept = np.argsort(suspicions, kind="stable"), np.zeros(len(suspicions), bool)
    kept[order[: max(2, round(share * len(order)))]] = True
    return kept


def _far(read: Tensor, seed: int) -> Nats:
    n = len(read)
    which = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:REFERENCES]
    k = min(len(which), 1 + max(1, round(NEAREST * len(which))))  # one more: a row among them is its own nearest
    pieces = [torch.cdist(some, read[which]).kthvalue(k, dim=1).values for some in read.split(1024)]
    return torch.cat(pieces).double().numpy()


def _concentrated(read: Tensor) -> Nats:
    """(N,) squared Mahalanobis distances, by rounds of which the nearer three quarters make the next (C-steps)."""
    if read.shape[1] > AXES:
        offset = read - read.mean(0)
        read = place([offset], principal_axes(offset, AXES))
    kept = torch.ones(len(read), dtype=torch.bool)
    for _ in range(ROUNDS + 1):
        some = read[kept]
        offset = some - some.mean(0)
        covariance = offset.T @ offset / max(1, len(some) - 1)
        ridge = SHRINK * covariance.diagonal().mean() + 1e-9
        variances, axes = torch.linalg.eigh(covariance)
        distance = (((read - some.mean(0)) @ axes).square() / (variances.clamp(min=0) + ridge)).sum(1)
        kept = distance <= distance.kthvalue(max(1, round(BULK * len(distance)))).values
    found: Nats = distance.numpy()
    return found


def _rare(read: Nats) -> Nats:
    """(N,) sum over columns of -log of the share of rows with the same value or, of many values, in the same bin."""
    total = np.zeros(len(read))
    for column in read.T:
        values, which, counts = np.unique(column, return_inverse=True, return_counts=True)
        if len(values) > FEW_VALUES:
            width = max(float(np.ptp(column)), 1e-12) / BINS
            which = np.minimum((column - column.min()) / width, BINS - 1).astype(np.intp)
            counts = np.bincount(which)
        total -= np.log(counts[which] / len(read))
    return total


def _surprise(view: Nats) -> Nats:
    """-log of the share of rows with at least as many."""
    larger = len(view) - np.searchsorted(np.sort(view), view, side="left")
    surprise: Nats = -np.log(larger / (len(view) + 1))
    return surprise
