"""How far the outlines and the texture of a picture lie from those of training pictures, as a density in nats.

A convolutional VAE reconstructs pictures that are plainer than its training pictures, and finds them likely. What those
have in common is where their gradients lie and how they are directed: these are counted in a grid of cells (HOG; Dalal
& Triggs 2005), as gradients of the roots of grey levels, so that a fold in a dark coat counts as much as one in a white
shirt. Euclid's distance between the roots of shares is Hellinger's (Arandjelovic & Zisserman 2012), which hardly sees
contrast. The nearest reference gives the k-nearest-neighbour estimate of the density, as in `knn_density`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, Normals, Part
from anomaly_vae.scoring.parts.knn_density import NEAR, nats_of_log_distance
from anomaly_vae.scoring.parts.memory_bank import nearest
from anomaly_vae.scoring.parts.references import SMALLEST_BAG

DIRECTIONS = 8
CELLS = 5  # of the grid along each side; Gaussian, with a standard deviation of half a cell
FAINT = 0.05  # gradient without a direction that every picture is granted, as a share of the mean of training pictures
BAGS = 4  # disjoint parts of the references; the logs of the distance to the nearest of each are averaged
CLOSEST = 0.02  # distance up to which pictures are alike, as a share of the median between neighbours
KNOWN = 2000  # references at most that tell what a distance is worth


class GradientNeighbours(Part):
    """Of pictures (B, C, H, W), whatever the model makes of them; a histogram has E = DIRECTIONS * C * CELLS^2 bins."""

    column, sized_by_fit = "neighbours", ("points",)
    rows: Tensor  # (CELLS, H)
    columns: Tensor  # (CELLS, W)
    faint: Tensor  # () added to the sum of a histogram
    points: Tensor  # (bags, R / bags, E)
    closest: Tensor  # () smallest squared distance
    unit: Tensor  # () nats of a unit of log distance

    def __init__(self, shape: tuple[int, ...], references: int) -> None:
        """shape: (C, H, W) of a picture. references: how many training pictures are wanted."""
        super().__init__()
        self.channels, height, width = shape
        self.register_buffer("rows", pooling(height, CELLS), persistent=False)
        self.register_buffer("columns", pooling(width, CELLS), persistent=False)
        self.register_buffer("points", torch.zeros(1, references, DIRECTIONS * self.channels * CELLS**2))
        for name in ("faint", "closest", "unit"):
            self.register_buffer(name, torch.ones(()))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> GradientNeighbours:
        if len(shape) != 3:
            raise ConfigError("scoring.parts=gradients is of pictures; leave it out")
        return cls(shape, config.neighbours or 0)

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        """To training pictures, as many as were asked for, if there are so many."""
        x = normals.train()
        most = min(self.points.shape[1], len(x))
        bags = max(1, min(BAGS, most // SMALLEST_BAG))
        chosen = torch.randperm(len(x), generator=normals.generator)[: bags * (most // bags)]
        lengths = torch.cat([self.lengths(some) for some in x[chosen.to(x.device)].split(normals.size)])  # (R, E)
        self.faint = FAINT * lengths.sum(1).mean()
        points = self.rooted(lengths)
        self.points = points.unflatten(0, (bags, -1))
        known = torch.arange(min(len(points), KNOWN), device=x.device)
        apart = torch.cdist(points[known], points, compute_mode="donot_use_mm_for_euclid_dist")
        apart[known, known] = math.inf
        close = apart.topk(min(NEAR, len(points) - 1), largest=False).values
        self.closest = (CLOSEST * close.median()).clamp(min=1e-3).square()
        smallest = float(self.closest.sqrt())
        by_bag = apart.unflatten(1, (bags, -1)).amin(2).clamp(min=smallest).log()  # (known, bags)
        self.unit = nats_of_log_distance(close.clamp(min=smallest), by_bag, by_bag, len(points) / bags)

    def nats(self, batch: Batch) -> Tensor:
        """(B,) -log density of the histograms, up to a constant.

        A reference that is alike is the picture itself: its bag is left out if there are others, so that training
        pictures have the nats of held-out ones.
        """
        histograms = self.rooted(self.lengths(batch.x))
        squared = torch.stack(
            [(histograms - bag[nearest(histograms, bag)]).square().sum(1) for bag in self.points], dim=1
        )  # (B, bags)
        other = squared > self.closest
        counted = (other | ~other.any(1, keepdim=True)).float()
        logs = squared.clamp(min=self.closest).log() * counted
        return self.unit * 0.5 * logs.sum(1) / counted.sum(1)

    def lengths(self, x: Tensor) -> Tensor:
        """(B, E) lengths of the gradients in each direction and cell, of pictures in 0-1 with their condition."""
        padded = F.pad(x[:, : self.channels].clamp(min=0).sqrt(), [1] * 4, mode="replicate")
        right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
        down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
        length = (right.square() + down.square()).sqrt()  # (B, C, H, W)
        right, down = (part / length.clamp(min=1e-6) for part in (right, down))
        cells = []
        for number in range(DIRECTIONS):  # one after the other: maps of all at once would leave the cache
            angle = number * 2 * math.pi / DIRECTIONS
            # the 8th power of a cosine is a half where two of eight directions meet
            share = (right * math.cos(angle) + down * math.sin(angle)).clamp(min=0).square().square().square()
            cells.append((self.rows @ (share * length) @ self.columns.T).flatten(1))  # (B, C * CELLS^2)
        return torch.cat(cells, dim=1)

    def rooted(self, lengths: Tensor) -> Tensor:
        """(B, E) the roots of the shares of (B, E)."""
        return (lengths / (lengths.sum(1, keepdim=True) + self.faint).clamp(min=1e-6)).sqrt()


def pooling(side: int, cells: int) -> Tensor:
    """(cells, side) weights of pixels, a Gaussian about the centre of each cell, with the sum 1."""
    apart = (torch.arange(side) + 0.5)[None] * (cells / side) - (torch.arange(cells) + 0.5)[:, None]  # in cells
    return torch.softmax(-2 * apart.square(), dim=1)
