"""PatchCore and PaDiM on the feature maps that our score uses.

All methods read the same feature maps of the same pictures. Their maps are resized to pixels and blurred in the same
way. PatchCore and PaDiM score a picture as its largest pixel, and also train on the pictures that we hold out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_vae.data.datasets import make_dataset
from anomaly_vae.data.loaded import load_data
from anomaly_vae.data.open import open_source
from anomaly_vae.data.spill import IN_MEMORY
from anomaly_vae.data.split import is_anomalous
from anomaly_vae.detector.anomaly_maps import count_pixels
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.metrics import PixelCounts
from anomaly_vae.scoring.parts.base import Normals
from anomaly_vae.scoring.parts.feature_cache import FeatureCache
from anomaly_vae.scoring.parts.memory_bank import MemoryBank
from anomaly_vae.scoring.patch_score import PatchScore
from pipelines import baselines
from pipelines.study import Figures

Cells = Callable[[Tensor], Tensor]  # feature maps (C, h, w) -> score of each cell (h, w)
Scored = Callable[[Tensor], tuple[Tensor, float]]  # feature maps -> score of each pixel (H, W), and of the picture
CORESET = 0.01  # share of the training positions that PatchCore keeps
CHANNELS = 100  # channels, drawn at random, whose covariance PaDiM estimates (Defard 2021, for ResNet-18)
RIDGE = 0.01  # PaDiM's, on the diagonal of every covariance


def patchcore(train: FeatureCache, seed: int, references: int | None = None) -> Cells:
    """Distance to the nearest of so many training positions, a greedy coreset (Roth 2022); None: 1 % of all."""
    rows = torch.cat([maps.flatten(1).T for maps in train])  # (N * h * w, C)
    channels, generator = rows.shape[1], torch.Generator().manual_seed(seed)
    memory = MemoryBank(channels, channels, references or max(1, int(CORESET * len(rows)))).to(rows.device)
    memory.fit(Normals(nn.Identity(), seed, generator, len(rows), 0, lambda: rows, lambda: (rows, rows)))  # type: ignore[arg-type]
    return lambda maps: memory.squared(maps.flatten(1).T.contiguous()).sqrt().reshape(maps.shape[1:])


def padim(train: FeatureCache, seed: int) -> Cells:
    """Mahalanobis distance to the Gaussian of the training features at the same position (Defard 2021)."""
    first = train[0]
    kept = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))[:CHANNELS].to(first.device)
    rows = torch.stack([maps[kept].flatten(1).T for maps in train], 1)  # (h * w, N, C)
    mean = rows.mean(1)
    whiten = torch.empty(len(rows), len(kept), len(kept), device=first.device)
    for cell, features in enumerate(rows):
        covariance = torch.cov(features.T) + RIDGE * torch.eye(len(kept), device=first.device)
        whiten[cell] = torch.linalg.inv(torch.linalg.cholesky(covariance))

    def cells(maps: Tensor) -> Tensor:
        offset = maps[kept].flatten(1).T - mean
        distances: Tensor = (whiten @ offset[:, :, None])[..., 0].norm(dim=1)
        return distances.reshape(maps.shape[1:])

    return cells


Rival = Callable[[FeatureCache, int], Cells]


def rivals(ours: PatchScore) -> dict[str, Rival]:
    """PatchCore as published and with as large a memory as ours, and PaDiM."""
    found: dict[str, Rival] = {"PatchCore 1 %": patchcore}
    memory = ours.patches.part(MemoryBank)
    if memory is not None:
        found["PatchCore, our memory"] = partial(patchcore, references=len(memory.points))
    return found | {"PaDiM": padim}


@torch.inference_mode()
def measure(detector: Detector, category: Path, seed: int, cache: Path | None) -> Figures:
    """The figures of every method on a category in MVTec's layout, from the feature maps that the detector reads.

    features_seconds: processor time of the feature maps of one picture. cells_seconds: that of its map and score.
    """
    ours = detector.score_model
    assert isinstance(ours, PatchScore)
    source = open_source(category, detector.config.data)
    data, roles, labels = load_data(source, detector.layout, IN_MEMORY), source.roles(), source.labels()
    assert roles is not None and labels is not None
    anomalous = is_anomalous(labels, detector.config, source.path)
    rows = {part: np.flatnonzero(roles == part) for part in ("train", "test")}
    device = next(detector.score_model.parameters()).device
    train, test = (
        make_dataset(data, rows[part], detector.scaler, detector.layout, device, None) for part in ("train", "test")
    )
    start = time.process_time()
    for number in range(len(test)):
        ours.features(test.take(torch.tensor([number], device=device)))
    feature_seconds = (time.process_time() - start) / len(test)

    train_maps = FeatureCache(train, ours.features, cache)
    test_maps = list(FeatureCache(test, ours.features, cache))
    results: Figures = {}

    def own(maps: Tensor) -> tuple[Tensor, float]:
        pixels, parts = ours.score(maps[None])
        return pixels[0], float(torch.stack(list(parts.values())).sum())

    methods: dict[str, Callable[[], Scored]] = {
        f"{baselines.OURS}, after features": lambda: own,
        **{name: _drawn(ours, rival, train_maps, seed) for name, rival in rivals(ours).items()},
    }
    image_files = source.image_files()
    assert image_files is not None
    for name, fit in methods.items():
        method, fit_seconds = baselines.timed(fit)
        start = time.process_time()
        scored = [method(feature_maps) for feature_maps in test_maps]
        cell_seconds = time.process_time() - start
        pixel_maps = [pixels.cpu().numpy() for pixels, _ in scored]
        counts = count_pixels(PixelCounts(), pixel_maps, rows["test"].tolist(), image_files)
        tops = np.array([top for _, top in scored])
        figures = {"auroc": baselines.ranking(anomalous[rows["test"]], tops)["auroc"]}
        figures |= {key: value for key, value in counts.metrics().items() if key in ("pixel_auroc", "aupro")}
        figures |= {
            "features_seconds": feature_seconds,
            "cells_seconds": cell_seconds / len(test),
            "fit_seconds": fit_seconds,
        }
        results[name] = figures
    return results


def _drawn(ours: PatchScore, rival: Rival, train: FeatureCache, seed: int) -> Callable[[], Scored]:
    """A function that fits a rival and returns the function of its maps in pixels and their largest."""

    def fit() -> Scored:
        cells = rival(train, seed)

        def score(maps: Tensor) -> tuple[Tensor, float]:
            pixels = ours.pixels(cells(maps)[None])[0]
            return pixels, float(pixels.max())

        return score

    return fit
