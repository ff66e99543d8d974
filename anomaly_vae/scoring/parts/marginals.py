"""How rare each element of a row is on its own: the histogram-based score of Goldstein & Dengel (2012), in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts.base import Batch, Normals, Part

NODES = 20  # of a histogram, from an element's smallest training value to its largest


class Marginals(Part):
    """Sum over a row's elements of -log of the share of training rows that have about this value, as if elements were
    independent: it finds at a glance what is rare at all, where a decoder asks what is rare given the rest.

    A number that the network reads as it is and as its asinh counts twice. A histogram is linear between its nodes (a
    frequency polygon, Scott 1985), and 0 a node's width outside training. A category has a node of its own, and a
    row that is scored counts itself. A missing cell has the mean nats of those that are not: that it is missing is of
    the part `missing`.
    """

    column = "marginals"
    low: Tensor  # (E,) the first node
    width: Tensor  # (E,) between nodes
    shares: Tensor  # (K + 2, E) of training rows at each node, at an empty one before and behind them
    missing: Tensor  # (E,) share of training rows that a missing cell counts as
    least: Tensor  # () what the row itself counts

    def __init__(self, rows: RowInputs) -> None:
        super().__init__()
        self.named, elements, nodes = rows.named, rows.elements, max((NODES, *rows.classes))
        for name, shape in (("low", ()), ("width", ()), ("shares", (nodes + 2,)), ("missing", ())):
            self.register_buffer(name, torch.ones(*shape, elements))
        self.register_buffer("least", torch.ones(()))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> Marginals:
        if model.rows is None:
            raise ConfigError("scoring.parts=marginals is of the rows of a table; leave it out")
        return cls(model.rows)

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        x = normals.train()[:, : len(self.low)]
        absent = torch.isnan(x)
        low, high = x.masked_fill(absent, math.inf).amin(0), x.masked_fill(absent, -math.inf).amax(0)
        width = ((high - low) / (NODES - 1)).clamp(min=1e-6)
        low[self.named], width[self.named] = 0.0, 1.0
        self.low, self.width, self.least = low.nan_to_num(), width.nan_to_num(1.0), x.new_tensor(1 / len(x))
        left, right_share = self._place(x.nan_to_num())
        shares = torch.zeros_like(self.shares)
        for node, share in ((left, 1 - right_share), (left + 1, right_share)):
            shares.scatter_add_(0, node, share.masked_fill(absent, 0.0))
        self.shares = shares / len(x)
        there = (~absent).sum(0).clamp(min=1)
        logs = (self._shares(x) + self.least).log().masked_fill(absent, 0.0).sum(0) / there
        self.missing = logs.exp() - self.least

    def nats(self, batch: Batch) -> Tensor:
        x = batch.x[:, : len(self.low)].contiguous()  # a sum has other bits where its numbers do not lie in a row
        shares = torch.where(torch.isnan(x), self.missing, self._shares(x))
        return -(shares + self.least).log().sum(1)

    def _shares(self, x: Tensor) -> Tensor:
        """(B, E) the share of training rows that have about each number of x (B, E); what is missing counts as 0."""
        left, right_share = self._place(x.nan_to_num())
        return self.shares.gather(0, left) * (1 - right_share) + self.shares.gather(0, left + 1) * right_share

    def _place(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The node to the left of each element of x (B, E), and how near the next one is, 0-1; (B, E) each."""
        nodes = len(self.shares)
        place = ((x - self.low) / self.width + 1).clamp(0, nodes - 1)
        left = place.floor().clamp(max=nodes - 2)
        return left.long(), place - left
