"""Hierarchical VAE: latent maps at every scale, from the smallest down to half the size of the picture.

The line of LVAE (Sonderby 2016), NVAE (Vahdat & Kautz 2020) and VDVAE (Child 2021): a bottom-up pass keeps features
of every scale, a top-down pass that the generative model and the posterior share draws one latent map a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.distributed import normal
from anomaly_vae.models.base import LOG_VAR, VAE, Head, Member, Output, log_weight
from anomaly_vae.models.gaussian import posterior_head
from anomaly_vae.models.layers import GELU, Crop, Even, Residual, Sides, channels_last, convolutions, residuals, stages
from anomaly_vae.models.likelihoods import Likelihood, kl_normal, kl_sampled

SCALES = 3  # at least, where the channels of the stages are not given
LOG_SCALE = (LOG_VAR[0] / 2, LOG_VAR[1] / 2)  # clamp of log s
QUIET = 0.1  # of their usual size are the first weights of what makes latents, so that every posterior starts near p(z)


class HierarchicalVAE(VAE):
    """`latent` channels in each of `blocks` latent maps at every scale.

    p(z_l | z above) = N(m, s^2), with m and s functions of the state h of the top-down pass, is held in the form
    z_l = m + s e_l with e_l ~ N(0, I), and the posterior is a Gaussian of e_l given h and x (NVAE's relative
    posterior). So a flat z (B, D) is the e of all levels, top first; its prior is N(0, I), and the KL of a level is
    that of a diagonal Gaussian to it.
    """

    diagonal = False  # the posterior of a level depends on the draws of those above

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        assert config.latent and config.blocks
        conv, deconv = convolutions(shape)
        channels, sides = stages(config, shape, SCALES)
        widths = (shape[0], *channels)
        self.down = nn.ModuleList()  # the stage of each scale: (B, C, H, W) -> (B, C', ceil(H/2), ceil(W/2))
        for side, (before, after) in zip(sides, pairwise(widths), strict=False):
            step = conv(before, after, 4, stride=2, padding=1)
            self.down.append(nn.Sequential(Even(side), step, *residuals(conv, after, config.blocks), GELU()))

        self.top = nn.Parameter(0.1 * torch.randn(1, channels[-1], *sides[-1]))  # where the top-down pass starts
        self.cells: Any = nn.ModuleList()  # top first
        self.sizes: list[int] = []  # of their latent maps
        for scale in reversed(range(len(channels))):
            for cell in range(config.blocks):
                below = channels[scale + 1] if cell == 0 and scale + 1 < len(channels) else 0
                self.cells.append(Cell(conv, scale, channels[scale], sides[scale + 1], config.latent, below))
                self.sizes.append(config.latent * math.prod(sides[scale + 1]))
        self.head = Head(config, shape)
        last = deconv(channels[0], shape[0] * self.head.outputs, 4, stride=2, padding=1)
        self.up = nn.Sequential(GELU(), last, Crop(sides[0]))  # (B, P*C, H, W)
        self.latent, self.groups = sum(self.sizes), len(self.sizes)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        px, levels = self._infer(self._features(x), generator)
        kl = torch.stack([kl_normal(level.mu, level.log_var).sum(1) for level in levels], dim=1)  # (B, levels)
        return Output(px, kl, torch.cat([level.mu for level in levels], dim=1), None)

    def code(self, x: Tensor) -> Tensor:
        return torch.cat([level.mu for level in self._infer(self._features(x), None)[1]], dim=1)

    def decode(self, z: Tensor) -> Likelihood:
        h = self.top.expand(len(z), *self.top.shape[1:])
        for cell, noise in zip(self.cells, z.split(self.sizes, dim=1), strict=True):
            h = cell(cell.arrive(h), noise)
        return self._emit(h)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.latent, generator=generator, device=generator.device)

    def log_weights(
        self, x: Tensor, generator: torch.Generator, samples: int, target: Tensor | None = None
    ) -> Iterator[Tensor]:
        features = self._features(x)
        for _ in range(samples):
            px, levels = self._infer(features, generator)
            kl = torch.cat([kl_sampled(v.z, v.noise, v.log_var) for v in levels], dim=1)
            yield log_weight(x if target is None else target, px, kl)

    def _features(self, x: Tensor) -> list[Tensor]:
        """Features of x (B, *shape) at each scale, the largest first."""
        found, x = [], channels_last(torch.nan_to_num(x))
        for stage in self.down:
            x = stage(x)
            found.append(x)
        return found

    def _infer(self, features: list[Tensor], generator: torch.Generator | None) -> tuple[Likelihood, list[_Level]]:
        """The top-down pass of the posterior: p(x|z) and what each level drew; without a generator its mean."""
        h = self.top.expand(len(features[0]), *self.top.shape[1:])
        levels = []
        for cell in self.cells:
            h = cell.arrive(h)
            mu, log_var = cell.posterior(h, features[cell.scale])
            noise = torch.zeros_like(mu) if generator is None else normal(mu.shape, generator, mu.dtype)
            z = mu + noise * torch.exp(0.5 * log_var)
            levels.append(_Level(mu, log_var, noise, z))
            h = cell(h, z)
        return self._emit(h), levels

    def _emit(self, h: Tensor) -> Likelihood:
        px: Likelihood = self.head(*self.up(h).chunk(self.head.outputs, dim=1))
        return px


class _Level(NamedTuple):
    """What the posterior of one level says, each (B, D_l): N(mu, exp(log_var)), and z = mu + noise * its deviation."""

    mu: Tensor
    log_var: Tensor
    noise: Tensor
    z: Tensor


class Cell(nn.Module):
    """One level of the top-down pass, at one scale: (B, C, *sides) in and out.

    below: channels of the next smaller scale, whose state arrives here; 0: the state comes from the same scale.
    """

    def __init__(self, conv: Any, scale: int, channels: int, sides: Sides, latent: int, below: int) -> None:
        super().__init__()
        self.scale, self.channels, self.sides, self.latent = scale, channels, sides, latent
        widen = [conv(below, channels, 1), nn.Upsample(sides)] if below else []
        self.arrive = nn.Sequential(*widen)
        self.meet = nn.Sequential(conv(2 * channels, channels, 1), Residual(conv, channels), GELU())
        self.read = conv(channels, 2 * latent, 1)
        self.before = nn.Sequential(Residual(conv, channels), GELU())
        self.place = conv(channels, channels + 2 * latent, 1)  # what h adds by itself; m and log s of p(z|h)
        self.enter = conv(latent, channels, 1)
        self.after = Residual(conv, channels)
        for layer in (self.read, self.place):
            layer.weight.data.mul_(QUIET)

    def posterior(self, h: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var), each (B, D_l), of the noise e given the state and the features of x at this scale."""
        maps = self.read(self.meet(torch.cat([h, features], dim=1)))
        return posterior_head(maps.flatten(1))

    def forward(self, h: Tensor, noise: Tensor) -> Tensor:
        """The state after the latent map z = m + s e entered, of e (B, D_l)."""
        added, m, log_s = self.place(self.before(h)).split([self.channels, self.latent, self.latent], dim=1)
        z = m + noise.unflatten(1, (self.latent, *self.sides)) * torch.exp(log_s.clamp(*LOG_SCALE))
        moved: Tensor = self.after(h + added + self.enter(z))
        return moved


HIERARCHICAL = Member(
    HierarchicalVAE,
    axes=(2, 3),
    defaults={"model": {"latent": 4, "blocks": 1}, "scoring": {"prior": "normal"}},
)
