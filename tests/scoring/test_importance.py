"""The importance-weighted bound: against a model whose likelihood is known, and as a user asks for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal

from anomaly_vae.cli import main
from anomaly_vae.core.config import Config, ModelConfig
from anomaly_vae.core.errors import ConfigError, DataError, UsageError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.source import Layout
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.base import VAE
from anomaly_vae.models.gaussian import GaussianVAE
from anomaly_vae.models.likelihoods import Gaussian, Likelihood
from anomaly_vae.models.registry import build
from anomaly_vae.scoring.importance import Bound, Drawn, LogMean, draw, weigh, weigh_batch
from anomaly_vae.tracking.client import connect
from anomaly_vae.training.augment import corrupted
from anomaly_vae.training.objective import terms
from anomaly_vae.workflows.evaluate import bound
from tests.commands import ok

F, D, NOISE = 4, 2, 0.5
Fits = dict[str, dict[str, Any]]


class Linear(GaussianVAE):
    """x = W z + noise: log p(x) = log N(x; 0, W W' + s^2 I), and the posterior is diagonal, as W's columns are
    orthogonal. The encoder's mean is off by `shift`."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.latent, self.groups, self.shift = D, D, shift
        self.weight = torch.tensor([[2.0, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 1.5]])  # (F, D)
        self.gram = self.weight.square().sum(0)  # (D,)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precision = 1 + self.gram / NOISE**2
        mu = x @ self.weight / NOISE**2 / precision
        return mu + self.shift, (-precision.log()).expand_as(mu)

    def decode(self, z: Tensor) -> Likelihood:
        return Gaussian(z @ self.weight.T, torch.full((F,), NOISE))

    def log_likelihood(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + NOISE**2 * torch.eye(F)
        return torch.distributions.MultivariateNormal(torch.zeros(F), covariance).log_prob(x)


class Half(Linear):
    """The same, with the true posterior of z given the first two elements alone."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precision = 1 + self.weight[:2].square().sum(0) / NOISE**2
        mu = x[:, :2] @ self.weight[:2] / NOISE**2 / precision
        return mu, (-precision.log()).expand_as(mu)


def rows(n: int = 7) -> RowDataset:
    return RowDataset(np.random.default_rng(0).normal(size=(n, F)).astype(np.float32), torch.device("cpu"))


def weighed(model: GaussianVAE, draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    batches = list(weigh(model, rows(), torch.arange(7), "given", draws, seed))
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])


def test_with_the_true_posterior_one_draw_is_the_likelihood() -> None:
    model = Linear(shift=0.0)
    exact = -model.log_likelihood(rows().values).double()
    nll, elbo = weighed(model, draws=1)
    torch.testing.assert_close(nll, exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(elbo, nll)


def test_with_another_posterior_many_draws_approach_the_likelihood_and_the_elbo_stays_above() -> None:
    model = Linear(shift=0.2)
    exact = -model.log_likelihood(rows().values).double()
    # KL of the encoder's Gaussian to the posterior: same variances, means off by the shift
    gap = 0.5 * 0.2**2 * (1 + model.gram / NOISE**2).sum().item()
    nll, elbo = weighed(model, draws=3000)
    assert (nll - exact).abs().max().item() < 0.1
    assert (elbo - exact).mean().item() == pytest.approx(gap, rel=0.1)
    assert gap > 0.5  # the bound had something to close
    few = weighed(model, draws=2)[0]
    assert (few - exact).mean().item() > 5 * (nll - exact).mean().abs().item()


def test_the_plug_in_of_the_score_is_below_the_likelihood_of_every_row_by_what_the_spread_costs() -> None:
    model = Linear(shift=0.0)
    x = rows().values
    recon, kl = terms(x, model(x))  # as a score: the posterior mean is decoded
    # E_q[(W (z - mu))^2] / (2 s^2), with the posterior's own variances
    spread = 0.5 * (model.gram / NOISE**2 / (1 + model.gram / NOISE**2)).sum().item()
    assert spread > 0.9
    torch.testing.assert_close(recon + kl + spread, -model.log_likelihood(x), rtol=1e-4, atol=1e-4)


def test_in_the_units_of_the_data_the_bound_is_on_the_density_there() -> None:
    model, scale = Linear(shift=0.0), torch.tensor([1000.0, 0.01, 3.0, 1.0])
    x = rows().values  # scaled; in the data's units it is x * scale
    covariance = model.weight @ model.weight.T + NOISE**2 * torch.eye(F)
    of_data = torch.distributions.MultivariateNormal(torch.zeros(F), covariance * scale * scale[:, None])
    (found,) = weigh(model, rows(), torch.arange(7), "given", 1, 0, scale.double().log().numpy())
    torch.testing.assert_close(found[0], -of_data.log_prob(x * scale).double(), rtol=1e-4, atol=1e-3)


def test_an_element_that_repeats_another_is_read_but_not_counted() -> None:
    model, half = Linear(shift=0.0), Half(shift=0.0)
    covariance = (model.weight @ model.weight.T + NOISE**2 * torch.eye(F))[:2, :2]
    exact = -torch.distributions.MultivariateNormal(torch.zeros(2), covariance).log_prob(rows().values[:, :2]).double()
    units = np.array([0.0, math.log(10), math.nan, math.nan])
    (found,) = weigh(half, rows(), torch.arange(7), "given", 1, 0, units)
    torch.testing.assert_close(found[0], exact + math.log(10), rtol=1e-4, atol=1e-4)
    # an encoder that goes by all four elements has another posterior: the bound holds, less closely
    (read,) = weigh(model, rows(), torch.arange(7), "given", 500, 0, units)
    assert bool((read[1] > exact + math.log(10)).all())
    assert (read[0] - exact).mean() > math.log(10)


def test_a_missing_cell_has_no_unit() -> None:
    x = rows().values.clone()
    x[0, 1], x[1] = math.nan, math.nan
    model = model_of_rows()
    units = np.array([0.5, 2.0, math.nan, -1.0])

    def found(log_units: NDArray[np.float64]) -> Tensor:
        return weigh_batch(model, x, "given", 3, torch.Generator().manual_seed(0), log_units)[0]

    with torch.no_grad():
        extra = found(units) - found(np.where(np.isnan(units), np.nan, 0.0))
    assert extra.tolist() == pytest.approx([-0.5, 0.0] + [1.5] * 5)


def model_of_rows() -> VAE:
    torch.manual_seed(0)
    settings = {"latent": 2, "hidden": (5,), "members": 2, "likelihood": "gaussian", "sigma": "predicted"}
    return build(ModelConfig.model_validate(settings | {"kind": "dense", "sigma_min": 0.1, "sigma_value": 1.0}), (F,))


def test_the_same_seed_gives_the_same_bound() -> None:
    model = Linear(shift=0.3)
    assert torch.equal(weighed(model, 5)[0], weighed(model, 5)[0])
    assert not torch.equal(weighed(model, 5)[0], weighed(model, 5, seed=1)[0])


def test_the_streamed_mean_is_that_of_all_at_once() -> None:
    weights = torch.tensor([[-1000.0, 0.0, 5.0], [-1001.0, 700.0, 5.0], [-999.0, -700.0, 5.0]])
    total = LogMean(3, torch.device("cpu"))
    for weight in weights:
        total.add(weight)
    expected = torch.logsumexp(weights.double(), dim=0) - math.log(3)
    torch.testing.assert_close(total.log_mean(), expected)
    torch.testing.assert_close(total.mean_log(), weights.double().mean(0))


def test_a_uniform_density_of_pixels_is_eight_bits() -> None:
    nothing = np.zeros(4)
    assert Bound.of(nothing, nothing, 1, pixels=9).bits == pytest.approx(8.0)
    assert Bound.of(nothing + 9 * math.log(2), nothing, 1, pixels=9).bits == pytest.approx(9.0)
    assert Bound.of(np.array([1.0, 3.0]), nothing, 1, None) == Bound(2.0, 1.0, 0.0, 2, 1, None)


@pytest.mark.parametrize("drawn", ["given", "binarised", "dequantised"])
def test_what_is_weighed_keeps_the_grey_value_in_the_mean(drawn: Drawn) -> None:
    grey = torch.tensor([0.0, 51 / 255, 1.0])
    found = draw(grey.expand(20_000, 3), drawn, torch.Generator().manual_seed(0))
    middle = {"given": grey, "binarised": grey, "dequantised": (grey * 255 + 0.5) / 256}[drawn]
    torch.testing.assert_close(found.mean(0), middle, atol=0.01, rtol=0)
    if drawn == "binarised":
        assert set(found.unique().tolist()) == {0.0, 1.0}
    if drawn == "dequantised":
        assert torch.equal((found * 256).floor(), (grey * 255).round().expand_as(found))


def test_grey_pixels_have_no_probability_under_a_bernoulli() -> None:
    generator = torch.Generator()
    assert draw(torch.tensor([0.0, 1.0]), "binary", generator).tolist() == [0.0, 1.0]
    with pytest.raises(DataError, match=r"training\.binarise=true"):
        draw(torch.tensor([0.0, 0.5]), "binary", generator)


def test_training_draws_pixels_anew() -> None:
    config = load(overrides=["training.binarise=true", "model.likelihood=bernoulli", "training.noise=0"])
    grey, generator = torch.full((64, 1, 4, 4), 0.3), torch.Generator().manual_seed(0)
    config = resolve(config, "pixels").model_copy(update={"training": config.training.model_copy(update={"jitter": 0})})
    first, read = corrupted(grey, Linear(0.0), config, 1.0, generator)
    assert torch.equal(first, read)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean().item() == pytest.approx(0.3, abs=0.05)
    assert not torch.equal(first, corrupted(grey, Linear(0.0), config, 1.0, generator)[0])


def test_binary_pixels_need_a_bernoulli() -> None:
    with pytest.raises(ConfigError, match=r"model\.likelihood=bernoulli would work"):
        resolve(load(overrides=["training.binarise=true"]), "pixels")


# --- as a user asks for it -----------------------------------------------------------------------------------------


def evaluate(*options: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["evaluate", *options, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(("name", "shape"), [("digits", (8, 8)), ("table", None), ("series", None)])
def test_evaluate_nll(name: str, shape: tuple[int, ...] | None, fits: Fits) -> None:
    run_id = fits[name]["run_id"]
    found = evaluate(f"{name}.csv", "-m", run_id, "--nll", "3", "--nll-rows", "40")
    assert (found["rows"], found["draws"]) == (40, 3)
    assert found["nll"] < found["elbo"]
    if shape is None:
        assert found["bits"] is None
    else:
        assert found["bits"] == pytest.approx((found["nll"] / math.prod(shape) + math.log(256)) / math.log(2))
    assert evaluate(f"{name}.csv", "-m", f"det-{name}", "--nll", "3", "--nll-rows", "40") == found
    assert connect(Config()).get_run(run_id).data.metrics["evaluate/nll_3"] == pytest.approx(found["nll"])


def test_the_nll_is_of_all_normal_rows_and_no_others(fits: Fits) -> None:
    lines = Path("digits.csv").read_text().splitlines()
    normals = evaluate("digits.csv", "-m", "det-digits", "--nll", "1", "--nll-rows", "5000")["rows"]
    assert normals == sum(line.split(",")[lines[0].split(",").index("label")] == "3" for line in lines[1:])


def test_one_draw_is_the_negative_elbo(digits: Any, workplace: Path) -> None:
    detector = Detector.fit(digits[0][:60], training__steps=4, model__latent=3, tracking__enabled=False)
    x = RowDataset(digits[0][:60, None], torch.device("cpu"))
    (batch,) = weigh(detector.score_model.model, x, torch.arange(60), "given", 1, 0)
    assert torch.equal(*batch)


# --- tables, in their own units ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gaussian() -> tuple[Detector, NDArray[np.float64], NDArray[np.float64]]:
    """A fit on 3 columns of one factor and noise, 600 new rows of it, and their -log p in nats."""
    rng = np.random.default_rng(0)
    covariance = np.outer([1.0, 1.0, -1.0], [1.0, 1.0, -1.0]) + np.eye(3)
    scale, mean = np.array([400.0, 0.02, 5.0]), np.array([1000.0, 0.0, -7.0])
    x = mean + scale * rng.multivariate_normal(np.zeros(3), covariance, 3000)
    detector = Detector.fit(
        x[:2400], training__steps=600, model__latent=2, model__members=1, training__noise=0, tracking__enabled=False,
        objective__free_bits_total=0, seed=0, split__train=0.9, split__valid=0.1,
    )  # fmt: skip
    of_data = torch.distributions.MultivariateNormal(
        torch.from_numpy(mean), torch.from_numpy(covariance * scale * scale[:, None])
    )
    return detector, x[2400:], -of_data.log_prob(torch.from_numpy(x[2400:])).numpy()


def test_the_nll_of_a_table_bounds_a_density_that_is_known(
    gaussian: tuple[Detector, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    detector, x, exact = gaussian
    source = open_memory(x, detector.config.data)
    found = bound(source, detector, detector.config, draws=50, rows=600)
    assert found.rows == 600
    entropy = 0.5 * (3 * (1 + math.log(2 * math.pi)) + math.log(4)) + math.log(400 * 0.02 * 5)  # 8.64 nats
    assert exact.mean() == pytest.approx(entropy, abs=0.15)
    # above it, but for the error of the mean of the differences, and near it
    assert exact.mean() - 0.02 < found.nll < exact.mean() + 0.15
    assert found.nll < found.elbo < exact.mean() + 0.3
    assert "in the units of the data" in found.unit
    assert "each number counted once" in found.unit


def test_other_units_shift_the_nll_by_their_logarithm(workplace: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    fits = [
        Detector.fit(rows, training__steps=5, training__noise=0, tracking__enabled=False, split__folds=0)
        for rows in (x, x * [1024.0, 0.5])
    ]
    nlls = [
        bound(open_memory(rows, fit.config.data), fit, fit.config, draws=2, rows=200).nll
        for rows, fit in zip((x, x * [1024.0, 0.5]), fits, strict=True)
    ]
    assert nlls[1] - nlls[0] == pytest.approx(math.log(1024) - math.log(2), abs=1e-3)


# --- the negative ELBO of each sample ------------------------------------------------------------------------------


def test_the_elbo_of_a_row_by_torch_distributions(
    gaussian: tuple[Detector, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    detector, x, _ = gaussian
    found = detector.elbo(x[:40], draws=7)
    assert found.shape == (40,)
    model, scaler = detector.score_model.model, detector.scaler
    hows = [element.how for element in scaler.elements]
    assert hows == ["linear"] * 3 + ["asinh"] * 3
    scaled = torch.from_numpy(scaler.transform(x[:40]))
    generator, total = torch.Generator().manual_seed(detector.config.seed), torch.zeros(40, dtype=torch.float64)
    with torch.no_grad():
        mu, log_var = model.encode(scaled)  # type: ignore[operator]
        for _ in range(7):
            z = mu + torch.randn(1, 2, generator=generator) * (0.5 * log_var).exp()  # one noise for all rows
            px: Any = model.decode(z)
            recon = Normal(px.mean[0], px.sigma[0]).log_prob(scaled)[:, :3]  # scaled, of the linear elements
            prior, posterior = Normal(0.0, 1.0).log_prob(z), Normal(mu, (0.5 * log_var).exp()).log_prob(z)
            total += (recon.sum(1) + prior.sum(1) - posterior.sum(1)).double()
    units = np.log([element.scale for element in scaler.elements[:3]]).sum()
    np.testing.assert_allclose(found, units - total.numpy() / 7, rtol=0, atol=2e-5)


def test_the_elbo_is_above_the_likelihood_and_ranks_as_the_likelihood_does(
    gaussian: tuple[Detector, NDArray[np.float64], NDArray[np.float64]],
) -> None:
    detector, x, exact = gaussian
    found = detector.elbo(x, draws=100)
    assert 0 < (found - exact).mean() < 0.3
    assert np.corrcoef(found, exact)[0, 1] > 0.97


def test_the_elbo_depends_on_the_row_alone(
    gaussian: tuple[Detector, NDArray[np.float64], NDArray[np.float64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, x, _ = gaussian
    found = detector.elbo(x, draws=3)
    assert np.array_equal(found, detector.elbo(x, draws=3))
    assert not np.array_equal(found, detector.elbo(x, draws=4))
    order = np.random.default_rng(1).permutation(len(x))
    assert np.array_equal(found[order], detector.elbo(x[order], draws=3))
    assert np.array_equal(found[17:18], detector.elbo(x[17:18], draws=3))
    assert np.array_equal(np.repeat(found[:1], 5), detector.elbo(np.repeat(x[:1], 5, axis=0), draws=3))
    for rows in (1, 7, 100, 257):
        monkeypatch.setattr(Layout, "chunk_rows", rows)
        assert np.array_equal(found, detector.elbo(x, draws=3))


def test_the_elbo_of_rows_with_categories_conditions_and_missing_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    mode = rng.choice(["a", "b"], 120)
    table = pd.DataFrame({"x": rng.normal(size=120) + 9 * (mode == "a"), "c": rng.choice(["r", "s", "t"], 120)})
    table = table.assign(y=1000 * rng.normal(size=120), mode=mode)
    table.loc[3, ["x", "c"]], table.loc[4, "y"] = math.nan, math.nan
    quick = {"training__steps": 60, "tracking__enabled": False, "split__folds": 0}
    detector = Detector.fit(table, data__condition="mode", model__members=4, **quick)
    found = detector.elbo(table, draws=4)
    model, scaler = detector.score_model.model, detector.scaler
    assert (model.n_condition, model.members) == (2, 4)
    (chunk,) = open_memory(table, detector.config.data).chunks(detector.layout, 1000)
    x = torch.from_numpy(scaler.read(chunk.values, chunk.condition))
    hows = [element.how for element in scaler.elements]
    assert hows == ["linear", "code", "linear", "asinh", "asinh"]
    generator, total = torch.Generator().manual_seed(detector.config.seed), torch.zeros(120, dtype=torch.float64)
    with torch.no_grad():
        mu, log_var, condition = model._encode(x)  # type: ignore[operator]
        prior, posterior = Normal(0.0, 1.0), Normal(mu, (0.5 * log_var).exp())
        for _ in range(4):
            z = mu + torch.randn(1, mu.shape[1], generator=generator) * (0.5 * log_var).exp()
            (_, numbers), (_, classes) = model.decode(torch.cat([z, condition], 1)).parts  # type: ignore[attr-defined]
            known = torch.nan_to_num(x)
            logs = Normal(numbers.mean, numbers.sigma).log_prob(known[:, [0, 2, 3, 4]])[..., :2]  # (4, B, 2)
            codes = torch.distributions.Categorical(logits=classes.logits[..., 0, :]).log_prob(known[:, 1])  # (4, B)
            there = ~torch.isnan(x[:, :3])
            recon = (logs * there[:, [0, 2]]).sum(-1) + codes * there[:, 1]
            divergence = (posterior.log_prob(z) - prior.log_prob(z)).unflatten(1, (4, -1)).sum(2).T
            total += (torch.logsumexp(recon - divergence, 0) - math.log(4)).double()
        units = there[:, [0, 2]].double() @ torch.tensor([scaler.elements[i].scale for i in (0, 2)]).double().log()
    np.testing.assert_allclose(found, units - total / 4, rtol=0, atol=5e-5)
    monkeypatch.setattr(Layout, "chunk_rows", 7)
    assert np.array_equal(found, detector.elbo(table, draws=4))
    with pytest.raises(UsageError, match="at least 1"):
        detector.elbo(table, draws=0)


@pytest.mark.parametrize("name", ["digits", "table"])
def test_score_elbo_adds_a_column(name: str, fits: Fits) -> None:
    plain, found = "plain.csv", "elbo.csv"
    ok("score", f"{name}.csv", "-m", f"det-{name}", "-o", plain)
    ok("score", f"{name}.csv", "-m", f"det-{name}", "--elbo", "3", "-o", found)
    scores = pd.read_csv(found)
    pd.testing.assert_frame_equal(scores.drop(columns="elbo"), pd.read_csv(plain))
    assert list(scores)[-1] == "elbo"
    detector = Detector.load(f"det-{name}")
    assert np.array_equal(scores["elbo"], detector.elbo(pd.read_csv(f"{name}.csv"), draws=3))
    ok("score", f"{name}*.csv", "-m", f"det-{name}", "--elbo", "3", "-o", f"many-{name}")
    many = pd.read_parquet(f"many-{name}/{name}.parquet")
    assert np.array_equal(many["elbo"], scores["elbo"])


def test_the_elbos_of_pictures_average_to_that_of_evaluate(fits: Fits) -> None:
    table = pd.read_csv("digits.csv")
    threes = table[table["label"] == 3]
    found = Detector.load("det-digits").elbo(threes, draws=50)
    known = evaluate("digits.csv", "-m", "det-digits", "--nll", "50", "--nll-rows", "5000")
    assert known["rows"] == len(found)
    # other draws of the noise on pixels and of z: the same mean within its error
    assert found.mean() == pytest.approx(known["elbo"], abs=0.5)


def test_the_elbo_of_what_the_model_does_not_read_whole_is_refused(fits: Fits, digits: Any) -> None:
    with pytest.raises(UsageError, match="a time step has no ELBO of its own"):
        Detector.load("det-series").elbo(pd.read_csv("series.csv"))
    refused = CliRunner().invoke(main, ["score", "series.csv", "-m", "det-series", "--elbo", "3"])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    refused = CliRunner().invoke(main, ["score", "series*.csv", "-m", "det-series", "--elbo", "3", "-o", "refused"])
    assert refused.exit_code == 2
    assert not Path("refused").exists()
    features = Detector.load(Path(__file__).parent.parent / "detector" / "format4" / "features")
    with pytest.raises(DataError, match="no density as pictures"):
        features.elbo(np.zeros((2, 64, 64), np.uint8))
    tiles = replace(Detector.load("det-digits"), layout=replace(Detector.load("det-digits").layout, tile=8))
    with pytest.raises(UsageError, match="tiles that overlap"):
        tiles.elbo(digits[0])
