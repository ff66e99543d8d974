"""Thresholds by events a day: against a count by loops, and on drawn series whose rate is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_vae.core.errors import ConfigError, DataError
from anomaly_vae.core.settings import EventsConfig, Policy
from anomaly_vae.detector.configuration import load, opening, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.event_rate import JUMP, HeldOutSteps
from anomaly_vae.detector.thresholds import choose

NONE = np.empty(0)


def events(steps: HeldOutSteps, threshold: float, rules: EventsConfig) -> int:
    """By a loop over the steps."""
    runs: list[list[int]] = []
    for position in steps.positions[steps.scores >= threshold].tolist():
        if runs and position - runs[-1][-1] <= rules.gap + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return sum(len(run) >= rules.shortest for run in runs)


@pytest.mark.parametrize("rules", [EventsConfig(gap=0), EventsConfig(gap=3), EventsConfig(gap=3, shortest=3)])
def test_the_edge_is_the_highest_score_with_so_many_events_by_loops(rules: EventsConfig) -> None:
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.normal(size=400), np.ones(6), "valid").round(1)  # with ties
    positions = np.arange(len(smooth), dtype=np.int64) + JUMP * (np.arange(len(smooth)) >= 200)
    steps = HeldOutSteps(smooth, positions)
    for wanted in (1, 2, 5, 9):
        edge = steps.edge(wanted, rules)
        assert events(steps, edge, rules) >= wanted
        assert all(events(steps, score, rules) < wanted for score in set(smooth[smooth > edge].tolist()))
    assert steps.edge(1000, rules) == smooth.min()


def test_events_a_day_are_kept_on_average() -> None:
    """40 held-out days of 96 steps: two events a day on new days, of independent peaks two steps wide, whatever the
    calibration; over 60 of them the mean rate is promised."""
    rules, rates = EventsConfig(), []
    for seed in range(60):
        rng = np.random.default_rng(seed)

        def days(n: int, rng: np.random.Generator = rng) -> HeldOutSteps:
            x = rng.exponential(size=96 * n)
            return HeldOutSteps(np.maximum(x[1:], x[:-1]), np.arange(96 * n - 1))

        held, new = days(40), days(60)
        found = choose("events=2", np.sort(held.scores), NONE, per_day=96.0, steps=held, rules=rules)
        assert (found.events_a_day, found.note, found.policy) == (2.0, "", "events=2")
        assert found.frequency("steps") == "at most 2 events a day on average, by 40 held-out days"
        rates.append(events(new, found.value, rules) / 60)
    assert np.mean(rates) == pytest.approx(2.0, abs=0.15)


def test_days_that_cannot_tell_a_rate_say_so() -> None:
    steps = HeldOutSteps(np.arange(192.0), np.arange(192))
    few = choose("events=0.1/day", steps.scores, NONE, per_day=96.0, steps=steps)
    assert (few.value, few.events_a_day) == (np.nextafter(191.0, np.inf), 0.5)
    assert "2 days of held-out normal steps support no fewer than 0.5 events a day; asked for 0.1" in few.note
    some = choose("events=1", steps.scores, NONE, per_day=96.0, steps=steps)
    assert "hold 2 events at that rate: below 2.5 a day it is promised on average" in some.note
    with pytest.raises(DataError, match="this data has no times in regular steps; name its time column"):
        choose("events=1", steps.scores, NONE, steps=steps)
    with pytest.raises(DataError, match="an older version saved it; fit again, or use tail=RATE"):
        choose("events=1", steps.scores, NONE, per_day=96.0)
    with pytest.raises(ConfigError, match="is of the steps of a series, and this data is of the kind table; fpr=RATE"):
        resolve(load(overrides=["threshold.policy=events=1"]), "table")
    opening(load(overrides=["threshold.policy=events=1"]))  # of no kind yet
    assert str(Policy.parse("events=2/day")) == "events=2"
    for wrong in ("events", "events=0", "events=inf", "events=1/week"):
        with pytest.raises(ValueError, match="is no threshold policy"):
            Policy.parse(wrong)


def test_a_detector_keeps_its_steps_and_chooses_by_events_again(
    fits: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    detector = Detector.load("det-series", "cpu")
    assert detector.steps is not None and (np.sort(detector.steps.scores) == detector.normal).all()
    assert (np.diff(detector.steps.positions) > 0).all()
    chosen = detector.with_threshold("events=3/day")
    assert events(detector.steps, chosen.threshold.value, detector.config.events) <= 3 * len(detector.normal) / 144
    chosen.save(tmp_path / "chosen")
    again = Detector.load(tmp_path / "chosen", "cpu")
    assert again.threshold == chosen.threshold
    assert again.with_threshold("events=3").threshold == chosen.threshold
