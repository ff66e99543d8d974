"""The importance-weighted bound: against a model whose likelihood is known, and as a user asks for it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from anomaly_vae.cli import main
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError, DataError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.gaussian import GaussianVAE
from anomaly_vae.models.likelihoods import Gaussian, Likelihood
from anomaly_vae.scoring.importance import Bound, Drawn, LogMean, draw, weigh
from anomaly_vae.tracking.client import connect
from anomaly_vae.training.augment import corrupted

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
    assert connect(Config()).get_run(run_id).data.metrics["nll_3"] == pytest.approx(found["nll"])


def test_the_nll_is_of_all_normal_rows_and_no_others(fits: Fits) -> None:
    lines = Path("digits.csv").read_text().splitlines()
    normals = evaluate("digits.csv", "-m", "det-digits", "--nll", "1", "--nll-rows", "5000")["rows"]
    assert normals == sum(line.split(",")[lines[0].split(",").index("label")] == "3" for line in lines[1:])


def test_one_draw_is_the_negative_elbo(digits: Any, workplace: Path) -> None:
    detector = Detector.fit(digits[0][:60], training__steps=4, model__latent=3, tracking__enabled=False)
    x = RowDataset(digits[0][:60, None], torch.device("cpu"))
    (batch,) = weigh(detector.score_model.model, x, torch.arange(60), "given", 1, 0)
    assert torch.equal(*batch)
