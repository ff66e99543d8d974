"""A memory of normal features: how far a position lies from the nearest thing that was ever seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly_vae.scoring.parts.distances import place, tiles

PROJECTED = 24  # random axes that references are chosen in


class MemoryBank(nn.Module):
    """Squared distances to `references` points of normal data, chosen greedily so that they cover it (the coreset of
    PatchCore, Roth 2022), in the data's principal axes; the length of the rest is one more axis."""

    centre: Tensor  # (C,)
    axes: Tensor  # (C, A)
    points: Tensor  # (R, A + 1)

    def __init__(self, channels: int, axes: int, references: int) -> None:
        """Buffers of the right shape, to be fitted or loaded."""
        super().__init__()
        axes = min(axes, channels)
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("axes", torch.zeros(channels, axes))
        self.register_buffer("points", torch.zeros(references, axes + 1))

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        """To normal features x (N, C), N at least the number of references."""
        self.centre = x.mean(0)
        vectors = torch.linalg.eigh(torch.cov((x - self.centre).T.double())).eigenvectors
        self.axes = vectors[:, -self.axes.shape[1] :].float().contiguous()
        placed = self.place(x)
        self.points = placed[greedy_coreset(placed, len(self.points), generator)]

    def place(self, x: Tensor) -> Tensor:
        """(N, A + 1) of features x (N, C)."""
        return place(x - self.centre, self.axes)

    def squared(self, x: Tensor) -> Tensor:
        """(N,) squared distance of features x (N, C) to the nearest reference."""
        return nearest(self.place(x), self.points)


def nearest(x: Tensor, points: Tensor) -> Tensor:
    """(N,) squared distance of x (N, C) to the nearest of points (R, C)."""
    length, turned = points.square().sum(1), points.T
    crossed = [
        torch.addmm(length, x[rows], turned, alpha=-2, out=scratch).amin(1)  # (n, R) -> (n,)
        for rows, scratch in tiles(x, len(points))
    ]
    return (x.square().sum(1) + torch.cat(crossed)).clamp(min=0)


def greedy_coreset(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) rows of x (N, C): each the farthest from those before it (k-centre; Sener & Savarese 2018), distances
    being taken in a random projection, which keeps them nearly (Johnson & Lindenstrauss 1984)."""
    axes = torch.randn(x.shape[1], PROJECTED, generator=generator).to(x.device)
    z = (x @ axes).contiguous()
    length, far = z.square().sum(1), torch.full((len(z),), torch.inf, device=x.device)
    chosen = torch.empty(count, dtype=torch.long, device=x.device)
    last = torch.randint(len(z), (1,), generator=generator).to(x.device)[0]
    for number in range(count):
        chosen[number] = last
        torch.minimum(far, torch.addmv(length, z, z[last], alpha=-2).add_(length[last]), out=far)
        last = far.argmax()
    return chosen
