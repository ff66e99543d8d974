"""Workloads of the speed measurements: generated data of typical shapes, and the network of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anomaly_vae.core.config import Config
from anomaly_vae.detector.configuration import load as load_config
from anomaly_vae.detector.configuration import resolve
from anomaly_vae.models import registry
from anomaly_vae.models.base import VAE

PIECE = 100_000  # number of rows of a file that are written at a time
QUALITY = 90  # quality of a JPEG on Pillow's scale


@dataclass(frozen=True)
class Workload:
    """Samples of one shape, as the network reads them. steps: batch size -> number of optimiser steps to time."""

    kind: str
    shape: tuple[int, ...]
    steps: dict[int, int]

    def config(self, device: str, batch: int, overrides: list[str]) -> Config:
        """The default configuration without augmentation and noise, which a plain loop does not have."""
        fixed = ["training.jitter=0", "training.noise=0", f"training.batch_size={batch}", f"device={device}"]
        return resolve(load_config(overrides=[*fixed, *overrides]), self.kind)

    def model(self, config: Config) -> VAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return registry.build(config.model, self.shape)

    def data(self, samples: int) -> Tensor:
        """Random samples (N, *shape): pictures as uint8, everything else standard normal."""
        generator = torch.Generator().manual_seed(0)
        if self.kind in ("pixels", "images") and len(self.shape) == 3:
            return torch.randint(0, 256, (samples, *self.shape), generator=generator, dtype=torch.uint8)
        return torch.randn(samples, *self.shape, generator=generator)


WORKLOADS = {
    "MNIST 28x28": Workload("pixels", (1, 28, 28), {128: 40, 4096: 4}),
    "RGB 64x64": Workload("pixels", (3, 64, 64), {128: 10, 4096: 1}),
    "windows 8x32": Workload("series", (8, 32), {128: 100, 4096: 6}),
    "table of 30": Workload("table", (60,), {128: 200, 4096: 20}),  # a column is read as two elements
    # positions of EfficientNet-Lite0 at the default layers
    "feature maps": Workload("images", (256,), {128: 200, 4096: 20}),
}


def write_csv(path: str, rows: int, columns: int) -> None:
    """Writes a CSV of correlated Gaussian columns with six digits, in pieces."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(columns, columns))
    with open(path, "w") as out:
        for start in range(0, rows, PIECE):
            n = min(PIECE, rows - start)
            frame = pd.DataFrame(rng.normal(size=(n, columns)) @ mix, columns=[f"x{i}" for i in range(columns)])
            frame.to_csv(out, index=False, header=start == 0, float_format="%.6g")


def write_parquet(csv: str, path: str) -> None:
    """Writes the rows of a CSV as Parquet, in pieces."""
    import pyarrow.csv
    import pyarrow.parquet

    with pyarrow.csv.open_csv(csv) as pieces, pyarrow.parquet.ParquetWriter(path, pieces.schema) as out:
        for piece in pieces:
            out.write_batch(piece)


def write_pictures(folder: Path, count: int, side: int) -> None:
    """Writes JPEGs of a pattern with noise that differs between pictures. side: in pixels, a multiple of 16."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    pattern = np.kron(rng.integers(0, 256, (side // 16, side // 16, 3)), np.ones((16, 16, 1)))
    noise = rng.normal(0, 12, (8, side, side, 3))
    for number in range(count):
        picture = pattern + noise[number % 8] + rng.normal(0, 8, (1, 1, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=QUALITY)
