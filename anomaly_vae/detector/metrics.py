"""How well scores tell anomalies from normals, with and without the threshold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.detector.auroc import auroc


def metrics(
    anomalous: NDArray[np.bool_] | None, scores: NDArray[np.float64], threshold: float, window: int | None = None
) -> dict[str, float]:
    """Named figures of scores (N,) at a threshold; anomalous (N,), or None where nothing is labelled.

    auroc with its 95 % interval, auroc_low and auroc_high (see `auroc.auroc`, and for window), auprc (average
    precision), fpr_at_95_tpr, f1, precision, recall, false_alarm_rate (share of normals at or above the threshold) and
    alarm_rate (of all rows). Those that need both classes are left out without them.
    """
    alarms = scores >= threshold
    found = {"rows": float(len(scores)), "alarm_rate": float(alarms.mean()) if len(scores) else 0.0}
    if anomalous is None:
        return found
    found["anomalies"] = float(anomalous.sum())
    if (~anomalous).any():
        found["false_alarm_rate"] = float(alarms[~anomalous].mean())
    if anomalous.any():
        hits, all_alarms, all_anomalies = float((alarms & anomalous).sum()), alarms.sum(), anomalous.sum()
        found["recall"] = hits / float(all_anomalies)
        found["precision"] = hits / float(all_alarms) if all_alarms else 0.0
        found["f1"] = 2 * hits / float(all_alarms + all_anomalies)
    if (area := auroc(anomalous, scores, window)) is not None:
        from sklearn.metrics import average_precision_score, roc_curve

        fpr, tpr, _ = roc_curve(anomalous, scores, drop_intermediate=False)
        found["auroc"] = area.value
        found |= dict(zip(("auroc_low", "auroc_high"), area.interval() or (), strict=False))
        found["auprc"] = float(average_precision_score(anomalous, scores))
        found["fpr_at_95_tpr"] = float(fpr[np.argmax(tpr >= 0.95)])
    return found


AUPRO_LIMIT = 0.3  # share of normal pixels in alarm up to which the regions' overlap is integrated (Bergmann 2021)


BITS = 22  # of a float32 that tell map values apart: sign, exponent and 13 bits of mantissa


EIGHT = np.ones((3, 3), np.int8)  # pixels that touch at a corner belong to one region, as in MVTec's own evaluation


class Curve(NamedTuple):
    """A ROC curve, one point a cut, from the highest: what is at or above the cut is an alarm.

    fpr, tpr, cuts: (K,); normals, anomalies: how many it was counted from.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    cuts: NDArray[np.float64]
    normals: int
    anomalies: int


class PixelCounts:
    """Normal and anomalous pixels by the value of the map over them.

    Values are counted in bins of the first 22 bits of a float32, so that values within 0.012 % of each other are ties,
    and a tie of a normal with an anomalous pixel is half an error, as always: an area is off by at most half the share
    of such pairs. At the threshold itself the counts are exact. Memory does not grow with the pictures (about 100 MB
    if every possible value occurred).
    """

    def __init__(self, threshold: float | None = None) -> None:
        """threshold: nats at and above which a pixel is in alarm, for `metrics`."""
        self.threshold = threshold
        self.normal, self.anomalous = np.zeros(1 << BITS, np.int64), np.zeros(1 << BITS, np.int64)
        self.overlap = np.zeros(1 << BITS)  # of each region its pixels' shares, so that a region adds up to 1
        self.regions = self.pictures = 0
        self._alarms = np.zeros(3, np.int64)  # anomalous pixels in alarm, normal pixels, normal pictures
        self._normal_pictures = 0

    def add(self, heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """The map of one picture (H, W) in nats, higher is more anomalous, and where it is anomalous (H, W)."""
        from scipy import ndimage

        keys = _keys(heat)
        np.add.at(self.normal, keys[~mask], 1)
        self.pictures += 1
        if mask.any():
            regions, count = ndimage.label(mask, EIGHT)
            number = regions[mask]  # 1 .. count
            np.add.at(self.anomalous, keys[mask], 1)
            np.add.at(self.overlap, keys[mask], 1 / np.bincount(number)[number])
            self.regions += count
        else:
            self._normal_pictures += 1
        if self.threshold is not None:
            alarm = heat >= self.threshold
            false_picture = bool(alarm.any()) and not mask.any()
            self._alarms += np.array([np.sum(alarm & mask), np.sum(alarm & ~mask), false_picture], np.int64)

    def curve(self) -> Curve | None:
        """The ROC curve of the pixels; None where one kind is missing. A cut is the lower end of its bin."""
        used = self._used()
        normals, anomalies = int(self.normal.sum()), int(self.anomalous.sum())
        if not normals or not anomalies:
            return None
        fpr, tpr = (
            np.cumsum(counts[used]) / of for counts, of in ((self.normal, normals), (self.anomalous, anomalies))
        )
        return Curve(fpr, tpr, _lower_ends(used), normals, anomalies)

    def aupro(self) -> float | None:
        """Area under the mean overlap of the regions of all pictures over the share of normal pixels in alarm, from 0
        to 30 %, as a share of it (Bergmann et al. 2021, 5.1); None where there is no region or no normal pixel."""
        curve = self.curve()
        if curve is None:
            return None
        fpr = np.r_[0.0, curve.fpr]
        overlap = np.r_[0.0, np.cumsum(self.overlap[self._used()]) / self.regions]
        within = fpr <= AUPRO_LIMIT
        at_limit = np.interp(AUPRO_LIMIT, fpr, overlap)
        return float(np.trapezoid(np.r_[overlap[within], at_limit], np.r_[fpr[within], AUPRO_LIMIT]) / AUPRO_LIMIT)

    def metrics(self) -> dict[str, float]:
        """pixel_auroc, aupro, regions; at the threshold pixel_f1 and, of the pictures without anomaly,
        pixel_false_alarm_rate: the share that has a pixel in alarm. Those that need what is missing are left out."""
        curve, area = self.curve(), self.aupro()
        found: dict[str, float] = {}
        if curve is not None and area is not None:
            steps = np.r_[0.0, curve.fpr], np.r_[0.0, curve.tpr]
            found = {"pixel_auroc": float(np.trapezoid(steps[1], steps[0])), "aupro": area, "regions": self.regions}
        if self.threshold is not None and curve is not None:
            hits, false, pictures = self._alarms.tolist()
            found["pixel_f1"] = 2 * hits / (hits + false + curve.anomalies)
            if self._normal_pictures:
                found["pixel_false_alarm_rate"] = pictures / self._normal_pictures
        return found

    def _used(self) -> NDArray[np.intp]:
        """The bins with a pixel in them, from the highest value."""
        return np.flatnonzero((self.normal > 0) | (self.anomalous > 0))[::-1]


def _keys(values: NDArray[Any]) -> NDArray[np.intp]:
    """The bin of each value: the bits of a float32 as a whole number in the order of the values."""
    bits = (np.ascontiguousarray(values, np.float32) + np.float32(0)).view(np.uint32)  # + 0: there is no -0
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> (32 - BITS)).astype(np.intp)


def _lower_ends(bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """The smallest value of each bin."""
    ordered = (bins.astype(np.uint64) << (32 - BITS)).astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)
