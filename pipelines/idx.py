"""Image sets in torchvision's raw layout: MNIST, Fashion-MNIST, KMNIST and whatever shares their file names."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNSIGNED_BYTES = 8  # the code of the only type that these sets use


@dataclass(frozen=True)
class ImageSet:
    """images (N, H, W) uint8 and labels (N,) of the training and the test part."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]

    def drawn(self, most: int, seed: int, rows: NDArray[np.intp] | None = None) -> NDArray[np.uint8]:
        """At most so many training images (of `rows`), drawn with the seed."""
        rows = np.arange(len(self.train)) if rows is None else rows
        return np.asarray(self.train[np.random.default_rng(seed).permutation(rows)[:most]])


def read_set(folder: Path) -> ImageSet:
    """The four files of a folder, gzipped or not. Exits with a message where one is missing."""
    parts = [
        read(folder, f"{part}-{what}")
        for part in ("train", "t10k")
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    return ImageSet(*parts)


def read(folder: Path, name: str) -> NDArray[Any]:
    """An IDX file: two zero bytes, the type, the number of axes, each axis as a big-endian int32, the bytes."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if packed.is_file():
        content = gzip.decompress(packed.read_bytes())
    elif plain.is_file():
        content = plain.read_bytes()
    else:
        raise SystemExit(f"{folder}: no {name} or {name}.gz; expected a folder in torchvision's raw layout")
    axes = content[3] if content[:3] == bytes([0, 0, UNSIGNED_BYTES]) else 0
    shape = tuple(np.frombuffer(content, ">i4", axes, 4).tolist())
    if not axes or len(content) != 4 + 4 * axes + int(np.prod(shape)):
        raise SystemExit(f"{folder / name}: not a whole IDX file of unsigned bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
