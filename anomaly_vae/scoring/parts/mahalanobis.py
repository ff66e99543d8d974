"""Reconstruction nats of feature positions, under the full covariance of training residuals."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, Normals, Part

RIDGE = 1e-3  # of the residuals' covariance, in units of their mean variance


class Mahalanobis(Part):
    """Half the squared Mahalanobis distance of a residual (B, C) from the mean training residual."""

    column = "recon"
    residual_mean: Tensor  # (C,)
    whiten: Tensor  # (C, C): |whiten (r - mean)|^2 is the squared Mahalanobis distance of a residual r

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("residual_mean", torch.zeros(channels))
        self.register_buffer("whiten", torch.eye(channels))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> Mahalanobis:
        return cls(shape[0])

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        x = normals.train()
        residual = x - torch.cat([batch.out.px.mean for batch in normals.batches(x)])
        self.residual_mean = residual.mean(0)
        covariance = torch.cov((residual - self.residual_mean).T.double())
        covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=x.device)
        self.whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).float()

    def nats(self, batch: Batch) -> Tensor:
        return 0.5 * ((batch.x - batch.out.px.mean - self.residual_mean) @ self.whiten.T).square().sum(1)
