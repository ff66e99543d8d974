"""Maps drawn over pictures while their scores stream by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import escaped
from anomaly_vae.core.files import new_folder
from anomaly_vae.data.images.decoding import ENDINGS
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.detector.anomaly_maps import resized
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.scores import Scores


class HeatMaps:
    """Draws maps over the pictures at or above the threshold, or over all.

    Image files are drawn at their own size, with the outline of their mask if they have one.
    """

    def __init__(self, folder: Path, detector: Detector, source: Source, everything: bool, values: bool) -> None:
        """everything: draw all pictures, not only those at or above the threshold. values: also write each map as a
        .npy file."""
        self.folder, self.detector, self.everything, self.values = folder, detector, everything, values
        self.image_files = source.image_files()
        self.drawn = 0  # pictures of the source that have passed

    def draw(self, chunk: Chunk, scores: Scores, alarm: NDArray[np.bool_]) -> None:
        """The pictures of the next chunk, with their scores; alarm: (N,) at or above the threshold."""
        from anomaly_vae.reporting import plots

        assert self.detector.pixels is not None
        for row in np.arange(len(alarm)) if self.everything else np.flatnonzero(alarm):
            picture, mask = self._original(chunk, int(row))
            heat = resized(self.detector.maps(scores.take(np.array([row])))[0], picture.shape[:2])
            path = self._place(str(scores.ids[row]))
            path.parent.mkdir(parents=True, exist_ok=True)
            verdict = f"{'anomaly' if alarm[row] else 'normal'}, {scores.total[row]:.6g} nats"
            caption = f"{escaped(str(scores.ids[row]))}: {verdict}"
            plots.save_png(plots.overlay(picture, heat, self.detector.pixels.value, mask, caption), path)
            if self.values:
                np.save(path.with_suffix(".npy"), heat)
        self.drawn += len(alarm)

    def _original(self, chunk: Chunk, row: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """The picture (H, W, C) of a row of a chunk at its own size, and its mask (H, W), if the data has masks."""
        if self.image_files is None:
            return np.moveaxis(chunk.values[row], 0, 2), None
        mask = self.image_files.mask(self.drawn + row) if self.image_files.masked else None
        return self.image_files.picture(self.drawn + row, self.detector.layout.pixel_max), mask

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


@contextmanager
def heat_maps(folder: str, detector: Detector, source: Source, everything: bool, values: bool) -> Iterator[HeatMaps]:
    """HeatMaps into a new folder, which appears when all are drawn."""
    with new_folder(folder) as beside:
        yield HeatMaps(beside, detector, source, everything, values)
