"""The flow posterior: its density against the change of variables done by autograd, and what it is for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.flow import FlowVAE, Step
from anomaly_vae.models.likelihoods import Gaussian, Likelihood, kl_normal, kl_sampled
from anomaly_vae.training.objective import terms

D = 3


def flow(**settings: object) -> FlowVAE:
    torch.manual_seed(0)
    base = {"latent": D, "hidden": (7,), "members": 1, "flow_steps": 3, "likelihood": "gaussian", "sigma": "fixed"}
    return FlowVAE(ModelConfig.model_validate(base | {"sigma_min": 0.1, "sigma_value": 1.0} | settings), (5,)).eval()


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_an_output_of_a_step_sees_only_the_dimensions_before_it(latent: int) -> None:
    torch.manual_seed(0)
    step, context = Step(latent), torch.randn(1, 2 * latent)
    z = torch.randn(1, latent)
    for part in (0, 1):  # gate and shift
        jacobian = torch.autograd.functional.jacobian(lambda z: step(z, context)[part][0], z)[:, 0]  # noqa: B023
        seen = jacobian != 0
        assert torch.equal(seen, torch.ones(latent, latent).tril(-1).bool())


def test_the_log_density_is_that_of_the_change_of_variables() -> None:
    model = flow()
    mu, log_var = torch.randn(1, D), torch.randn(1, D)
    noise = torch.randn(1, D)
    z, moved, spread = model._flow(mu, log_var, noise)
    jacobian = torch.autograd.functional.jacobian(lambda e: model._flow(mu, log_var, e)[0][0], noise)[:, 0]  # (D, D)
    standard = torch.distributions.Normal(0.0, 1.0)
    log_q = standard.log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
    expected = log_q - standard.log_prob(z).sum()
    torch.testing.assert_close(kl_sampled(z, moved, spread).sum(), expected)


def test_the_kl_of_draws_averages_to_that_of_their_moments_where_the_flow_is_affine() -> None:
    """In one dimension a step's gate and shift depend on x alone, so q(z|x) is the Gaussian of its draws' moments."""
    model = flow(latent=1)
    mu, log_var = torch.tensor([[0.7]]), torch.tensor([[-1.0]])
    noise = torch.randn(40_000, 1)
    z, moved, spread = model._flow(mu.expand_as(noise), log_var.expand_as(noise), noise)
    found = kl_sampled(z, moved, spread).mean()
    assert found.item() == pytest.approx(kl_normal(z.mean(), z.var().log()).item(), abs=0.03)


def test_scoring_takes_the_flow_as_linear_about_its_centre() -> None:
    """With steps that do not look at z the posterior is a Gaussian, whose moments the draws show."""
    model = flow()
    for step in model.steps:
        step.first.weight.data.zero_()  # type: ignore[union-attr]
    x = torch.randn(1, 5)
    out = model(x)
    generator = torch.Generator().manual_seed(0)
    draws = model.inner.encode(x)
    noise = torch.randn(40_000, D, generator=generator)
    z, _, _ = model._flow(draws[0].expand_as(noise), draws[1].expand_as(noise), noise)
    torch.testing.assert_close(out.mu[0], z.mean(0), atol=0.03, rtol=0)
    assert out.log_var is not None
    torch.testing.assert_close(out.log_var[0].exp(), z.var(0), atol=0.0, rtol=0.05)
    sampled = model(x.expand(20_000, 5), generator).kl.mean(0)
    torch.testing.assert_close(out.kl[0], sampled, atol=0.03, rtol=0)


class Tilted(torch.nn.Module):
    """p(x|z) whose posterior is a Gaussian with correlated dimensions: x = z_0 + z_1 + noise."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu.expand(len(x), 2), self.log_var.expand(len(x), 2)

    def __init__(self) -> None:
        super().__init__()
        self.mu, self.log_var = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))

    def decode(self, z: Tensor) -> Likelihood:
        return Gaussian(z.sum(1, keepdim=True), torch.full((1,), 0.2))


def test_a_flow_closes_the_gap_that_a_diagonal_posterior_leaves() -> None:
    x, noise = torch.full((256, 1), 1.0), 0.2**2
    evidence = -torch.distributions.Normal(0.0, math.sqrt(2 + noise)).log_prob(torch.tensor(1.0)).item()
    precision = torch.tensor([[1 + 1 / noise, 1 / noise], [1 / noise, 1 + 1 / noise]])
    # the best diagonal Gaussian has the posterior's mean and the inverse of the diagonal of its precision
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    model = flow(latent=2, flow_steps=2)
    model.inner, model.rows = Tilted(), None  # type: ignore[assignment]
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        total = sum(part.mean() for part in terms(x, model(x, generator)))
        total.backward()
        optimizer.step()
    with torch.no_grad():
        many = torch.ones(20_000, 1)
        elbo = sum(part.mean() for part in terms(many, model(many, generator)))
    assert gap > 1
    assert elbo.item() - evidence < 0.3 * gap
    assert elbo.item() - evidence > -0.05  # a bound all the same


def test_members_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"use model\.members=1, not 2"):
        flow(members=2)
