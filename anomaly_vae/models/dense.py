"""Dense VAE over the rows of a table: numbers under a Gaussian or Laplace, categories under their own likelihood."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.config import ModelConfig
from anomaly_vae.distributions import Categorical, Columns, Likelihood
from anomaly_vae.models.base import VAE, Head, posterior_head


class DenseVAE(VAE):
    """Layers of `hidden` units to (mu, log_var) and back; shapes of more than one axis are flattened.

    categories: for each element the number of its classes, 0 for a number. A class enters one-hot and leaves as
    logits; a missing element enters as zeros.
    """

    numbers: Tensor

    def __init__(self, config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = ()) -> None:
        super().__init__()
        assert config.latent and config.hidden is not None
        self.shape, self.latent, self.clamp = shape, config.latent, (config.log_var_min, config.log_var_max)
        elements = int(torch.Size(shape).numel())
        categories = categories or (0,) * elements
        self.classes = tuple(k for k in categories if k)
        self.register_buffer("numbers", torch.tensor([i for i, k in enumerate(categories) if not k]), persistent=False)
        self.register_buffer("named", torch.tensor([i for i, k in enumerate(categories) if k]), persistent=False)
        self.head = Head(config, (len(self.numbers),))

        sizes = (len(self.numbers) + sum(self.classes), *config.hidden)
        self.down = nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())))
        self.posterior = nn.Linear(sizes[-1], 2 * self.latent)
        back = (self.latent, *reversed(config.hidden))
        self.up = nn.Sequential(*(m for a, b in pairwise(back) for m in (nn.Linear(a, b), nn.SiLU())))
        self.out = nn.Linear(back[-1], len(self.numbers) * self.head.outputs + sum(self.classes))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)  # (B, F)
        pieces = [torch.nan_to_num(x[:, self.numbers])]
        for column, k in zip(self.named, self.classes, strict=True):
            code = x[:, column]
            one_hot = F.one_hot(torch.nan_to_num(code).long(), k).to(x.dtype)
            pieces.append(one_hot * ~torch.isnan(code)[:, None])
        return posterior_head(self.posterior(self.down(torch.cat(pieces, dim=1))), *self.clamp)

    def decode(self, z: Tensor) -> Likelihood:
        raw = self.out(self.up(z)).float()
        width = len(self.numbers) * self.head.outputs
        if not self.classes:
            px: Likelihood = self.head(raw if len(self.shape) == 1 else raw.unflatten(1, (-1, *self.shape[1:])))
            return px
        parts: list[tuple[Tensor, Likelihood]] = [(self.numbers, self.head(raw[:, :width]))] if width else []
        for column, logits in zip(self.named, raw[:, width:].split(self.classes, dim=1), strict=True):
            parts.append((column[None], Categorical(logits[:, None])))
        return Columns(tuple(parts), len(self.numbers) + len(self.classes))
