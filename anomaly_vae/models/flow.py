"""A VAE whose posterior is transformed by a normalizing flow: inverse autoregressive steps (IAF, Kingma 2016)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.distributed import normal
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE, Member, Output, log_weight
from anomaly_vae.models.likelihoods import Likelihood, kl_normal, kl_sampled
from anomaly_vae.models.networks import network

WIDTH, LEAST_WIDTH = 8, 32  # hidden units of a step for each latent dimension, and at least
OPEN, LEAST = 1.5, 0.05  # added to the gate of a step, which therefore starts near the identity; the smallest gate


class FlowVAE(VAE):
    """`flow_steps` autoregressive steps between the Gaussian of a VAE's encoder and its decoder.

    A draw z0 = mu + s e becomes z = f(z0; x), with log q(z|x) = log N(e; 0, I) - sum log s - log |df/dz0|, the last of
    which is a sum of log gates because a step's Jacobian is triangular.

    Scoring samples nothing: e = 0 is passed through the flow, and the KL is that of N(f(mu), v) to N(0, I), where log v
    is 2 log s plus twice the log gates on the way. That takes the flow as linear about its centre and its Jacobian as
    diagonal, with the exact log-determinant; for a flow that does not depend on z0 it is the KL itself.
    """

    def __init__(self, config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = ()) -> None:
        """Raises ConfigError for several members: a flow would make their posteriors depend on each other."""
        super().__init__()
        assert config.flow_steps
        if config.members and config.members > 1:
            raise ConfigError(f"model.kind=flow bends one posterior; use model.members=1, not {config.members}")
        self.inner = network(config, shape, categories)
        self.rows = self.inner.rows
        self.latent = self.groups = self.inner.latent
        self.steps = nn.ModuleList(Step(self.latent) for _ in range(config.flow_steps))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        mu, log_var = self.inner.encode(x)
        if generator is None:
            z, _, spread = self._flow(mu, log_var, torch.zeros_like(mu))
            return Output(self.inner.decode(z), kl_normal(z, spread), z, spread)
        z, noise, spread = self._flow(mu, log_var, normal(mu.shape, generator, mu.dtype))
        with torch.no_grad():
            centre, _, around = self._flow(mu, log_var, torch.zeros_like(mu))
        return Output(self.inner.decode(z), kl_sampled(z, noise, spread), centre, around)

    def code(self, x: Tensor) -> Tensor:
        mu, log_var = self.inner.encode(x)
        return self._flow(mu, log_var, torch.zeros_like(mu))[0]

    def decode(self, z: Tensor) -> Likelihood:
        return self.inner.decode(z)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.inner.prior(n, generator)

    def log_weights(
        self, x: Tensor, generator: torch.Generator, samples: int, target: Tensor | None = None
    ) -> Iterator[Tensor]:
        mu, log_var = self.inner.encode(x)
        for _ in range(samples):
            z, noise, spread = self._flow(mu, log_var, normal(mu.shape, generator, mu.dtype))
            yield log_weight(x if target is None else target, self.inner.decode(z), kl_sampled(z, noise, spread))

    def _flow(self, mu: Tensor, log_var: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z, noise, log v), each (B, D) in the order of the latent dimensions of z.

        log q(z|x) = sum log N(noise; 0, 1) - log v / 2.
        """
        context = torch.cat([mu, log_var], dim=1)
        z, spread = mu + noise * torch.exp(0.5 * log_var), log_var
        for step in self.steps:
            gate, shift = step(z, context)
            z = gate * z + (1 - gate) * shift
            # each step conditions on the dimensions in the other order
            z, noise, spread = (t.flip(1) for t in (z, noise, spread + 2 * gate.log()))
        return z, noise, spread


class Step(nn.Module):
    """An autoregressive network (MADE, Germain 2015): output i sees z below i, and all of the context."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        width = max(LEAST_WIDTH, WIDTH * latent)
        inputs = torch.arange(latent)
        hidden = torch.arange(width) % max(1, latent - 1)  # unit with degree d sees z_0 .. z_d
        self.first = Masked(hidden[:, None] >= inputs)
        self.last = Masked((inputs[:, None] > hidden).repeat(2, 1))
        self.context = nn.Linear(2 * latent, width)
        self.direct = nn.Linear(2 * latent, 2 * latent)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(gate, shift), each (B, D), of z (B, D) and context (B, 2D)."""
        hidden = F.gelu(self.first(z) + self.context(context))
        gate, shift = (self.last(hidden) + self.direct(context)).float().chunk(2, dim=1)
        return LEAST + (1 - LEAST) * torch.sigmoid(gate + OPEN), shift


class Masked(nn.Module):
    """A linear layer without bias, of which only the weights (out, in) under the mask are there."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.float(), persistent=False)
        self.weight = nn.Parameter(torch.empty(mask.shape).uniform_(-1, 1) * mask.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask)


FLOW = Member(FlowVAE, axes=(1, 2, 3), defaults={"model": {"flow_steps": 4, "members": 1}})
