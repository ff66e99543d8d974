"""Reconstruction nats of pictures, with a likelihood calibrated after training.

A decoder that treats pixels as independent counts one blurred stroke as hundreds of independent errors, so that
reconstruction dwarfs the KL. Neighbouring residuals are correlated: their energy behaves like that of nu independent
residuals, and nu is estimated from held-out normals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, ElementPart, Normals, residual

BLUR = 1 / 28  # sd of the blur of residuals, as a share of the shorter side: an edge misplaced by less is no anomaly


class ResidualEnergy(ElementPart):
    """-log of a scaled chi-squared density's exponential part: nu / 2 * e / mean(e) nats, e the blurred energy.

    nu = 2 mean(e)^2 / var(e) over held-out normals (Welch-Satterthwaite): the number of independent Gaussian
    residuals whose energy would vary as much.
    """

    column, from_held = "recon", ("weight",)
    rows: Tensor  # (H, H)
    columns: Tensor  # (W, W)
    weight: Tensor  # nats of one unit of energy: nu / (2 mean(e))

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        _, height, width = shape
        sd = BLUR * min(height, width)
        # a product with a banded matrix takes a tenth of the time of a convolution with one channel
        self.register_buffer("rows", blurring(height, sd), persistent=False)
        self.register_buffer("columns", blurring(width, sd), persistent=False)
        self.register_buffer("weight", torch.ones(()))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> ResidualEnergy:
        if len(shape) != 3:
            raise ConfigError("scoring.recon=energy is of pictures; scoring.recon=likelihood would work")
        return cls(shape)

    def energy(self, residual: Tensor) -> Tensor:
        """(B, C, H, W) squared residuals after a separable Gaussian blur within each channel."""
        return (self.rows @ residual @ self.columns.T).square()

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        if normals.n_held:
            held, _ = normals.held()
            self.fit_energies(torch.cat([self._energy(b).flatten(1).sum(1) for b in normals.batches(held)]))

    def fit_energies(self, energies: Tensor) -> None:
        """To the energies (N,) of held-out normals."""
        mean = energies.mean().clamp(min=1e-12)
        relative = (energies / mean).var() if len(energies) > 1 else torch.ones(())
        self.weight = 0.5 * (2 / relative.clamp(min=1e-3)) / mean

    def elements(self, batch: Batch) -> Tensor:
        return self.weight * self._energy(batch)

    def _energy(self, batch: Batch) -> Tensor:
        return self.energy(residual(batch))


def blurring(side: int, sd: float) -> Tensor:
    """(side, side) what blurs a line of `side` pixels with a Gaussian of `sd` pixels; beyond its ends is 0."""
    reach = max(1, int(3 * sd + 0.5))
    at = torch.arange(side)
    apart = at[:, None] - at  # (side, side)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sd).square())
    found: Tensor = torch.exp(-0.5 * (apart / sd).square()) / kernel.sum()
    return found.masked_fill(apart.abs() > reach, 0.0)
