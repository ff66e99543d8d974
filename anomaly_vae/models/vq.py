"""VQ-VAE (van den Oord 2017): pictures and windows encoded in a codebook, with a learned prior over the codes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.base import VAE, Head, Member, Output, log_weight
from anomaly_vae.models.layers import GELU, channels_last, convolutions, downward, residuals, stages, upward
from anomaly_vae.models.likelihoods import Likelihood
from anomaly_vae.models.quantizer import PRIORS, Codebook, CodePrior


class VectorQuantisedVAE(VAE):
    """A map of P positions, each the nearest of `codes` vectors of `latent` dimensions; z holds the vectors.

    q(z|x) is deterministic, so its KL is -log p(codes), one column a position, under a prior that is trained with the
    rest. The codes do not depend on the prior, so it only learns their distribution. Gradients pass straight through
    the codebook; `aux` is the commitment of the encoder to its codes.
    """

    diagonal = False

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        assert config.latent and config.codes and config.code_prior and config.commitment is not None
        conv, deconv = convolutions(shape)
        channels, sides = stages(config, shape)
        blocks = config.blocks or 0
        self.shape, self.commitment = (config.latent, *sides[-1]), config.commitment  # of the map
        self.groups = math.prod(sides[-1])
        self.latent = config.latent * self.groups
        self.head = Head(config, shape)
        narrow = conv(channels[-1], config.latent, 1)
        self.down = nn.Sequential(*downward(conv, (shape[0], *channels), sides, blocks), narrow)
        self.codebook = Codebook(config.codes, config.latent)
        self.codes: CodePrior = PRIORS[config.code_prior](config.codes, sides[-1])
        targets = (shape[0] * self.head.outputs, *channels)
        widen = conv(config.latent, channels[-1], 1)
        self.up = nn.Sequential(
            widen, *residuals(conv, channels[-1], blocks), GELU(), *upward(conv, deconv, targets, sides, blocks)
        )

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Output:
        """In training, with a generator, the codebook moves too."""
        read = self._read(x)
        codes = self.codebook.nearest(read)
        vectors = self.codebook(codes)
        if self.training and generator is not None:
            self.codebook.update(read.detach(), generator)
        z = self._flat(read + (vectors - read).detach())
        aux = self.commitment * (read - vectors).square().sum((1, 2))
        return Output(self.decode(z), self.codes.nats(codes), self._flat(vectors), None, aux, codes)

    def code(self, x: Tensor) -> Tensor:
        return self._flat(self.codebook(self.codebook.nearest(self._read(x))))

    def decode(self, z: Tensor) -> Likelihood:
        px: Likelihood = self.head(*self.up(z.unflatten(1, self.shape)).chunk(self.head.outputs, dim=1))
        return px

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self._flat(self.codebook(self.codes.draw(n, generator)))

    def log_weights(
        self, x: Tensor, generator: torch.Generator, samples: int, target: Tensor | None = None
    ) -> Iterator[Tensor]:
        out = self(x)
        weight = log_weight(x if target is None else target, out.px, out.kl)
        for _ in range(samples):  # the posterior is certain: every draw is the same
            yield weight

    def _read(self, x: Tensor) -> Tensor:
        """(B, P, E) what the encoder says of x (B, *shape), before it is quantised."""
        found: Tensor = self.down(channels_last(torch.nan_to_num(x))).float()
        return found.flatten(2).transpose(1, 2)

    def _flat(self, vectors: Tensor) -> Tensor:
        """(B, D) of vectors (B, P, E), a map (E, *sides) in order."""
        return vectors.transpose(1, 2).flatten(1)


VQ = Member(
    VectorQuantisedVAE,
    axes=(2, 3),
    defaults={
        "model": {"latent": 16, "blocks": 1, "codes": 64, "code_prior": "causal", "commitment": 0.25},
        "scoring": {"prior": "normal"},
    },
)
