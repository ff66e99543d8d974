"""What the principal components of a table leave of a row."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts.base import Batch, Normals, Part
from anomaly_vae.scoring.parts.spaces import NormalScores

KEPT = 0.9  # share of the variance that the first components explain
LEAST = 1e-3  # variance of an axis that counts, in units of the mean variance


class PrincipalComponents(Part):
    """Half the squared length of a row along the minor axes of training rows, in units of their mean variance there:
    -log density under a Gaussian, up to a constant (Q of Jackson & Mudholkar 1979). In normal scores, whose Gaussian
    knows no outliers."""

    column, sized_by_fit = "pca", ("minor",)
    centre: Tensor  # (J,)
    minor: Tensor  # (J, A) the other axes, the last at least, divided by their deviation

    def __init__(self, rows: RowInputs) -> None:
        super().__init__()
        self.space = NormalScores(rows)
        self.register_buffer("centre", torch.zeros(self.space.width))
        self.register_buffer("minor", torch.zeros(self.space.width, 1))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> PrincipalComponents:
        if model.rows is None:
            raise ConfigError("scoring.parts=pca is of the rows of a table; leave it out")
        return cls(model.rows)

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        x = normals.train()
        self.space.fit(x)
        place = self.space(x).double()
        offset = place - place.mean(0)
        variances, axes = torch.linalg.eigh(offset.T @ offset / len(offset))  # rising
        left = variances.cumsum(0) <= (1 - KEPT) * variances.sum()
        count = max(1, int(left.sum()))
        unit = variances[:count].mean().clamp(min=max(LEAST * float(variances.mean()), 1e-9)).sqrt()
        self.centre, self.minor = place.mean(0).float(), (axes[:, :count] / unit).float().contiguous()

    def nats(self, batch: Batch) -> Tensor:
        left: Tensor = (self.space(batch.x) - self.centre) @ self.minor
        return 0.5 * left.square().sum(1)
