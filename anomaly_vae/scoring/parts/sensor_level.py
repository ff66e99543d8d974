"""Nats of a time step from its residuals: how large each is, and how long a sensor has stood off its reconstruction.

The decoder's sigma is its error on the rows that it was trained on. The variances here are measured after training, on
all training rows and on the held-out normals after them: a sensor that drifts gets a large variance and stops raising
alarms. Held-out steps that choose the threshold are scored for that with variances that have not seen them
(`detector.fit`).

A step's nats come late: its residual is the mean over the windows of T steps that cover it, the last of which ends
T - 1 steps later, and its nats are averaged with those of `AHEAD` later steps. An alarm is final T - 1 + AHEAD steps
after the step it is of (`Detector.delay`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, ElementPart, residual

LEVEL = 32  # trailing steps over which a sensor's mean residual is judged
SMOOTH = 8  # steps over which the reconstruction nats are averaged, t - 4 .. t + 3
AHEAD = SMOOTH - SMOOTH // 2 - 1  # later steps that a step's nats depend on
LEAST = 1e-3  # added to every residual variance, in units of the sensor's variance
PIECE = 65_536  # steps looked at together when the variances are fitted
SHARE = 0.05  # a level's variance is at least this share of the step variance
BESIDE = 0.5  # weight of the level beside a part that measures how far windows are from normal ones, levels included
TEMPER = 0.25  # of the level: its steps are not independent, and their mean is worth a quarter of its Gaussian nats


class SensorLevel(ElementPart):
    """Variances, (C,) each, of a sensor's residual and of its mean over `LEVEL` steps, in normal operation.

    Its nats are those of time steps: `LevelStream` computes both columns, recon and level, where windows are folded.
    The elements of a window are its residuals.
    """

    column, further_columns, of_steps = "recon", ("level",), True
    step: Tensor
    level: Tensor

    def __init__(self, sensors: int, weight: float = 1.0) -> None:
        """weight: of the level's nats."""
        super().__init__()
        self.weight = weight
        self.register_buffer("step", torch.ones(sensors))
        self.register_buffer("level", torch.ones(sensors))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> SensorLevel:
        if len(shape) != 2:
            raise ConfigError("scoring.recon=level is of the sensors of a series; scoring.recon=likelihood would work")
        return cls(shape[0], BESIDE if config.neighbours else 1.0)

    def elements(self, batch: Batch) -> Tensor:
        return residual(batch)

    def fit_residuals(self, residual: NDArray[np.float64], usable: NDArray[np.bool_]) -> None:
        """To residuals (N, C) of consecutive steps, of which `usable` (N,) are known as normal; read piece by piece,
        so that they may be mapped."""
        alone, gapless, any_ = _Squares(), _Squares(), _Squares()
        for first in range(0, len(residual), PIECE):
            early = max(0, first - LEVEL)  # what the means of the first steps look back on
            now = slice(first - early, None)
            steps, known = residual[early : first + PIECE], usable[early : first + PIECE]
            means = trailing_mean(torch.from_numpy(steps), LEVEL).numpy()[now]
            share = trailing_mean(torch.from_numpy(known).double()[:, None], LEVEL).numpy()[now, 0]
            whole = share > 1 - 0.5 / LEVEL
            alone.add(steps[now][known[now]])
            gapless.add(means[whole])  # no gap in the last steps
            any_.add(means[known[now]])
        step = alone.mean() + LEAST
        level = (gapless if gapless.rows else any_).mean() + SHARE * step + LEAST
        self.step, self.level = torch.from_numpy(step).float(), torch.from_numpy(level).float()

    def variances(self) -> tuple[Tensor, Tensor]:
        """(step, level), (C,) float64 each, by which `step_nats` have the level's weight."""
        return self.step.double(), self.level.double() / self.weight

    def stream(self) -> LevelStream:
        """For the steps of a group, on the CPU, where windows are folded."""
        step, level = self.variances()
        return LevelStream(step.cpu(), level.cpu())


class _Squares:
    """The mean of squares of rows (n, C) that come in pieces."""

    def __init__(self) -> None:
        self.rows, self.sum = 0, np.zeros(())

    def add(self, x: NDArray[np.float64]) -> None:
        self.rows, self.sum = self.rows + len(x), self.sum + (x**2).sum(axis=0)

    def mean(self) -> NDArray[np.float64]:
        return self.sum / self.rows


@dataclass
class LevelStream:
    """The nats of one group's steps, computed as their residuals come, and with them the elements of further parts.

    A step leaves when the steps ahead that its smoothing needs are there, or the group ends. What came before the
    group counts as residual 0.
    """

    step: Tensor  # (C,) variances, float64
    level: Tensor
    residual: NDArray[np.float64] | None = None  # (context + waiting, K * C)
    context: int = 0  # leading rows that were given out already

    def push(self, residual: NDArray[np.float64], closed: bool) -> tuple[NDArray[np.float64], ...]:
        """(recon, level, K - 1 further) nats, (n, C) each, of the next n steps that are complete, from residuals and
        elements of further parts, (m, K * C) in all."""
        held = residual if self.residual is None else np.concatenate([self.residual, residual])
        n = max(0, len(held) - self.context - (0 if closed else AHEAD))
        now = slice(self.context, self.context + n)
        found = [nats.numpy()[now] for nats in step_nats(torch.from_numpy(held), self.step, self.level)]
        keep = max(0, self.context + n - LEVEL)
        self.residual, self.context = held[keep:], self.context + n - keep
        return tuple(found)


def step_nats(elements: Tensor, step: Tensor, level: Tensor) -> tuple[Tensor, ...]:
    """(recon, level, K - 1 further) nats, (N, C) each, of consecutive steps. elements: (N, K * C), the residuals, and
    nats of further parts, which are only averaged. step, level: (C,) variances."""
    residual, *further = elements.split(len(step), 1)
    recon = centred_mean(0.5 * residual.square() / step, SMOOTH)
    stood = TEMPER * 0.5 * trailing_mean(residual, LEVEL).square() / level
    return (recon, stood, *(centred_mean(nats, SMOOTH) for nats in further))


def trailing_mean(x: Tensor, steps: int) -> Tensor:
    """(N, C) sums over the last `steps` rows divided by `steps`; rows before the first count as 0."""
    total = torch.cumsum(torch.cat([x.new_zeros(steps + 1, x.shape[1]), x]), dim=0)
    return (total[steps + 1 :] - total[1:-steps]) / steps


def centred_mean(x: Tensor, steps: int) -> Tensor:
    """(N, C) means over rows t - steps/2 .. t + steps/2 - 1, as many of them as there are."""
    n = x.shape[0]
    total = torch.cat([x.new_zeros(1, x.shape[1]), torch.cumsum(x, dim=0)])
    rows = torch.arange(n, device=x.device)
    first, last = (rows - steps // 2).clamp(min=0), (rows + (steps + 1) // 2).clamp(max=n)
    return (total[last] - total[first]) / (last - first)[:, None]
