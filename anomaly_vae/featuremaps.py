"""Feature maps of pictures: several layers of a backbone on one grid, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.backbones import Backbone, Place
from anomaly_vae.data.tensors import Samples
from anomaly_vae.errors import AnomalyVAEError
from anomaly_vae.output import replacing

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
        """Of everything that a map depends on besides the picture."""
        text = f"1 {self.backbone.name} {self.backbone.layers} {self.backbone.digest()} {self.picture} {STRIDE}"
        return hashlib.blake2b(text.encode(), digest_size=DIGEST).hexdigest()


class Album:
    """The feature maps of pictures, in order, computed when they are first asked for.

    They are rounded to float16, whether they come from the cache or not. A file of the cache is a digest and what it
    is the digest of: one that is cut short, altered or of another size is computed anew.
    """

    def __init__(self, pictures: Samples, features: FeatureMaps, cache: Path | None) -> None:
        """cache: a folder, made where it does not exist; None: nothing is kept."""
        self.pictures, self.features = pictures, features
        self.folder = None if cache is None else cache / features.key()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError:  # a cache saves time, and is no reason to fail
                self.folder = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Tensor]:
        """(C, h, w) of one picture after the other, float32 on the pictures' device."""
        return (self[number] for number in range(len(self)))

    @torch.inference_mode()
    def __getitem__(self, number: int) -> Tensor:
        index = torch.tensor([number], device="cpu" if self.pictures.pinned else self.pictures.device)
        picture = self.pictures.take(index)
        shape = (self.features.channels, self.features.grid.height, self.features.grid.width)
        file = None if self.folder is None else self.folder / _name(picture)
        found = None if file is None else _read(file, shape)
        if found is None:
            found = self.features(picture)[0].half().cpu().numpy()
            if file is not None:
                _write(file, found)
        return torch.from_numpy(found.astype(np.float32)).to(self.pictures.device)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(N, C) features of positions drawn from all pictures alike, at most about `count` of them."""
        each = min(self.features.cells, -(-count // len(self)))
        rows = []
        for found in self:
            chosen = torch.randperm(self.features.cells, generator=generator)[:each]
            rows.append(found.flatten(1).T[chosen.to(found.device)])
        return torch.cat(rows)


def _name(picture: Tensor) -> str:
    return hashlib.blake2b(picture.cpu().numpy().tobytes(), digest_size=DIGEST).hexdigest()


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The map in a file of the cache; None where there is no file, or none that can be trusted."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if len(content) != DIGEST + 2 * int(np.prod(shape)):
        return None
    if hashlib.blake2b(content[DIGEST:], digest_size=DIGEST).digest() != content[:DIGEST]:
        return None
    return np.frombuffer(content, np.float16, offset=DIGEST).reshape(shape)


def _write(file: Path, found: np.ndarray) -> None:
    content = found.tobytes()
    try:
        with replacing(file) as beside:
            beside.write_bytes(hashlib.blake2b(content, digest_size=DIGEST).digest() + content)
    except AnomalyVAEError:  # a full disk costs the time to compute it again
        return


def _sampling(place: Place, grid: Place) -> tuple[Tensor, Tensor]:
    """(h_grid, h) and (w_grid, w): linear interpolation from the centres of one layer to those of the grid."""
    return (
        interpolation(grid.height, grid.stride, grid.centre, place.height, place.stride, place.centre),
        interpolation(grid.width, grid.stride, grid.centre, place.width, place.stride, place.centre),
    )


def interpolation(n_to: int, stride_to: float, centre_to: float, n: int, stride: float, centre: float) -> Tensor:
    """(n_to, n) float32: linear interpolation from n cells, cell i at stride * i + centre, to n_to such cells; beyond
    the first and the last, their values."""
    at = (torch.arange(n_to, dtype=torch.float64) * stride_to + centre_to - centre) / stride
    at = at.clamp(0, n - 1)
    below = at.floor().clamp(max=max(0, n - 2)).long()
    rows = torch.arange(n_to)
    matrix = torch.zeros(n_to, n, dtype=torch.float64)
    matrix[rows, below] = 1 - (at - below)
    matrix[rows, (below + 1).clamp(max=n - 1)] += at - below
    return matrix.float()
