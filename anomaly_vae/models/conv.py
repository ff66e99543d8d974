"""Convolutional VAE over pictures (C, H, W) and windows of a series (C, T), of any size and channel count."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.base import Head, Member
from anomaly_vae.models.gaussian import GaussianVAE, posterior_head
from anomaly_vae.models.layers import channels_last, convolutions, downward, residuals, stages, upward
from anomaly_vae.models.likelihoods import Likelihood


class ConvVAE(GaussianVAE):
    """Stages of stride-2 convolutions down to a dense layer, and their mirror image.

    With shape (1, 28, 28), channels (32, 64) and hidden (256,) the encoder is 28x28x1 -> 14x14x32 -> 7x7x64 -> 256 ->
    (mu, log_var). A stage turns a side of s into ceil(s / 2), and its mirror gives exactly s back. `blocks` residual
    blocks follow each stage.

    extra: channels that the encoder reads beyond those of shape; condition_size: numbers that the decoder reads
    beside z.
    """

    def __init__(self, config: ModelConfig, shape: tuple[int, ...], extra: int = 0, condition_size: int = 0) -> None:
        super().__init__()
        assert config.latent and config.hidden is not None
        conv, deconv = convolutions(shape)
        # a posterior of more than a quarter of the elements is no bottleneck
        self.latent = self.groups = min(config.latent, max(4, math.prod(shape) // 4))
        blocks = config.blocks or 0
        channels, sides = stages(config, shape)
        widths = (shape[0], *channels)
        dense = (widths[-1] * math.prod(sides[-1]), *config.hidden)

        self.down = nn.Sequential(*downward(conv, (shape[0] + extra, *channels), sides, blocks))
        self.squeeze = nn.Sequential(*(m for a, b in pairwise(dense) for m in (nn.Linear(a, b), nn.GELU())))
        self.posterior = nn.Linear(dense[-1], 2 * self.latent)

        expand = (self.latent + condition_size, *reversed(dense))
        self.expand = nn.Sequential(*(m for a, b in pairwise(expand) for m in (nn.Linear(a, b), nn.GELU())))
        self.head = Head(config, shape)
        targets = (shape[0] * self.head.outputs, *channels)
        unflatten = nn.Unflatten(1, (widths[-1], *sides[-1]))
        up = upward(conv, deconv, targets, sides, blocks)
        self.up = nn.Sequential(unflatten, *residuals(conv, widths[-1], blocks), *up)  # (B, P*C, H, W)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = channels_last(torch.nan_to_num(x))  # a missing element enters as the scaled mean
        features = self.squeeze(self.down(x).flatten(1))  # (B, hidden)
        return posterior_head(self.posterior(features))

    def decode(self, z: Tensor) -> Likelihood:
        px: Likelihood = self.head(*self.up(self.expand(z)).chunk(self.head.outputs, dim=1))
        return px


CONV1D = Member(ConvVAE, axes=(2,))
CONV2D = Member(ConvVAE, axes=(3,))
