"""A sample exactly at the threshold is an anomaly, everywhere: one row's score is made the threshold and is in alarm,
and the next larger number as threshold leaves it out."""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from anomaly_vae.data.open import open_source
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.metrics import PixelCounts, metrics
from anomaly_vae.detector.monitoring import LEVEL
from anomaly_vae.detector.thresholds import alarm_interval
from anomaly_vae.reporting import plots
from anomaly_vae.reporting.heatmaps import heat_maps
from anomaly_vae.sklearn import AnomalyVAE
from anomaly_vae.workflows import monitor
from anomaly_vae.workflows.evaluate import evaluate
from anomaly_vae.workflows.score import Maps, Options, score
from tests.commands import ok

Fits = dict[str, dict[str, object]]
SIDES = pytest.mark.parametrize("at", [True, False], ids=["at", "just below"])


def moved(detector: Detector, value: float, at: bool) -> tuple[Detector, float]:
    """A detector whose threshold is the value, or the next larger number; and that threshold."""
    cut = value if at else float(np.nextafter(value, np.inf))
    return replace(detector, threshold=replace(detector.threshold, value=cut)), cut


@pytest.fixture
def table(fits: Fits) -> tuple[Detector, pd.DataFrame, NDArray[np.float64], int]:
    """The detector of the table, its rows, their scores, and the row with the median one, which no other has."""
    detector, frame = Detector.load("det-table"), pd.read_csv("table.csv")
    total = detector.score(frame)
    row = int(np.argsort(total)[len(total) // 2])
    assert (total == total[row]).sum() == 1
    return detector, frame, total, row


@SIDES
def test_predictions_and_frames(table: tuple[Detector, pd.DataFrame, NDArray[np.float64], int], at: bool) -> None:
    detector, frame, total, row = table
    there, cut = moved(detector, total[row], at)
    above = total > total[row]
    expected = above | (np.arange(len(total)) == row) if at else above
    np.testing.assert_array_equal(there.predict(frame), expected)
    np.testing.assert_array_equal(there.score_frame(frame)["is_anomaly"], expected)
    np.testing.assert_array_equal(detector.score_frame(frame, threshold=cut)["is_anomaly"], expected)


@SIDES
def test_a_served_model(
    table: tuple[Detector, pd.DataFrame, NDArray[np.float64], int], tmp_path: Path, at: bool
) -> None:
    from anomaly_vae.tracking.model import saved_model

    detector, frame, total, row = table
    there, cut = moved(detector, total[row], at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        with saved_model(there) as model:
            model.rename(tmp_path / "model")
        served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
        assert served.predict(frame)["is_anomaly"].sum() == (total > total[row]).sum() + at
        assert served.predict(frame, params={"threshold": cut})["is_anomaly"][row] == at


@SIDES
def test_a_file_of_scores(
    table: tuple[Detector, pd.DataFrame, NDArray[np.float64], int], tmp_path: Path, at: bool
) -> None:
    detector, _, total, row = table
    there, cut = moved(detector, total[row], at)
    for name, scorer, options in (("a", there, Options()), ("b", detector, Options(threshold=cut))):
        _, alarms = score("table.csv", scorer, output=str(tmp_path / f"{name}.csv"), options=options)
        written = pd.read_csv(tmp_path / f"{name}.csv")
        assert alarms == written["is_anomaly"].sum() == (total > total[row]).sum() + at
        assert written["is_anomaly"][row] == at
    lines = ok("score", "table.csv", "-m", "det-table", "--threshold", repr(float(cut))).splitlines()
    assert lines[row + 1].split(",")[lines[0].split(",").index("is_anomaly")] == ("true" if at else "false")


@SIDES
def test_monitoring(table: tuple[Detector, pd.DataFrame, NDArray[np.float64], int], at: bool) -> None:
    detector, _, total, row = table
    there, _ = moved(detector, total[row], at)
    assert monitor.monitor("table.csv", there).alarms == (total > total[row]).sum() + at
    third = float(detector.normal[-3])  # of the held-out normals; alarms of unseen ones: rank 4, or 3 above it
    there, _ = moved(detector, third, at)
    check = monitor.monitor("table.csv", there)
    n, m = len(detector.normal), len(total)
    assert (check.low, check.high) == alarm_interval(3 + at, n, m, 1 - LEVEL)


@SIDES
def test_metrics_and_evaluation(table: tuple[Detector, pd.DataFrame, NDArray[np.float64], int], at: bool) -> None:
    detector, _, total, row = table
    there, _ = moved(detector, total[row], at)
    found = evaluate("table.csv", there).metrics
    assert found["alarm_rate"] * len(total) == pytest.approx((total > total[row]).sum() + at)
    cut = 2.0 if at else float(np.nextafter(2.0, 3))
    by_hand = metrics(np.array([False, False, True, True]), np.array([1.0, 2.0, 2.0, 3.0]), cut)
    assert by_hand["recall"] == (1.0 if at else 0.5)
    assert by_hand["false_alarm_rate"] == (0.5 if at else 0.0)
    assert by_hand["precision"] == (2 / 3 if at else 1.0)


@SIDES
def test_the_pixels_of_maps(at: bool) -> None:
    """Pixels of 1, 2, 2, 3 nats, the last two anomalous, and a normal picture whose peak is 2."""
    cut = 2.0 if at else float(np.nextafter(np.float32(2), np.float32(3)))
    counted = PixelCounts(cut)
    counted.add(np.array([[1, 2, 2, 3]], np.float32), np.array([[False, False, True, True]]))
    counted.add(np.array([[0, 2]], np.float32), np.zeros((1, 2), bool))
    found = counted.metrics()
    assert found["pixel_false_alarm_rate"] == at
    assert found["pixel_f1"] == pytest.approx(2 * 2 / (2 + 2 + 2) if at else 2 * 1 / (1 + 0 + 2))


@SIDES
def test_the_contour_of_a_map(at: bool) -> None:
    heat = np.zeros((256, 256), np.float32)
    heat[100:150, 100:150] = 2.0
    picture = np.zeros((256, 256, 1), np.uint8)
    cut = 2.0 if at else float(np.nextafter(np.float32(2), np.float32(3)))
    drawn = plots.overlay(picture, heat, cut)
    assert (drawn[95:155, 300:480] == 255).all(axis=2).any() == at, "white where the contour is, in the right half"


@SIDES
def test_the_pictures_that_are_drawn(fits: Fits, tmp_path: Path, at: bool) -> None:
    detector, frame = Detector.load("det-digits"), pd.read_csv("digits.csv")[:12]
    frame.to_csv(tmp_path / "few.csv", index=False)
    total = detector.score(frame)
    row = int(np.argsort(total)[-3])
    there, _ = moved(detector, total[row], at)
    score(str(tmp_path / "few.csv"), there, output=str(tmp_path / "x.csv"), maps=Maps(str(tmp_path / "maps")))
    drawn = {path.stem for path in (tmp_path / "maps").iterdir()}
    assert len(drawn) == (total > total[row]).sum() + at
    assert (str(row) in drawn) == at
    source = open_source(tmp_path / "few.csv", detector.config.data)
    with heat_maps(str(tmp_path / "again"), there, source, everything=False, values=False) as maps:
        for chunk, scores in there.score_source(source, explain=True):
            maps.draw(chunk, scores, there.predict(frame))
    assert {path.stem for path in (tmp_path / "again").iterdir()} == drawn


@pytest.fixture(scope="module")
def estimator() -> AnomalyVAE:
    return AnomalyVAE(epochs=1).fit(np.random.default_rng(0).normal(size=(60, 3)))


@SIDES
def test_the_estimator_of_scikit_learn(estimator: AnomalyVAE, at: bool) -> None:
    X, fitted = np.random.default_rng(0).normal(size=(60, 3)), copy(estimator)
    total = fitted.detector_.score(X)
    row = int(np.argsort(total)[30])
    fitted.offset_ = -moved(fitted.detector_, total[row], at)[1]
    assert (fitted.predict(X)[row] == -1) == at
    assert (fitted.predict(X) == -1).sum() == (total > total[row]).sum() + at
