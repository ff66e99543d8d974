"""Spaces that rows of a table are compared in: what the network reads, the columns' normal scores, whitened axes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.knots import interpolated

KNOTS = 128  # values of a column at most, evenly spaced in rank, that its normal scores are kept of
BEYOND, FAR = 0.1, 20.0  # what a deviation from the mean adds to a normal score, up to so many: outside training, all
RIDGE = 0.01  # of a covariance, in units of its mean variance
MOST = 50.0  # deviations along a whitened axis


class Space(nn.Module, ABC):
    """Where a row lies. width: its number of axes. What `fit` learns is held in buffers."""

    def __init__(self, rows: RowInputs, width: int) -> None:
        super().__init__()
        self.rows, self.width = rows, width

    def fit(self, x: Tensor) -> None:
        """To scaled training rows x (N, E)."""
        return

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, width) of scaled rows x (B, E)."""


class Inputs(Space):
    """What the network reads."""

    def __init__(self, rows: RowInputs) -> None:
        super().__init__(rows, rows.inputs)

    def forward(self, x: Tensor) -> Tensor:
        inputs: Tensor = self.rows(x)
        return inputs


class Columns(Space):
    """The same, with each number once: behind the standardised numbers, a table has the asinh of each."""

    def __init__(self, rows: RowInputs) -> None:
        self.doubled = len(rows.numbers)
        self.numbers = (self.doubled + 1) // 2
        super().__init__(rows, self.numbers + rows.inputs - self.doubled)

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.rows(x)
        return torch.cat([inputs[:, : self.numbers], inputs[:, self.doubled :]], dim=1)


class NormalScores(Columns):
    """The same, with the normal score of each number in its place: the quantile of the standard normal distribution at
    its rank among training rows, ties at their middle (van der Waerden 1952). Which unit a column has, and how long its
    tails are, then makes no difference. Beyond the training values a little of the number itself keeps the order."""

    knots: Tensor  # (F, K) standardised values of each number, rising; the first is repeated where there are fewer
    scores: Tensor  # (F, K) at the knots

    def __init__(self, rows: RowInputs) -> None:
        super().__init__(rows)
        for name in ("knots", "scores"):
            self.register_buffer(name, torch.zeros(self.numbers, KNOTS, dtype=torch.float64))

    def fit(self, x: Tensor) -> None:
        for column, (knots, scores) in enumerate(map(_normal_scores, self._numbers(x).T)):
            self.knots[column], self.scores[column] = knots, scores

    def forward(self, x: Tensor) -> Tensor:
        numbers = self._numbers(x)
        there = numbers.nan_to_num().T.contiguous()  # (F, B)
        scores = interpolated(there, self.knots, self.scores) + BEYOND * there.clamp(-FAR, FAR)
        scores = torch.where(torch.isnan(numbers), 0.0, scores.T).float()
        return torch.cat([scores, self.rows(x)[:, self.doubled :]], dim=1)

    def _numbers(self, x: Tensor) -> Tensor:
        """(B, F) float64 of scaled rows x (B, E), NaN where missing."""
        return self.rows.pick(x[:, : self.rows.elements])[:, : self.numbers].double()


def _normal_scores(column: Tensor) -> tuple[Tensor, Tensor]:
    """(knots (K,), scores (K,)) of the values (N,) of a column."""
    values, counts = column[~torch.isnan(column)].unique(return_counts=True)  # rising
    if not len(values):
        return column.new_zeros(KNOTS), column.new_zeros(KNOTS)
    n = counts.sum()
    ranks = ((counts.cumsum(0) - counts / 2) / n).clamp(0.5 / n, 1 - 0.5 / n)
    if len(values) > KNOTS:
        spaced = torch.linspace(0, len(values) - 1, KNOTS, device=values.device).round().long()
        values, ranks = values[spaced], ranks[spaced]
    missing = KNOTS - len(values)
    padded = [torch.cat([kept[:1].expand(missing), kept]) for kept in (values, torch.special.ndtri(ranks))]
    return padded[0], padded[1]


class Whitened(Space):
    """Another space along axes that are uncorrelated among training rows and have variance 1: what is far from a narrow
    ridge of the data is far away."""

    centre: Tensor  # (J,)
    whiten: Tensor  # (J, J)

    def __init__(self, space: Space) -> None:
        super().__init__(space.rows, space.width)
        self.space = space
        self.register_buffer("centre", torch.zeros(self.width))
        self.register_buffer("whiten", torch.eye(self.width))

    def fit(self, x: Tensor) -> None:
        self.space.fit(x)
        place = self.space(x).double()
        offset = place - place.mean(0)
        covariance = offset.T @ offset / len(offset)
        ridge = (RIDGE * covariance.diagonal().mean()).clamp(min=1e-9)
        covariance.diagonal().add_(ridge)
        self.centre = place.mean(0).float()
        self.whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.float().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        place: Tensor = (self.space(x) - self.centre) @ self.whiten
        return place.clamp(-MOST, MOST)
