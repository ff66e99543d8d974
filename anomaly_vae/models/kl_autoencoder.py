"""A high-resolution VAE with a spatial latent: the autoencoder of latent diffusion (Rombach 2022).

Layer for layer, and by the names of its weights, it is diffusers' AutoencoderKL, so that weights published for that
one load into it (`pretrained`).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.base import Head, Member
from anomaly_vae.models.gaussian import GaussianVAE, posterior_head
from anomaly_vae.models.layers import Sides, channels_last
from anomaly_vae.models.likelihoods import Likelihood

CHANNELS = (32, 64, 128, 128)  # of each block where none are given; all but the last halve the sides: 8 times in all
GROUPS, EPS = 32, 1e-6  # of group normalisation: so many groups, or as many of them as divide the channels


class KLAutoencoder(GaussianVAE):
    """`latent` channels on a map of 1/8 of the sides, each position with a Gaussian posterior; z is the map, flat.

    `channels` of each block, `blocks` residual layers in it. Pixels are read and written as -1..1.
    """

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        assert config.latent and config.blocks
        channels = config.channels or CHANNELS
        sides = [shape[1:]]
        for _ in channels[1:]:
            sides.append(tuple(math.ceil(s / 2) for s in sides[-1]))
        self.map = (config.latent, *sides[-1])
        self.latent = self.groups = math.prod(self.map)
        self.head = Head(config, shape)
        self.encoder = Encoder(shape[0], 2 * config.latent, channels, config.blocks)
        self.quant_conv = nn.Conv2d(2 * config.latent, 2 * config.latent, 1)
        self.post_quant_conv = nn.Conv2d(config.latent, config.latent, 1)
        self.decoder = Decoder(config.latent, shape[0] * self.head.outputs, channels, config.blocks, sides)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = 2 * channels_last(torch.nan_to_num(x)) - 1
        return posterior_head(self.quant_conv(self.encoder(x)).flatten(1))

    def decode(self, z: Tensor) -> Likelihood:
        raw, *scale = self.decoder(self.post_quant_conv(z.unflatten(1, self.map))).chunk(self.head.outputs, dim=1)
        px: Likelihood = self.head(raw if self.head.likelihood == "bernoulli" else (raw + 1) / 2, *scale)
        return px


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, outputs, H/8, W/8) for four blocks."""

    def __init__(self, inputs: int, outputs: int, channels: tuple[int, ...], layers: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, channels[0], 3, padding=1)
        steps = list(pairwise((channels[0], *channels)))
        last = len(steps) - 1
        self.down_blocks = nn.ModuleList(Down(a, b, layers, i < last) for i, (a, b) in enumerate(steps))
        self.mid_block = Middle(channels[-1])
        self.conv_norm_out = norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for block in self.down_blocks:
            h = block(h)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(h))))
        return out


class Decoder(nn.Module):
    """(B, inputs, H/8, W/8) -> (B, outputs, H, W); sides: those of each block of the encoder."""

    def __init__(self, inputs: int, outputs: int, channels: tuple[int, ...], layers: int, sides: list[Sides]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, channels[-1], 3, padding=1)
        self.mid_block = Middle(channels[-1])
        steps = list(pairwise((channels[-1], *reversed(channels))))
        targets: list[Sides | None] = [*reversed(sides[:-1]), None]
        self.up_blocks = nn.ModuleList(
            Up(a, b, layers + 1, target) for (a, b), target in zip(steps, targets, strict=True)
        )
        self.conv_norm_out = norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], outputs, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            h = block(h)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out


class Down(nn.Module):
    def __init__(self, before: int, after: int, layers: int, halve: bool) -> None:
        super().__init__()
        self.resnets = nn.Sequential(*(Resnet(after if i else before, after) for i in range(layers)))
        self.downsamplers = nn.Sequential(*([Halve(after)] if halve else []))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.downsamplers(self.resnets(x))
        return moved


class Up(nn.Module):
    """target: the sides that the block ends with; None: as it was."""

    def __init__(self, before: int, after: int, layers: int, target: Sides | None) -> None:
        super().__init__()
        self.resnets = nn.Sequential(*(Resnet(after if i else before, after) for i in range(layers)))
        self.upsamplers = nn.Sequential(*([Double(after, target)] if target else []))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.upsamplers(self.resnets(x))
        return moved


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels)])
        self.resnets = nn.ModuleList([Resnet(channels, channels), Resnet(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return moved


class Resnet(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        moved: Tensor = self.conv_shortcut(x) + h
        return moved


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.group_norm = norm(channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H * W, C)
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        moved: Tensor = x + self.to_out[0](h).transpose(1, 2).unflatten(2, x.shape[2:])
        return moved


class Halve(nn.Module):
    """A side of s becomes ceil(s / 2); an even one is padded at its end alone, as the weights were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[2:]
        halved: Tensor = self.conv(F.pad(x, (wide % 2, 1, high % 2, 1)))
        return halved


class Double(nn.Module):
    def __init__(self, channels: int, sides: Sides) -> None:
        super().__init__()
        self.sides, self.conv = sides, nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, size=self.sides, mode="nearest"))
        return doubled


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels, eps=EPS)


KL_AUTOENCODER = Member(
    KLAutoencoder,
    axes=(3,),
    defaults={
        "model": {"latent": 4, "blocks": 1},
        "training": {"steps": 300},  # each is dear: of pictures of 8 x 8 as 130 of conv2d
        "scoring": {"prior": "normal"},
    },
)
