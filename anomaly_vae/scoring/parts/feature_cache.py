"""Feature maps of pictures, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anomaly_vae.core.device import full_precision
from anomaly_vae.core.errors import AnomalyVAEError
from anomaly_vae.core.files import replacing
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.feature_maps import DIGEST, FeatureMaps


class FeatureCache:
    """The feature maps of pictures, in order, computed when they are first asked for.

    They are rounded to float16, whether they come from the cache or not. A file of the cache is a digest and what it
    is the digest of: one that is cut short, altered or of another size is computed anew.
    """

    def __init__(self, pictures: RowDataset, features: FeatureMaps, cache: Path | None) -> None:
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

    @full_precision()
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
