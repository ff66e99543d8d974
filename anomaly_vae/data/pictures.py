"""Defaults, datasets and monitored quantities that image files and pixel tables share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_vae.data.datasets import RowDataset, TileDataset
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.scaling import Element, Scaler
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.tiles import tiling_of

DEFAULTS: dict[str, dict[str, Any]] = {
    "data": {"size": 64},
    "split": {"train": 0.6, "valid": 0.2},
    "model": {
        "kind": "conv2d",
        "latent": 64,
        "hidden": (256,),
        "blocks": 0,
        "likelihood": "gaussian",
        "sigma": "shared",
        "sigma_min": 0.02,
        "sigma_value": 0.37,
        "members": 1,
    },
    "training": {"steps": 1200, "batch_size": 128, "lr": 2e-3, "bf16": True, "noise": 0.5, "jitter": 1.0},
    "scoring": {"combine": "sum", "recon": "energy", "prior": "mixture", "neighbours": 4000, "parts": ()},
    "threshold": {"unlabelled": "fpr=0.01"},
}
LIGHT = ("brightness", "contrast", "sharpness")  # the monitored quantities of a picture, each 0-1
AT_ONCE = 16  # number of pictures converted to floats at a time, which bounds the memory


def no_elements(columns: Iterable[NDArray[Any]], layout: Layout, after_gap: NDArray[np.bool_] | None) -> list[Element]:
    """No elements: pictures are divided by 255."""
    del columns, layout
    return []


def picture_dataset(
    data: Chunk | LoadedData,
    rows: NDArray[np.intp],
    scaler: Scaler,
    layout: Layout,
    device: torch.device,
    window: int | None,
    store: ArrayStore,
) -> RowDataset:
    """The dataset of pictures, or of their tiles; see `datasets.make_dataset`."""
    del window, store
    tiling = tiling_of(layout)
    if tiling is not None:
        return TileDataset(data.values, device, tiling, rows)
    planes = None if data.condition is None or not scaler.n_condition else scaler.encode_condition(data.condition[rows])
    return RowDataset(data.values, device, planes, rows)


def light_names(layout: Layout) -> list[str]:
    """The names of the monitored quantities of pictures."""
    del layout
    return list(LIGHT)


def light(chunk: Chunk) -> NDArray[np.float64]:
    """The quantities LIGHT of pictures (N, C, H, W), (N, 3): the mean and the standard deviation of the pixels, and the
    mean absolute difference between neighbouring ones."""
    pictures = chunk.values
    quantities = np.empty((len(pictures), 3))
    for first in range(0, len(pictures), AT_ONCE):
        x = pictures[first : first + AT_ONCE].astype(np.float32) / 255
        steps = np.abs(np.diff(x, axis=-1)).mean((1, 2, 3)) + np.abs(np.diff(x, axis=-2)).mean((1, 2, 3))
        quantities[first : first + AT_ONCE] = np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), steps / 2], axis=1)
    return quantities


def to_bytes(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Pixels in 0 to `white` as 0-255."""
    return np.rint(values * (255.0 / white)).astype(np.uint8)


def shape_text(shape: Sequence[int]) -> str:
    """The shape of a picture for messages."""
    return " x ".join(str(n) for n in shape) + f" = {math.prod(shape)} pixels"
