"""The threshold of a series is chosen by steps that no part of the score has seen, and an alarm comes with a delay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.data.open import open_source
from anomaly_vae.detector import step_residuals
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import Fit, fit, fit_memory
from anomaly_vae.detector.tails import independent_scores
from anomaly_vae.scoring.parts import sensor_level
from anomaly_vae.scoring.parts.sensor_level import LEAST, LEVEL, SHARE, SMOOTH, trailing_mean
from anomaly_vae.scoring.scorer import Scorer

Array = NDArray[Any]
N, WINDOW = 320, 8
QUICK = {"device": "cpu", "training__steps": 8, "model__channels": [4, 8], "data__window": WINDOW}


def two_machines() -> pd.DataFrame:
    """Their steps take turns, ten minutes apart; the second drifts in its last quarter."""
    t = np.arange(N) // 2
    values = np.random.default_rng(0).normal(0, 0.3, (N, 2)) + np.c_[np.sin(t / 4), np.cos(t / 7)]
    values[1::2, 1] += np.maximum(0, t[1::2] - 120) / 20
    clock = pd.Timestamp("2025-01-01") + pd.to_timedelta(600 * t, unit="s")
    return pd.DataFrame({"time": clock, "machine": np.resize(["b", "a"], N), "x": values[:, 0], "y": values[:, 1]})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Fit]:
    path = tmp_path_factory.mktemp("series") / "x.csv"
    two_machines().to_csv(path, index=False)
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in QUICK.items()]
    config = load(overrides=[*overrides, "data.group=machine", "tracking.enabled=false"], base={"split": NO_TEST})
    return fit(open_source(path, config.data), config)


@pytest.mark.parametrize("piece", [sensor_level.PIECE, 23])
def test_held_out_steps_choose_the_threshold_by_a_level_that_has_not_seen_them(
    fitted: tuple[Detector, Fit], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine's half of them, scored by the detector with a level of the training rows and the other half."""
    monkeypatch.setattr(step_residuals, "PIECE", piece)
    detector, seen = fitted
    valid, machines = seen.split.valid, np.asarray(seen.data.groups)
    early = np.zeros(N, bool)
    for machine in (0, 1):
        rows = valid[machines[valid] == machine]
        early[rows[: len(rows) // 2]] = True
    level, held = detector.score_model.level, np.isin(np.arange(N), valid)
    assert level is not None
    scorer = Scorer(detector.score_model, detector.scaler, detector.layout, WINDOW)
    residuals = step_residuals.step_residuals(scorer, seen.data, np.arange(N))
    own, expected = level.measures()[:2], np.empty(N)
    try:
        for half in (held & early, held & ~early):
            usable = (np.isin(np.arange(N), seen.split.train) | held) & ~half
            step, mean = by_hand(seen, residuals, usable)
            level.step, level.level = torch.from_numpy(step).float(), torch.from_numpy(mean).float()
            whole = [scores.total for _, scores in scorer.stream(chunk for _, chunk in seen.data.pieces(np.arange(N)))]
            expected[half] = np.concatenate(whole)[half]
    finally:
        level.step, level.level = (variance.float() for variance in own)
    scores = replace(seen.scores, elements=None).take(valid)
    found = residuals.cross_scores(level, seen.split.train, valid, scores)
    np.testing.assert_allclose(found, expected[valid], rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(detector.normal, np.sort(found))
    assert (np.sort(scores.total) != detector.normal).any()
    in_order = np.concatenate([found[machines[valid] == machine] for machine in (0, 1)])
    assert detector.threshold.independent == independent_scores(in_order, SMOOTH)


def by_hand(seen: Fit, residuals: Any, usable: Array) -> tuple[Array, Array]:
    """(step, level) variances of the usable rows, machine after machine."""
    squares, means = [], []
    machines = np.asarray(seen.data.groups)[residuals.order]
    for machine in (0, 1):
        rows = residuals.order[machines == machine]
        values, known = residuals.values[machines == machine], usable[rows].copy()
        known[0] = False  # the break between machines
        squares.append(values[known] ** 2)
        trailing = trailing_mean(torch.from_numpy(values), LEVEL).numpy()
        whole = [t for t in range(LEVEL - 1, len(rows)) if known[t - LEVEL + 1 : t + 1].all()]
        means.append(trailing[whole] ** 2)
    step = np.concatenate(squares).mean(axis=0) + LEAST
    return step, np.concatenate(means).mean(axis=0) + SHARE * step + LEAST


def test_a_detector_of_a_clock_promises_steps_a_day(fitted: tuple[Detector, Fit], tmp_path: Path) -> None:
    """A step is ten minutes; 48 held-out steps are no six independent ones, and that is said."""
    detector, _ = fitted
    threshold = detector.threshold
    assert (threshold.policy, threshold.per_day, detector.layout.per_day) == ("tail=0.001", 144.0, 144.0)
    assert threshold.frequency("time steps") == "0.144 of 144 normal time steps a day"
    assert "promise no false-alarm rate within a factor of 2" in threshold.note
    again = detector.with_threshold("tail=0.2").with_threshold("auto").threshold
    assert again == threshold
    detector.save(tmp_path / "detector")
    assert Detector.load(tmp_path / "detector", "cpu").threshold == threshold


@pytest.mark.parametrize("recon", ["level", "likelihood"])
def test_a_score_waits_for_as_many_later_steps_as_the_delay_says(recon: str) -> None:
    """A step depends on what comes within the delay, and on nothing later."""
    X = np.random.default_rng(0).normal(size=(200, 2))
    detector, _ = fit_memory(X, kind="series", scoring__recon=recon, tracking__enabled=False, **QUICK)
    assert detector.delay == WINDOW - 1 + (3 if recon == "level" else 0)
    before, reach = detector.score(X), 0
    for changed in range(100, 100 + 2 * WINDOW):
        other = X.copy()
        other[changed:] += 3
        differs = np.flatnonzero(detector.score(other) != before)
        reach = max(reach, changed - int(differs[0]))
    assert reach == detector.delay


@pytest.mark.parametrize(
    ("clock", "per_day"),
    [
        ([f"2025-01-01 00:{minute:02d}:00" for minute in range(0, 60, 5)], 288.0),
        ([f"{day:02d}.01.2025 10:30" for day in range(13, 25)], 1.0),
        ([1_700_000_000 + 10 * i for i in range(12)], 8640.0),
        ([1_700_000_000_000 + 10_000 * (i // 2) for i in range(12)], 8640.0),  # two machines take turns
        ([0.1 * i for i in range(12)], None),  # of no known unit
        (["2025-01-01"] * 12, None),
    ],
)
def test_steps_a_day(tmp_path: Path, clock: list[object], per_day: float | None) -> None:
    pd.DataFrame({"time": clock, "a": [i % 4 + 0.5 for i in range(12)]}).to_csv(tmp_path / "x.csv", index=False)
    source = open_source(tmp_path / "x.csv", DataConfig(kind="series", time="time"))
    found = source.learn(np.arange(12)).per_day
    assert found == (per_day if per_day is None else pytest.approx(per_day))
