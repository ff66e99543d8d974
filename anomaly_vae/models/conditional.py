"""A VAE of data given a condition: p(x|c), of the class, the machine or the operating mode (CVAE, Sohn 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.base import VAE, Member, Output, log_weight
from anomaly_vae.models.likelihoods import Likelihood, kl_normal, kl_sampled, reparameterise
from anomaly_vae.models.networks import BY_AXES, network


class ConditionalVAE(VAE):
    """A dense or convolutional VAE whose encoder and decoder both read a condition.

    The condition stands last on the first axis of x: elements of a row, channels of a window step by step, constant
    planes of a picture. The encoder reads it among the others; the decoder gets it beside z, a window's with all its
    steps. p(x|z, c) is of the data alone, and the prior N(0, I) knows nothing of c: a sample that belongs to another
    condition than its own is badly reconstructed, or far out in latent space.
    """

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = (), n_condition: int = 0
    ) -> None:
        """shape: of x with its condition, the last `n_condition` channels; categories: of the data, as in RowInputs."""
        super().__init__()
        self.n_condition, self.pictures = n_condition, len(shape) == 3
        sides = 1 if self.pictures else math.prod(shape[1:])  # a plane of a picture says one thing
        self.condition_size = n_condition * sides
        self.flat = (config.network or BY_AXES[len(shape)]) == "dense"
        extra = self.condition_size if self.flat else n_condition
        self.inner = network(config, (shape[0] - n_condition, *shape[1:]), categories, extra, self.condition_size)
        self.latent, self.groups, self.members = self.inner.latent, self.inner.groups, self.inner.members
        self.rows = self.inner.rows

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        mu, log_var, condition = self._encode(x)
        z = mu if generator is None else reparameterise(mu, log_var, generator)
        kl = kl_normal(mu, log_var) / self.members
        px = self.inner.decode(torch.cat([z, condition], 1))
        return Output(px, kl, mu, log_var, n_condition=self.n_condition, members=self.members)

    def code(self, x: Tensor) -> Tensor:
        mu, _, condition = self._encode(x)
        return torch.cat([mu, condition], 1)

    def decode(self, z: Tensor) -> Likelihood:
        return self.inner.decode(z)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.inner.prior(n, generator)

    def log_weights(
        self, x: Tensor, generator: torch.Generator, samples: int, target: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Of log p(x|c)."""
        mu, log_var, condition = self._encode(x)
        data = x[:, : x.shape[1] - self.n_condition] if target is None else target
        for _ in range(samples):
            z = reparameterise(mu, log_var, generator)
            noise = (z - mu) * torch.exp(-0.5 * log_var)
            px = self.inner.decode(torch.cat([z, condition], 1))
            yield log_weight(data, px, kl_sampled(z, noise, log_var), self.members)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(mu, log_var) of q(z|x, c), and the condition (B, condition_size) as the decoder reads it."""
        channels = x[:, x.shape[1] - self.n_condition :]
        condition = channels.flatten(2)[:, :, 0] if self.pictures else channels.flatten(1)
        read = torch.cat([x[:, : x.shape[1] - self.n_condition].flatten(1), condition], 1) if self.flat else x
        return *self.inner.encode(read), condition


CONDITIONAL = Member(ConditionalVAE, axes=(1, 2, 3))
