"""Pixel metrics by hand, and against the published definition done again on all pixels at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from anomaly_vae.detector.metrics import BITS, PixelCounts, _keys, _lower_ends

Maps = list[tuple[NDArray[np.float32], NDArray[np.bool_]]]


def counted(pictures: Maps, threshold: float | None = None) -> PixelCounts:
    counts = PixelCounts(threshold)
    for heat, mask in pictures:
        counts.add(heat, mask)
    return counts


def test_by_hand() -> None:
    """Two regions, of one pixel and of two, and ten normal pixels over two pictures."""
    mask = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]], bool)
    heat = np.array([[9, 1, 1], [1, 8, 5], [1, 1, 1]], np.float32)  # the pixel of 8 is normal: the first false alarm
    good = np.array([[2, 0, 0, 0]], np.float32)
    counts = counted([(heat, mask), (good, np.zeros((1, 4), bool))], threshold=5.0)
    # Descending: 9 (region 1 whole), 8 (normal, 1 of 10), 5 (half of region 2), 2 (normal), then a tie of 5 normal
    # pixels with the other half of region 2, then 3 normal zeros.
    # Overlap over fpr: (0, 1/2) (0.1, 1/2) (0.1, 3/4) (0.2, 3/4) then a line to (0.7, 1): at 0.3 it is 0.8.
    assert counts.aupro() == pytest.approx((0.1 * 0.5 + 0.1 * 0.75 + 0.1 * (0.75 + 0.8) / 2) / 0.3)
    assert counts.metrics() == pytest.approx(
        {
            # of 30 pairs: the 9 wins 10, the 5 wins 9, the 1 wins the 3 zeros and half of the 5 other ones
            "pixel_auroc": (10 + 9 + 3 + 2.5) / 30,
            "aupro": counts.aupro(),
            "regions": 2,
            "pixel_f1": 2 * 2 / (2 + 1 + 3),
            "pixel_false_alarm_rate": 0.0,  # the good picture's 2 stays below
        }
    )


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    assert counted([(np.zeros((2, 2), np.float32), np.eye(2, dtype=bool))]).regions == 1
    assert counted([(np.zeros((1, 3), np.float32), np.array([[1, 0, 1]], bool))]).regions == 2


def published_aupro(pictures: Maps, limit: float = 0.3) -> float:
    """Bergmann et al. 2021, 5.1: for every threshold the mean over components of |P ∩ C| / |C|, and the rate of false
    positives over all normal pixels; the area below up to the limit, by trapezoids, over the limit."""
    components = []
    for heat, mask in pictures:
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        components += [heat[labels == number] for number in range(1, count + 1)]
    normal = np.concatenate([heat[~mask] for heat, mask in pictures])
    cuts = np.unique(np.concatenate([heat.ravel() for heat, _ in pictures]))[::-1]
    points = [(np.mean(normal >= cut), np.mean([np.mean(c >= cut) for c in components])) for cut in cuts]
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise([(0.0, 0.0), *points]):
        end = min(x1, limit)
        if end > x0:
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def drawn(seed: int, ties: bool) -> Maps:
    """Five pictures of different sizes, one of them without anomaly; maps that find some of the anomalies."""
    rng = np.random.default_rng(seed)
    pictures: Maps = []
    for number in range(5):
        shape = tuple(rng.integers(8, 14, 2))
        mask = ndimage.binary_dilation(rng.random(shape) < 0.04) if number else np.zeros(shape, bool)
        heat = (rng.normal(size=shape) + 1.5 * mask * rng.random()).astype(np.float32)
        pictures.append((np.round(heat) if ties else heat, mask))
    return pictures


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_against_the_published_definition_and_scikit_learn(seed: int, ties: bool) -> None:
    pictures = drawn(seed, ties)
    found = counted(pictures, threshold=0.5).metrics()
    heat, mask = (np.concatenate([picture[i].ravel() for picture in pictures]) for i in (0, 1))
    # without ties two pixels of the same bin may still be in the wrong order: 1 of some 30,000 pairs here
    close = 1e-12 if ties else 1e-4
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(mask, heat), abs=close)
    assert found["aupro"] == pytest.approx(published_aupro(pictures), abs=close)
    assert found["pixel_f1"] == pytest.approx(f1_score(mask, heat >= 0.5))


def test_the_curve_is_that_of_scikit_learn_and_its_cuts_make_its_points() -> None:
    pictures = drawn(1, ties=True)
    curve = counted(pictures).curve()
    heat, mask = (np.concatenate([picture[i].ravel() for picture in pictures]) for i in (0, 1))
    fpr, tpr, cuts = roc_curve(mask, heat, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr[1:])
    np.testing.assert_allclose(curve.tpr, tpr[1:])
    np.testing.assert_allclose(curve.cuts, cuts[1:], rtol=2.0**-13)
    assert (curve.cuts <= cuts[1:]).all()  # at or above a cut lies all of its bin
    assert (curve.normals, curve.anomalies) == ((~mask).sum(), mask.sum())


def test_bins_are_in_order_and_narrow() -> None:
    magnitudes = np.geomspace(1e-20, 1e20, 4001).astype(np.float32)
    values = np.r_[-magnitudes[::-1], np.float32(-0.0), np.float32(0.0), magnitudes]
    keys = _keys(values)
    assert (np.diff(keys[values != 0]) > 0).sum() >= 8000 - 1  # a factor of 1.02 apart: never the same bin
    assert keys[4001] == keys[4002]
    assert keys.max() < 1 << BITS
    assert (np.diff(keys) >= 0).all()
    ends = _lower_ends(keys)
    assert (ends <= values).all()
    assert (values - ends <= 2.0**-13 * np.abs(ends)).all()


def test_without_anomalies_or_without_normal_pixels_there_is_no_area() -> None:
    zeros = np.zeros((2, 2), np.float32)
    assert counted([(zeros, zeros > 0)], 1.0).metrics() == {}
    assert counted([(zeros, zeros == 0)], 1.0).metrics() == {}
