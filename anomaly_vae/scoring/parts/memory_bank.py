"""A memory of normal features: the distance of a position to the nearest of them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, Normals, Part
from anomaly_vae.scoring.parts.distances import place, tiles

AXES = 40  # principal axes that distances are taken in
PROJECTED = 24  # random axes that references are chosen in
BATCH, CANDIDATES = 64, 4  # references that are chosen at once, and of how many times as many
ROWS = 8192  # features whose distances to those are computed at once
CELL = 256  # points of a cell, on average
PROBED = 8  # cells whose points a feature is compared with
SEARCHED = 1024  # features that are searched for at once: their products are kept until the best cell is known


class MemoryBank(Part):
    """Squared distances to `references` points of normal data, chosen greedily so that they cover it (the coreset of
    PatchCore, Roth 2022), in the data's principal axes; the length of the rest is one more axis.

    The points lie in cells, each nearest to its cell's centre, and a feature is compared with those of the PROBED cells
    whose centres are nearest to it (an inverted file; Jégou 2011). Up to PROBED cells the search is exact.

    Distances have no unit of their own: `unit` is set where held-out normals tell what they are worth.
    """

    column, sized_by_fit, from_held = "neighbours", ("points", "cells", "starts"), ("unit",)
    centre: Tensor  # (C,)
    axes: Tensor  # (C, A)
    points: Tensor  # (R, A + 1), one cell after the other
    cells: Tensor  # (K, A + 1) centres
    starts: Tensor  # (K + 1,) the first point of each cell, and R
    unit: Tensor  # () nats of a unit of squared distance

    def __init__(self, channels: int, axes: int, references: int) -> None:
        """Buffers of the right shape, to be fitted or loaded."""
        super().__init__()
        axes = min(axes, channels)
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("axes", torch.zeros(channels, axes))
        self.register_buffer("points", torch.zeros(references, axes + 1))
        self.register_buffer("cells", torch.zeros(1, axes + 1))
        self.register_buffer("starts", torch.tensor([0, references]))
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
        self.keep(placed[greedy_coreset(placed, min(len(self.points), len(x)), normals.generator)], normals.seed)

    def keep(self, points: Tensor, seed: int) -> None:
        """Takes points (R, A + 1), in cells by k-means."""
        if len(points) // CELL <= PROBED:
            cells = points.mean(0, keepdim=True)
        else:
            from sklearn.cluster import MiniBatchKMeans

            means = MiniBatchKMeans(len(points) // CELL, batch_size=4096, n_init=1, random_state=seed % 2**32)
            cells = torch.from_numpy(means.fit(points.cpu().numpy()).cluster_centers_).to(points)
        cell = nearest(points, cells)
        sizes = torch.bincount(cell, minlength=len(cells))
        self.cells = cells[sizes > 0]
        self.starts = torch.nn.functional.pad(sizes[sizes > 0].cumsum(0), (1, 0))
        self.points = points[cell.argsort(stable=True)]

    def nats(self, batch: Batch) -> Tensor:
        return self.unit * self.squared(batch.raw)

    def place(self, x: Tensor) -> Tensor:
        """(N, A + 1) of features x (N, C)."""
        return place([x - self.centre], self.axes)

    def squared(self, x: Tensor) -> Tensor:
        """(N,) squared distance of features x (N, C) to the nearest reference."""
        x = self.place(x)
        # taken anew: through products, its last bits depend on how many features there are
        return (x - self.points[self.search(x)]).square().sum(1)

    def search(self, x: Tensor, probed: int = PROBED) -> Tensor:
        """(N,) the nearest point of those in the `probed` cells nearest to each of x (N, A + 1)."""
        if len(self.cells) <= probed:
            return nearest(x, self.points)
        length = self.cells.square().sum(1)
        near = torch.addmm(length, x, self.cells.T, alpha=-2).topk(probed, largest=False, sorted=False).indices
        if torch.compiler.is_exporting():  # a graph has no loops: all points are compared, those of other cells masked
            hidden = x.new_full((len(x), len(self.cells)), torch.inf).scatter(1, near, 0.0)
            sizes, numbers = self.starts.diff(), torch.arange(len(self.cells), device=x.device)
            cell = torch.repeat_interleave(numbers, sizes, output_size=len(self.points))
            return (torch.addmm(_squares(self.points), x, self.points.T, alpha=-2) + hidden[:, cell]).argmin(1)
        if len(x) > SEARCHED:
            return torch.cat([self.search(some, probed) for some in x.split(SEARCHED)])
        # pairs of a feature and a cell, one cell after the other: a cell is then one product
        order = near.flatten().argsort(stable=True)
        rows = x.index_select(0, order // probed)
        first = torch.nn.functional.pad(torch.bincount(near.flatten(), minlength=len(self.cells)).cumsum(0), (1, 0))
        lengths, products, least = _squares(self.points), [], x.new_empty(len(order))
        for pairs, points in zip(pairwise(first.tolist()), pairwise(self.starts.tolist()), strict=True):
            some, here = slice(*pairs), slice(*points)
            products.append(torch.addmm(lengths[here], rows[some], self.points[here].T, alpha=-2))
            torch.amin(products[-1], 1, out=least[some])
        # where the least is, of the best cell alone: that takes ten times as long as how much it is
        pair_of = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=x.device)).view_as(near)
        best = least[pair_of].argmin(1, keepdim=True)
        pair, feature = pair_of.gather(1, best)[:, 0].sort()
        cell = near.gather(1, best)[feature, 0]  # rising
        places = (pair - first[cell]).split(torch.bincount(cell, minlength=len(self.cells)).tolist())
        found = [p.index_select(0, rows).argmin(1) for p, rows in zip(products, places, strict=True) if len(rows)]
        return torch.empty_like(pair).index_copy_(0, feature, self.starts[cell] + torch.cat(found))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        points = state_dict.get(f"{prefix}points")
        if points is not None and f"{prefix}cells" not in state_dict:  # folders that were saved before there were cells
            state_dict[f"{prefix}cells"] = points.mean(0, keepdim=True)
            state_dict[f"{prefix}starts"] = torch.tensor([0, len(points)])
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _squares(points: Tensor) -> Tensor:
    """(R,) squared lengths of points (R, C)."""
    length: Tensor = torch.linalg.vector_norm(points, dim=1)
    return length.square()


def nearest(x: Tensor, points: Tensor) -> Tensor:
    """(N,) which of points (R, C) is the nearest to each of x (N, C)."""
    length = points.square().sum(1)
    return torch.cat(
        [
            torch.addmm(length, x[rows], points.T, alpha=-2, out=scratch).argmin(1)  # (n, R) -> (n,)
            for rows, scratch in tiles(x, len(points))
        ]
    )


def greedy_coreset(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) rows of x (N, C): each the farthest from those before it (k-centre; Sener & Savarese 2018), distances
    being taken in a random projection, which keeps them nearly (Johnson & Lindenstrauss 1984).

    Up to BATCH are chosen at once, among the farthest CANDIDATES times as many: one product instead of BATCH.
    """
    z = (x @ torch.randn(x.shape[1], PROJECTED, generator=generator).to(x.device)).contiguous()
    length, far = z.square().sum(1), torch.full((len(z),), torch.inf, device=x.device)
    chosen = torch.empty(0, dtype=torch.long, device=x.device)
    new = torch.randint(len(z), (1,), generator=generator).to(x.device)
    while True:
        chosen = torch.cat([chosen, new])
        for some in torch.arange(len(z), device=x.device).split(ROWS):
            here = slice(int(some[0]), int(some[-1]) + 1)
            squared = torch.addmm(length[new], z[here], z[new].T, alpha=-2).amin(1) + length[here]
            torch.minimum(far[here], squared, out=far[here])
        far[new] = -torch.inf
        wanted = min(BATCH, len(chosen), count - len(chosen))  # the first few decide which are far
        if wanted <= 0:
            return chosen
        candidates = far.topk(min(CANDIDATES * wanted, len(z) - len(chosen))).indices
        apart = torch.cdist(z[candidates], z[candidates]).square()
        distance, picked = far[candidates], []
        for _ in range(wanted):
            picked.append(distance.argmax())
            distance = torch.minimum(distance, apart[picked[-1]])
            distance[picked[-1]] = -torch.inf
        new = candidates[torch.stack(picked)]
