"""Codes and data of every kind and every member of the family: contracts, and geometry worked by hand."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Column, Layout
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.registry import MODELS
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.training import loop
from anomaly_vae.workflows.latent.directions import Direction, attribute, colours
from anomaly_vae.workflows.latent.projection import project
from anomaly_vae.workflows.latent.space import LatentSpace, lerp, slerp

N, STEPS, WINDOW = 48, 120, 8
RNG = np.random.default_rng(0)
SHORT = {"training__epochs": 1, "training__batch_size": 16, "training__jitter": 0.0, "scoring__neighbours": 0,
         "model__latent": 3, "model__hidden": [16], "model__channels": [4, 5]}  # fmt: skip


def data(axes: int) -> NDArray[Any]:
    """Rows (N, 4), steps of a series (T, 2) of which one sensor wanders, or pictures (N, 1, 16, 16)."""
    if axes == 2:
        return np.c_[np.cumsum(RNG.normal(size=STEPS)), np.sin(np.arange(STEPS) / 5)]
    return RNG.normal(size=(N, 4)) if axes == 1 else RNG.integers(0, 255, (N, 1, 16, 16)).astype(np.uint8)


@cache
def fitted(kind: str, axes: int, **settings: Any) -> tuple[Detector, NDArray[Any]]:
    settings = (
        SHORT | {"model__kind": kind} | ({"kind": "series", "data__window": WINDOW} if axes == 2 else {}) | settings
    )
    x = data(axes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "STEPS", 2)  # of an epoch: what is promised here holds of any weights
        return Detector.fit(x, **settings), x


# a conditional model needs a condition: test_conditional.py; `features` has no code of a whole picture
OTHERS = ("conditional", "features")
CASES = [(kind, axes) for kind, member in MODELS.items() for axes in member.axes if kind not in OTHERS]


@pytest.mark.parametrize(("kind", "axes"), CASES)
def test_every_member_reads_and_writes_data_of_its_kind(kind: str, axes: int) -> None:
    detector, x = fitted(kind, axes)
    space, source = LatentSpace(detector), open_memory(x, detector.config.data)
    items = space.spread(source, 10_000)
    expected = x[items.places] if axes == 2 else x
    np.testing.assert_array_equal(items.values, expected)
    codes = space.codes(items.x)
    assert codes.shape == (len(items.ids), detector.score_model.model.latent)
    decoded = space.decode(codes, starts=space.starts(items))
    assert decoded.shape == items.values.shape
    # the same expected x as scoring's, and back in the units of the data
    with torch.inference_mode():
        mean = detector.score_model.model(items.x).px.mean
    mean = (mean if mean.dim() == items.x.dim() else mean.mean(0)).numpy()
    if axes == 2:
        again = np.stack([detector.scaler.transform(w, w[0]) for w in decoded]).transpose(0, 2, 1)
        np.testing.assert_allclose(again[:, :, 1:], mean[:, :, 1:], atol=1e-3)  # of a first step only the level counts
    elif axes == 3:
        np.testing.assert_allclose(decoded / 255, mean.clip(0, 1), atol=1e-5)
    drawn, members = space.draw(6, seed=1)
    assert drawn.shape == (6, detector.score_model.model.latent)
    assert np.isfinite(space.decode(drawn, members)).all()
    np.testing.assert_array_equal(drawn, space.draw(6, seed=1)[0])
    assert not np.array_equal(drawn, space.draw(6, seed=2)[0])


@pytest.mark.parametrize(("kind", "axes"), CASES)
def test_axes_are_ordered_by_what_the_model_uses(kind: str, axes: int) -> None:
    detector, x = fitted(kind, axes)
    space, source = LatentSpace(detector), open_memory(x, detector.config.data)
    found, model = space.axes(source, 10_000), detector.score_model.model
    items = space.spread(source, 10_000)
    with torch.inference_mode():
        out = model(items.x)
    use = out.kl.mean(0) * model.members if model.groups == model.latent else out.mu.var(0, correction=0)
    np.testing.assert_allclose(found.use, use.numpy(), rtol=1e-4, atol=1e-6)
    assert (np.diff(found.use[found.order]) <= 0).all()
    np.testing.assert_allclose(found.centre, space.codes(items.x).mean(0), atol=1e-5)
    assert (found.spread >= space.codes(items.x).std(0) - 1e-5).all()


def test_members_decode_their_own_draws() -> None:
    detector, _ = fitted("dense", 1, model__members=3, scoring__prior="normal")
    space = LatentSpace(detector)
    z, members = space.draw(7, seed=0)
    assert members is not None
    assert members.tolist() == [0, 1, 2, 0, 1, 2, 0]
    other = z.copy()
    other[:, 3:] += 1  # the codes of members 1 and 2
    same = (space.decode(z, members) == space.decode(other, members)).all(axis=1)
    assert same.tolist() == [True, False, False, True, False, False, True]
    assert space.member_of(np.arange(9)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # type: ignore[union-attr]


def test_ids_are_found_wherever_they_stand() -> None:
    detector, x = fitted("conv1d", 2)
    space, source = LatentSpace(detector), open_memory(x, detector.config.data)
    found = space.find(source, ["40", "3", str(STEPS - 2)])
    assert found.ids.tolist() == [
        "40",
        "3",
        str(STEPS - WINDOW),
    ]  # the last window there is covers the last step but one
    np.testing.assert_array_equal(found.values[1], x[3 : 3 + WINDOW])
    with pytest.raises(DataError, match=f"no row with the id 'x'; its ids run from '0' to '{STEPS - 1}'"):
        space.find(source, ["x"])
    detector, x = fitted("dense", 1)
    space, source = LatentSpace(detector), open_memory(x, detector.config.data)
    np.testing.assert_array_equal(space.find(source, ["7", "2", "7"]).values, x[[7, 2, 7]])
    with pytest.raises(DataError, match=f"memory: no row with the id '99'; its ids run from '0' to '{N - 1}'"):
        space.find(source, ["99"])


# --- the way back through the scaler ---------------------------------------------------------------------------------


def test_the_scaler_goes_there_and_back() -> None:
    values = np.c_[RNG.lognormal(3, 2, 300), RNG.normal(-5, 1e-3, 300), RNG.integers(0, 3, 300)]
    layout = Layout("table", (3,), (Column("a"), Column("b"), Column("c", ("x", "y"))))
    scaler = Scaler.fit(values, layout)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(values).astype(np.float64)), values, rtol=1e-4)
    missing = scaler.inverse(np.full((1, 5), np.nan))
    assert np.isnan(missing).all()


def test_two_elements_of_a_number_are_weighted_by_their_resolution() -> None:
    values = np.linspace(-2, 2, 101)[:, None]
    scaler = Scaler.fit(values, Layout("table", (1,), (Column("a"),)))
    linear, bent = scaler.elements
    off = np.array([[1.0, (np.arcsinh((0.5 - bent.shift) / bent.scale) - bent.centre) / bent.spread]])
    first = 1.0 * linear.scale + linear.shift  # what one element says; the other says 0.5
    slopes = np.array([linear.scale, bent.scale * bent.spread * np.sqrt(1 + (0.5 / bent.scale) ** 2)])
    weights = slopes**-2.0
    expected = (weights[0] * first + weights[1] * 0.5) / weights.sum()
    assert scaler.inverse(off)[0, 0] == pytest.approx(expected, rel=1e-6)


def test_differences_are_summed_up_from_a_start() -> None:
    values = np.c_[np.cumsum(RNG.normal(size=400)), RNG.normal(size=400)]
    scaler = Scaler.fit(values, Layout("series", (2,), (Column("a"), Column("b"))))
    assert [element.how for element in scaler.elements] == ["difference", "linear"]
    window = values[50:80]
    scaled = scaler.transform(window, values[49])
    np.testing.assert_allclose(scaler.inverse(scaled, window[0]), window, atol=1e-4)
    level = scaler.inverse(scaled)
    np.testing.assert_allclose(level[:, 0] - level[0, 0], window[:, 0] - window[0, 0], atol=1e-4)
    assert level[0, 0] == scaler.elements[0].shift
    np.testing.assert_array_equal(scaler.inverse(scaled, np.array([np.nan, 1.0])), level)


def test_pictures_come_back_in_0_to_255() -> None:
    scaler = Scaler([], 1.0)
    assert scaler.inverse(np.array([[[[-0.5, 0.5, 2.0]]]])).tolist() == [[[[0.0, 127.5, 255.0]]]]


# --- draws, ways and directions --------------------------------------------------------------------------------------


def test_the_fitted_mixture_is_drawn_from() -> None:
    generator = torch.Generator().manual_seed(0)
    mu = torch.cat([torch.randn(3000, 2, generator=generator) * 0.1 + 5, torch.randn(1000, 2, generator=generator) - 5])
    prior = MixturePrior(2, 2)
    prior.fit_posteriors(mu, torch.full_like(mu, math.log(0.04)), seed=0, n_train=len(mu))
    z = prior.sample(20_000, torch.Generator().manual_seed(1))
    high = z[:, 0] > 0
    assert high.float().mean().item() == pytest.approx(0.75, abs=0.02)
    ridge = 0.01 * mu.var(0).mean().item()
    for part, means in ((z[high], mu[:3000]), (z[~high], mu[3000:])):
        expected = torch.cov(means.T).numpy() + (0.04 + ridge) * np.eye(2)  # of a posterior, and what fitting adds
        np.testing.assert_allclose(torch.cov(part.T).numpy(), expected, atol=0.07 * expected[0, 0])
    np.testing.assert_allclose(z[high].mean(0).numpy(), [5, 5], atol=0.02)


def test_ways_between_codes_by_hand() -> None:
    a, b, share = np.array([2.0, 0.0]), np.array([0.0, 2.0]), np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(lerp(a, b, share), [[2, 0], [1, 1], [0, 2]])
    np.testing.assert_allclose(slerp(a, b, share), [[2, 0], [math.sqrt(2), math.sqrt(2)], [0, 2]], atol=1e-12)
    np.testing.assert_allclose(slerp(a, 3 * a, share), lerp(a, 3 * a, share))
    np.testing.assert_allclose(slerp(a, -a, share), lerp(a, -a, share))
    np.testing.assert_allclose(slerp(a, 0 * a, share), lerp(a, 0 * a, share))


def test_a_binary_direction_is_the_difference_of_means() -> None:
    codes, found = RNG.normal(size=(40, 3)), (np.arange(40) % 3 == 0).astype(float)
    way = Direction.fit(codes, found, "c", "f")
    np.testing.assert_allclose(way.vector, codes[found == 1].mean(0) - codes[found == 0].mean(0))
    along = way.along(codes)
    assert along[found == 1].mean() - along[found == 0].mean() == pytest.approx(1)


def test_a_numeric_direction_is_the_regression_of_codes_on_it() -> None:
    number = RNG.normal(size=60)
    codes = number[:, None] * np.array([1.0, -2.0, 0.0]) + 5
    np.testing.assert_allclose(Direction.fit(codes, number, "c", "f").vector, [1, -2, 0], atol=1e-12)


def cells(*texts: str) -> NDArray[np.str_]:
    return np.array(texts)


ONE = np.arange(4)[:, None]


def test_columns_become_attributes() -> None:
    two = attribute(cells("no", "yes", "", "no"), "c", None, False)
    assert two.names == ("no", "yes")
    np.testing.assert_array_equal(two.of(ONE), [0, 1, np.nan, 0])
    np.testing.assert_array_equal(two.of(np.array([[0, 1, 3], [1, 1, 2]])), [0, 1])  # by the majority
    several = attribute(cells("a", "b", "c", "b"), "c", "b", False)
    assert several.names == ("others", "b")
    np.testing.assert_array_equal(several.of(ONE), [0, 1, 0, 1])
    number = attribute(cells("1", "2", "3", ""), "c", None, False)
    assert number.names is None
    np.testing.assert_allclose(number.of(ONE), np.array([-1, 0, 1, np.nan]) * math.sqrt(1.5))
    with pytest.raises(UsageError, match="column 'c' holds '1', '2', '3'; name the value that has it with --value"):
        attribute(cells("1", "2", "3"), "c", None, True)
    with pytest.raises(DataError, match="column 'c' has no value 'z'"):
        attribute(cells("a", "b"), "c", "z", False)
    with pytest.raises(DataError, match="column 'c': all rows"):
        two.of(ONE[[0, 3]])


def test_columns_become_colours() -> None:
    assert colours(cells("1", "2", "3", "4"), ONE, most=3).tolist() == [1, 2, 3, 4]
    assert colours(cells("1", "2", "3", "4"), ONE, most=4).tolist() == ["1", "2", "3", "4"]
    windows = np.array([[0, 1, 2], [1, 2, 3]])
    assert colours(cells("a", "b", "a", "b"), windows, most=3).tolist() == ["a", "b"]
    assert colours(cells("1", "2", "6", "4"), windows, most=3).tolist() == [3, 4]


def test_codes_are_projected_on_their_principal_axes() -> None:
    codes = RNG.normal(size=(50, 4)) * [3, 0.1, 1, 0.01]
    points, names = project(codes, "pca", 0)
    centred = codes - codes.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
    assert names[0] == f"PC1, {values[-1] / values.sum():.0%} of the variance"
    two, names = project(codes[:, :2], "umap", 0)
    np.testing.assert_array_equal(two, codes[:, :2])
    assert names == ("z1", "z2")


def test_umap_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(UsageError, match=r"anomaly-vae\[umap\]"):
        project(np.zeros((5, 3)), "umap", 0)
