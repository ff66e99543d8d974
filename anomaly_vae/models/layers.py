"""Building blocks of the convolutional models, for pictures (C, H, W) and for windows of a series (C, T)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.core.config import ModelConfig

FIRST, SMALLEST = 16, 8  # channels of the first stage where none are given, and the side below which no stage follows
Sides = tuple[int, ...]  # (H, W) or (T,)


def convolutions(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The classes of convolution and transposed convolution for samples of a shape."""
    return (nn.Conv1d, nn.ConvTranspose1d) if len(shape) == 2 else (nn.Conv2d, nn.ConvTranspose2d)


def stages(config: ModelConfig, shape: tuple[int, ...], least: int = 1) -> tuple[tuple[int, ...], list[Sides]]:
    """(channels of each stride-2 stage, sides before each stage and after the last); a side of s becomes ceil(s / 2).

    Where none are given, 16, 32, ... channels for as many halvings as leave sides under 8, and for `least` of them.
    """
    side = min(shape[1:])
    halvings = max(least, math.floor(math.log2(side / SMALLEST)) + 1) if side >= SMALLEST else least
    channels = config.channels or tuple(FIRST * 2**stage for stage in range(halvings))
    sides = [shape[1:]]
    for _ in channels:
        sides.append(tuple(math.ceil(s / 2) for s in sides[-1]))
    return channels, sides


def channels_last(x: Tensor) -> Tensor:
    """Pictures (B, C, H, W) in the memory order that convolutions are fastest in; windows as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


class GELU(nn.Module):
    """F.gelu; pictures in channels-last order are turned to lie as they are stored, for the kernel that is seven times
    faster on a CPU takes no other order."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            return F.gelu(x)
        return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Even(nn.Module):
    """(B, C, *sides) padded at the end of each odd side."""

    def __init__(self, sides: Sides) -> None:
        super().__init__()
        self.padding = [amount for side in reversed(sides) for amount in (0, side % 2)]

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding) if any(self.padding) else x


class Crop(nn.Module):
    """(B, C, *sides) cropped to the sides before padding."""

    def __init__(self, sides: Sides) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        for axis, side in enumerate(self.sides, start=2):
            if x.shape[axis] != side:
                x = x.narrow(axis, 0, side)
        return x


class Residual(nn.Module):
    """(B, C, *sides) plus the output of a kernel of 3 and a kernel of 1 (van den Oord 2017)."""

    def __init__(self, conv: Any, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(GELU(), conv(channels, channels, 3, padding=1), GELU(), conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = x + self.body(x)
        return moved


def residuals(conv: Any, channels: int, blocks: int) -> list[nn.Module]:
    return [Residual(conv, channels) for _ in range(blocks)]


def downward(conv: Any, widths: tuple[int, ...], sides: list[Sides], blocks: int) -> list[nn.Module]:
    """(B, widths[0], *sides[0]) -> (B, widths[-1], *sides[-1]), each stage with so many residual blocks."""
    layers: list[nn.Module] = []
    for side, (before, after) in zip(sides, pairwise(widths), strict=False):
        # kernels of 4 cover every pixel equally often at stride 2, unlike those of 3
        layers += [Even(side), conv(before, after, 4, stride=2, padding=1)]  # (B, after, ceil(H/2), ceil(W/2))
        layers += [*residuals(conv, after, blocks), GELU()]
    return layers


def upward(conv: Any, deconv: Any, widths: tuple[int, ...], sides: list[Sides], blocks: int) -> list[nn.Module]:
    """The mirror of `downward`: (B, widths[-1], *sides[-1]) -> (B, widths[0], *sides[0])."""
    layers: list[nn.Module] = []
    for stage in reversed(range(len(widths) - 1)):
        layers += [deconv(widths[stage + 1], widths[stage], 4, stride=2, padding=1), Crop(sides[stage])]
        if stage:
            layers += [*residuals(conv, widths[stage], blocks), GELU()]
    return layers
