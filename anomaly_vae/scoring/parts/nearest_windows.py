"""How far the last steps of each sensor are from anything that it did in training: a memory of its normal windows.

A network that reconstructs well reconstructs some of what never was. Distance alone tells a window that resembles none
of training, and short patterns repeat, so a few hundred windows of a sensor are enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, Normals, StepPart
from anomaly_vae.scoring.parts.sensor_level import LEAST

USUAL = 0.5  # nats of a usual step, before they are taken off


class NearestWindows(StepPart):
    """Of each sensor, half the squared difference to its nearest training window, in units of what it is on average in
    held-out normal windows, as far as it is beyond that average, 1/2. The steps of each half of a window share.

    Without the average most normal steps have next to nothing. A constant in every score would make their tail look
    shorter than it is, and a threshold that is extrapolated from few of them too low. A missing value counts as the
    sensor's mean where windows are compared, and has no difference.
    """

    column, sized_by_fit = "neighbours", ("references",)
    references: Tensor  # (C, R, T) scaled windows
    unit: Tensor  # (C, 1) mean squared difference of held-out steps

    def __init__(self, sensors: int, window: int, most: int) -> None:
        super().__init__()
        self.most = most
        self.register_buffer("references", torch.zeros(sensors, 1, window))
        self.register_buffer("unit", torch.ones(sensors, 1))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> NearestWindows:
        if len(shape) != 2:
            raise ConfigError("scoring.parts=windows is of the sensors of a series; leave it out")
        return cls(*shape, config.neighbours or 1)

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        """To the windows of training, so many of them evenly spaced in time, and to held-out ones."""
        train = normals.train()
        some = torch.linspace(0, len(train) - 1, min(self.most, len(train)), dtype=torch.float64).round().long()
        self.references = self._sensors(train[some.to(train.device)]).transpose(0, 1).contiguous()
        total = torch.zeros(len(self.unit), dtype=torch.float64, device=train.device)
        steps = torch.zeros_like(total)
        for x in normals.held()[0].split(normals.size):
            total += self._squared(x).sum((0, 2), dtype=torch.float64)
            steps += (~torch.isnan(x[:, : len(total)])).sum((0, 2))
        self.unit = (total / steps.clamp(min=1) + LEAST).float()[:, None]

    def elements(self, batch: Batch) -> Tensor:
        nats: Tensor = USUAL * self._squared(batch.x) / self.unit  # (B, C, T)
        halves = nats.unflatten(2, (1 if nats.shape[2] % 2 else 2, -1))
        beyond: Tensor = (halves.mean(3, keepdim=True) - USUAL).clamp(min=0)
        return beyond.expand_as(halves).flatten(2)

    def _sensors(self, x: Tensor) -> Tensor:
        """(B, C, T) without the condition and without NaN."""
        return x[:, : len(self.references)].nan_to_num()

    def _squared(self, x: Tensor) -> Tensor:
        """(B, C, T) squared differences of samples x to the nearest reference of each sensor; 0 where x is missing."""
        missing, x = torch.isnan(x[:, : len(self.references)]), self._sensors(x)
        squares = self.references.square().sum(2)[:, None]  # (C, 1, R)
        far = torch.baddbmm(squares, x.transpose(0, 1), self.references.transpose(1, 2), alpha=-2)  # (C, B, R)
        place = far.argmin(2)[:, :, None].expand(-1, -1, x.shape[2])  # (C, B, T)
        return (x - self.references.gather(1, place).transpose(0, 1)).square().masked_fill(missing, 0.0)
