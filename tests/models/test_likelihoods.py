"""Likelihoods, KL and the sampler against torch.distributions, and each against one number worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch import distributions as reference

from anomaly_vae.models.likelihoods import (
    Bernoulli,
    Categorical,
    Columns,
    Gaussian,
    Laplace,
    Likelihood,
    kl_normal,
    reparameterise,
)

B, F, K = 5, 4, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, S = draw(B, F, seed=1), draw(B, F, seed=2)
LOGITS = draw(B, F, K, seed=3)
CASES: dict[str, tuple[Likelihood, reference.Distribution, Tensor]] = {
    "gaussian": (Gaussian(A, (0.5 * S).exp()), reference.Normal(A, (0.5 * S).exp()), draw(B, F)),
    "gaussian shared": (Gaussian(A, (0.5 * S[:1, :1]).exp()), reference.Normal(A, (0.5 * S[:1, :1]).exp()), draw(B, F)),
    "laplace": (Laplace(A, S.exp()), reference.Laplace(A, S.exp()), draw(B, F)),
    "bernoulli": (Bernoulli(A), reference.Bernoulli(logits=A), (draw(B, F) > 0).double()),
    "categorical": (
        Categorical(LOGITS),
        reference.Categorical(logits=LOGITS),
        torch.arange(B * F, dtype=torch.float64).reshape(B, F) % K,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_nll_is_minus_log_prob(name: str) -> None:
    ours, theirs, x = CASES[name]
    assert ours.nll(x).shape == x.shape
    torch.testing.assert_close(ours.nll(x), -theirs.log_prob(x))


@pytest.mark.parametrize("name", [name for name in CASES if name != "categorical"])
def test_mean_is_the_expectation(name: str) -> None:
    ours, theirs, x = CASES[name]
    torch.testing.assert_close(ours.mean, theirs.mean.expand_as(x))


def test_the_mean_of_a_category_is_the_likeliest_code() -> None:
    assert Categorical(torch.tensor([[[0.0, 5.0, 1.0]], [[2.0, 1.0, 0.0]]])).mean.tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("px", "x", "nats"),
    [
        # 0.5 * (log 2 pi + log 4 + (3 - 1)^2 / 4)
        (Gaussian(torch.tensor([1.0]), torch.tensor([2.0])), 3.0, 0.5 * (1.8378771 + 1.3862944 + 1)),
        # log 2 + log 2 + |3 - 1| / 2
        (Laplace(torch.tensor([1.0]), torch.tensor([2.0])), 3.0, 0.6931472 + 0.6931472 + 1),
        # p(1) = 3/4 at logit log 3
        (Bernoulli(torch.tensor([math.log(3)])), 1.0, 0.2876821),
        (Bernoulli(torch.tensor([math.log(3)])), 0.0, 1.3862944),
        # half-way between: the mean of the two
        (Bernoulli(torch.tensor([math.log(3)])), 0.5, 0.5 * (0.2876821 + 1.3862944)),
        # odds 1 : 2 : 5, class 1 has 2/8
        (Categorical(torch.tensor([[1.0, 2.0, 5.0]]).log()), 1.0, 1.3862944),
    ],
)
def test_nll_by_hand(px: Likelihood, x: float, nats: float) -> None:
    assert px.nll(torch.tensor([x])).item() == pytest.approx(nats, abs=1e-6)


def test_an_extreme_logit_stays_finite() -> None:
    assert Bernoulli(torch.tensor([1000.0])).nll(torch.tensor([0.0])).item() == 1000.0
    assert Categorical(torch.tensor([[0.0, 1000.0]])).nll(torch.tensor([0.0])).item() == 1000.0


def test_kl_is_torchs() -> None:
    theirs = reference.kl_divergence(reference.Normal(A, (0.5 * S).exp()), reference.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_normal(A, S), theirs)


@pytest.mark.parametrize(
    ("mu", "log_var", "nats"),
    [(0.0, 0.0, 0.0), (1.0, 0.0, 0.5), (0.0, math.log(4), 0.8068528), (2.0, -1.0, 0.5 * (4 + 0.3678794))],
)
def test_kl_by_hand(mu: float, log_var: float, nats: float) -> None:
    assert kl_normal(torch.tensor(mu), torch.tensor(log_var)).item() == pytest.approx(nats, abs=1e-6)


def sample(mu: Tensor, log_var: Tensor, seed: int = 0) -> Tensor:
    return reparameterise(mu, log_var, torch.Generator().manual_seed(seed))


def test_the_sampler_has_the_mean_and_variance_it_was_asked_for() -> None:
    n, mu, log_var = 200_000, 3.0, math.log(4)
    z = sample(torch.full((n,), mu), torch.full((n,), log_var))
    assert z.mean().item() == pytest.approx(mu, abs=4 * 2 / math.sqrt(n))  # 4 standard errors
    # not 16 (log variance taken for log sigma), nor exp(1.39^2) or 1.39 (taken for sigma or variance)
    assert z.var().item() == pytest.approx(4.0, abs=4 * 4 * math.sqrt(2 / n))


def test_the_sampler_draws_from_its_generator_alone() -> None:
    torch.manual_seed(1)
    first = sample(A, S)
    torch.manual_seed(2)
    assert torch.equal(first, sample(A, S))
    assert not torch.equal(first, sample(A, S, seed=1))


def test_the_sampler_is_differentiable_in_both() -> None:
    mu, log_var = torch.tensor([0.5], requires_grad=True), torch.tensor([0.8], requires_grad=True)
    z = sample(mu, log_var)
    z.sum().backward()
    assert mu.grad is not None
    assert log_var.grad is not None
    assert mu.grad.item() == 1.0
    assert log_var.grad.item() == pytest.approx(0.5 * (z - mu).item())  # d/dv of e * exp(v / 2)


def test_columns_go_to_their_places() -> None:
    numbers, logits = Gaussian(A[:, :2], (0.5 * S[:, :2]).exp()), LOGITS[:, :1]
    px = Columns(((torch.tensor([2, 0]), numbers), (torch.tensor([1]), Categorical(logits))))
    x = torch.stack([draw(B, seed=7), torch.tensor([0.0, 1, 2, 1, 0]).double(), draw(B, seed=8)], dim=1)
    nll = px.nll(x)
    torch.testing.assert_close(nll[:, [2, 0]], numbers.nll(x[:, [2, 0]]))
    torch.testing.assert_close(nll[:, 1:2], Categorical(logits).nll(x[:, 1:2]))
    torch.testing.assert_close(px.mean[:, [2, 0]], A[:, :2])
    assert torch.equal(px.mean[:, 1], logits[:, 0].argmax(-1).double())
