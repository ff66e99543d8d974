"""Nats of every part in one unit: its surprise, -log of the probability that a normal sample has at least as many.

Raw nats of different parts have different scales, and the part with the largest would decide the sum alone. The
surprise of a fresh normal sample is Exp(1) distributed, whatever the part: one nat is a factor of e in how rare it is.
The two parts of the bound are one statement, and enter the score as the mean of their surprises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly_vae.scoring.knots import interpolated
from anomaly_vae.scoring.scores import DECIMALS

KNOTS = 256  # order statistics of held-out normals at most, evenly spaced in surprise
ROWS = 20_000  # held-out normals at most that are looked at
FOLDS = 50  # parts of the held-out normals, each judged by the others
SHARE, SPREAD = 0.2, 3.0  # the tail: that share of n held-out normals, and SPREAD * sqrt(n) of them, at most
SHAPE, WEIGHT = 0.5, 10  # what the tail's shape is shrunk to, and how many held-out normals that counts as
AS_IT_IS = -1.0  # instead of the shape of a tail whose excess is a surprise already
LEAST_SHAPE = 1e-3  # of a tail: one that seems to end counts as exponential
FACTORS = {"recon": 0.5, "kl": 0.5}  # of a part's surprise in the score, where it is not 1
TIES = 5  # decimals of raw nats, below which they tie

Nats = NDArray[np.float64]


class Surprise(nn.Module):
    """From raw nats of P parts to their surprises, times a factor, which rise with them.

    Up to the `tail`'s beginning, the surprise of the r-th largest of n held-out normals is -log(r / (n + 1)), the mean
    of its conformal p-values, and linear in between; beyond, it is that of a generalised Pareto distribution (Pickands
    1975), so that order is kept however far away a sample is. Below the smallest held-out normal it is constant.
    """

    knots: Tensor  # (P, K) raw nats of held-out normals, rising; the first is repeated where there are fewer
    surprises: Tensor  # (P, K) at the knots
    tail: Tensor  # (P, 2) scale (nats) and shape of the excess over the last knot
    factor: Tensor  # (P,) what a surprise is multiplied with

    def __init__(self, n_parts: int, n_known: int = 0, factor: Sequence[float] | None = None) -> None:
        """Of so many parts, to be fitted or loaded, and so many more whose nats beyond held-out normals are -log p as
        they stand, and 0 for the most usual sample. What comes behind these is no surprise, and stays as it is. factor:
        see `factors`; None: 1 each."""
        super().__init__()
        self.n_known = n_known
        n_parts += n_known
        self.register_buffer("knots", torch.zeros(n_parts, KNOTS, dtype=torch.float64))
        self.register_buffer("surprises", torch.zeros(n_parts, KNOTS, dtype=torch.float64))
        self.register_buffer("tail", torch.ones(n_parts, 2, dtype=torch.float64))
        self.register_buffer("factor", torch.tensor([1.0] * n_parts if factor is None else factor, dtype=torch.float64))

    def fit(self, raw: Mapping[str, Nats]) -> dict[str, Nats]:
        """To raw parts (n,) of held-out normals. Returns their surprises (n,) by fits to others than themselves.

        A held-out normal that is ranked among themselves is never beyond the largest, where a fresh one may be. Judged
        by the others it is as surprising as a fresh one, and a threshold chosen by these scores keeps its promise.
        """
        stacked = self._stacked(raw)
        self.fit_nats(stacked)
        return _by_name(raw, cross_fitted(stacked, self.n_known, self.factor.tolist()))

    def parts(self, raw: Mapping[str, Nats]) -> dict[str, Nats]:
        """The surprises (N,) of raw parts (N,)."""
        return _by_name(raw, self.of(self._stacked(raw)))

    def _stacked(self, raw: Mapping[str, Nats]) -> Nats:
        return np.stack(list(raw.values())[: len(self.knots)])

    def fit_nats(self, raw: Nats) -> None:
        """To raw nats (P, n) of held-out normals."""
        some, known = raw[:, _spaced(raw.shape[1], ROWS)], len(raw) - self.n_known
        fitted = [_fitted(part, number >= known) for number, part in enumerate(some)]
        self.knots, self.surprises, self.tail = (
            torch.from_numpy(np.stack(arrays)).to(self.factor.device) for arrays in zip(*fitted, strict=True)
        )

    def forward(self, raw: Tensor) -> Tensor:
        """(P, N) surprises of raw nats (P, N), float64."""
        scale, shape = self.tail[:, :1], self.tail[:, 1:]
        excess = (raw - self.knots[:, -1:]).clamp(min=0)
        tail = torch.log1p(shape * excess / scale) / shape
        if self.n_known:
            tail = torch.where(shape == AS_IT_IS, excess, tail)
        return (interpolated(raw, self.knots, self.surprises) + tail) * self.factor[:, None]

    def of(self, raw: Nats) -> Nats:
        """The same of arrays."""
        surprises: Nats = self(torch.from_numpy(np.ascontiguousarray(raw)).to(self.knots.device)).cpu().numpy()
        return surprises

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        state_dict.setdefault(f"{prefix}factor", torch.ones_like(self.factor))  # older folders
        super()._load_from_state_dict(state_dict, prefix, *rest)


def factors(names: Iterable[str]) -> list[float]:
    """What the surprises of these parts are multiplied with."""
    return [FACTORS.get(name, 1.0) for name in names]


def cross_fitted(raw: Nats, n_known: int = 0, factor: Sequence[float] | None = None) -> Nats:
    """(P, n) surprises of raw nats (P, n) of held-out normals, each by a fit to others than itself. For the rest
    see `Surprise`."""
    n = raw.shape[1]
    fitted = _spaced(n, ROWS)
    found, other = np.empty_like(raw), Surprise(len(raw) - n_known, n_known, factor)
    folds = np.full(n, -1)  # of those that no fit would be to
    folds[fitted] = np.arange(len(fitted)) % min(FOLDS, len(fitted))
    for fold in np.unique(folds):
        other.fit_nats(raw[:, fitted[folds[fitted] != fold]])
        found[:, folds == fold] = other.of(raw[:, folds == fold])
    return found


def _by_name(raw: Mapping[str, Nats], surprises: Nats) -> dict[str, Nats]:
    found = {name: nats.round(DECIMALS) for name, nats in zip(raw, surprises, strict=False)}
    return found | {name: nats.copy() for name, nats in raw.items() if name not in found}


def _spaced(n: int, most: int) -> NDArray[np.intp]:
    """Numbers of at most so many of n samples, evenly spaced."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.intp)


def _fitted(raw: Nats, known: bool = False) -> tuple[Nats, Nats, Nats]:
    """(knots (K,), surprises (K,), tail (2,)) of raw nats (n,) of held-out normals. known: see `Surprise`."""
    values, n = np.sort(raw.round(TIES)), len(raw)
    in_tail = 1 if known else max(1, min(math.ceil(SHARE * n), math.ceil(SPREAD * math.sqrt(n))))
    rank = np.arange(n, in_tail - 1, -1)
    if len(rank) > KNOTS:
        rank = np.unique(np.geomspace(n, in_tail, KNOTS).round().astype(int))[::-1]
    knots, first = np.unique(values[n - rank], return_index=True)  # of ties the last rank, the largest probability
    surprises = -np.log(rank[first] / (n + 1))
    missing = KNOTS - len(knots)
    if known:
        surprises -= surprises[0]
        return np.pad(knots, (missing, 0), "edge"), np.pad(surprises, (missing, 0), "edge"), np.array([1.0, AS_IT_IS])
    tail = generalised_pareto(values[n - in_tail :] - knots[-1], float(knots[-1] - knots[0]))
    return np.pad(knots, (missing, 0), "edge"), np.pad(surprises, (missing, 0), "edge"), np.array(tail)


def generalised_pareto(excess: Nats, spread: float) -> tuple[float, float]:
    """(scale, shape) of excesses (m,), by Zhang & Stephens (2009) with the shape shrunk to SHAPE as by Vehtari et al.
    (2024). spread: nats over which the rest varies, for a tail of which nothing is known."""
    x = np.sort(excess[excess > 0])
    m = len(x)
    if m < 2:
        return max(float(excess.mean()), 0.1 * spread, 10.0**-TIES), SHAPE
    quarter, size = x[int(m / 4 + 0.5) - 1], 30 + int(math.sqrt(m))
    theta = 1 / x[-1] + (1 - np.sqrt(size / (np.arange(1, size + 1) - 0.5))) / (3 * quarter)
    theta = theta[theta != 0]  # (size,)
    shapes = np.log1p(-theta[:, None] * x).mean(1)
    likelihood = m * (np.log(-theta / shapes) - shapes - 1)
    weights = 1 / np.exp(np.clip(likelihood - likelihood[:, None], None, 700)).sum(1)
    mean = float((theta * weights).sum() / weights.sum())
    shape = float(np.log1p(-mean * x).mean())
    scale = -shape / mean
    return scale, max((m * shape + WEIGHT * SHAPE) / (m + WEIGHT), LEAST_SHAPE)
