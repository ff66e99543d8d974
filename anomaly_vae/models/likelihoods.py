"""Likelihoods, the KL and the reparameterised sample.

Pure functions of tensors, every result in nats and none of them reduced: a likelihood gives one negative
log-likelihood (NLL) for each element, the KL one number for each latent dimension. They are reduced in one place,
`objective.terms`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_vae.core.distributed import bernoulli, normal

LOG_2PI = math.log(2 * math.pi)


class Likelihood(Protocol):
    """p(x|z) for a batch: one distribution for each element of each sample."""

    def nll(self, x: Tensor) -> Tensor:
        """-log p(x|z) of each element in nats, shape of x."""

    @property
    def mean(self) -> Tensor:
        """The expected x, shape of x."""


class FittedLikelihood(ABC):
    """A likelihood that is fitted to the very x that it is asked of, and must know which elements are missing."""

    @abstractmethod
    def nll_without(self, x: Tensor, missing: Tensor) -> Tensor:
        """`nll` of x, whose `missing` elements (bool, shape of x) have no part in the fit."""


@dataclass(frozen=True)
class Gaussian:
    """N(mean, sigma^2); sigma broadcasts against mean."""

    mean: Tensor
    sigma: Tensor

    def nll(self, x: Tensor) -> Tensor:
        nats = ((x - self.mean) * self.sigma.reciprocal()).square().mul_(0.5)  # a quotient has a costlier gradient
        return nats.add_(self.sigma.log().add_(0.5 * LOG_2PI))  # in place: a pass over new memory costs twice as much


@dataclass(frozen=True)
class Laplace:
    """Laplace(mean, scale); heavier tails than the Gaussian, the absolute instead of the squared error."""

    mean: Tensor
    scale: Tensor

    def nll(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.scale.reciprocal()).abs().add_((2 * self.scale).log())


@dataclass(frozen=True)
class Bernoulli:
    """Bernoulli(sigmoid(logits)) for x in [0, 1]; for x between, the cross-entropy that images are trained with."""

    logits: Tensor

    def nll(self, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, x.expand_as(self.logits), reduction="none")

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)


@dataclass(frozen=True)
class Categorical:
    """Categorical(softmax(logits)); logits (..., K), x holds codes 0 .. K-1."""

    logits: Tensor

    def nll(self, x: Tensor) -> Tensor:
        codes = x.long().expand(self.logits.shape[:-1]).unsqueeze(-1)
        return -F.log_softmax(self.logits, dim=-1).gather(-1, codes).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        return self.logits.argmax(dim=-1).to(self.logits.dtype)


@dataclass(frozen=True)
class Columns(FittedLikelihood):
    """A row whose columns, on the last axis, follow several distributions, each owning the columns at `where`."""

    parts: tuple[tuple[Tensor, Likelihood], ...]  # (indices (F_i,), distribution over (..., F_i)), together all of F

    def nll(self, x: Tensor) -> Tensor:
        return self._place([part.nll(x[..., where]) for where, part in self.parts])

    def nll_without(self, x: Tensor, missing: Tensor) -> Tensor:
        return self._place(
            [
                part.nll_without(x[..., where], missing[..., where])
                if isinstance(part, FittedLikelihood)
                else part.nll(x[..., where])
                for where, part in self.parts
            ]
        )

    @property
    def mean(self) -> Tensor:
        return self._place([part.mean for _, part in self.parts])

    def _place(self, pieces: list[Tensor]) -> Tensor:
        order = torch.argsort(torch.cat([where for where, _ in self.parts]))
        return torch.cat([piece.to(pieces[0].dtype) for piece in pieces], dim=-1).index_select(-1, order)


def observed_nll(px: Likelihood, x: Tensor, over_members: bool = False) -> Tensor:
    """-log p(x|z) of each element in nats, shape of px; 0 where x is NaN, for a missing element is no evidence.

    over_members: the mean over members, where px has a leading axis of them, shape of x."""
    missing = torch.isnan(x)
    x = torch.where(missing, 0.0, x)
    nats = px.nll_without(x, missing) if isinstance(px, FittedLikelihood) else px.nll(x)
    if over_members and nats.dim() > x.dim():
        nats = nats.mean(0)
    return nats.masked_fill_(missing, 0.0)


def kl_sampled(z: Tensor, noise: Tensor, log_var: Tensor) -> Tensor:
    """log q(z|x) - log p(z) of each latent dimension in nats, at one z whose q has the density N(noise; 0, 1) over
    exp(log_var / 2), to p = N(0, 1); its mean over the noise is the KL."""
    return 0.5 * (z.square() - noise.square() - log_var)


def kl_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, 1)) of each latent dimension in nats, shape of mu (Kingma & Welling 2014, B)."""
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)


def binarised(x: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of Bernoulli(x) for every element of x in 0-1: dynamic binarisation (Salakhutdinov & Murray 2008)."""
    return bernoulli(x, generator)


def reparameterise(mu: Tensor, log_var: Tensor, generator: torch.Generator) -> Tensor:
    """A sample of N(mu, exp(log_var)), differentiable in both; the noise comes from `generator` alone."""
    return mu + normal(mu.shape, generator, mu.dtype) * torch.exp(0.5 * log_var)
