"""What every model promises, and the one head that turns decoder outputs into p(x|z)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.config import ModelConfig
from anomaly_vae.distributions import Bernoulli, Gaussian, Laplace, Likelihood, kl_normal, reparameterise

LOG_VAR = (-8.0, 4.0)  # clamp of a posterior's log variance: beyond, exp() is noise or overflows under autocast


class Output(NamedTuple):
    """What a model says of a batch of B samples.

    px: p(x|z) of every element, (B, *shape), or (M, B, *shape) from M members whose NLLs are averaged.
    kl: (B, G) in nats, one column a latent group: a dimension, a level or a codebook; members share it evenly.
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

    latent: int  # dimensions of one member
    continuous: Tensor | None  # (E,) 1 where an element is a number and may be given noise; None: all are
    members: int = 1  # independent VAEs inside; with several, D counts all of them and p(x|z) has a leading axis

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var), each (B, D), of x (B, *shape); NaN in x is a missing element."""

    @abstractmethod
    def decode(self, z: Tensor) -> Likelihood:
        """p(x|z) of z (B, D)."""

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        """With a generator z is sampled (training); without, the posterior mean is decoded (scoring)."""
        mu, log_var = self.encode(x)
        z = mu if generator is None else reparameterise(mu, log_var, generator)
        return Output(self.decode(z), kl_normal(mu, log_var) / self.members, mu, log_var)


class Head(nn.Module):
    """Turns decoder outputs into p(x|z): the mean, or logits, and where sigma is "predicted" its scale.

    Otherwise log sigma is one number an element, one for all, its analytic optimum on the current batch
    (sigma-VAE, Rybkin 2020; its running mean in evaluation), or fixed. A scale never falls below `sigma_min` (scaled
    units), which bounds an element's Gaussian NLL from below at 0.92 + log sigma_min nats: without a floor, an element
    that never varied in training would decide every score. A Laplace's scale is its sigma.
    """

    log_sigma: Tensor

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        assert config.sigma_min and config.sigma_value
        self.likelihood, self.sigma, self.floor = config.likelihood, config.sigma, math.log(config.sigma_min)
        self.outputs = 2 if self.sigma == "predicted" and self.likelihood != "bernoulli" else 1  # for each element
        size = shape if self.sigma == "element" else (1,) * len(shape)
        initial = torch.full(size, math.log(config.sigma_value))
        if self.sigma in ("element", "shared") and self.likelihood != "bernoulli":
            self.log_sigma = nn.Parameter(initial)
        else:
            self.register_buffer("log_sigma", initial)

    def forward(self, raw: Tensor, *scale: Tensor) -> Likelihood:
        """p(x|z) of raw outputs of the shape of x, one tensor for each of `outputs`."""
        raw = raw.float()  # the likelihood is always computed in full precision, whatever autocast did before
        if self.likelihood == "bernoulli":
            return Bernoulli(raw)
        if self.sigma == "optimal" and self.training:
            return _Optimal(raw, self)
        log_sigma = scale[0].float() if scale else self.log_sigma
        if self.sigma != "fixed":
            log_sigma = self.floor + F.softplus(log_sigma - self.floor)  # a floor that keeps a gradient
        return self.around(raw, log_sigma)

    def around(self, mean: Tensor, log_sigma: Tensor) -> Likelihood:
        return Gaussian(mean, 2 * log_sigma) if self.likelihood == "gaussian" else Laplace(mean, log_sigma)


class _Optimal:
    """p(x|z) with the one scale that maximises it on the batch itself.

    A Gaussian's variance is then the mean squared error, a Laplace distribution's scale the mean absolute error.
    """

    def __init__(self, mean: Tensor, head: Head) -> None:
        self.mean, self.head = mean, head

    def nll(self, x: Tensor) -> Tensor:
        error = (x - self.mean).abs()
        best = 0.5 * error.square().mean().log() if self.head.likelihood == "gaussian" else error.mean().log()
        optimum = best.clamp(min=self.head.floor)
        with torch.no_grad():  # as batch norm does: evaluation uses the running mean
            free = torch.expm1(optimum - self.head.floor).clamp(min=1e-6).log() + self.head.floor
            self.head.log_sigma.lerp_(free.detach().expand_as(self.head.log_sigma), 0.05)
        return self.head.around(self.mean, optimum).nll(x)


def posterior_head(features: Tensor) -> tuple[Tensor, Tensor]:
    """Splits (B, 2D) into the posterior's mu and log_var, each (B, D), the latter clamped to LOG_VAR."""
    mu, log_var = features.float().chunk(2, dim=1)
    return mu, log_var.clamp(*LOG_VAR)
