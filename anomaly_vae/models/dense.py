"""Dense VAE over the rows of a table: numbers under a Gaussian or Laplace, categories under their own likelihood."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.base import Head, Member
from anomaly_vae.models.gaussian import GaussianVAE, posterior_head
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.models.likelihoods import Categorical, Columns, Likelihood


class DenseVAE(GaussianVAE):
    """Layers of `hidden` units to (mu, log_var) and back; shapes of more than one axis are flattened.

    `members` independent VAEs are held as batched weights, one matrix product a layer for all of them: the posterior
    is that of all members side by side, (B, M * D), and p(x|z) has a leading axis of members, (M, B, F).

    categories: for each element the number of its classes, 0 for a number. A class enters one-hot and leaves as
    logits; a missing element enters as zeros. extra: numbers that the encoder reads behind the elements of x.
    condition_size: numbers that each member's decoder reads beside its z.
    """

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = (), extra: int = 0,
        condition_size: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        assert config.hidden is not None and config.members
        self.shape, self.members = shape, config.members
        elements = int(torch.Size(shape).numel())
        categories = categories or (0,) * elements
        # as many as half of the columns' elements, unless the user says otherwise
        latent = config.latent or max(2, min(16, round(elements / 2)))
        self.latent = self.groups = latent * self.members
        self.rows = rows = RowInputs(categories)
        numbers, classes = len(rows.numbers), rows.classes
        self.head = Head(config, (numbers,) if classes else shape)
        self.elements = elements
        self.down = _layers(self.members, (rows.inputs + extra, *config.hidden, 2 * latent))
        outputs = numbers * self.head.outputs + sum(classes)
        self.up = _layers(self.members, (latent + condition_size, *reversed(config.hidden), outputs))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.rows
        read, condition = self.rows(x), x.flatten(1)[:, self.elements :]
        read = torch.cat([read, condition], dim=1) if condition.shape[1] else read
        features = _run(self.down, read.expand(self.members, -1, -1))  # (M, B, 2D)
        mu, log_var = posterior_head(features.flatten(0, 1))
        return tuple(t.unflatten(0, (self.members, -1)).transpose(0, 1).flatten(1) for t in (mu, log_var))  # type: ignore[return-value]

    def decode(self, z: Tensor) -> Likelihood:
        assert self.rows
        latent, condition = z[:, : self.latent], z[:, self.latent :]
        each = latent.unflatten(1, (self.members, -1)).transpose(0, 1)  # (M, B, D)
        read = torch.cat([each, condition.expand(self.members, -1, -1)], dim=2)
        raw = _run(self.up, read).float()  # (M, B, outputs)
        width = len(self.rows.numbers) * self.head.outputs
        if not self.rows.classes:
            px: Likelihood = self.head(*(t.unflatten(-1, self.shape) for t in raw.chunk(self.head.outputs, dim=-1)))
            return px
        numbers = raw[..., :width].chunk(self.head.outputs, dim=-1)
        parts: list[tuple[Tensor, Likelihood]] = [(self.rows.numbers, self.head(*numbers))] if width else []
        for column, logits in zip(self.rows.named, raw[..., width:].split(self.rows.classes, dim=-1), strict=True):
            parts.append((column[None], Categorical(logits[..., None, :])))
        return Columns(tuple(parts))


def _layers(members: int, sizes: tuple[int, ...]) -> nn.ParameterList:
    """Weights (M, in, out) and biases (M, 1, out) of each layer; the last starts small, near the prior and the mean."""
    parameters: list[nn.Parameter] = []
    for layer, (before, after) in enumerate(pairwise(sizes)):
        gain = 0.5 if layer == len(sizes) - 2 else 1.7
        bound = gain / math.sqrt(max(before, 1))
        parameters.append(nn.Parameter(torch.empty(members, before, after).uniform_(-bound, bound)))
        parameters.append(nn.Parameter(torch.zeros(members, 1, after)))
    return nn.ParameterList(parameters)


def _run(layers: nn.ParameterList, x: Tensor) -> Tensor:
    """(M, B, out) of x (M, B, in), with SiLU between layers."""
    weights = list(layers)
    for index in range(0, len(weights), 2):
        x = torch.baddbmm(weights[index + 1], x, weights[index])
        if index + 2 < len(weights):
            x = F.silu(x, inplace=not torch.is_grad_enabled())
    return x


DENSE = Member(DenseVAE, axes=(1, 2, 3))
