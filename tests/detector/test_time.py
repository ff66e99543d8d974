"""Time: gaps cut what is trained, calibrated and scored; order and form of new data do not matter; the hour does."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_vae import Detector
from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError, DetectorError
from anomaly_vae.data.datasets import segment_starts
from anomaly_vae.data.kinds.series import SERIES
from anomaly_vae.data.open import open_memory
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.dataframe import example
from anomaly_vae.detector.fit import fit
from anomaly_vae.detector.step_residuals import step_residuals
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import join
from anomaly_vae.workflows.export import trace
from tests.commands import run

SMALL = ["training.steps=5", "device=cpu", "tracking.enabled=false", "data.window=8", "model.latent=2"]


def frame(n: int = 400, missing: tuple[int, ...] = ()) -> pd.DataFrame:
    """A cycle and a drift, a step a minute, but for those that are missing."""
    rng = np.random.default_rng(0)
    columns = {"time": pd.date_range("2024", periods=n, freq="min").astype(str), "a": np.sin(np.arange(n) / 9)}
    columns |= {"drift": np.cumsum(rng.normal(size=n)), "b": rng.normal(size=n)}
    return pd.DataFrame(columns).round(3).drop(index=list(missing)).reset_index(drop=True)


@pytest.fixture(scope="module")
def detector() -> Detector:
    config = load(overrides=SMALL)
    return fit(open_memory(frame(), config.data), config)[0]


def test_order_and_form_do_not_matter(detector: Detector) -> None:
    data = frame()
    scores = detector.score(data)
    assert detector.layout.kind == "series"
    np.testing.assert_array_equal(detector.score(data[::-1])[::-1], scores)
    late = np.r_[0:100, 101, 100, 102:400]
    np.testing.assert_array_equal(detector.score(data.iloc[late]), scores[late])
    indexed = data.set_index(pd.DatetimeIndex(data["time"])).drop(columns="time")
    np.testing.assert_array_equal(detector.score(indexed), scores)
    reversed_ = detector.score_frame(data[::-1].reset_index(drop=True))
    assert reversed_["id"].tolist() == data["time"].tolist()[::-1]
    np.testing.assert_array_equal(reversed_["score"][::-1], scores)


def test_the_lines_of_score_are_those_of_the_file(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = frame(missing=tuple(range(200, 260)))
    data[::-1].to_csv("new.csv", index=False)
    detector.save("det")
    result = run("score", "new.csv", "-m", "det", "-o", "scores.csv")
    assert result.exit_code == 0
    assert "note: the newest steps come first" in result.stderr
    assert "worry: 1 gap in time (1.02 h) cut the series" in result.stderr
    scores = pd.read_csv("scores.csv")
    assert scores["id"].tolist() == data["time"].tolist()[::-1]
    np.testing.assert_array_equal(scores["score"][::-1], detector.score(data))


def test_what_follows_a_gap_is_scored_as_if_nothing_came_before(detector: Detector) -> None:
    data = frame(missing=tuple(range(200, 260)))
    scores = detector.score(data)
    np.testing.assert_allclose(scores[:200], detector.score(data[:200]), atol=2e-6)
    np.testing.assert_allclose(scores[200:], detector.score(data[200:]), atol=2e-6)


def test_gaps_cut_training_and_calibration() -> None:
    data = frame(missing=(*range(60, 100), *range(200, 230), 300, 301, 302, 303))
    config = load(overrides=SMALL)
    detector, seen = fit(open_memory(data, config.data), config)
    assert "3 gaps in time (longest 41 min) cut the series: no window spans one" in seen.notes
    assert seen.data.after_gap is not None
    assert np.flatnonzero(seen.data.after_gap).tolist() == [60, 160, 230]
    scorer = Scorer(detector.score_model, detector.scaler, detector.layout, detector.window, raw=True)
    residuals = step_residuals(scorer, seen.data, np.arange(len(data)))
    starts = segment_starts(None, seen.data.after_gap, len(data), 8)
    np.testing.assert_array_equal(residuals.first, starts)
    level = detector.score_model.level
    assert level is not None
    parts = join(scorer.stream(open_memory(data, config.data).chunks(detector.layout, 50))).parts
    recon, levels = residuals._nats(level)
    np.testing.assert_allclose(parts["recon"], recon, atol=2e-6)
    np.testing.assert_allclose(parts["level"], levels, atol=2e-6)


def test_a_jump_over_a_gap_does_not_widen_a_drifting_sensor() -> None:
    x = np.cumsum(np.random.default_rng(0).normal(size=400))
    x[200:] += 1000
    layout = open_memory(pd.DataFrame({"a": x}), DataConfig(kind="series")).learn(np.arange(400))
    (wide,) = SERIES.elements([x], layout, None)
    (narrow,) = SERIES.elements([x], layout, np.arange(400) == 200)
    assert (narrow.how, wide.how) == ("difference", "difference")
    assert narrow.spread * narrow.scale == pytest.approx(1, rel=0.1)
    assert wide.spread * wide.scale > 40


@pytest.fixture(scope="module")
def clocked() -> tuple[Detector, pd.DataFrame]:
    """Two machines whose sensor follows the hour, in times of a zone with summer time."""
    times = pd.date_range("2024-03-27", periods=48 * 8, freq="30min", tz="Europe/Berlin")
    rng, parts = np.random.default_rng(0), []
    for name, level in (("p", 0.0), ("q", 3.0)):
        hour = times.hour + times.minute / 60
        a = level + 10 * np.sin(2 * np.pi * hour / 24) + rng.normal(size=len(times))
        b = rng.normal(size=len(times))
        text = [time.isoformat() for time in times]
        parts.append(pd.DataFrame({"time": text, "machine": name, "a": a.to_numpy().round(3), "b": b.round(3)}))
    data = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    config = load(overrides=[*SMALL, "data.group=machine", "split.train=0.8", "split.valid=0.2"])
    return fit(open_memory(data[: 2 * 48 * 6], config.data), config)[0], data


def test_the_hour_is_that_of_the_clock_however_times_are_written(
    clocked: tuple[Detector, pd.DataFrame], tmp_path: Path
) -> None:
    detector, data = clocked
    profile = detector.layout.profile
    assert profile is not None
    assert profile.days == 1
    scores = detector.score(data)
    # summer time began on March 31: by the clock on the wall the same hours go on
    usual = profile.at(np.concatenate([c.condition[:, -1] for c in detector.opened(data).chunks(detector.layout, 99)]))
    level = np.where(data["machine"] == "p", 0.0, 3.0)
    assert np.abs(data["a"] - level - usual[:, 0])[2 * 48 * 6 :].max() < 6  # of an amplitude of 10 and noise of 1
    naive = data.assign(time=data["time"].str[:19])  # as a log without zones has them
    np.testing.assert_array_equal(detector.score(naive), scores)
    detector.save(tmp_path / "d")
    np.testing.assert_array_equal(Detector.load(tmp_path / "d").score(data), scores)
    night = data[2 * 48 * 4 - 30 : 2 * 48 * 4 + 50]  # in which summer time begins
    stream, settled = detector.stream(), []
    for row in night.to_dict("records"):
        stream.push(row)
        settled += stream.settled
    settled = sorted(settled + stream.close(), key=lambda answer: answer.row)
    np.testing.assert_array_equal([answer.score for answer in settled], detector.score(night))


def test_a_level_of_midnight_is_odd_at_noon_and_times_are_needed(clocked: tuple[Detector, pd.DataFrame]) -> None:
    detector, data = clocked
    one = data[data["machine"] == "p"].reset_index(drop=True)
    late = one.assign(a=np.r_[one["a"].to_numpy()[:260], one["a"].to_numpy()[236:-24]])  # half a day late
    assert detector.score(late)[280:].mean() > 5 * detector.score(one)[280:].mean()
    reasons = detector.explain(late, 1)
    (usual,) = reasons[(reasons["row"] == 300) & (reasons["column"] == "a")]["usual"]  # 6:00, where it is 10
    low, high = map(float, re.fullmatch(r"(\S+) to (\S+) at this time", usual).groups())  # type: ignore[union-attr]
    assert 4 < low < 10 < high < 16, "in all of training it is -10 to 10"
    with pytest.raises(DataError, match="no time column, and the detector judges by the time of day"):
        detector.score(data.drop(columns="time"))
    with pytest.raises(DetectorError, match=r"judges by the time of day besides; --set data.calendar=none fits one"):
        trace(detector)
    shown = example(detector)
    assert len(detector.score_frame(shown)) == 8
    assert shown["time"].is_unique
