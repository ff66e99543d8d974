"""Every part of the score against its formula, written out once more: NumPy, SciPy, torch.distributions, and loops.

The numbers of the formulas (a half, 32 steps, a quarter ...) are repeated here on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist, mahalanobis
from torch import Tensor, distributions

from anomaly_vae.data.datasets import make_dataset, window_starts
from anomaly_vae.data.open import open_source
from anomaly_vae.data.scaling import Element, Scaler
from anomaly_vae.data.source import Chunk, Column, Layout
from anomaly_vae.detector.configuration import load, opening, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit, fit_memory
from anomaly_vae.models.base import VAE, Output
from anomaly_vae.models.likelihoods import Bernoulli, Gaussian, Laplace, kl_normal
from anomaly_vae.models.registry import build
from anomaly_vae.scoring.parts.base import Batch, Normals
from anomaly_vae.scoring.parts.knn_density import KNNDensity
from anomaly_vae.scoring.parts.likelihood import Likelihood
from anomaly_vae.scoring.parts.mahalanobis import Mahalanobis
from anomaly_vae.scoring.parts.memory_bank import CELL, PROBED, MemoryBank
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.scoring.parts.model_prior import ModelPrior
from anomaly_vae.scoring.parts.residual_energy import ResidualEnergy
from anomaly_vae.scoring.parts.sensor_level import LevelStream, SensorLevel, levels
from anomaly_vae.scoring.patch_score import PatchScore

Array = NDArray[np.float64]
LOG_VAR = torch.tensor([-1.0, 0.4])  # of every posterior of `model`
SIGMA = 0.5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(x: Tensor) -> Output:
    """A made-up model: it reconstructs 0.8 x + 0.1, and codes a sample by its first two numbers."""
    mu = 0.7 * x.flatten(1)[:, :2] - 0.2
    log_var = LOG_VAR.expand_as(mu)
    return Output(Gaussian(0.8 * x + 0.1, torch.tensor(SIGMA)), kl_normal(mu, log_var), mu, log_var)


def batch(x: Tensor, run: Callable[[Tensor], Output] = model, own: Tensor | None = None) -> Batch:
    with torch.no_grad():
        return Batch(x, run(x), x, own)


def normals(train: Tensor, held: Tensor, run: Callable[[Tensor], Output] = model) -> Normals:
    generator = torch.Generator().manual_seed(0)
    drawn = held, torch.arange(len(held))
    return Normals(cast(VAE, run), 0, generator, len(train), len(held), lambda: train, lambda: drawn)


# --- reconstruction and KL of the model ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian", "laplace", "bernoulli"])
def test_likelihood_is_that_of_torch_and_the_mean_over_members(name: str) -> None:
    x, mean = draw(4, 3).sigmoid(), draw(2, 4, 3, seed=1)  # two members
    px, same = {
        "gaussian": (Gaussian(mean, torch.tensor(SIGMA)), distributions.Normal(mean, SIGMA)),
        "laplace": (Laplace(mean, torch.tensor(SIGMA)), distributions.Laplace(mean, SIGMA)),
        "bernoulli": (Bernoulli(mean), distributions.ContinuousBernoulli(logits=mean)),
    }[name]
    nats = -same.log_prob(x)
    if name == "bernoulli":  # the cross-entropy leaves out what makes a density of it
        nats = nats + same._cont_bern_log_norm()
    expected = nats.mean(0)
    x[1, 2], expected[1, 2] = math.nan, 0.0
    given = Batch(x, Output(px, torch.zeros(4, 2), torch.zeros(4, 2), None), x)
    torch.testing.assert_close(Likelihood().elements(given), expected)
    torch.testing.assert_close(Likelihood().nats(given), expected.sum(1))


@pytest.mark.parametrize("members", [1, 3])
def test_the_kl_is_that_of_torch_and_the_mean_over_members(members: int) -> None:
    dense = dense_vae(columns=4, members=members)
    given = batch(draw(5, 4), dense)
    assert given.out.log_var is not None
    posterior = distributions.Normal(given.out.mu, (0.5 * given.out.log_var).exp())
    expected = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum(1) / members
    torch.testing.assert_close(ModelPrior().nats(given), expected)


def dense_vae(columns: int, members: int, latent: int = 2) -> VAE:
    """A dense VAE of random weights, far from N(0, 1) and from the mean."""
    settings = [f"model.members={members}", f"model.latent={latent}", "model.hidden=[6]"]
    torch.manual_seed(0)
    found = build(resolve(load(overrides=settings), "table").model, (columns,)).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(2).add_(0.1)
    return found


# --- calibrated reconstructions --------------------------------------------------------------------------------------


def blurred_energy(residual: Array) -> Array:
    """(N,) energies of residuals (N, C, H, W): each channel blurred by a Gaussian of 1/28 of the shorter side, cut at
    three deviations, with zeros beyond the border; squared and summed."""
    sd = min(residual.shape[2:]) / 28
    for axis in (2, 3):
        radius = max(1, int(3 * sd + 0.5))
        residual = ndimage.gaussian_filter1d(residual, sd, axis=axis, mode="constant", radius=radius)
    return (residual**2).sum((1, 2, 3))


def test_energy_weighs_blurred_residuals_by_how_they_vary_among_held_out_normals() -> None:
    """nu = 2 m^2 / v Gaussian residuals would vary as much, and nu / 2 * e / m is m / v * e nats."""
    train, held, x = (scale * draw(12, 2, 40, 30, seed=i) for i, scale in enumerate((5.0, 1.0, 2.0)))
    held *= torch.linspace(0.5, 1.5, 12)[:, None, None, None]
    part = ResidualEnergy((2, 40, 30))
    part.fit(normals(train, held))
    energies = blurred_energy((0.2 * held - 0.1).double().numpy())
    weight = energies.mean() / energies.var(ddof=1)
    assert float(part.weight) == pytest.approx(weight, rel=1e-4)
    expected = weight * blurred_energy((0.2 * x - 0.1).double().numpy())
    np.testing.assert_allclose(part.nats(batch(x)), expected, rtol=1e-4)
    np.testing.assert_allclose(part.elements(batch(x)).sum((1, 2, 3)), expected, rtol=1e-4)


def test_covariance_is_half_the_squared_mahalanobis_distance_from_training_residuals() -> None:
    mix = draw(5, 5, seed=3)
    train, held, x = draw(60, 5) @ mix + 1, 9 * draw(50, 5, seed=1), draw(7, 5, seed=2)
    part = Mahalanobis(5)
    part.fit(normals(train, held))
    residuals = (0.2 * train - 0.1).double().numpy()
    covariance = np.cov(residuals.T)
    covariance += 1e-3 * np.trace(covariance) / 5 * np.eye(5)
    precision = np.linalg.inv(covariance)
    found = [mahalanobis(row, residuals.mean(0), precision) for row in (0.2 * x - 0.1).double().numpy()]
    np.testing.assert_allclose(part.nats(batch(x)), 0.5 * np.square(found), rtol=1e-3)


# --- a prior fitted afterwards ---------------------------------------------------------------------------------------


def posteriors(mu: Tensor) -> distributions.MultivariateNormal:
    return distributions.MultivariateNormal(mu.double(), torch.diag(LOG_VAR.double().exp()))


def test_one_gaussian_fitted_to_training_posteriors_gives_the_kl_of_torch() -> None:
    train, held, x = draw(200, 3) @ draw(3, 3, seed=4), 50 + draw(100, 3, seed=1), 3 * draw(6, 3, seed=2)
    part = MixturePrior(1, 2)
    part.fit(normals(train, held))
    mu = model(train).mu.double()
    ridge = 1e-2 * float(mu.numpy().var(0).mean())
    covariance = torch.cov(mu.T, correction=0) + ridge * torch.eye(2) + torch.diag(LOG_VAR.double().exp())
    prior = distributions.MultivariateNormal(mu.mean(0), covariance)
    expected = [distributions.kl_divergence(posteriors(m), prior) for m in model(x).mu]
    torch.testing.assert_close(part.nats(batch(x)).double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_the_kl_to_a_mixture_is_the_bound_of_hershey_and_olsen_and_never_below_the_kl() -> None:
    """-log sum_k w_k exp(-KL_k); the mixture itself, and its KL by sampling, are those of torch."""
    train = torch.cat([draw(300, 3) - 4, 0.3 * draw(200, 3, seed=1) + 2])
    x = torch.cat([draw(4, 3, seed=2), draw(4, 3, seed=3) * 3])
    part = MixturePrior(2, 2)
    part.fit(normals(train, 50 + draw(100, 3)))
    assert sorted(part.weights.tolist()) == pytest.approx([0.4, 0.6], abs=1e-2)
    lower = torch.linalg.inv(part.whiten.double())
    components = distributions.MultivariateNormal(part.means.double(), lower @ lower.transpose(1, 2))
    weights = distributions.Categorical(part.weights.double())
    mixture = distributions.MixtureSameFamily(weights, components)
    for mu, found in zip(model(x).mu, part.nats(batch(x)), strict=True):
        apart = distributions.kl_divergence(posteriors(mu).expand((2,)), components)
        bound = -torch.logsumexp(part.weights.double().log() - apart, 0)
        assert float(found) == pytest.approx(float(bound), rel=1e-4, abs=1e-4)
        torch.manual_seed(0)
        z = posteriors(mu).sample((20_000,))
        truth = (posteriors(mu).log_prob(z) - mixture.log_prob(z)).mean()
        assert float(found) > float(truth) - 0.05


# --- neighbours of a table -------------------------------------------------------------------------------------------


def joined(dense: VAE, x: Tensor, scale: Array | None) -> tuple[Array, Array]:
    """((N, J), (M, F)): inputs, posterior means and weighted residuals of rows x, and the weights: half the inverse of
    the root mean square of the residuals of a member. scale: weights that are known."""
    given = batch(x, dense)
    rows, members = x.double().numpy(), dense.members
    residuals = rows - given.out.px.mean.double().numpy()  # (M, N, F)
    if scale is None:
        scale = 0.5 / np.sqrt((residuals**2).mean(1)).clip(0.02)
    pieces = [rows, given.out.mu.double().numpy() / math.sqrt(members)]
    pieces += [residuals[m] * scale[m] / math.sqrt(members) for m in range(members)]
    return np.concatenate(pieces, axis=1), scale


def projected(place: Array, references: Array) -> Array:
    """To the 32 principal axes of the references, and the length of the rest, where there are more than 33 axes."""
    if place.shape[1] <= 33:
        return place
    centre = references.mean(0)
    axes = np.linalg.svd(references - centre, full_matrices=False)[2][:32].T
    along = (place - centre) @ axes
    rest = np.linalg.norm(place - centre - along @ axes.T, axis=1, keepdims=True)
    return np.concatenate([along, rest], axis=1)


@pytest.mark.parametrize(("columns", "members", "rows"), [(3, 2, 20), (3, 1, 90), (9, 4, 90)])
def test_neighbours_are_the_log_distances_to_the_nearest_reference_of_each_bag(
    columns: int, members: int, rows: int
) -> None:
    """Its unit / 2 * log of the smallest squared distance, the mean over bags; distances are divided by a power of how
    far the reference's own neighbours are. A row that is a reference itself is not its own neighbour."""
    dense = dense_vae(columns, members)
    held = draw(rows, columns) * (1 + torch.arange(rows)[:, None] / 30)
    part = KNNDensity(dense, 10_000)
    own = part.fit(normals(held[:0], held, dense))  # without training rows, all references are known
    bags = min(4, rows // 12)
    count = bags * (rows // bags)
    assert sorted(own[own >= 0].tolist()) == list(range(count))
    chosen = torch.argsort(own)[rows - count :]

    everything, scale = joined(dense, held, None)
    axes = everything.shape[1]
    assert axes == columns + dense.latent + members * columns
    references = projected(everything[chosen], everything[chosen])
    apart = cdist(references, references)
    np.fill_diagonal(apart, np.inf)
    near = np.sort(apart, axis=1)[:, :5].mean(1)
    median = np.sort(near)[(count - 1) // 2]
    weight = (near / median).clip(0.5, 5.0) ** (-2 * 0.5 * rows / (rows + 300))
    least = (0.02 * median) ** 2

    def nats(x: Tensor, leave_out: Tensor | None) -> Array:
        place = projected(joined(dense, x, scale)[0], everything[chosen])
        squared = weight * (cdist(place, references) ** 2 + least)
        if leave_out is not None:
            here = np.flatnonzero(leave_out.numpy() >= 0)
            squared[here, leave_out.numpy()[here]] = np.inf
        nearest = squared.reshape(len(x), bags, -1).min(2).clip(least * weight.min())
        found: Array = float(part.unit) * (0.5 * np.log(nearest).mean(1) - usual)
        return found

    by_bag = (weight * (apart**2 + least)).reshape(count, bags, -1).min(2)
    usual = 0.5 * np.log(by_bag).mean()

    x = 2 * draw(7, columns, seed=5)
    np.testing.assert_allclose(part.nats(batch(x, dense)), nats(x, None), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(part.nats(batch(held, dense, own)), nats(held, own), rtol=1e-3, atol=1e-2)
    assert (part.nats(batch(held, dense, own)) > part.nats(batch(held, dense)))[own >= 0].all()
    # whatever its unit, which differs from fit to fit, a usual row has 0: other folds' nats calibrate the final fit
    assert abs(float(part.nats(batch(held, dense, own))[own >= 0].mean())) < 0.02


def test_a_gap_is_more_remarkable_beside_a_dense_cluster_than_beside_a_sparse_one() -> None:
    dense = dense_vae(columns=2, members=1)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()  # the latent means say nothing, and the residuals are the rows
    rows = torch.cat([0.1 * draw(400, 2) + torch.tensor([-10.0, 0]), draw(400, 2, seed=1) + torch.tensor([10.0, 0])])
    part = KNNDensity(dense, 800)
    part.fit(normals(rows, rows[:2], dense))
    edges = rows[:400, 1].max(), rows[400:, 1].max()
    beside = torch.tensor([[-10.0, float(edges[0]) + 3], [10.0, float(edges[1]) + 3]])
    near_dense, near_sparse = part.nats(batch(beside, dense))
    assert near_dense > near_sparse + 0.5


def test_held_out_rows_of_a_fit_are_not_their_own_neighbours() -> None:
    """All rows become references: in the fit's own scores each held-out row is compared with the others alone."""
    X = np.random.default_rng(0).normal(size=(120, 3))
    settings = {"training__steps": 4, "model__hidden": [6], "scoring__combine": "sum", "split__folds": 0}
    detector, seen = fit_memory(X, device="cpu", **settings)
    kept, _ = seen.part(seen.split.valid)
    again = detector.parts(X[seen.split.valid])
    assert (kept.parts["neighbours"] > again.parts["neighbours"] + 1).all()
    np.testing.assert_array_equal(kept.parts["recon"], again.parts["recon"])


# --- a memory of features --------------------------------------------------------------------------------------------


def test_memory_is_the_squared_distance_to_the_nearest_training_feature() -> None:
    """With as many references as features, and as many axes as channels, it is the plain distance."""
    train, held, x = draw(40, 6), 30 + draw(20, 6, seed=1), 2 * draw(9, 6, seed=2)
    part = MemoryBank(6, 6, 100)
    part.fit(normals(train, held))
    part.unit.fill_(0.25)
    expected = 0.25 * cdist(x.numpy(), train.numpy()).min(1) ** 2
    np.testing.assert_allclose(part.nats(batch(x)), expected, rtol=1e-3, atol=1e-4)


def test_memory_reads_features_as_they_were_before_they_were_standardised() -> None:
    train = draw(40, 6)
    part = MemoryBank(6, 6, 100)
    part.fit(Normals(cast(VAE, model), 0, torch.Generator().manual_seed(0), 40, 1, lambda: train, lambda: train,
                     raw=lambda x: 3 * x + 1))  # fmt: skip
    x = draw(5, 6, seed=2)
    expected = cdist((3 * x + 1).numpy(), (3 * train + 1).numpy()).min(1) ** 2
    np.testing.assert_allclose(part.nats(Batch(x, model(x), 3 * x + 1)), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def clustered() -> tuple[MemoryBank, Tensor]:
    """A memory of several times as many cells as are probed, and features to compare with it."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 4, (40, 6))
    points, x = (torch.from_numpy(centres[rng.integers(40, size=n)] + rng.normal(size=(n, 6))).float()
                 for n in (16 * CELL, 300))  # fmt: skip
    part = MemoryBank(6, 6, len(points))
    part.fit(normals(points, points))
    return part, x


def test_memory_searched_in_all_cells_is_the_exact_search(clustered: tuple[MemoryBank, Tensor]) -> None:
    part, x = clustered
    assert len(part.cells) == 16 > PROBED
    assert part.starts[-1] == len(part.points) == 16 * CELL
    placed = part.place(x)
    exact = cdist(placed.numpy(), part.points.numpy()).argmin(1)
    np.testing.assert_array_equal(part.search(placed, len(part.cells) - 1), exact)
    np.testing.assert_array_equal(part.search(placed, len(part.cells)), exact)
    found = part.search(placed)
    assert (found.numpy() == exact).mean() > 0.97
    own = torch.bucketize(found, part.starts[1:], right=True)  # the cell of what was found is one of the PROBED nearest
    ranks = cdist(placed.numpy(), part.cells.numpy()).argsort(1).argsort(1)
    assert (ranks[np.arange(len(x)), own] < PROBED).all()


def test_memory_gives_a_feature_the_same_bits_in_any_company(
    clustered: tuple[MemoryBank, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, x = clustered
    together = part.squared(x)
    monkeypatch.setattr("anomaly_vae.scoring.parts.memory_bank.SEARCHED", 128)
    assert torch.equal(together, part.squared(x))
    assert torch.equal(together, torch.cat([part.squared(some) for some in x.split(7)]))
    assert torch.equal(together, part.squared(x.flip(0)).flip(0))


def test_memory_in_an_exported_graph_searches_the_same_cells(
    clustered: tuple[MemoryBank, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, x = clustered
    expected = part.search(part.place(x), 2)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(part.search(part.place(x), 2), expected)


def test_memory_is_worth_twice_the_elbo_on_held_out_normals(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(16):
        picture = 128 + 60 * np.sin(np.arange(32))[:, None] + rng.normal(0, 12, (32, 32))
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{number:02d}.png")
    config = load(overrides=[
        "data.size=32", "model.layers=[blocks.2,blocks.4]", "model.hidden=[8]", "model.latent=2", "training.steps=20",
        "scoring.neighbours=20", "scoring.border=false", "tracking.enabled=false", "device=cpu",
    ])  # fmt: skip
    detector, seen = fit(open_source(tmp_path, opening(config)), config)
    score = detector.score_model
    assert isinstance(score, PatchScore)
    with torch.inference_mode():
        x = torch.from_numpy(seen.data.values[seen.split.valid]).float() / 255
        nats = {name: float(cells.mean()) for name, cells in score.nats(score.features(x)).items()}
    assert nats["neighbours"] == pytest.approx(2 * (nats["recon"] + nats["kl"]), rel=1e-2)  # kept maps are rounded


# --- series ----------------------------------------------------------------------------------------------------------


def test_variances_of_a_sensor_and_of_its_level_by_loops() -> None:
    residual = np.random.default_rng(0).normal(0.2, [0.5, 2], (150, 2))
    usable = np.ones(150, bool)
    usable[[60, 61, 110]] = False
    residual[~usable] = 1e3
    part = SensorLevel(2)
    part.fit_residuals(residual, usable)
    step = (residual[usable] ** 2).mean(0) + 1e-3
    gapless = [t for t in range(31, 150) if usable[t - 31 : t + 1].all()]
    means = np.array([residual[t - 31 : t + 1].mean(0) for t in gapless])
    level = (means**2).mean(0) + 0.05 * step + 1e-3
    np.testing.assert_allclose(part.step, step, rtol=1e-5)
    np.testing.assert_allclose(part.level, level, rtol=1e-5)


def level_nats(residual: Array, step: Array, level: Array, back: float = math.inf) -> tuple[Array, Array]:
    """(recon, level), each (N, C): the mean of r^2 / (2 step) over t - 4 .. t + 3, as far as there are steps, and a
    quarter of m^2 / (2 level) of the sum m of the last 32 steps over 32, cut to the
    larger of `back` times that of the last 8 with its sign, and of 3 deviations."""
    n = len(residual)
    nats = residual**2 / (2 * step)
    recon = np.array([nats[max(0, t - 4) : min(n, t + 4)].mean(0) for t in range(n)])
    means = np.array([residual[max(0, t - 31) : t + 1].sum(0) / 32 for t in range(n)])
    if np.isfinite(back):
        short = back * np.array([residual[max(0, t - 7) : t + 1].sum(0) / 8 for t in range(n)]) * np.sign(means)
        means = np.minimum(abs(means), np.maximum(short, 3 * np.sqrt(level)))
    return recon, 0.25 * means**2 / (2 * level)


@pytest.mark.parametrize("back", [2.0, math.inf])
@pytest.mark.parametrize("size", [1, 7, 90])
def test_nats_of_steps_by_loops(size: int, back: float) -> None:
    residual, step, level = np.random.default_rng(0).normal(size=(90, 2)), np.array([0.5, 2.0]), np.array([0.1, 0.3])
    stream = LevelStream(torch.from_numpy(step), torch.from_numpy(level), back)
    pieces = [stream.push(residual[i : i + size], i + size >= 90) for i in range(0, 90, size)]
    for found, expected in zip(zip(*pieces, strict=True), level_nats(residual, step, level, back), strict=True):
        np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-9, atol=1e-9)


def test_a_level_falls_when_its_sensor_is_back() -> None:
    """40 steps at 1, then 0: twice the mean of the last 8 is the less from the fifth on, down to three deviations."""
    steps = torch.cat([torch.ones(40, 1), torch.zeros(40, 1)]).double()
    found = levels(steps, torch.tensor([0.01]).double(), 2.0)[40:, 0].tolist()
    assert found[:7] == pytest.approx([31 / 32, 30 / 32, 29 / 32, 28 / 32, 6 / 8, 4 / 8, 0.3])
    assert found[7:24] == pytest.approx([0.3] * 15 + [9 / 32, 8 / 32])


def test_a_series_by_loops_over_windows_that_stay_within_a_machine() -> None:
    """Each window through the model on its own; a step has the mean residual, and the mean share of the KL, of those
    that cover it."""
    window, stride = 16, 2
    rng = np.random.default_rng(0)
    X = np.c_[np.sin(np.arange(300) / 5), rng.normal(size=300)] + rng.normal(0, 0.1, (300, 2))
    machine = np.where(rng.random(300) < 0.4, "a", "b")
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(machine=machine)
    detector = Detector.fit(frame, kind="series", data__group="machine", data__window=window, model__channels=[4],
                            model__hidden=[8], model__latent=2, training__steps=4, device="cpu")  # fmt: skip
    found, part = detector.parts(frame), detector.score_model.level
    assert part is not None
    expected = {name: np.zeros(300) for name in ("recon", "kl", "level", "missing")}
    for name in ("a", "b"):
        rows = np.flatnonzero(machine == name)
        scaled = detector.scaler.transform(X[rows])
        residual, kl, count = np.zeros((len(rows), 2)), np.zeros(len(rows)), np.zeros(len(rows))
        last = len(rows) - window
        for start in sorted({*range(0, last + 1, stride), last}):
            here = slice(start, start + window)
            x = torch.from_numpy(scaled[here].T.copy())[None]  # (1, C, T)
            with torch.no_grad():
                out = detector.score_model.model(x)
            residual[here] += (x - out.px.mean)[0].double().numpy().T
            kl[here] += float(out.kl.sum()) / window
            count[here] += 1
        step, level = (variance.numpy() for variance in part.measures()[:2])
        nats = level_nats(residual / count[:, None], step, level)
        expected["recon"][rows], expected["level"][rows] = (column.sum(1) for column in nats)
        expected["kl"][rows] = kl / count
    assert list(found.parts) == list(expected)
    for name, nats_ in expected.items():
        np.testing.assert_allclose(found.parts[name], nats_, rtol=1e-3, atol=1e-4, err_msg=name)


def test_training_windows_lie_within_the_rows_and_within_a_machine() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        groups = np.sort(rng.integers(0, 4, 80)) if seed % 2 else rng.integers(0, 4, 80)
        rows = np.flatnonzero(rng.random(80) < 0.9)
        order, starts = window_starts(rows, groups, 80, 4)
        found = {tuple(order[start : start + 4].tolist()) for start in starts}
        expected = set()
        for group in range(4):
            steps = np.flatnonzero(groups == group)
            cut = [tuple(steps[i : i + 4].tolist()) for i in range(len(steps) - 3)]
            expected |= {steps_ for steps_ in cut if set(steps_) <= set(rows.tolist())}
        assert found == expected


def test_no_difference_is_taken_from_one_machine_to_the_next() -> None:
    """Two machines by turns, at 100 and at -100: what is read of the first step of each is 0."""
    machine = np.array([0, 1] * 6, np.int32)
    values = np.where(machine, -100.0, 100.0)[:, None] + np.arange(12)[:, None] ** 2
    chunk = Chunk(np.arange(12), values, machine)
    layout, scaler = Layout("series", (1,), (Column("u"),)), Scaler([Element(0, "difference")], 1e6)
    found = make_dataset(chunk, np.arange(12), scaler, layout, torch.device("cpu"), 6)
    expected = [np.diff(values[machine == m, 0], prepend=values[m, 0]) for m in (0, 1)]
    np.testing.assert_array_equal(found.take(torch.arange(2))[:, 0], expected)


# --- what is calibrated is not the batch that is scored --------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_an_optimal_sigma_is_that_of_training_whatever_is_scored_together(likelihood: str) -> None:
    settings: dict[str, Any] = {"device": "cpu", "training__steps": 8, "model__hidden": [8], "scoring__neighbours": 0}
    X = np.random.default_rng(0).normal(size=(80, 3))
    detector = Detector.fit(X, model__sigma="optimal", model__likelihood=likelihood, **settings)
    before = {name: value.clone() for name, value in detector.score_model.state_dict().items()}
    alone = detector.score(X[:1])
    np.testing.assert_array_equal(detector.score(np.r_[X[:1], X[1:] * 1e3])[:1], alone)
    assert all(torch.equal(value, before[name]) for name, value in detector.score_model.state_dict().items())
