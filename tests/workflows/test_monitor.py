"""Drift is found where there is some, by tests that agree with SciPy's; the exit code says whether to fit again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import kolmogorov
from scipy.stats import chi2_contingency, ks_2samp

from anomaly_vae import tracking
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import DetectorError
from anomaly_vae.data.scaling import Element, Scaler
from anomaly_vae.data.source import Chunk, Column, Layout
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import LARGE, DriftTest, MonitoredValues, Reference, judge
from anomaly_vae.detector.thresholds import alarm_interval
from anomaly_vae.workflows import monitor
from tests.commands import run

RNG = np.random.default_rng(0)


def watch(reference: Reference, *pieces: np.ndarray) -> DriftTest:
    made = DriftTest(reference)
    for piece in pieces:
        made.add(piece)
    return made


@pytest.mark.parametrize("digits", [0, 1, 12])  # with many ties, some, none
def test_the_streamed_statistic_is_that_of_scipy(digits: int) -> None:
    old, new = RNG.normal(size=700).round(digits), RNG.normal(0.3, 2, size=900).round(digits)
    (found,) = watch(Reference.of("x", old), new[:10], new[10:]).findings()
    expected = float(ks_2samp(old, new).statistic)
    assert found.p == pytest.approx(kolmogorov(np.sqrt(700 * 900 / 1600) * expected), rel=1e-9)
    assert (found.was, found.now) == pytest.approx((old.mean(), new.mean()))


def test_categories_and_missing_cells_are_tested_by_chi_squared() -> None:
    old = np.r_[np.zeros(60), np.ones(40)]
    new = np.r_[np.zeros(30), np.ones(60), np.full(10, 2.0), np.full(25, np.nan)]  # 2: a new category
    seen = watch(Reference.of("colour", old, ("red", "green")), new)
    category, missing = seen.findings()
    assert category.p == pytest.approx(chi2_contingency([[60, 40, 0], [30, 60, 10]]).pvalue)
    assert (category.was, category.now) == (0.0, 0.1)
    shares = [(60.5 / 101.5, 30.5 / 101.5), (40.5 / 101.5, 60.5 / 101.5), (0.5 / 101.5, 10.5 / 101.5)]
    assert category.index == pytest.approx(sum((q - p) * np.log(q / p) for p, q in shares))
    assert missing.name == "colour (missing)"
    assert missing.p == pytest.approx(chi2_contingency([[100, 0], [100, 25]]).pvalue)
    assert seen.lost() == []
    assert watch(Reference.of("colour", old, ("red", "green")), np.ones(50)).lost() == ["red"]


def test_a_trifle_in_many_rows_is_no_drift_and_a_large_change_is() -> None:
    old = Reference.of("x", RNG.normal(size=5000))
    trifle, large = (
        judge([watch(old, RNG.normal(0.1, 1, 200_000))], 0.01),
        judge([watch(old, RNG.normal(1, 1, 300))], 0.01),
    )
    assert trifle[0].p < 0.01 and trifle[0].index < LARGE and not trifle[0].drifted
    assert large[0].drifted


def test_data_as_in_training_is_rarely_called_drifted() -> None:
    checks = 60
    wrong = 0
    for _ in range(checks):
        watches = [watch(Reference.of(str(i), RNG.normal(size=300)), RNG.normal(size=60)) for i in range(10)]
        wrong += any(finding.drifted for finding in judge(watches, 0.05))
    assert wrong <= 8  # 5 % of 60 are 3; more than 8 come once in 300 times


def test_steps_that_follow_each_other_count_as_fewer() -> None:
    walk = np.convolve(RNG.normal(size=2100), np.ones(100) / 10, "valid")  # nearly constant over tens of steps
    steps, rows = (Reference.of("x", walk, ordered=ordered) for ordered in (True, False))
    assert steps.memory > 0.95
    later = walk[:200]
    assert watch(steps, later).findings()[0].p > 0.05 > watch(rows, later).findings()[0].p


def test_the_interval_of_alarms_is_that_of_beta_binomial() -> None:
    low, high = alarm_interval(5, 99, 200, 0.95)
    rates = np.random.default_rng(1).beta(5, 95, 200_000)
    drawn = np.random.default_rng(2).binomial(200, rates) / 200
    assert 0.95 <= np.mean((drawn >= low) & (drawn <= high)) <= 0.97


def test_a_sensor_that_wanders_is_watched_as_its_differences_within_its_machine() -> None:
    layout = Layout("series", (2,), (Column("level"), Column("flow")))
    readings = MonitoredValues(layout, Scaler([Element(0, "difference"), Element(1, "linear")], 30))
    groups = np.array(["a", "b", "a", "b"])
    values = np.array([[1.0, 7], [10, 7], [3, 7], [11, 7]])
    first = readings.of(Chunk(np.arange(4), values, groups=groups))
    second = readings.of(Chunk(np.arange(4), values + np.array([5.0, 0]), groups=groups))
    assert first[:, 0].tolist() == [0, 0, 2, 1]
    assert second[:, 0].tolist() == [3, 4, 2, 1]  # 6 - 3 and 15 - 11: from the chunk before
    assert (first[:, 1] == 7).all()


def draw(rows: int, shift: float = 0.0, colours: tuple[str, ...] = ("red", "green")) -> pd.DataFrame:
    frame = pd.DataFrame(RNG.normal(size=(rows, 2)), columns=["size", "weight"])
    frame["size"] += shift
    frame["colour"] = RNG.choice(colours, rows)
    return frame


def test_monitor_tells_when_to_fit_again_and_keeps_a_series_of_it(workplace: Path) -> None:
    draw(600).assign(still=7, aux=None).to_csv("old.csv", index=False)
    small = [
        part
        for key in ("training.epochs=2", "model.members=1", "scoring.neighbours=0", "split.folds=0")
        for part in ("--set", key)
    ]
    run_id = json.loads(run("fit", "old.csv", *small, "--json").stdout)["run_id"]
    draw(300).assign(still=7).to_csv("same.csv", index=False)
    other = draw(300, 3.0, ("red", "pink")).assign(still=7, aux=None)
    other.loc[:1, "still"] = 8
    other.to_csv("other.csv", index=False)

    fine = run("monitor", "same.csv")
    assert (fine.exit_code, fine.stdout.splitlines()[-1]) == (0, "verdict  as in training")
    shown = run("monitor", "other.csv")
    assert shown.exit_code == 3, shown.stdout
    lines = {line.split("  ")[0].strip(): line for line in shown.stdout.splitlines()}
    assert lines["size"].endswith("drifted") and "weight" not in lines
    assert lines["new in colour"].endswith("pink") and lines["gone from colour"].endswith("green")
    assert "rows are alarms" in lines["verdict"]
    told = json.loads(run("monitor", "other.csv", "--json").stdout)
    assert told["retrain"] and told["rows"] == 300
    assert told["moved"] == {"still": 2}
    assert "still, which never varied in training, has another value in 2 rows" in told["reasons"]

    from anomaly_vae.tracking.client import connect

    client = connect(Config())
    points = client.get_metric_history(run_id, "monitor/alarm_share")
    assert [point.step for point in points] == [0, 1, 2]
    assert points[2].value == told["share"]
    assert [p.value for p in client.get_metric_history(run_id, "monitor/retrain")] == [0.0, 1.0, 1.0]
    assert {file.path for file in client.list_artifacts(run_id, "monitor")} == {
        f"monitor/000{n}.json" for n in (0, 1, 2)
    }
    assert tracking.times_logged(run_id, ("monitor/retrain",), Config()) == 3
    assert run("monitor", "absent.csv").exit_code == 1


@pytest.mark.parametrize("name", ["digits", "series"])
def test_every_kind_is_as_its_own_training(name: str, fits: dict[str, dict[str, object]], tmp_path: Path) -> None:
    frame = pd.read_csv(f"{name}.csv")
    frame = frame[frame["label"] == 3] if name == "digits" else frame[:1200]
    frame.to_csv(tmp_path / "normal.csv", index=False)
    detector = Detector.load(f"det-{name}")
    check = monitor.monitor(str(tmp_path / "normal.csv"), detector)
    assert not [finding.name for finding in check.findings if finding.drifted]
    watched = {finding.name.removesuffix(" (missing)") for finding in check.findings}
    assert {"score: recon", "score: kl"} < watched
    assert ("brightness" in watched) == (name == "digits")
    with pytest.raises(DetectorError, match="fit again to monitor"):
        monitor.monitor(str(tmp_path / "normal.csv"), replace(detector, references=()))
