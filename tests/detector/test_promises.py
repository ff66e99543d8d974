"""A sample at exactly the threshold is an alarm, wherever it is asked for; and what `monitor` and the pixel threshold
take off for the held-out normals that they were chosen from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import betaln, gammaln

from anomaly_vae.core.config import ThresholdConfig
from anomaly_vae.detector.anomaly_maps import pixel_threshold
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.metrics import PixelCounts, metrics
from anomaly_vae.detector.thresholds import choose
from anomaly_vae.workflows.monitor import monitor
from anomaly_vae.workflows.score import score

Array = NDArray[np.float64]
NONE = np.empty(0)
QUICK = {"device": "cpu", "training__steps": 4, "model__hidden": [6], "scoring__neighbours": 0}
FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])


@pytest.fixture(scope="module")
def detector() -> Detector:
    """With its threshold at exactly the tenth largest of 60 scores."""
    made = Detector.fit(FRAME, **QUICK)
    return replace(made, threshold=replace(made.threshold, value=float(np.sort(made.score(FRAME))[-10])))


def test_an_alarm_is_at_or_above_the_threshold_in_memory_and_where_it_is_served(detector: Detector) -> None:
    assert detector.predict(FRAME).sum() == 10
    assert detector.score_frame(FRAME)["is_anomaly"].sum() == 10
    fifth = float(np.sort(detector.score(FRAME))[-5])
    assert detector.score_frame(FRAME, threshold=fifth)["is_anomaly"].sum() == 5


def test_an_alarm_is_at_or_above_the_threshold_in_files_and_in_monitor(detector: Detector, tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "new.csv", index=False)
    scored = score(str(tmp_path / "new.csv"), detector, output=str(tmp_path / "scores.csv"))
    assert scored == (60, 10)
    assert pd.read_csv(tmp_path / "scores.csv")["is_anomaly"].sum() == 10
    assert monitor(str(tmp_path / "new.csv"), detector).alarms == 10


def test_an_alarm_is_at_or_above_the_threshold_in_metrics() -> None:
    found = metrics(np.array([False, False, True, True]), np.array([1.0, 2.0, 2.0, 3.0]), 2.0)
    assert (found["alarm_rate"], found["false_alarm_rate"], found["recall"]) == (0.75, 0.5, 1.0)
    counts = PixelCounts(2.0)
    counts.add(np.array([[1.0, 2.0, 1.0]], np.float32), np.array([[False, True, False]]))
    counts.add(np.array([[1.0, 2.0, 1.0]], np.float32), np.zeros((1, 3), bool))
    assert counts.metrics()["pixel_f1"] == 2 * 1 / (1 + 1 + 1)
    assert counts.metrics()["pixel_false_alarm_rate"] == 1.0


def beta_binomial_interval(m: int, a: int, b: int, level: float) -> tuple[float, float]:
    """The smallest counts, as shares of m, up to which lies half of what is left out, and all but that half."""
    k = np.arange(m + 1)
    choose_k = gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)
    upto = np.cumsum(np.exp(choose_k + betaln(k + a, m - k + b) - betaln(a, b)))
    low, high = (int(np.argmax(upto >= share)) for share in ((1 - level) / 2, (1 + level) / 2))
    return low / m, high / m


@pytest.mark.parametrize(
    ("value", "k"),
    [
        (float(np.nextafter(95, 96)), 5),  # what fpr=0.05 chooses of 1 .. 99: an alarm leads all but 4 of them
        (96.0, 5),  # at a normal score, which it reaches itself
        (200.0, 1),
    ],
)
def test_monitor_promises_what_the_held_out_normals_above_the_threshold_say(
    value: float, k: int, detector: Detector, tmp_path: Path
) -> None:
    """The threshold is the k-th largest of n + 1: the true rate is Beta(k, n + 1 - k), with a mean of k / (n + 1)."""
    normal = np.arange(1.0, 100.0)
    assert choose("fpr=0.05", normal, NONE).value == np.nextafter(95, 96)
    FRAME.to_csv(tmp_path / "new.csv", index=False)
    made = replace(detector, normal=normal, threshold=replace(detector.threshold, value=value))
    check = monitor(str(tmp_path / "new.csv"), made)
    assert (check.low, check.high) == pytest.approx(beta_binomial_interval(60, k, 100 - k, 0.99))


@pytest.mark.parametrize("centred", [True, False])
def test_a_pixel_threshold_is_of_excesses_over_the_other_normal_pictures(centred: bool) -> None:
    """Of four normal and two anomalous pictures, with a fifth of the normal ones in alarm at most: the largest peak of
    a normal one over the mean of the other three. Maps that are scores as they stand are compared with nothing."""
    elements = np.random.default_rng(0).gamma(2.0, size=(6, 5, 5)).astype(np.float32)
    anomalous = np.array([False, True, False, False, True, False])
    elements[anomalous] += 100
    normals = elements[~anomalous].astype(np.float64)
    others = [np.delete(normals, i, axis=0).mean(0) if centred else 0 for i in range(4)]
    peaks = [(one - other).max() for one, other in zip(normals, others, strict=True)]
    maps = elements - normals.mean(0).astype(np.float32) if centred else elements
    config = ThresholdConfig(unlabelled="fpr=0.2")
    found = pixel_threshold(config, iter(maps), np.arange(6), anomalous, None, centred)
    assert found.value == pytest.approx(max(peaks), rel=1e-5)
    assert (found.normals, found.labelled) == (4, False)
