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
    """Images (N, H, W) uint8 and labels (N,) of the training and the test part."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]

    def drawn(self, most: int, seed: int, rows: NDArray[np.intp] | None = None) -> NDArray[np.uint8]:
        """At most `most` training images, drawn with the seed from those with the indices `rows`; None: from all."""
        rows = np.arange(len(self.train)) if rows is None else rows
        return np.asarray(self.train[np.random.default_rng(seed).permutation(rows)[:most]])


def read_set(folder: Path) -> ImageSet:
    """Reads the four files of a folder, gzipped or not. Exits with a message if one is missing."""
    parts = [
        read(folder, f"{part}-{what}")
        for part in ("train", "t10k")
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    return ImageSet(*parts)


def read(folder: Path, name: str) -> NDArray[Any]:
    """Reads an IDX file: two zero bytes, the type, the number of axes, each length as a big-endian int32, the values.

    Exits with a message if the file is missing or is not an IDX file of unsigned bytes.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    if packed.is_file():
        content = gzip.decompress(packed.read_bytes())
    elif plain.is_file():
        content = plain.read_bytes()
    else:
        raise SystemExit(f"{folder}: no {name} or {name}.gz; expected a folder in torchvision's raw layout")
    n_axes = content[3] if content[:3] == bytes([0, 0, UNSIGNED_BYTES]) else 0
    shape = tuple(np.frombuffer(content, ">i4", n_axes, 4).tolist())
    if not n_axes or len(content) != 4 + 4 * n_axes + int(np.prod(shape)):
        raise SystemExit(f"{folder / name}: not a whole IDX file of unsigned bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)
