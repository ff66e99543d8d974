"""Changes to training samples before the network reads them: noise, small affine changes, binarisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_vae.core import distributed
from anomaly_vae.core.config import Config
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import VAE
from anomaly_vae.models.likelihoods import binarised


def corrupted(x: Tensor, model: VAE, config: Config, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(target, input): x (B, *shape), pictures moved a little, and the same with noise on its numbers.

    Moving pictures teaches the model to reconstruct slight turns and shifts, which are irrelevant to normality. Noise
    on the input alone (denoising VAE, Im 2017) keeps the model from copying what it was not trained on.
    """
    settings, condition = config.training, x[:, x.shape[1] - model.n_condition :]  # which is neither moved nor noisy
    x = x[:, : x.shape[1] - model.n_condition]
    if settings.jitter and x.dim() == 4:
        x = moved(x, settings.jitter, generator)
    if settings.binarise:
        x = binarised(x, generator)
    if not settings.noise:
        whole = torch.cat([x, condition], dim=1) if model.n_condition else x
        return whole, whole
    noise = settings.noise * scale * distributed.normal(x.shape, generator)
    numbers = None if model.rows is None else model.rows.continuous
    read = x + (noise if numbers is None else noise * numbers)
    return (torch.cat([x, condition], 1), torch.cat([read, condition], 1)) if model.n_condition else (x, read)


def moved(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Pictures x (B, C, H, W), each under its own affine map: at strength 1 up to 10 degrees of rotation, 10 % of scale
    along each axis, 0.1 of shear and a shift by 5 % of the side, all uniform."""
    drawn = distributed.uniform(6, len(x), generator) * 2 - 1
    angle, (wide, high, shear, right, down) = drawn[0] * math.radians(10) * strength, drawn[1:] * 0.1 * strength
    cos, sin = angle.cos(), angle.sin()
    maps = torch.stack([(1 + wide) * cos, shear - (1 + high) * sin, right, (1 + wide) * sin, (1 + high) * cos, down], 1)
    grid = F.affine_grid(maps.unflatten(1, (2, 3)), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def spread(train: RowDataset) -> float:
    """The standard deviation of an element about its mean, pooled over elements, from some training samples."""
    x = train.take(train.spaced(2048))
    x = x[:, : x.shape[1] - train.n_condition]
    return float(torch.nanmean((x - torch.nanmean(x, dim=0)).square()).sqrt())
