"""How much each sensor changes from step to step: a stuck one too little, a noisy one and a spike too much.

Reconstruction does not ask: a sensor that stands still at a usual value is reconstructed well, and noise that doubles
stays within what the noise of training made usual.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, Normals, StepPart

SAMPLE = 4096  # windows of each kind that it is fitted to
BLOCK = 8  # steps of the shorter of the two lengths, and half of the longer; longer blocks blur where a fault ends
RARE = 0.01  # share of normal blocks beyond each of the two ends
END = 2.33  # that share's quantile of a standard normal variable
FREE = 2.6  # deviation up to which a block has no nats, in standard deviations
STRAIGHT = 4.0  # deviation beyond FREE from which nats rise linearly
FLOOR, LEAST = 1e-4, 1e-6  # added to a mean square: a share of the usual one, and squared scaled units
# How far below and above its median the log mean square of k differences of white noise has its quantiles of RARE, in
# units of 1 / sqrt(k): ends that lie closer count as so far.
CHANCE = (5.0, 3.5)


class Variation(StepPart):
    """Of each sensor, and each block of steps of two lengths, how far the log of its mean squared difference lies from
    the median of normal ones, in standard deviations z on either side, measured to the quantiles of RARE: a block has
    the nats (z - FREE)^2 / 2, linear from STRAIGHT on, and most normal ones none.

    local: a block that changes too much gives its nats to the steps that do (`shares`), so that a spike is told
    where it is; one that changes too little has as many in each.

    Missing values have no difference; a block without any has no nats.
    """

    column = "variation"
    floor: Tensor  # (C, 1) added to the mean squares of either length
    ends: Tensor  # (2, 3, C, 1) of either length: low quantile, median, high quantile

    def __init__(self, sensors: int, window: int, local: bool = True) -> None:
        super().__init__()
        self.local = local
        # where blocks of a length do not fill the window, it takes their place
        self.lengths = (window if window % BLOCK else BLOCK, window if window % (2 * BLOCK) else 2 * BLOCK)
        self.register_buffer("floor", torch.ones(sensors, 1))
        self.register_buffer("ends", torch.zeros(2, 3, sensors, 1))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> Variation:
        if len(shape) != 2:
            raise ConfigError("scoring.parts=variation is of the sensors of a series; leave it out")
        return cls(*shape, bool(config.local))

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        """To the blocks of training and held-out windows."""
        x = torch.cat([_some(normals.train()), _some(normals.held()[0])])[:, : len(self.floor)]  # no condition
        for number, length in enumerate(self.lengths):
            squares = _mean(self._squares(x, length)).transpose(0, 1).flatten(1)  # (C, n)
            if not number:
                self.floor = FLOOR * squares.nanmedian(1, keepdim=True).values.nan_to_num() + LEAST
            logs = (squares + self.floor).log()
            low, middle, high = _quantiles(logs, (RARE, 0.5, 1 - RARE))
            below, above = (chance / max(1, length - 1) ** 0.5 for chance in CHANCE)
            self.ends[number] = torch.stack(
                [torch.minimum(low, middle - below), middle, torch.maximum(high, middle + above)]
            )

    def elements(self, batch: Batch) -> Tensor:
        x = batch.x[:, : len(self.floor)]
        found = torch.zeros_like(x)
        for number, length in enumerate(self.lengths[: len(set(self.lengths))]):
            low, middle, high = self.ends[number]
            blocks = self._squares(x, length)
            mean = _mean(blocks)
            logs = (mean + self.floor).log()  # (B, C, blocks)
            below, above = (middle - logs) / (middle - low), (logs - middle) / (high - middle)
            excess = (END * torch.maximum(below, above) - FREE).clamp(min=0)
            nats = torch.where(excess < STRAIGHT, excess.square() / 2, STRAIGHT * (excess - STRAIGHT / 2))
            by_step = nats.nan_to_num(0.0)[..., None].expand(-1, -1, -1, length)
            if self.local:
                by_step = torch.where((above > below)[..., None], by_step * shares(blocks), by_step)
            found = found + by_step.flatten(2)
        return found

    @staticmethod
    def _squares(x: Tensor, length: int) -> Tensor:
        """(B, C, T / length, length) squared differences of the steps of each block to the ones before them; NaN where
        there is none, as for the first step of a window."""
        squares = torch.nn.functional.pad((x[:, :, 1:] - x[:, :, :-1]).square(), (1, 0), value=torch.nan)
        blocks: Tensor = squares.unflatten(2, (-1, length))
        return blocks


def _mean(squares: Tensor) -> Tensor:
    """(B, C, blocks) means of those that there are."""
    there = ~torch.isnan(squares)
    mean: Tensor = torch.where(there, squares, 0.0).sum(3) / there.sum(3)
    return mean


def shares(squares: Tensor) -> Tensor:
    """What each of L steps has of nats that they share, in units of an equal part, (..., L): the more, the larger its
    square (..., L), NaN where it has none, is beside their mean, but steps far above it have all the same. So a spike
    has nearly all of it, and each step of a fault that lasts has its part."""
    squares = squares.nan_to_num()
    weight: Tensor = squares / (squares + squares.mean(-1, keepdim=True))
    weight = weight.nan_to_num(1.0)  # 0 / 0: all are 0
    share: Tensor = weight / weight.mean(-1, keepdim=True)
    return share


def _some(x: Tensor) -> Tensor:
    """At most SAMPLE windows, evenly spaced: they overlap, and more would say the same again."""
    return x[:: max(1, len(x) // SAMPLE)]


def _quantiles(x: Tensor, shares: tuple[float, ...]) -> Iterator[Tensor]:
    """(C, 1) each: quantiles of the rows of x (C, n), NaN apart; 0 where there is nothing."""
    ranked = x.nan_to_num(torch.inf).sort(1).values
    last = (~x.isnan()).sum(1, keepdim=True) - 1
    for share in shares:
        yield torch.where(last < 0, 0.0, ranked.gather(1, (last.clamp(min=0) * share).round().long()))
