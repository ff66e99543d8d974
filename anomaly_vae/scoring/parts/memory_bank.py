"""A memory of normal features: the distance of a position to the nearest of them."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, Normals, Part
from anomaly_vae.scoring.parts.distances import place, tiles

AXES = 40  # principal axes that distances are taken in
PROJECTED = 24  # random axes that references are chosen in


class MemoryBank(Part):
    """Squared distances to `references` points of normal data, chosen greedily so that they cover it (the coreset of
    PatchCore, Roth 2022), in the data's principal axes; the length of the rest is one more axis.

    Distances have no unit of their own: `unit` is set where held-out normals tell what they are worth.
    """

    column, sized_by_fit = "neighbours", ("points",)
    centre: Tensor  # (C,)
    axes: Tensor  # (C, A)
    points: Tensor  # (R, A + 1)
    unit: Tensor  # () nats of a unit of squared distance

    def __init__(self, channels: int, axes: int, references: int) -> None:
        """Buffers of the right shape, to be fitted or loaded."""
        super().__init__()
        axes = min(axes, channels)
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("axes", torch.zeros(channels, axes))
        self.register_buffer("points", torch.zeros(references, axes + 1))
        self.register_buffer("unit", torch.ones(()))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> MemoryBank:
        return cls(shape[0], AXES, config.neighbours or 0)

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        """To raw features, with as many references as there are features, at most as many as were asked for."""
        x = normals.raw(normals.train())  # (N, C)
        self.centre = x.mean(0)
        vectors = torch.linalg.eigh(torch.cov((x - self.centre).T.double())).eigenvectors
        self.axes = vectors[:, -self.axes.shape[1] :].float().contiguous()
        placed = self.place(x)
        self.points = placed[greedy_coreset(placed, min(len(self.points), len(x)), normals.generator)]

    def nats(self, batch: Batch) -> Tensor:
        return self.unit * self.squared(batch.raw)

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
