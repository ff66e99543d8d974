"""Feature maps of pictures: several layers of a backbone on one grid."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.models.backbone import Backbone, Grid

STRIDE = 8  # pixels between cells of the grid, or the finest layer's stride where that is coarser
DIGEST = 16  # bytes, of what follows them in a file of the cache


class FeatureMaps(nn.Module):
    """(B, C, h, w) of pictures: the channels of all layers, at the same places of the picture.

    A layer finer than the grid is averaged over 3 x 3 cells first; a layer of another stride is interpolated to the
    grid's centres, not to its corners: at a stride of 16 they lie 8 pixels apart.
    """

    def __init__(self, backbone: Backbone, height: int, width: int) -> None:
        """Raises ConfigError where the backbone cannot read pictures of that size."""
        super().__init__()
        self.backbone, self.picture = backbone, (height, width)
        places = backbone.places(height, width)
        self.channels = sum(place.channels for place in places)
        self.grid = min(places, key=lambda place: (abs(place.stride - STRIDE), -place.stride))
        self.finer = [place.stride < self.grid.stride for place in places]
        for number, place in enumerate(places):
            for axis, rows in zip("hw", _sampling(place, self.grid), strict=True):
                self.register_buffer(f"{axis}{number}", rows, persistent=False)

    @property
    def cells(self) -> int:
        """Positions of one picture."""
        return self.grid.height * self.grid.width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) of pictures (B, 1 or 3, H, W) in 0-1."""
        found = []
        for number, layer in enumerate(self.backbone(x)):
            if self.finer[number]:
                layer = F.avg_pool2d(F.pad(layer, [1] * 4, mode="replicate"), 3, 1)
            if layer.shape[2:] != (self.grid.height, self.grid.width):
                layer = self.get_buffer(f"h{number}") @ layer @ self.get_buffer(f"w{number}").T
            found.append(layer)
        return torch.cat(found, 1)

    def key(self) -> str:
        """A hash of everything that a map depends on besides the picture."""
        text = f"2 {self.backbone.name} {self.backbone.layers} {self.backbone.digest()} {self.picture} {STRIDE}"
        return hashlib.blake2b(text.encode(), digest_size=DIGEST).hexdigest()


def _sampling(place: Grid, grid: Grid) -> tuple[Tensor, Tensor]:
    """(h_grid, h) and (w_grid, w): linear interpolation from the centres of one layer to those of the grid."""
    return (
        interpolation(grid.height, grid.stride, grid.centre, place.height, place.stride, place.centre),
        interpolation(grid.width, grid.stride, grid.centre, place.width, place.stride, place.centre),
    )


def interpolation(n_to: int, stride_to: float, centre_to: float, n: int, stride: float, centre: float) -> Tensor:
    """(n_to, n) float32: linear interpolation from n cells, cell i at stride * i + centre, to n_to such cells; beyond
    the first and the last, their values."""
    at = (np.arange(n_to) * stride_to + centre_to - centre) / stride
    return torch.from_numpy(np.stack([np.interp(at, np.arange(n), unit) for unit in np.eye(n)], axis=1)).float()
