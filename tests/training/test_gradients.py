"""Gradients of every part of the objective against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from anomaly_vae.core.config import ObjectiveConfig
from anomaly_vae.models.base import Output
from anomaly_vae.models.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Laplace,
    Likelihood,
    kl_normal,
    reparameterise,
)
from anomaly_vae.training.objective import loss


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def of_log(likelihood: Callable[[Tensor, Tensor], Likelihood]) -> Callable[[Tensor, Tensor], Likelihood]:
    """The same of the logarithm of its scale."""
    return lambda mean, log_sigma: likelihood(mean, log_sigma.exp())


X = draw(3, 2, seed=0).detach()
NLLS: dict[str, tuple[Callable[..., Likelihood], Tensor, tuple[Tensor, ...]]] = {
    "gaussian": (of_log(Gaussian), X, (draw(3, 2, seed=1), draw(3, 2, seed=2))),
    "gaussian, one sigma": (of_log(Gaussian), X, (draw(3, 2, seed=1), draw(1, 1, seed=2))),
    "laplace": (of_log(Laplace), X, (draw(3, 2, seed=1), draw(3, 2, seed=2))),
    "bernoulli": (Bernoulli, torch.sigmoid(X), (draw(3, 2, seed=1),)),
    "categorical": (Categorical, torch.tensor([[0.0, 2.0], [1.0, 0.0], [2.0, 2.0]]), (draw(3, 2, 3, seed=1),)),
}


@pytest.mark.parametrize("name", NLLS)
def test_the_gradient_of_a_nll_is_its_finite_difference(name: str) -> None:
    likelihood, x, parameters = NLLS[name]
    assert gradcheck(lambda *given: likelihood(*given).nll(x), parameters)


def test_the_gradients_of_the_kl_and_of_the_sample_are_finite_differences() -> None:
    mu, log_var = draw(3, 2, seed=1), draw(3, 2, seed=2)
    assert gradcheck(kl_normal, (mu, log_var))
    assert gradcheck(lambda m, v: reparameterise(m, v, torch.Generator().manual_seed(0)), (mu, log_var))


OBJECTIVES = {
    "plain": {},
    "free bits, some dimensions within": {"free_bits": 0.6},
    "free bits, all within": {"free_bits": 100.0},
    "free bits in all": {"free_bits_total": 100.0},
    "beyond the free bits": {"free_bits_total": 0.1},
    "above the capacity": {"capacity": 0.5},
    "below the capacity": {"capacity": 50.0},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_of_the_loss_is_its_finite_difference(name: str) -> None:
    config = ObjectiveConfig.model_validate({"free_bits": 0.0, "free_bits_total": 0.0} | OBJECTIVES[name])

    def total(mean: Tensor, log_sigma: Tensor, mu: Tensor, log_var: Tensor, aux: Tensor) -> Tensor:
        out = Output(Gaussian(mean, (0.5 * log_sigma).exp()), kl_normal(mu, log_var), mu, log_var, aux)
        return loss(X, out, config, 0.7, config.capacity)[0]

    given = (draw(3, 2, seed=1), draw(1, 2, seed=2), draw(3, 2, seed=3), draw(3, 2, seed=4), draw(3, seed=5))
    assert gradcheck(total, given)
    kls = kl_normal(given[2], given[3]).mean(0)
    if name == "free bits, some dimensions within":
        assert (kls > 0.6).any() and (kls < 0.6).any()  # both sides of the kink, and none on it
