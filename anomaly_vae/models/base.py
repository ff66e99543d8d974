"""The interface of every model, and the head that turns decoder outputs into p(x|z)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.distributed import mean
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.models.likelihoods import Bernoulli, FittedLikelihood, Gaussian, Laplace, Likelihood, observed_nll

LOG_SIGMA = 80.0  # clamp of a decoded scale: exp() stays finite
LOG_VAR = (-8.0, 4.0)  # clamp of a posterior's log variance: beyond, exp() is noise or overflows under autocast


class Output(NamedTuple):
    """The result of a model for a batch of B samples.

    px: p(x|z) of every element, (B, *shape), or (M, B, *shape) from M members whose NLLs are averaged.
    kl: (B, G) in nats, one column a latent group: a dimension, a level or a codebook; members share it evenly, so that
        a column holds its group's KL divided by `members`.
    mu: (B, D) the place of x in latent space, without sampling: what `code` returns.
    log_var: (B, D) such that q(z|x) is N(mu, exp(log_var)); None where it is no diagonal Gaussian.
    aux: a training-only term that the model owns, in nats a sample; 0 where there is none.
    codes: (B, P) the entries of the codebook that encode x; None without a codebook.
    n_condition: number of trailing channels of x that hold the condition; excluded from p(x|z).
    members: number of independent VAEs whose latent groups stand side by side in `kl`.
    """

    px: Likelihood
    kl: Tensor
    mu: Tensor
    log_var: Tensor | None
    aux: Tensor | float = 0.0
    codes: Tensor | None = None
    n_condition: int = 0
    members: int = 1

    def data(self, x: Tensor) -> Tensor:
        """x (B, *shape) without its condition: the data that p(x|z) describes."""
        return x[:, : x.shape[1] - self.n_condition] if self.n_condition else x


class VAE(nn.Module, ABC):
    """A model of the family, as a detector and as a generative model.

    x is (B, *shape), scaled; NaN in it is a missing element. z is (B, D), always flat: members side by side, levels
    from the top down, positions of a map in order. `decode(code(x))` is the reconstruction that scoring uses,
    `decode(prior(n, generator))` are new samples.

    A condition is the last `n_condition` elements or channels of x, and the last `condition_size` numbers of the z of
    `code` and `decode`. Neither the posterior nor the prior includes it.
    """

    latent: int  # D, the dimensions of z
    groups: int  # G, the columns of Output.kl
    diagonal: bool = True  # whether q(z|x) is a diagonal Gaussian, with Output.log_var
    n_condition: int = 0  # number of trailing channels of x that hold the condition
    condition_size: int = 0  # number of trailing elements of a decoded z that hold the condition
    members: int = 1  # independent VAEs inside; with several, D counts all of them and p(x|z) has a leading axis
    rows: RowInputs | None  # how the rows of a table are read; None: the model reads something else

    def __init__(self) -> None:
        super().__init__()
        self.rows = None

    @abstractmethod
    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        """With a generator z is sampled (training); without, nothing is, and `code(x)` is decoded (scoring)."""

    @abstractmethod
    def code(self, x: Tensor) -> Tensor:
        """(B, D) the place of x in latent space: the posterior mean, or the quantised embedding."""

    @abstractmethod
    def decode(self, z: Tensor) -> Likelihood:
        """p(x|z) of z (B, D)."""

    @abstractmethod
    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, D) draws of p(z), on the device of the generator."""

    @abstractmethod
    def log_weights(
        self, x: Tensor, generator: torch.Generator, samples: int, target: Tensor | None = None
    ) -> Iterator[Tensor]:
        """log p(x|z) + log p(z) - log q(z|x), (B,) nats, of one posterior sample after the other.

        Their log-mean-exp is the importance-weighted bound on log p(x) (Burda 2016). x is encoded once. With members,
        p(x) is the equal mixture of theirs.

        target: (B, *shape) the data, without its condition, that p(x|z) is taken of, NaN for elements that it is not
        taken of; None: all of x. The encoder reads x in any case, so the bound is one on log p(target).
        """


@dataclass(frozen=True)
class Member:
    """A model of the family, as `registry.MODELS` names it.

    build: makes the model from a resolved configuration and the shape of a sample; where there are categories, they are
    the next argument, and where there is a condition, `n_condition` is the one after.
    axes: the numbers of axes of the samples that it can read.
    defaults: section -> setting -> value, of the settings whose default depends on the model.
    """

    build: Callable[..., VAE]
    axes: tuple[int, ...]
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def with_data(x: Tensor, n_condition: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """x (B, *shape) with a change made to its data, and its condition, the last `n_condition` channels, as it was."""
    if not n_condition:
        return change(x)
    return torch.cat([change(x[:, :-n_condition]), x[:, -n_condition:]], dim=1)


def log_weight(x: Tensor, px: Likelihood, kl: Tensor, members: int = 1) -> Tensor:
    """(B,) log p(x|z) + log p(z) - log q(z|x) in nats; kl: (B, D) log q(z|x) - log p(z) of each dimension of z."""
    nats = observed_nll(px, x)  # (B, *shape), or (M, B, *shape)
    recon = nats.flatten(nats.dim() - x.dim() + 1).sum(-1)
    divergence = kl.unflatten(1, (members, -1)).sum(2).T  # (M, B)
    return torch.logsumexp(-recon - divergence, dim=0) - math.log(members)


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
            # a floor that keeps a gradient: of log sigma it is floor + softplus(log_sigma - floor)
            return self.around(raw, log_sigma.clamp(max=LOG_SIGMA).exp_() + math.exp(self.floor))
        return self.around(raw, log_sigma.exp())

    def around(self, mean: Tensor, sigma: Tensor) -> Likelihood:
        return Gaussian(mean, sigma) if self.likelihood == "gaussian" else Laplace(mean, sigma)


class _Optimal(FittedLikelihood):
    """p(x|z) with the one scale that maximises it on the batch itself.

    A Gaussian's variance is then the mean squared error, a Laplace distribution's scale the mean absolute error, of the
    elements that are there.
    """

    def __init__(self, mean: Tensor, head: Head) -> None:
        self.mean, self.head = mean, head

    def nll(self, x: Tensor) -> Tensor:
        return self.nll_without(x, torch.zeros_like(x, dtype=torch.bool))

    def nll_without(self, x: Tensor, missing: Tensor) -> Tensor:
        error, there = (x - self.mean).abs(), ~missing.expand_as(self.mean)
        power = 2 if self.head.likelihood == "gaussian" else 1
        # the floor comes before the logarithm, which has no gradient at 0
        best = mean(error.pow(power), there).clamp(min=math.exp(power * self.head.floor))
        optimum = best.log() / power
        with torch.no_grad():  # as batch norm does: evaluation uses the running mean
            free = torch.expm1(optimum - self.head.floor).clamp(min=1e-6).log() + self.head.floor
            self.head.log_sigma.lerp_(free.detach().expand_as(self.head.log_sigma), 0.05)
        return self.head.around(self.mean, optimum.exp()).nll(x)


def elements(x: Tensor, out: Output) -> Tensor:
    """-log p(x|z) of each element in nats, shape of x less its condition.

    0 where x is NaN, for a missing element is no evidence. Of several members the mean: with z drawn from each one's
    posterior, the average of their bounds on log p(x) is a bound too.
    """
    return observed_nll(out.px, out.data(x), over_members=True)
