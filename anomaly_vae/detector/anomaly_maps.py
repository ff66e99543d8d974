"""Maps of pictures against what is known of them: their masks, at the pictures' own size, and the pixel threshold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.config import ThresholdConfig
from anomaly_vae.data.images.masks import ImageFiles
from anomaly_vae.data.source import Source
from anomaly_vae.detector.metrics import PixelCounts
from anomaly_vae.detector.thresholds import Threshold, choose_pixels
from anomaly_vae.scoring.scores import Scores

if TYPE_CHECKING:
    from anomaly_vae.detector.detector import Detector

Map = NDArray[np.float32]  # (H, W) nats above the usual of each pixel


def excess_maps(scores: Scores, usual: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, H, W) nats above the usual of each pixel, of scores with elements (N, C, H, W); usual (C, H, W), of maps that
    are scores themselves 0."""
    assert scores.elements is not None
    maps: NDArray[np.float32] = scores.elements.sum(axis=1) - usual.sum(axis=0)
    return maps


def resized(heat: Map, size: tuple[int, int]) -> Map:
    """A map (h, w) at another size (H, W), bilinear."""
    import torch
    from torch.nn import functional as F

    if heat.shape == size:
        return heat
    found = F.interpolate(torch.from_numpy(heat)[None, None], list(size), mode="bilinear", align_corners=False)
    bilinear: Map = found[0, 0].numpy()
    return bilinear


def count_pixels(counts: PixelCounts, maps: Iterable[Map], rows: Iterable[int], image_files: ImageFiles) -> PixelCounts:
    """Adds to the counts maps (h, w) of the pictures in `rows` at those pictures' own sizes, with their masks."""
    for heat, row in zip(maps, rows, strict=True):
        mask = image_files.mask(int(row))
        counts.add(resized(heat, mask.shape), mask)
    return counts


def pixel_threshold(
    config: ThresholdConfig,
    maps: Iterable[Map],
    rows: NDArray[np.intp],
    anomalous: NDArray[np.bool_],
    image_files: ImageFiles | None,
    centred: bool = True,
) -> Threshold:
    """The pixel threshold from validation's maps, N of (h, w), of the pictures in `rows`, of which some are anomalous
    (N,). The maps are gone through once; those of anomalous pictures without a mask are left out.

    centred: the maps are excesses over the mean of the n normal ones, each of which is part of that mean. A new picture
    is not: n / (n - 1) makes the normal ones' peaks those of excesses over the mean of the others.
    """
    highest, counts = [], PixelCounts()
    masked = image_files is not None and image_files.masked and anomalous.any()
    for heat, row, is_anomaly in zip(maps, rows, anomalous, strict=True):
        highest.append(heat.max())
        if masked and image_files is not None and image_files.measured(int(row), is_anomaly):
            count_pixels(counts, [heat], [int(row)], image_files)
    peaks = np.array(highest, np.float64)[~anomalous]
    if centred:
        peaks *= len(peaks) / max(1, len(peaks) - 1)
    curve = counts.curve() if masked else None
    assert config.unlabelled
    return choose_pixels(config.pixels, np.sort(peaks), curve, config.unlabelled)


class PixelMeter:
    """The pixel metrics of scores; none for data without masks. wanted: whether scores need their maps for it."""

    def __init__(self, detector: Detector, source: Source, anomalous: NDArray[np.bool_] | None) -> None:
        """anomalous: (N,) of all pictures of the source; None: nothing is labelled. Anomalous ones need a mask to be
        measured."""
        self.detector, self.image_files, self.anomalous = detector, source.image_files(), anomalous
        self.wanted = self.image_files is not None and self.image_files.masked and detector.pixels is not None
        self.counts = PixelCounts(detector.pixels.value) if self.wanted and detector.pixels else None

    def add(self, scores: Scores, rows: NDArray[np.intp]) -> None:
        """Scores of the pictures in `rows` (N,) of the source."""
        files = self.image_files
        if self.counts is None or files is None or not len(rows):
            return
        is_anomaly = np.zeros(len(rows), bool) if self.anomalous is None else self.anomalous[rows]
        kept = np.array([files.measured(*pair) for pair in zip(rows, is_anomaly, strict=True)])
        count_pixels(self.counts, self.detector.maps(scores)[kept], rows[kept], files)

    def metrics(self) -> dict[str, float]:
        return {} if self.counts is None else self.counts.metrics()
