"""Cutting large pictures into overlapping square tiles, and stitching the maps of the tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_vae.data.source import Layout


@dataclass(frozen=True)
class Tiling:
    """Tiles of `side` x `side` pixels that cover pictures (C, height, width), row by row from the top left.

    Tiles are spaced evenly and lie within the picture; neighbours share at least the fraction `overlap` of a side.
    """

    height: int
    width: int
    side: int
    overlap: float

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of each tile."""
        return [(top, left) for top in self._starts(self.height) for left in self._starts(self.width)]

    def _starts(self, length: int) -> list[int]:
        """The first pixel of each tile along an axis of `length` pixels."""
        rest = length - self.side
        steps = math.ceil(rest / max(1, math.floor(self.side * (1 - self.overlap))))
        return [round(rest * step / steps) for step in range(steps + 1)] if steps else [0]

    def cut(self, x: Tensor) -> Tensor:
        """The T tiles of each picture of x (B, C, height, width), picture by picture, (B * T, C, side, side)."""
        tiles = [x[:, :, top : top + self.side, left : left + self.side] for top, left in self.corners]
        return torch.stack(tiles, 1).flatten(0, 1)

    def stitch(self, tiles: Tensor) -> Tensor:
        """Maps (B, C, height, width) from maps of tiles (B * T, C, side, side); overlapping tiles are averaged.

        The weight of a tile falls towards its edge, where a convolution saw less of the picture; equal weights would
        leave visible seams.
        """
        ramp = torch.arange(1, self.side + 1, device=tiles.device, dtype=tiles.dtype)
        ramp = torch.minimum(ramp, ramp.flip(0))
        weight = ramp[:, None] * ramp
        pieces = tiles.unflatten(0, (-1, len(self.corners)))  # (B, T, C, side, side)
        total = tiles.new_zeros(pieces.shape[0], pieces.shape[2], self.height, self.width)
        weights = tiles.new_zeros(self.height, self.width)
        for number, (top, left) in enumerate(self.corners):
            area = (..., slice(top, top + self.side), slice(left, left + self.side))
            total[area] += pieces[:, number] * weight
            weights[area] += weight
        return total / weights


def tiling_of(layout: Layout) -> Tiling | None:
    """How the pictures of a layout are cut into tiles; None: they are not cut."""
    return None if layout.tile is None else Tiling(layout.shape[1], layout.shape[2], layout.tile, layout.overlap)
