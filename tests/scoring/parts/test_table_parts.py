"""Parts of a table's score against what is known: densities, brute force, and numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributions import MultivariateNormal, kl_divergence

from anomaly_vae.core.settings import ModelConfig
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.models.registry import build
from anomaly_vae.scoring import score_model as scores_of_models
from anomaly_vae.scoring.parts.base import Batch, Normals
from anomaly_vae.scoring.parts.distances import intrinsic_dimension, place, principal_axes
from anomaly_vae.scoring.parts.knn_density import KNNDensity
from anomaly_vae.scoring.parts.likelihood import Likelihood
from anomaly_vae.scoring.parts.local_outlier import LocalOutlierFactor
from anomaly_vae.scoring.parts.marginals import NODES, Marginals
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.scoring.parts.model_prior import ModelPrior
from anomaly_vae.scoring.parts.tails import SIDE, Tails
from anomaly_vae.scoring.score_model import ScoreModel

Array = NDArray[np.float64]
QUICK = {"training__steps": 60, "model__hidden": [16], "model__members": 1, "device": "cpu"}


def gaussian(columns: int) -> Callable[[np.random.Generator, int], tuple[Array, Array]]:
    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        x = rng.normal(size=(n, columns))
        return x, 0.5 * (x**2).sum(1)

    return draw


def clusters(columns: int) -> Callable[[np.random.Generator, int], tuple[Array, Array]]:
    """Four, of different spreads."""
    known = np.random.default_rng(7)
    means, sds = 4 * known.normal(size=(4, columns)), known.uniform(0.3, 1.5, 4)

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        which = rng.integers(4, size=n)
        x = means[which] + sds[which, None] * rng.normal(size=(n, columns))
        logs = [-0.5 * ((x - m) ** 2).sum(1) / s**2 - columns * math.log(s) for m, s in zip(means, sds, strict=True)]
        return x, -np.logaddexp.reduce(logs, axis=0)

    return draw


@pytest.mark.parametrize(
    "draw", [gaussian(1), gaussian(2), gaussian(5), gaussian(10), gaussian(30), clusters(2), clusters(8)],
    ids=["1", "2", "5", "10", "30", "clusters of 2", "clusters of 8"],
)  # fmt: skip
def test_a_nat_of_the_neighbours_is_a_nat(draw: Callable[[np.random.Generator, int], tuple[Array, Array]]) -> None:
    rng = np.random.default_rng(0)
    detector = Detector.fit(draw(rng, 2000)[0], scoring__parts=[], split__folds=0, **QUICK)
    x, nats = draw(rng, 2000)
    raw = detector.parts(x).raw
    assert raw is not None
    slope = np.polyfit(nats, raw["neighbours"], 1)[0]
    assert 0.8 < slope < 1.25


@pytest.mark.parametrize(("dimension", "axes"), [(1, 3), (2, 2), (5, 9)])
def test_the_intrinsic_dimension_is_not_the_number_of_axes(dimension: int, axes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, dimension, generator=generator) @ torch.randn(dimension, axes, generator=generator)
    nearest = (
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        .fill_diagonal_(torch.inf)
        .topk(5, largest=False)
        .values
    )
    assert float(intrinsic_dimension(nearest)) == pytest.approx(dimension, rel=0.2)


@pytest.mark.parametrize(("rows", "columns"), [(60, 24), (24, 60), (5, 40)])
def test_principal_axes_are_those_of_an_svd_down_to_small_variances(rows: int, columns: int) -> None:
    count, rank = 8, min(rows, columns)
    rng = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, rank, generator=rng).double()).Q for n in (rows, columns))
    kept = min(count, rank)
    singular = torch.full((rank,), 1e-9).double()
    singular[:kept] = torch.logspace(0, -5, kept).double()  # of products: from 1 to 1e-10
    axes = principal_axes((left * singular) @ right.T, count)
    torch.testing.assert_close((axes.T @ right[:, :kept]).abs()[:kept], torch.eye(kept).double(), atol=1e-5, rtol=0)
    assert not axes[:, kept:].any()


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_principal_axes_are_orthonormal_where_rows_say_nothing_of_them(shape: tuple[int, int]) -> None:
    offset = torch.randn(2, shape[1], generator=torch.Generator().manual_seed(1))[torch.arange(shape[0]) % 2]
    axes = principal_axes(offset - offset.mean(0), 6)
    assert axes.dtype == torch.float32
    torch.testing.assert_close(axes.T @ axes, torch.eye(6))
    placed = place([offset - offset.mean(0)], axes)
    torch.testing.assert_close(torch.cdist(placed, placed), torch.cdist(offset, offset), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fitted_on", [20_000, 60])
def test_no_held_out_row_is_its_own_neighbour(fitted_on: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_of_models, "FITTED_ON", fitted_on)
    torch.manual_seed(0)
    model = build(ModelConfig(kind="dense", latent=2, hidden=(8,), members=1, likelihood="gaussian", sigma="fixed",
                              sigma_value=1.0, sigma_min=0.1), (3,))  # fmt: skip
    near = KNNDensity(model, 1000)
    score = ScoreModel(model, [Likelihood(), ModelPrior(), near]).eval()
    rng = np.random.default_rng(1)
    train, held = (RowDataset(rng.normal(size=(n, 3)).astype(np.float32), torch.device("cpu")) for n in (100, 90))
    own = score.fit(train, held, seed=0)
    assert int((own >= 0).sum()) > 0.9 * min(90, fitted_on)
    x = held.take(torch.arange(90))
    with torch.no_grad():
        blind, alone = (score(x, mine)[1]["neighbours"] for mine in (None, own))
        place = near._project(near._pieces(Batch(x, model(x), x)))
    references = (-0.5 * near.weights[:, :-2] / near.weights[:, -2:-1]).transpose(1, 2).flatten(0, 1)  # (R, A)
    mine = own >= 0
    torch.testing.assert_close(references[own[mine]], place[mine], rtol=1e-3, atol=1e-3)
    assert (alone[mine] > blind[mine]).all()
    torch.testing.assert_close(alone[~mine], blind[~mine])


def normals_of(x: torch.Tensor) -> Normals:
    generator = torch.Generator().manual_seed(0)
    nobody = torch.empty(0, dtype=torch.long)
    return Normals(None, 0, generator, len(x), 0, lambda: x, lambda: (x[:0], nobody))  # type: ignore[arg-type]


def nats_of(part: Marginals | LocalOutlierFactor | Tails, x: torch.Tensor) -> torch.Tensor:
    return part.nats(Batch(x, None, x))  # type: ignore[arg-type]


def test_marginals_by_hand() -> None:
    part = Marginals(RowInputs((0, 3)))  # a number and a category of three
    x = torch.tensor([[0.0, 0], [19.0, 0], [math.nan, 1], [9.5, 0]])
    part.fit(normals_of(x))
    assert NODES == 20  # nodes are 0, 1 .. 19: the last row counts half at 9 and half at 10
    asked = {
        (0.0, 0): (1 / 4, 3 / 4),
        (9.5, 1): (1 / 8, 1 / 4),
        (9.0, 2): (1 / 8, 0),
        (19.5, 0): (1 / 8, 3 / 4),  # half way to the empty node
        (-1e6, 0): (0, 3 / 4),
        (math.nan, 0): ((1 / 2 * 1 / 2 * 3 / 8) ** (1 / 3) - 1 / 4, 3 / 4),  # the mean nats of the three numbers
    }
    expected = [-math.log(a + 1 / 4) - math.log(b + 1 / 4) for a, b in asked.values()]
    torch.testing.assert_close(nats_of(part, torch.tensor(list(asked))), torch.tensor(expected))


def test_tails_by_hand() -> None:
    part = Tails(RowInputs((0, 3)))  # a number and a category of three
    x = torch.tensor([[0.0, 0], [19.0, 0], [math.nan, 1], [9.0, 0]])
    part.fit(normals_of(x))
    asked = {
        (0.0, 0): (2 / 5, 4 / 5),
        (9.0, 1): (3 / 5, 2 / 5),  # two of three are as low, and as many as high
        (4.5, 2): (math.sqrt(6) / 5, 1 / 5),  # half way between, in nats
        (-1e6, 0): (1 / 5, 4 / 5),
        (20.0, 0): (1 / 5, 4 / 5),
        (math.nan, 0): (2 / 5, 4 / 5),
    }
    expected = [-math.log(a) - math.log(b) for a, b in asked.values()]
    torch.testing.assert_close(nats_of(part, torch.tensor(list(asked))), torch.tensor(expected))


def test_tails_of_many_rows_keep_the_ranks_of_both_ends() -> None:
    x = torch.randn(5000, 1, generator=torch.Generator().manual_seed(0)).sort(0).values
    part = Tails(RowInputs((0,)))
    part.fit(normals_of(x))
    rank = torch.minimum(torch.arange(1, 5001), torch.arange(5000, 0, -1))
    exact = -((rank + 1) / 5001).log()
    found = nats_of(part, x)
    assert part.knots.shape == (1, 2 * SIDE)
    torch.testing.assert_close(found[:10], exact[:10])
    torch.testing.assert_close(found[-10:], exact[-10:])
    assert (found - exact).abs().max() < 0.06


def test_values_that_repeat_count_by_their_own_share() -> None:
    grades = torch.tensor([1.0] * 10 + [2.0] * 40 + [4.0] * 30)[:, None]
    part = Tails(RowInputs((0,)))
    part.fit(normals_of(grades))
    assert part.by_value.all()
    asked = {1.0: 11, 2.0: 41, 4.0: 31, 4.0000005: 31, 3.0: 1, 0.0: 1, 9.0: 1}  # 3 lies between, and was never seen
    expected = -torch.tensor([n / 81 for n in asked.values()]).log()
    torch.testing.assert_close(nats_of(part, torch.tensor(list(asked))[:, None]), expected)


def test_values_that_hardly_repeat_count_by_how_far_out_they_are() -> None:
    x = torch.cat([torch.arange(25.0).repeat(2), torch.full((40,), math.nan)])[:, None]  # two rows a value
    part = Tails(RowInputs((0,)))
    part.fit(normals_of(x))
    assert not part.by_value.any()
    torch.testing.assert_close(nats_of(part, torch.tensor([[12.0]])), -torch.tensor([27 / 91]).log())
    part.fit(normals_of(torch.full((90, 1), math.nan)))  # nothing is known
    assert not part.by_value.any()


@pytest.mark.parametrize("columns", [3, 40])
def test_the_local_outlier_factor_by_brute_force(columns: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(96, columns, generator=generator)
    part = LocalOutlierFactor(RowInputs((0,) * columns), 0, 5000)
    part.fit(normals_of(x))
    rows = torch.randperm(96, generator=torch.Generator().manual_seed(0)).numpy()
    references = x.numpy().astype(np.float64)[rows]
    asked = torch.randn(20, columns, generator=generator) * 2

    def place(points: Array) -> Array:
        """Principal axes and the length of the rest, where there are many columns."""
        offset = points - references.mean(0)
        if columns <= 33:
            return offset
        axes = np.linalg.svd(references - references.mean(0), full_matrices=False)[2][:32].T
        along = offset @ axes
        return np.c_[along, np.sqrt(np.maximum((offset**2).sum(1) - (along**2).sum(1), 0))]

    there, here = place(references), place(asked.numpy().astype(np.float64))
    apart = np.linalg.norm(there[:, None] - there, axis=2)
    own = np.sort(apart, axis=1)[:, 1:11].mean(1)  # the first is the row itself
    near = np.sort(apart, axis=1)[:, 1:11]
    dimension = 1 / np.log(near[:, -1:] / near[:, :-1]).mean()
    squared = ((here[:, None] - there) ** 2).sum(2) + (0.02 * np.median(own)) ** 2
    by_bag = (squared / own**2).reshape(20, 8, 12).min(2)
    expected = dimension * 0.5 * np.log(by_bag).mean(1)
    np.testing.assert_allclose(nats_of(part, asked), expected, rtol=1e-3, atol=1e-2)


def test_the_kl_to_a_mixture_by_brute_force() -> None:
    """-log sum_k w_k exp(-KL(N(mu, V) || N(m_k, S_k))), V pooled: with its trace, its log-determinants and its half."""
    rng = np.random.default_rng(4)
    mu = torch.from_numpy(np.r_[rng.normal(size=(300, 2)), [5, -3] + 0.5 * rng.normal(size=(300, 2))]).float()
    log_var = torch.from_numpy(rng.normal(-1, 0.5, (600, 2))).float()
    prior = MixturePrior(2, 2)
    prior.fit_posteriors(mu, log_var, seed=0, n_train=600)
    assert len(prior.means) == 2
    pooled = torch.diag(log_var.double().exp().mean(0))
    posterior = MultivariateNormal(mu[:50].double(), pooled)
    nats = []
    for weight, mean, whiten in zip(prior.weights, prior.means, prior.whiten, strict=True):
        inverse = torch.linalg.inv(whiten.double())
        component = MultivariateNormal(mean.double(), inverse @ inverse.T)
        nats.append(weight.double().log() - kl_divergence(posterior, component))
    torch.testing.assert_close(prior.kl(mu[:50]).double(), -torch.logsumexp(torch.stack(nats), 0), rtol=1e-4, atol=1e-4)


def test_the_kl_of_a_row_does_not_depend_on_how_many_there_are() -> None:
    """A table's rows go in blocks of several sizes, of which a small one is four times as fast for a single row."""
    generator = torch.Generator().manual_seed(5)
    mu = torch.randn(1024, 64, generator=generator)
    prior = MixturePrior(8, 64)
    prior.means = torch.randn(8, 64, generator=generator)
    assert torch.equal(prior.kl(mu), torch.cat([prior.kl(some) for some in mu.split(16)]))
