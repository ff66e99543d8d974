"""The threshold of a series: what it promises is what happens, by the known distribution of simulated scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import chi2, expon, lognorm

from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.tails import independent_scores, smallest_rate, tail_threshold
from anomaly_vae.detector.thresholds import Threshold, choose

Array = NDArray[np.float64]
NONE = np.empty(0)
NORMALS = {
    "exponential": expon(),
    "chi-squared, 2 degrees": chi2(2),  # one sensor and no smoothing
    "chi-squared, 8 degrees": chi2(8),
    "log-normal": lognorm(0.5, scale=math.exp(3)),
}


def autoregressive(rng: np.random.Generator, n: int, coefficient: float) -> Array:
    """(n,) of stationary AR(1) with variance 1; its integrated autocorrelation time is (1 + c) / (1 - c)."""
    shocks = rng.normal(size=n) * math.sqrt(1 - coefficient**2)
    shocks[0] = rng.normal()
    return np.asarray(lfilter([1.0], [1.0, -coefficient], shocks))


def ratios(draw: Callable[[], Array], rate: float, survival: Callable[[float], float], draws: int) -> Array:
    """Realised over promised rate of each of so many calibrations."""
    found = []
    for _ in range(draws):
        scores = draw()
        found.append(survival(tail_threshold(scores, rate, independent_scores(scores))) / rate)
    return np.array(found)


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9])
def test_the_number_of_independent_scores_of_ar1(coefficient: float) -> None:
    """Scores whose cube roots are AR(1): n steps are worth n (1 - c) / (1 + c)."""
    scores = (autoregressive(np.random.default_rng(0), 40_000, coefficient) + 10) ** 3
    assert independent_scores(scores) == pytest.approx(40_000 * (1 - coefficient) / (1 + coefficient), rel=0.15)


def test_no_more_independent_scores_than_spans_and_at_least_one() -> None:
    scores = np.random.default_rng(0).exponential(size=400)
    assert independent_scores(scores, span=8) == 50
    assert independent_scores(np.ones(5)) == 1
    assert independent_scores(np.arange(1.0, 6), span=8) == 1


def test_a_tail_by_hand() -> None:
    """Cube roots 1 and 3, taken for four: mean 2, variance 1 * 4/3. Student's t with 3 degrees of freedom exceeds
    2.3534 with probability 0.05, and a prediction adds the error of the mean, 5/4."""
    found = choose("tail=0.05", np.array([1.0, 27.0]), NONE, independent=1.5)
    assert found.value == pytest.approx((2 + 2.3533634 * math.sqrt(4 / 3 * 5 / 4)) ** 3)
    assert (found.policy, found.labelled, found.false_alarm_rate, found.normals) == ("tail=0.05", False, 0.05, 2)
    assert choose("auto", np.array([1.0, 27.0]), NONE, "tail=0.05", 1.5) == found
    assert choose("auto", np.array([1.0]), np.array([2.0]), "tail=0.05").policy == "youden"


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("name", list(NORMALS))
def test_a_supported_rate_is_kept_within_a_factor_of_two(name: str, rate: float) -> None:
    """Of a log-normal fitted to chi-squared scores with 2 degrees of freedom, 1e-4 was 1e-18."""
    normals, rng = NORMALS[name], np.random.default_rng(0)
    found = ratios(lambda: normals.rvs(1000, random_state=rng), rate, normals.sf, 20)
    assert rate >= smallest_rate(1000)
    assert ((found > 0.5) & (found < 2)).mean() >= 0.9
    assert found.mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("n", [15, 60, 400])
@pytest.mark.parametrize("name", ["exponential", "chi-squared, 2 degrees", "chi-squared, 8 degrees"])
def test_an_extrapolated_rate_is_kept_on_average(name: str, n: int) -> None:
    """Asked for 1e-3 where no rate so small is supported; a log-normal without the error of its estimate realises 10
    times as much from 15 chi-squared scores with 8 degrees of freedom."""
    normals, rng = NORMALS[name], np.random.default_rng(0)
    draws = {15: 1000, 60: 100, 400: 40}[n]
    found = np.array(
        [normals.sf(tail_threshold(normals.rvs(n, random_state=rng), 1e-3, n)) / 1e-3 for _ in range(draws)]
    )
    assert smallest_rate(n) > 1e-3
    assert 0.2 < found.mean() < 2


@pytest.mark.parametrize("coefficient", [0.5, 0.9])
def test_a_supported_rate_is_kept_on_autocorrelated_steps(coefficient: float) -> None:
    rng = np.random.default_rng(0)
    found = ratios(lambda: autoregressive(rng, 5000, coefficient) ** 2, 0.01, chi2(1).sf, 20)
    assert ((found > 0.5) & (found < 2)).mean() >= 0.9
    assert found.mean() == pytest.approx(1, abs=0.2)


def test_the_threshold_rises_with_what_is_not_known() -> None:
    scores = np.random.default_rng(0).exponential(size=2000)
    found = [tail_threshold(scores, 1e-4, independent) for independent in (2000, 200, 31, 29, 10, 5, 4)]
    assert (np.diff(found[:3]) > 0).all()
    assert (np.diff(found[3:]) > 0).all()
    assert tail_threshold(scores, 1e-4, 1) == found[-1]  # four are assumed at least


@pytest.mark.parametrize("rate", [1e-300, 1e-17, 1e-3, 0.3, 0.7])
@pytest.mark.parametrize("independent", [1.0, 40.0])
@pytest.mark.parametrize("scores", [[3.4e38, 1.0] * 20, [5.0] * 40, [5.0] * 39 + [5.1], [1e-6] * 38 + [1.0, 2.0]])
def test_a_tail_is_finite(scores: list[float], independent: float, rate: float) -> None:
    found = tail_threshold(np.array(scores), rate, independent)
    assert math.isfinite(found)
    assert found >= min(scores) if rate == 0.7 else found > min(scores)


def test_notes_say_what_cannot_be_promised() -> None:
    scores = np.random.default_rng(0).exponential(size=1000)
    assert choose("tail=0.05", scores, NONE, independent=100).note == ""
    assert choose("tail=0.01", scores, NONE, independent=100).note == (
        "1000 held-out normals are worth about 100 independent ones, which promise no false-alarm rate below 0.05"
        " within a factor of 2; the threshold for 0.01 is extrapolated, and normals may exceed it several times more"
        " often"
    )
    assert "worth about 6 independent ones, which promise no false-alarm rate within" in choose(
        "tail=0.01", scores, NONE, independent=6
    ).note  # fmt: skip
    assert choose("tail=0.001", scores, NONE).note.startswith("1000 held-out normals promise no false-alarm rate below")
    assert "0.01 is their share, which consecutive steps may exceed" in choose(
        "fpr=0.01", scores, NONE, independent=100
    ).note  # fmt: skip
    assert choose("fpr=0.01", scores, NONE).note == choose("fpr=0.05", scores, NONE, independent=100).note == ""


def test_a_rate_is_said_a_day_where_a_clock_is_known() -> None:
    threshold = Threshold(1.0, "tail=0.001", False, 0.001, 60, 0)
    assert threshold.frequency("time steps") == "1 of 1,000 normal time steps"
    daily = dataclasses.replace(threshold, per_day=8640.0)
    assert daily.frequency("time steps") == "8.64 of 8640 normal time steps a day"


def test_a_threshold_of_an_older_version_is_chosen_again() -> None:
    """Its folder knows no number of independent steps: a window of them counts as one."""
    old = Detector.load(Path(__file__).parent / "format4" / "series", "cpu")
    assert (old.threshold.policy, old.threshold.independent, old.threshold.per_day) == ("tail=0.0001", None, None)
    assert old.window
    new = old.with_threshold("tail=0.001").threshold
    assert new.independent == max(1.0, len(old.normal) / old.window)
    assert new.value == tail_threshold(old.normal, 0.001, new.independent)
    assert "promise no false-alarm rate within a factor of 2" in new.note
