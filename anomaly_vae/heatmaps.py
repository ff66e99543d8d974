"""Heat maps over flagged pictures, while scores stream by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.base import Chunk
from anomaly_vae.data.decoding import ENDINGS
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
    """Remembers the pictures of chunks until their scores come, and draws those at or above the threshold."""

    def __init__(self, folder: Path, detector: Detector) -> None:
        self.folder, self.detector = folder, detector
        self.chunks: deque[Chunk] = deque()

    def seen(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.chunks.append(chunk)
            yield chunk

    def draw(self, scores: Scores, alarm: NDArray[np.bool_]) -> None:
        from anomaly_vae import plots

        assert scores.elements is not None
        chunk = self.chunks.popleft()  # pictures are scored chunk by chunk, in order
        for row in np.flatnonzero(alarm):
            heat = excess_map(scores.elements[row], self.detector.usual)
            picture = chunk.values[row].astype(np.float32) / 255
            path = self._place(str(scores.ids[row]))
            path.parent.mkdir(parents=True, exist_ok=True)
            plots.save_png(plots.overlay(picture, heat, float(np.quantile(heat, 0.999)) or 1.0), path)

    def _place(self, name: str) -> Path:
        """A free file in the folder, named like the picture: an id with `..` in it stays inside too."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")] or ["picture"]
        if Path(parts[-1]).suffix.lower() in ENDINGS:
            parts[-1] = Path(parts[-1]).stem
        path = self.folder.joinpath(*parts[:-1], f"{parts[-1]}.png")
        number = 1
        while path.exists():  # a.jpg beside a.png
            number += 1
            path = path.with_name(f"{parts[-1]} ({number}).png")
        return path


def excess_map(elements: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) nats above the usual of each pixel, summed over channels, from elements (C, H, W)."""
    excess: NDArray[np.float32] = np.clip((elements - usual).sum(axis=0), 0, None)
    return excess


@contextmanager
def heat_maps(folder: str, detector: Detector) -> Iterator[HeatMaps]:
    """Heat maps into a new folder, which appears when all are drawn."""
    with new_folder(folder) as beside:
        yield HeatMaps(beside, detector)
