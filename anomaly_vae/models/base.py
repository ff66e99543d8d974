"""What every model promises, and the one head that turns decoder outputs into p(x|z)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from anomaly_vae.config import ModelConfig
from anomaly_vae.distributions import Bernoulli, Gaussian, Laplace, Likelihood, kl_normal, reparameterise


class Output(NamedTuple):
    """What a model says of a batch of B samples.

    px: p(x|z) of every element.
    kl: (B, G) in nats, one column a latent group: a dimension, a level or a codebook.
    mu, log_var: (B, D) the posterior q(z|x).
    aux: a training-only term that the model owns, in nats a sample; 0 where there is none.
    """

    px: Likelihood
    kl: Tensor
    mu: Tensor
    log_var: Tensor
    aux: Tensor | float = 0.0


class VAE(nn.Module, ABC):
    """Encoder to q(z|x) = N(mu, exp(log_var)), decoder to p(x|z). A family defines `encode` and `decode`."""

    latent: int

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var), each (B, D), of x (B, *shape); NaN in x is a missing element."""

    @abstractmethod
    def decode(self, z: Tensor) -> Likelihood:
        """p(x|z) of z (B, D)."""

    @final
    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        """With a generator z is sampled (training); without, the posterior mean is decoded (scoring)."""
        mu, log_var = self.encode(x)
        z = mu if generator is None else reparameterise(mu, log_var, generator)
        return Output(self.decode(z), kl_normal(mu, log_var), mu, log_var)


class Head(nn.Module):
    """Turns the last layer's output (B, P*C, *spatial) into p(x|z) over elements of shape (C, *spatial).

    P is 2 where the scale is decoded beside the mean ("predicted"), else 1. Otherwise the log variance is one number
    an element, one for all, its analytic optimum on the current batch (sigma-VAE, Rybkin 2020; its running mean in
    evaluation), or fixed. It is clamped to [log_var_min, log_var_max], which bounds an element's NLL from below at
    0.5 * (log 2 pi + log_var_min) nats. Laplace scales are half the log variance clamp.
    """

    log_var: Tensor

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.likelihood, self.sigma = config.likelihood, config.sigma
        self.floor, self.ceiling = config.log_var_min, config.log_var_max
        self.outputs = 2 if self.sigma == "predicted" and self.likelihood != "bernoulli" else 1
        size = shape if self.sigma == "element" else (1,) * len(shape)
        initial = torch.full(size, 2 * math.log(config.sigma_value) if self.sigma == "fixed" else 0.0)
        if self.sigma in ("element", "shared") and self.likelihood != "bernoulli":
            self.log_var = nn.Parameter(initial)
        else:
            self.register_buffer("log_var", initial)

    def forward(self, raw: Tensor) -> Likelihood:
        raw = raw.float()  # the likelihood is always computed in full precision, whatever autocast did before
        if self.likelihood == "bernoulli":
            return Bernoulli(raw)
        mean, *predicted = raw.chunk(self.outputs, dim=1)
        if self.sigma == "optimal" and self.training:
            return _OptimalGaussian(mean, self)
        log_var = (predicted[0] if predicted else self.log_var).clamp(self.floor, self.ceiling)
        return Gaussian(mean, log_var) if self.likelihood == "gaussian" else Laplace(mean, 0.5 * log_var)


class _OptimalGaussian:
    """A Gaussian whose shared variance is the batch's own mean squared error, the value that maximises p(x|z)."""

    def __init__(self, mean: Tensor, head: Head) -> None:
        self.mean, self.head = mean, head

    def nll(self, x: Tensor) -> Tensor:
        optimum = (x - self.mean).square().mean().log().clamp(self.head.floor, self.head.ceiling)
        with torch.no_grad():  # as batch norm does: evaluation uses the running mean
            self.head.log_var.lerp_(optimum.detach().expand_as(self.head.log_var), 0.05)
        return Gaussian(self.mean, optimum).nll(x)


def posterior_head(features: Tensor, floor: float, ceiling: float) -> tuple[Tensor, Tensor]:
    """Splits (B, 2D) into the posterior's mu and log_var, each (B, D), the latter clamped to [floor, ceiling]."""
    mu, log_var = features.float().chunk(2, dim=1)
    return mu, log_var.clamp(floor, ceiling)
