"""Surprises: worked by hand, Exp(1) for fresh normals whatever the part, and thresholds that keep their promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import genpareto

from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit_memory
from anomaly_vae.detector.thresholds import choose
from anomaly_vae.scoring import surprise
from anomaly_vae.scoring.surprise import FACTORS, Surprise, cross_fitted, factors, generalised_pareto

Array = NDArray[np.float64]
TINY = {"training__steps": 20, "model__hidden": [8], "model__members": 1, "device": "cpu"}
PARTS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: 40 + 1e-2 * rng.normal(size=n),
    "chi-squared": lambda rng, n: rng.chisquare(2, n),
    "log-normal": lambda rng, n: 1e6 * rng.lognormal(size=n),
    "t": lambda rng, n: rng.standard_t(3, n),
    "negative": lambda rng, n: -rng.gamma(5, size=n),
}
SHORT = ("normal", "negative")


def fitted(*parts: Array) -> Surprise:
    found = Surprise(len(parts))
    found.fit_nats(np.stack(parts))
    return found


def test_four_held_out_normals_by_hand() -> None:
    found = fitted(np.array([3.0, 1.0, 4.0, 2.0]))
    at = np.array([[0.0, 1.0, 2.0, 2.5, 4.0, 5.0]])
    scale = 0.1 * (4 - 1)  # of a tail of which nothing is known
    expected = [
        math.log(5 / 4),  # below the smallest
        math.log(5 / 4),
        math.log(5 / 3),
        0.5 * (math.log(5 / 3) + math.log(5 / 2)),
        math.log(5),
        math.log(5) + math.log1p(0.5 * 1 / scale) / 0.5,
    ]
    np.testing.assert_allclose(found.of(at)[0], expected, rtol=1e-12)


def test_ties_have_the_probability_of_as_many_nats() -> None:
    found = fitted(np.array([1.0, 2.0, 2.0, 2.0, 3.0]))
    np.testing.assert_allclose(found.of(np.array([[2.0]])), math.log(6 / 4), rtol=1e-12)
    assert np.isfinite(fitted(np.full(30, 7.0)).of(np.array([[6.0, 7.0, 8.0]]))).all()


def test_the_two_parts_of_the_bound_enter_with_the_mean_of_their_surprises() -> None:
    names = ("recon", "kl", "neighbours")
    assert factors(names) == [0.5, 0.5, 1]
    parts = np.random.default_rng(0).normal(size=(3, 50))
    whole, found = fitted(*parts), Surprise(3, 0, factors(names))
    found.fit_nats(parts)
    recon, kl, neighbours = whole.of(parts)
    np.testing.assert_allclose(found.of(parts).sum(0), (recon + kl) / 2 + neighbours, rtol=1e-12)
    np.testing.assert_allclose(cross_fitted(parts, 0, factors(names))[0], cross_fitted(parts)[0] / 2, rtol=1e-12)
    state = whole.state_dict()
    del state["factor"]  # a folder that was saved before there was one counts every part alike
    found.load_state_dict(state)
    np.testing.assert_array_equal(found.of(parts), whole.of(parts))


@pytest.mark.parametrize("name", PARTS)
def test_the_surprise_of_a_fresh_normal_is_exponential(name: str) -> None:
    rng = np.random.default_rng(0)
    found = np.concatenate([fitted(PARTS[name](rng, 1000)).of(PARTS[name](rng, 4000)[None])[0] for _ in range(10)])
    assert found.mean() == pytest.approx(1, abs=0.06)
    assert found.std() == pytest.approx(1, abs=0.1)
    for nats in (0.5, 1, 2, 3):
        assert (found > nats).mean() == pytest.approx(math.exp(-nats), rel=0.12)
    beyond = (found > 6).mean() * math.exp(6)  # of what 1,000 held-out normals cannot show
    assert beyond < 2
    assert beyond > 0.4 or name in SHORT  # a tail that ends, as of -x where x > 0, counts as exponential


def test_order_is_kept_however_far_away() -> None:
    rng = np.random.default_rng(1)
    normals = rng.normal(size=500)
    at = np.unique(np.r_[np.linspace(normals.min(), 10, 4000), np.geomspace(11, np.finfo(np.float32).max, 1000)])
    found = fitted(normals).of(at[None])[0]
    assert (np.diff(found) > 0).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("shape", [0.0, 0.3, 0.8])
def test_the_tail_finds_a_generalised_pareto_distribution(shape: float) -> None:
    rng = np.random.default_rng(2)
    found = [generalised_pareto(genpareto.rvs(shape, scale=2, size=500, random_state=rng), 1.0) for _ in range(20)]
    scale, shapes = np.mean(found, axis=0)
    assert scale == pytest.approx(2, rel=0.05)
    assert shapes == pytest.approx(shape, abs=0.05)


def test_a_graph_has_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    found = fitted(rng.normal(size=700), rng.poisson(2, 700).astype(float))
    raw = torch.from_numpy(np.r_[rng.normal(size=(1, 400)), rng.poisson(3, (1, 400))])
    searched = found(raw)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    np.testing.assert_array_equal(found(raw), searched)


def test_many_held_out_normals_are_told_by_few_knots() -> None:
    rng = np.random.default_rng(4)
    normals = rng.chisquare(3, 15_000)
    found = fitted(normals)
    at = np.quantile(normals, [0.01, 0.3, 0.5, 0.9, 0.97])
    exact = [-math.log((normals >= x).mean()) for x in at]
    np.testing.assert_allclose(found.of(at[None])[0], exact, atol=0.02)


def test_a_held_out_normal_is_judged_by_the_others() -> None:
    raw = np.random.default_rng(5).normal(size=(2, 20))
    found = cross_fitted(raw)
    for row in range(20):
        others = np.delete(raw, row, axis=1)
        np.testing.assert_array_equal(found[:, row], fitted(*others).of(raw[:, [row]])[:, 0])


def test_rows_that_no_fit_is_to_are_judged_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surprise, "ROWS", 30)
    raw = np.random.default_rng(6).normal(size=(1, 59))
    np.testing.assert_array_equal(cross_fitted(raw)[:, 1::2], fitted(raw[0]).of(raw)[:, 1::2])


@pytest.mark.parametrize(("n", "rate", "times"), [(40, 0.05, 120), (200, 0.02, 80)])
def test_a_threshold_keeps_its_promise(n: int, rate: float, times: int) -> None:
    """Realised false alarms of fresh normals, where the normals that choose the threshold taught the surprises too."""
    rng = np.random.default_rng(7)

    def parts(count: int) -> Array:
        shared = rng.normal(size=count)
        return np.stack([np.exp(shared + rng.normal(size=count)), shared + rng.normal(size=count),
                         rng.standard_t(3, count)])  # fmt: skip

    realised, naive = [], []
    for _ in range(times):
        held, fresh = parts(n), parts(2000)
        found = fitted(*held)
        scores = found.of(fresh).sum(0)
        for rates, of_normals in ((realised, cross_fitted(held)), (naive, found.of(held))):
            threshold = choose(f"fpr={rate}", np.sort(of_normals.sum(0)), np.empty(0))
            rates.append((scores >= threshold.value).mean())
    promised = math.floor(rate * (n + 1)) / (n + 1)
    error = 3 * np.std(realised) / math.sqrt(len(realised))
    assert np.mean(realised) == pytest.approx(promised, abs=error + 0.05 * promised)
    gap = np.subtract(naive, realised)
    assert gap.mean() > 3 * gap.std() / math.sqrt(len(gap))


# --- in a detector ---------------------------------------------------------------------------------------------------


def test_raw_nats_are_beside_the_surprises_and_their_sum_is_a_setting_away() -> None:
    X = np.random.default_rng(8).normal(size=(300, 3))
    surprised, seen = fit_memory(X, split__folds=0, **TINY)
    added = Detector.fit(X, scoring__combine="sum", split__folds=0, **TINY)
    scores, raw = surprised.parts(X), added.parts(X)
    assert scores.raw is not None
    assert raw.raw is None
    assert list(scores.raw) == list(scores.parts) == list(raw.parts)
    for name, nats in raw.parts.items():
        np.testing.assert_array_equal(scores.raw[name], nats, err_msg=name)
    np.testing.assert_array_equal(scores.total, np.round(sum(scores.parts.values()), 6))

    # what the fit scored: held-out normals by the others, as the threshold needs them
    assert seen.scores.raw is not None
    held = np.stack(list(seen.scores.raw.values()))
    np.testing.assert_allclose(
        np.stack(list(seen.scores.parts.values())), cross_fitted(held, 1, factors(seen.scores.raw)), atol=1e-6
    )


def test_every_part_of_fresh_rows_is_exponential() -> None:
    rng = np.random.default_rng(9)
    detector = Detector.fit(np.exp(rng.normal(size=(3000, 4))), **TINY)
    scores = detector.parts(np.exp(rng.normal(size=(3000, 4))))
    assert not scores.parts.pop("missing").any()  # in these rows nothing is
    for name, nats in scores.parts.items():
        nats = nats / FACTORS.get(name, 1)
        assert nats.mean() == pytest.approx(1, abs=0.12), name
        assert (nats > 3).mean() == pytest.approx(math.exp(-3), rel=0.4), name
