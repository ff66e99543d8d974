"""A codebook, and two priors over its codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.core.distributed import gathered
from anomaly_vae.models.layers import Sides, convolutions

DECAY = 0.99  # of the moving averages of a code
DEAD = 0.1  # of the mean use of a code: below, a code is moved to where there is data
WIDTH, LAYERS = 32, 2  # channels and residual layers of the causal prior


class Codebook(nn.Module):
    """K vectors (K, E), each the moving average of what is assigned to it (VQ-VAE, van den Oord 2017, appendix A.1).

    A code that is hardly used is put on a vector of the current batch and starts anew, as all do in the first batch.
    """

    vectors: Tensor
    use: Tensor  # (K,) moving average of how many vectors of a batch each code is assigned
    sums: Tensor  # (K, E) and of their sum

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", 0.1 * torch.randn(codes, width))
        self.register_buffer("use", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    def nearest(self, x: Tensor) -> Tensor:
        """(B, P) the code nearest to each of the vectors x (B, P, E)."""
        with torch.autocast(x.device.type, enabled=False):  # the difference of large products
            squares = self.vectors.square().sum(1) - 2 * x.float() @ self.vectors.T
        return squares.argmin(-1)

    def forward(self, codes: Tensor) -> Tensor:
        """(B, P, E) the vectors of codes (B, P)."""
        return F.embedding(codes, self.vectors)

    @torch.no_grad()
    def update(self, x: Tensor, generator: torch.Generator) -> None:
        """Moves the codes towards the vectors x (B, P, E) of a batch, of which this process has its rows."""
        points = gathered(x.float(), generator).flatten(0, 1)  # (N, E)
        with torch.autocast(x.device.type, enabled=False):
            assigned = F.one_hot(self.nearest(points[None])[0], len(self.vectors)).to(points.dtype)  # (N, K)
            self.use.lerp_(assigned.sum(0), 1 - DECAY)
            self.sums.lerp_(assigned.T @ points, 1 - DECAY)
        fair = len(points) / len(self.vectors)
        chosen = torch.randint(len(points), (len(self.use),), generator=generator, device=points.device)
        dead = (self.use < DEAD * fair)[:, None]
        self.sums.copy_(torch.where(dead, points[chosen] * fair, self.sums))
        self.use.copy_(torch.where(dead[:, 0], fair, self.use))
        self.vectors.copy_(self.sums / self.use[:, None])


class CodePrior(Protocol):
    """p(codes) over the P positions of a map."""

    def nats(self, codes: Tensor) -> Tensor:
        """-log p of each code of (B, P), given those before it: (B, P) nats."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, P) codes."""


class Unigram(nn.Module):
    """Every position on its own, all alike."""

    def __init__(self, codes: int, sides: Sides) -> None:
        super().__init__()
        self.positions, self.logits = math.prod(sides), nn.Parameter(torch.zeros(codes))

    def nats(self, codes: Tensor) -> Tensor:
        return -F.log_softmax(self.logits, dim=0)[codes]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        p = self.logits.softmax(0).expand(n, -1)
        return torch.multinomial(p, self.positions, replacement=True, generator=generator)


class Causal(nn.Module):
    """Each position given those before it in reading order: masked convolutions (PixelCNN, van den Oord 2016)."""

    def __init__(self, codes: int, sides: Sides) -> None:
        super().__init__()
        conv, _ = convolutions((1, *sides))
        self.sides = sides
        self.embed = nn.Embedding(codes, WIDTH)
        self.first = Before(conv, WIDTH, WIDTH, 5, len(sides), itself=False)
        self.layers = nn.ModuleList(Before(conv, WIDTH, WIDTH, 3, len(sides), itself=True) for _ in range(LAYERS))
        self.last = conv(WIDTH, codes, 1)

    def nats(self, codes: Tensor) -> Tensor:
        logits = self._logits(codes)
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none")

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        positions = math.prod(self.sides)
        codes = torch.zeros(n, positions, dtype=torch.long, device=self.embed.weight.device)
        for position in range(positions):
            p = self._logits(codes)[:, position].softmax(1)
            codes[:, position] = torch.multinomial(p, 1, generator=generator)[:, 0]
        return codes

    def _logits(self, codes: Tensor) -> Tensor:
        """(B, P, K) of codes (B, P)."""
        h = self.first(self.embed(codes).transpose(1, 2).unflatten(2, self.sides))
        for layer in self.layers:
            h = h + layer(F.gelu(h))
        logits: Tensor = self.last(F.gelu(h)).float()
        return logits.flatten(2).transpose(1, 2)


class Before(nn.Module):
    """A convolution that sees the positions before each one in reading order, and with `itself` that one too."""

    mask: Tensor

    def __init__(self, conv: Any, before: int, after: int, kernel: int, axes: int, itself: bool) -> None:
        super().__init__()
        self.conv = conv(before, after, kernel, padding=kernel // 2)
        flat = torch.zeros(kernel**axes)
        flat[: len(flat) // 2 + itself] = 1
        self.register_buffer("mask", flat.reshape((kernel,) * axes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.conv._conv_forward(x, self.conv.weight * self.mask, self.conv.bias)
        return seen


PRIORS: dict[str, Callable[[int, Sides], CodePrior]] = {"unigram": Unigram, "causal": Causal}
