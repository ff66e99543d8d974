"""The parts of a score that are of cells: fitted to the data as it stands, and given the nats that make an alarm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.spill import release
from anomaly_vae.detector.thresholds import GAP_RATE, tail_bound
from anomaly_vae.scoring.parts.sensor_level import TEMPER
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scores import Scores
from anomaly_vae.training.loop import JUDGED


def fit_missing(score_model: ScoreModule, data: LoadedData, train: NDArray[np.intp], normals: NDArray[np.intp]) -> None:
    """Fits what is missing to the training rows and held-out normals (row numbers)."""
    if score_model.missing is not None:
        score_model.missing.fit(*((chunk.values for _, chunk in data.pieces(rows)) for rows in (train, normals)))
        score_model.missing.to(next(score_model.parameters()).device)


def fit_usual(score_model: ScoreModule, held: RowDataset, scaler: Scaler) -> None:
    """Where the score is the sum of raw nats, what a missing cell counts with in recon; held: samples of normals."""
    missing = score_model.missing
    if missing is not None and score_model.surprise is None:
        read = scaler.by_column(_usual_nats(score_model, held)[None])[0]
        missing.usual[: len(read)] = torch.from_numpy(read.astype(np.float64))


@torch.no_grad()
def _usual_nats(score_model: ScoreModule, held: RowDataset) -> NDArray[np.float32]:
    """(E,) mean nats of each element in held-out normals that have it, of a sensor with those of further parts."""
    samples, elements = [], []
    for some in held.spaced(JUDGED).split(1024):
        samples.append(held.take(some))
        elements.append(score_model(samples[-1])[0])
    x = torch.cat(samples)
    n = x.shape[1] - held.n_condition
    found = torch.cat(elements).unflatten(1, (-1, n))  # (N, layers, E, ...), see `WindowFolder`
    there = ~torch.isnan(x[:, :n])
    axes = [axis for axis in range(there.dim()) if axis != 1]
    sums = found.sum([axis + (axis > 0) for axis in axes])  # (layers, E)
    usual = sums / there.sum(axes).clamp(min=1)
    if score_model.level is not None:  # whose variances are what makes a residual's mean nats these
        usual[0] = 0.5 * (1 + TEMPER * score_model.level.weight)
    total: NDArray[np.float32] = usual.sum(0).cpu().numpy()
    return total


def set_alarms(score_model: ScoreModule, n: int, normal: NDArray[np.float64], threshold: float) -> None:
    """Gives an alarm so many nats that a row is one though the rest of its score is the least of a held-out normal.

    n: training rows and held-out normals. normal: sorted scores of the latter. threshold: that of the normals alone.
    """
    for part in score_model.cell_parts.values():
        part.alarm.fill_(reach(normal, threshold) + 2 * math.log(n + 2))


def reach(normal: NDArray[np.float64], threshold: float) -> float:
    """How far it is from the least score of a normal (sorted) to what none of them, and no threshold, is beyond."""
    highest = max(threshold, normal[-1], *([tail_bound(normal, GAP_RATE)] if len(normal) > 1 else []))
    return float(highest - min(normal[0], 0.0))


@torch.no_grad()
def count_alarms(score_model: ScoreModule, values: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Column of each part of cells -> (N,) its alarms of rows with cells (N, F)."""
    return {
        name: part.alarms(torch.from_numpy(values).to(part.alarm.device)).sum(1).cpu().numpy()
        for name, part in score_model.cell_parts.items()
    }


@torch.no_grad()
def add_alarms(score_model: ScoreModule, data: LoadedData, scores: Scores) -> None:
    """Adds to scores, whose ids are row numbers, the alarms that have their nats now, in place."""
    for here, values in _pieces(data, scores) if score_model.cells else ():
        for name, part in score_model.cell_parts.items():
            alarms = (part.alarm * part.alarms(values.to(part.alarm.device))).cpu().numpy()
            if not alarms.any():
                continue
            scores.add(name, alarms.sum(axis=1), here)
            if scores.elements is not None:
                scores.elements[here] += alarms.astype(np.float32)
                release(scores.elements)


def _pieces(data: LoadedData, scores: Scores) -> Iterator[tuple[slice, torch.Tensor]]:
    return ((here, torch.from_numpy(chunk.values)) for here, chunk in data.pieces(scores.ids.astype(np.intp)))
