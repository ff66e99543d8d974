"""The base class of models with a diagonal Gaussian posterior."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from anomaly_vae.models.base import LOG_VAR, VAE, Output, log_weight
from anomaly_vae.models.likelihoods import kl_normal, kl_sampled, reparameterise


class GaussianVAE(VAE):
    """q(z|x) = N(mu, exp(log_var)) and p(z) = N(0, I): the VAE of Kingma & Welling (2014).

    A network defines `encode` and `decode`; everything else is final.
    """

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var), each (B, D), of x (B, *shape)."""

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        mu, log_var = self.encode(x)
        z = mu if generator is None else reparameterise(mu, log_var, generator)
        kl = kl_normal(mu, log_var) / self.members
        return Output(self.decode(z), kl, mu, log_var, members=self.members)

    def code(self, x: Tensor) -> Tensor:
        return self.encode(x)[0]

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.latent, generator=generator, device=generator.device)

    def log_weights(
        self, x: Tensor, generator: torch.Generator, samples: int, target: Tensor | None = None
    ) -> Iterator[Tensor]:
        mu, log_var = self.encode(x)
        for _ in range(samples):
            z = reparameterise(mu, log_var, generator)
            noise = (z - mu) * torch.exp(-0.5 * log_var)
            kl = kl_sampled(z, noise, log_var)
            yield log_weight(x if target is None else target, self.decode(z), kl, self.members)


def posterior_head(features: Tensor) -> tuple[Tensor, Tensor]:
    """Splits (B, 2D) into the posterior's mu and log_var, each (B, D), the latter clamped to LOG_VAR."""
    mu, log_var = features.float().chunk(2, dim=1)
    return mu, log_var.clamp(*LOG_VAR)
