"""Thresholds against brute force over all cuts, p-values by hand, and the promised rate by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom

from anomaly_vae.core.errors import DataError
from anomaly_vae.detector.metrics import PixelCounts
from anomaly_vae.detector.thresholds import Threshold, alarm_interval, choose, choose_pixels, p_values, tail_bound

Array = NDArray[np.float64]
NONE = np.empty(0)


def counts(cut: float, normal: Array, anomalous: Array) -> tuple[int, int]:
    """(false alarms, hits) at a cut."""
    return int((normal >= cut).sum()), int((anomalous >= cut).sum())


def tied_scores(seed: int) -> tuple[Array, Array]:
    """Overlapping scores with many ties."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0, 2, rng.integers(5, 60))), np.round(rng.normal(1.5, 2, rng.integers(3, 30)))


# What each policy wants to be as small as possible, of (false alarms, hits) among n normals and m anomalies.
GOALS: dict[str, Callable[[int, int, int, int], float]] = {
    "youden": lambda false, hits, n, m: false / n - hits / m,
    "f1": lambda false, hits, n, m: -2 * hits / (hits + false + m),
    "cost=3": lambda false, hits, n, m: false + 3 * (m - hits),
    "cost=0.2": lambda false, hits, n, m: false + 0.2 * (m - hits),
    "recall=0.8": lambda false, hits, n, m: false if hits >= 0.8 * m else math.inf,
    "recall=1": lambda false, hits, n, m: false if hits == m else math.inf,
}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("policy", GOALS)
def test_no_other_cut_is_better(policy: str, seed: int) -> None:
    normal, anomalous = tied_scores(seed)
    found = choose(policy, normal, anomalous)
    goal = GOALS[policy]
    n, m = len(normal), len(anomalous)

    def worth(cut: float) -> float:
        return goal(*counts(cut, normal, anomalous), n, m)

    assert worth(found.value) == pytest.approx(min(worth(cut) for cut in np.unique(np.r_[normal, anomalous])))
    assert (found.labelled, found.normals, found.anomalies, found.policy) == (True, n, m, policy)
    assert found.false_alarm_rate == pytest.approx(counts(found.value, normal, anomalous)[0] / n)


def test_perfect_separation_is_cut_in_the_middle() -> None:
    normal, anomalous = np.array([1.0, 2.0, 3.0]), np.array([7.0, 9.0])
    for policy in ("youden", "f1", "recall=1", "cost=5", "auto"):
        found = choose(policy, normal, anomalous)
        assert found.value == 5.0
        assert found.false_alarm_rate == 0.0
    assert choose("auto", normal, anomalous).policy == "youden"


# Ten of twenty normals are the tail: excesses of 1 over 1, together 10. An unseen one exceeds 1 + e with probability
# 1/2 * (1 + e / 10) ** -10, which is 1/1000 at e = 10 * (500 ** 0.1 - 1) = 8.6165.
TAILED = np.r_[np.zeros(9), 1.0, np.full(10, 2.0)]
BOUND = 9.616456


def test_the_bound_of_an_exponential_tail_by_hand() -> None:
    assert tail_bound(TAILED, 1e-3) == pytest.approx(BOUND)
    assert tail_bound(np.array([3.0, 1.0]), 1e-3) == pytest.approx(1 + 2 * (500 - 1))
    assert tail_bound(np.array([3.0]), 1e-3) == math.inf


@pytest.mark.parametrize("n", [20, 100, 400])
def test_the_bound_keeps_its_rate_whatever_the_number_of_normals(n: int) -> None:
    """The mean over draws of the exact probability beyond the bound, of an exponential tail and of a thinner one."""
    rng, draws = np.random.default_rng(0), 3000
    beyond = np.mean([math.exp(-tail_bound(rng.exponential(size=n), 1e-3)) for _ in range(draws)])
    assert beyond == pytest.approx(1e-3, rel=0.2)
    beyond = np.mean([0.5 * math.erfc(tail_bound(rng.normal(size=n), 1e-3) / math.sqrt(2)) for _ in range(draws)])
    assert beyond < 1e-3


@pytest.mark.parametrize("policy", ["youden", "f1", "recall=0.5", "recall=1", "cost=5", "auto"])
@pytest.mark.parametrize("anomalous", [np.full(40, 3038.0), np.full(3, 3.4e12), np.full(20, 18.0)])
def test_in_a_wide_gap_the_normals_place_the_cut(policy: str, anomalous: Array) -> None:
    """Forty anomalies at 3,038 nats and three glitches at 3.4e12: half-way would be 1,520 and 1.7e12."""
    found = choose(policy, TAILED, anomalous)
    assert found.value == pytest.approx(BOUND)
    assert (found.false_alarm_rate, found.labelled, found.anomalies) == (0.0, True, len(anomalous))
    assert f"labels leave the threshold open between 2 and {anomalous[0]:.6g} nats" in found.note


def test_in_a_narrow_gap_the_cut_is_half_way() -> None:
    found = choose("youden", TAILED, np.full(20, 17.0))
    assert (found.value, found.note) == (9.5, "")
    assert choose("recall=0.5", TAILED, np.array([4.0, 6.0])).value == 4.0, "both found, and still no false alarm"


def test_a_gap_below_false_alarms_keeps_them_and_the_cut_stays_above_the_next_normal() -> None:
    normal, anomalous = np.r_[np.arange(1000.0) / 1000, 5000.0], np.full(30, 4000.0)
    found = choose("youden", normal, anomalous)
    assert 0.999 < found.value <= 4000
    assert counts(found.value, normal, anomalous) == (1, 30)
    crowded = np.r_[np.zeros(9999), 1.0]  # the tail of the upper tenth says nearly 0, and one normal lies at 1
    assert choose("youden", crowded, anomalous).value == np.nextafter(1.0, 2.0)


def test_normals_tie_with_the_cut() -> None:
    """A normal at the cut is in alarm whatever the threshold; the gap is to the next lower one."""
    found = choose("youden", np.r_[TAILED, 50.0], np.full(20, 50.0))
    assert counts(found.value, np.r_[TAILED, 50.0], np.full(20, 50.0)) == (1, 20)
    assert found.value == 26.0
    assert choose("youden", np.array([5.0, 5.0]), np.array([5.0])).value == 5.0, "nothing is below"


@pytest.mark.parametrize(("anomalies", "note"), [(10, True), (16, True), (17, False), (40, False)])
def test_few_anomalies_leave_the_recall_uncertain(anomalies: int, note: bool) -> None:
    """All found: at least 0.025 ** (1 / n), which is 0.794 of 16 and 0.805 of 17."""
    found = choose("youden", TAILED, np.full(anomalies, 10.0))
    assert ("recall is uncertain" in found.note) is note
    if anomalies == 10:
        assert "10 of 10 anomalies in validation are found, so it lies between 69% and 100%" in found.note


def test_a_rate_is_of_the_normals_alone() -> None:
    """Four normals support no rate of 0.1, ties or not: the threshold is just above all of them, and says so."""
    found = choose("fpr=0.1", np.array([5.0, 5, 5, 1]), np.array([5.0, 2]))
    assert found == choose("fpr=0.1", np.array([5.0, 5, 5, 1]), NONE)
    assert (found.value, found.policy, found.labelled, found.anomalies) == (np.nextafter(5, 6), "fpr=0.1", False, 0)
    assert found.false_alarm_rate == 0.2
    assert "4 held-out normals support no false-alarm rate below 0.2; asked for 0.1" in found.note


@pytest.mark.parametrize("n", [100, 150, 250])
def test_with_labels_too_a_rate_is_kept(n: int) -> None:
    """The k-th largest of n normals is exceeded by k of n + 1 unseen ones in the mean (beta distributed); 0.01 is
    never more than 1 %, where the point of the ROC curve below it realises up to twice as much."""
    rng, draws, k = np.random.default_rng(0), 2_000, (n + 1) // 100
    rates = [math.exp(-choose("fpr=0.01", rng.exponential(size=n), np.array([9.0, 99.0])).value) for _ in range(draws)]
    deviation = math.sqrt(k * (n + 1 - k) / ((n + 1) ** 2 * (n + 2)))  # of Beta(k, n + 1 - k)
    assert np.mean(rates) == pytest.approx(k / (n + 1), abs=4 * deviation / math.sqrt(len(rates)))
    assert k / (n + 1) <= 0.01


@pytest.mark.parametrize("policy", [*GOALS, "auto"])
@pytest.mark.parametrize(
    ("normal", "anomalous"),
    [
        ([5.0, 5.0], [5.0]),
        ([1.0], [0.0]),
        ([3.4e38, 3.4e38], [6.8e38, 1.0]),
        ([1.0, 2.0], [3.0, 3.0]),
        ([0.0, np.nextafter(0, 1)], [0.0]),
    ],
)
def test_a_threshold_is_finite_and_alarms_somewhere(policy: str, normal: list[float], anomalous: list[float]) -> None:
    found = choose(policy, np.array(normal), np.array(anomalous))
    assert math.isfinite(found.value)
    assert sum(counts(found.value, np.array(normal), np.array(anomalous))) > 0


@pytest.mark.parametrize("policy", ["youden", "f1", "recall=0.9", "cost=2"])
def test_a_policy_that_needs_anomalies_says_so(policy: str) -> None:
    with pytest.raises(DataError, match=f"{policy} needs labelled anomalies in validation and there are none; use fpr"):
        choose(policy, np.array([1.0, 2.0]), NONE)


@pytest.mark.parametrize("policy", ["auto", "fpr=0.1", "youden"])
def test_no_normal_scores_is_an_error(policy: str) -> None:
    with pytest.raises(DataError, match=r"a larger split\.valid would work"):
        choose(policy, NONE, np.array([1.0]))


def test_p_values_by_hand() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 4.0])
    found = p_values(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), calibration)
    assert (found * 5).tolist() == pytest.approx([5, 5, 4, 2, 2, 1])


def test_p_values_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    scores, calibration = np.round(rng.normal(size=40), 1), np.sort(np.round(rng.normal(size=30), 1))
    expected = [(1 + sum(c >= s for c in calibration)) / 31 for s in scores]
    np.testing.assert_allclose(p_values(scores, calibration), expected)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_the_threshold_and_the_p_values_agree(rate: float) -> None:
    rng = np.random.default_rng(1)
    calibration, scores = np.round(rng.normal(size=99), 1), np.round(rng.normal(size=400), 1)
    found = choose(f"fpr={rate}", calibration, NONE)
    np.testing.assert_array_equal(scores >= found.value, p_values(scores, np.sort(calibration)) <= rate + 1e-12)


def test_conformal_by_hand() -> None:
    """19 normals support a rate of 1/20: only what is above all of them; 2/20 lets their largest through too."""
    normal = np.arange(19.0)
    found = choose("fpr=0.05", normal, NONE)
    assert found == Threshold(float(np.nextafter(18, 19)), "fpr=0.05", False, 0.05, 19, 0)
    assert choose("fpr=0.1", normal, NONE).value == np.nextafter(17, 18)
    assert choose("fpr=0.149", normal, NONE).value == np.nextafter(17, 18)


@pytest.mark.parametrize(("rate", "n"), [(0.01, 99), (0.05, 60), (0.2, 14)])
def test_the_false_alarm_rate_is_kept(rate: float, n: int) -> None:
    """Over many draws of calibration normals, a new normal raises an alarm at most as often as promised."""
    rng = np.random.default_rng(0)
    draws = 4000
    alarms = sum(rng.normal(size=50) >= choose(f"fpr={rate}", rng.normal(size=n), NONE).value for _ in range(draws))
    realised = float(np.sum(alarms)) / (50 * draws)
    allowed = math.floor(rate * (n + 1)) / (n + 1)  # what n normals can express
    assert realised == pytest.approx(allowed, abs=4 * math.sqrt(allowed / draws / 2))
    assert realised <= rate + 4 * math.sqrt(rate / draws / 2)


@pytest.mark.parametrize("normal", [[1.0], [0.0, 1.0], [-1.0, 2.0]])
def test_a_tail_needs_positive_scores(normal: list[float]) -> None:
    with pytest.raises(DataError, match="needs at least two positive validation scores"):
        choose("tail=0.01", np.array(normal), NONE)


def test_too_few_normals_say_what_they_support() -> None:
    found = choose("auto", np.arange(9.0), NONE)
    assert found.value == np.nextafter(8, 9)
    assert found.false_alarm_rate == 0.1
    assert found.note.startswith("9 held-out normals support no false-alarm rate below 0.1; asked for 0.01")
    assert choose("auto", np.arange(99.0), NONE).note == ""


@pytest.mark.parametrize("normal", [[3.4e38], [5.0, 5.0], [-1.0] * 200])
def test_a_conformal_threshold_is_finite(normal: list[float]) -> None:
    found = choose("auto", np.array(normal), NONE)
    assert math.isfinite(found.value)
    assert found.value > max(normal)


def pixels(seed: int) -> tuple[Array, Array, PixelCounts]:
    """Values of normal and of anomalous pixels with many ties, and their counts."""
    normal, anomalous = tied_scores(seed)
    counted = PixelCounts()
    counted.add(np.r_[normal, anomalous][None], (np.arange(len(normal) + len(anomalous)) >= len(normal))[None])
    return normal, anomalous, counted


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", GOALS)
def test_no_other_pixel_threshold_is_better(policy: str, seed: int) -> None:
    normal, anomalous, counted = pixels(seed)
    found = choose_pixels(policy, normal[:5], counted.curve())
    goal, n, m = GOALS[policy], len(normal), len(anomalous)
    worths = [goal(*counts(cut, normal, anomalous), n, m) for cut in np.unique(np.r_[normal, anomalous])]
    assert goal(*counts(found.value, normal, anomalous), n, m) == pytest.approx(min(worths))
    assert (found.labelled, found.normals, found.anomalies, found.policy) == (True, n, m, policy)


def test_in_a_gap_of_pixels_the_peaks_of_normal_pictures_place_the_threshold() -> None:
    counted = PixelCounts()
    counted.add(np.r_[np.full(9, 1.0), 900.0][None], (np.arange(10) == 9)[None])
    found = choose_pixels("f1", TAILED, counted.curve())
    assert found.value == pytest.approx(BOUND)
    assert "labels leave the threshold open between 1.00012 and 900 nats, where no normal pixel" in found.note
    low = choose_pixels("f1", TAILED / 100, counted.curve()).value  # bound below the pixels beside the anomaly
    assert low == pytest.approx(1, rel=2e-4) and low > 1
    high = choose_pixels("f1", TAILED * 100, counted.curve())  # bound above the anomaly: as the curve says
    assert (high.value, high.note) == (900.0, "")


def test_a_pixel_threshold_speaks_of_pictures_without_masks_and_of_pixels_with_them() -> None:
    peaks = np.arange(1.0, 100.0)  # 99 held-out normal pictures: 1 of 100 may be in alarm
    found = choose_pixels("auto", peaks, None)
    assert (found.policy, found.labelled, found.normals) == ("fpr=0.01", False, 99)
    assert 99 < found.value < 99 + 1e-9
    curve = pixels(0)[2].curve()
    assert choose_pixels("auto", peaks, curve).policy == "f1"
    assert choose_pixels("fpr=0.05", peaks, curve) == choose_pixels("fpr=0.05", peaks, None)
    with pytest.raises(DataError, match="youden needs masks in validation and there are none; use fpr=RATE"):
        choose_pixels("youden", peaks, None)


@pytest.mark.parametrize("rank", [1, 4, 40])
@pytest.mark.parametrize("rows", [1, 10, 3000])
def test_the_interval_of_alarms_is_scipys_beta_binomial(rank: int, rows: int) -> None:
    for normals in (40, 700):
        expected = betabinom(rows, rank, normals + 1 - rank).ppf([0.025, 0.975]) / rows
        assert alarm_interval(rank, normals, rows) == tuple(expected)
