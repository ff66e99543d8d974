"""Large pictures as overlapping square tiles, and maps of the tiles as one map again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anomaly_vae.data.source import Layout


@dataclass(frozen=True)
class Tiling:
    """Tiles of `side` x `side` pixels that cover pictures (C, height, width), in rows from the top left.

    Starts are spread evenly, so that neighbours share at least `overlap` of their side and none hangs over the edge.
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
        rest = length - self.side
        steps = math.ceil(rest / max(1, math.floor(self.side * (1 - self.overlap))))
        return [round(rest * step / steps) for step in range(steps + 1)] if steps else [0]

    def cut(self, x: Tensor) -> Tensor:
        """(B * T, C, side, side), the T tiles of the first picture first, of x (B, C, height, width)."""
        tiles = [x[:, :, top : top + self.side, left : left + self.side] for top, left in self.corners]
        return torch.stack(tiles, 1).flatten(0, 1)

    def stitch(self, tiles: Tensor) -> Tensor:
        """(B, C, height, width) of maps of tiles (B * T, C, side, side); where tiles overlap, their mean.

        A tile counts more towards its middle: near its edge a convolution saw less of the picture, and a seam would
        show.
        """
        ramp = torch.arange(1, self.side + 1, device=tiles.device, dtype=tiles.dtype)
        ramp = torch.minimum(ramp, ramp.flip(0))
        weight = ramp[:, None] * ramp
        pieces = tiles.unflatten(0, (-1, len(self.corners)))  # (B, T, C, side, side)
        total = tiles.new_zeros(pieces.shape[0], pieces.shape[2], self.height, self.width)
        weights = tiles.new_zeros(self.height, self.width)
        for number, (top, left) in enumerate(self.corners):
            here = (..., slice(top, top + self.side), slice(left, left + self.side))
            total[here] += pieces[:, number] * weight
            weights[here] += weight
        return total / weights


def tiling_of(layout: Layout) -> Tiling | None:
    """How the pictures of a layout are cut; None where they are seen whole."""
    return None if layout.tile is None else Tiling(layout.shape[1], layout.shape[2], layout.tile, layout.overlap)
