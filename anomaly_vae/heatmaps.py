"""Heat maps over flagged pictures, while scores stream by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.base import Chunk
from anomaly_vae.detector import Detector
from anomaly_vae.output import new_folder
from anomaly_vae.scoring import Scores


class NoHeatMaps:
    """Lets everything pass."""

    def seen(self, chunks: Iterable[Chunk]) -> Iterable[Chunk]:
        return chunks

    def draw(self, scores: Scores, alarm: NDArray[np.bool_]) -> None:
        pass


class HeatMaps:
    """Remembers the pictures of the chunk in hand and draws those at or above the threshold."""

    def __init__(self, folder: Path, detector: Detector) -> None:
        self.folder, self.detector = folder, detector
        self.chunk: Chunk | None = None

    def seen(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.chunk = chunk
            yield chunk

    def draw(self, scores: Scores, alarm: NDArray[np.bool_]) -> None:
        from anomaly_vae import plots

        assert self.chunk is not None and scores.elements is not None
        for row in np.flatnonzero(alarm):
            heat = excess_map(scores.elements[row], self.detector.usual)
            picture = self.chunk.values[row].astype(np.float32) / 255
            name = str(scores.ids[row]).replace("\\", "/").lstrip("/")
            path = self.folder / f"{name.rsplit('.', 1)[0] if '.' in name else name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            plots.save_png(plots.overlay(picture, heat, float(np.quantile(heat, 0.999)) or 1.0), path)


def excess_map(elements: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) nats above the usual of each pixel, summed over channels, from elements (C, H, W)."""
    excess: NDArray[np.float32] = np.clip((elements - usual).sum(axis=0), 0, None)
    return excess


@contextmanager
def heat_maps(folder: str, detector: Detector) -> Iterator[HeatMaps]:
    """Heat maps into a new folder, which appears when all are drawn."""
    with new_folder(folder) as beside:
        yield HeatMaps(beside, detector)
