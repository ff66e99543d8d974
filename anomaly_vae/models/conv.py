"""Convolutional VAE over pictures (C, H, W) and windows of a series (C, T), of any size and channel count."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.config import ModelConfig
from anomaly_vae.distributions import Likelihood
from anomaly_vae.models.base import Head
from anomaly_vae.models.gaussian import GaussianVAE, posterior_head

FIRST, SMALLEST = 16, 8  # channels of the first stage where none are given, and the side below which no stage follows


class ConvVAE(GaussianVAE):
    """Stages of stride-2 convolutions down to a dense layer, and their mirror image.

    With shape (1, 28, 28), channels (32, 64) and hidden (256,) the encoder is 28x28x1 -> 14x14x32 -> 7x7x64 -> 256 ->
    (mu, log_var). A stage turns a side of s into ceil(s / 2), and its mirror gives exactly s back.
    """

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        assert config.latent and config.hidden is not None
        conv: Any = nn.Conv1d if len(shape) == 2 else nn.Conv2d
        deconv: Any = nn.ConvTranspose1d if len(shape) == 2 else nn.ConvTranspose2d
        # a posterior of more than a quarter of the elements is no bottleneck
        self.latent = self.groups = min(config.latent, max(4, math.prod(shape) // 4))
        self.pictures = len(shape) == 3
        channels = config.channels or _channels(shape)
        sides = [shape[1:]]  # spatial sides before each stage and after the last
        for _ in channels:
            sides.append(tuple(math.ceil(s / 2) for s in sides[-1]))
        widths = (shape[0], *channels)
        dense = (widths[-1] * math.prod(sides[-1]), *config.hidden)

        down: list[nn.Module] = []
        for side, (before, after) in zip(sides, pairwise(widths), strict=False):
            # kernels of 4 cover every pixel equally often at stride 2, unlike those of 3
            down += [_Even(side), conv(before, after, 4, stride=2, padding=1), nn.GELU()]  # (B, after, ceil(H/2), ...)
        self.down = nn.Sequential(*down)
        self.squeeze = nn.Sequential(*(m for a, b in pairwise(dense) for m in (nn.Linear(a, b), nn.GELU())))
        self.posterior = nn.Linear(dense[-1], 2 * self.latent)

        expand = (self.latent, *reversed(dense))
        self.expand = nn.Sequential(*(m for a, b in pairwise(expand) for m in (nn.Linear(a, b), nn.GELU())))
        self.head = Head(config, shape)
        targets = (shape[0] * self.head.outputs, *channels)
        up: list[nn.Module] = [nn.Unflatten(1, (widths[-1], *sides[-1]))]
        for stage in reversed(range(len(channels))):
            up += [deconv(targets[stage + 1], targets[stage], 4, stride=2, padding=1), _Crop(sides[stage])]
            if stage:
                up.append(nn.GELU())
        self.up = nn.Sequential(*up)  # (B, P*C, H, W)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.nan_to_num(x)  # a missing element enters as the scaled mean
        if self.pictures:
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.squeeze(self.down(x).flatten(1))  # (B, hidden)
        return posterior_head(self.posterior(features))

    def decode(self, z: Tensor) -> Likelihood:
        px: Likelihood = self.head(*self.up(self.expand(z)).chunk(self.head.outputs, dim=1))
        return px


class _Even(nn.Module):
    """(B, C, *sides) padded at the end of each odd side."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.padding = [amount for side in reversed(sides) for amount in (0, side % 2)]

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding) if any(self.padding) else x


class _Crop(nn.Module):
    """(B, C, *sides) without what a padded side has too much."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        for axis, side in enumerate(self.sides, start=2):
            if x.shape[axis] != side:
                x = x.narrow(axis, 0, side)
        return x


def _channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """16, 32, ... for as many halvings as leave sides under 8."""
    stages = max(1, math.floor(math.log2(min(shape[1:]) / SMALLEST)) + 1) if min(shape[1:]) >= SMALLEST else 1
    return tuple(FIRST * 2**stage for stage in range(stages))
