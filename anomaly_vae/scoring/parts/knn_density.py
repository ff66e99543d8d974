"""How far a row lies from the training rows it should resemble, as a density in nats.

The ELBO of a small VAE is loose where the data is clustered: two rows may be reconstructed equally well, one amid its
kind, the other alone. This part measures that. Rows are placed in the joined space of what the network reads, the
latent means of all members, and their residuals; the nearest reference row gives the k-nearest-neighbour estimate of
the density there, -log p = d log r + constant (Loftsgaarden & Quesenberry 1965). d is not the number of axes, of which
each column of the table has several, but the intrinsic dimension of the data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts import distances
from anomaly_vae.scoring.parts.base import Batch, Normals
from anomaly_vae.scoring.parts.references import ReferencePart

RESIDUAL = 0.5  # weight of a residual, in units of its training root mean square
NEAR = 5  # neighbours that tell how dense the data is around a reference row
ADAPT, ADAPT_ROWS = 0.5, 300  # power of that local scale at most, and the training rows that give half of it
NEEDED = "scoring.neighbours needs rows of a table with a numeric column; scoring.neighbours=0 leaves the part out"


class KNNDensity(ReferencePart):
    """The neighbours part of the score, fitted to training rows once the model is trained; its state is buffers.

    A distance is divided by a power of the local scale rho of the reference row, its mean distance to its 5 nearest:
    a gap that is ordinary in a sparse region is remarkable in a dense one (as in LOF, Breunig 2000).
    """

    column, most_bags = "neighbours", 4
    residual_scale: Tensor  # (M, 1, F)
    floor: Tensor  # (2,) smallest squared distance, and smallest scaled one
    unit: Tensor  # () nats of a unit of log distance
    usual: Tensor  # () mean log distance of references to the nearest others, which has 0 nats

    def __init__(self, model: VAE, references: int) -> None:
        """references: how many rows are wanted. Raises ConfigError where the model reads no rows with numbers."""
        if model.rows is None or model.rows.numbers.numel() == 0:
            raise ConfigError(NEEDED)
        numbers = len(model.rows.numbers)
        joined = model.rows.inputs + model.n_condition + model.latent + model.members * numbers
        super().__init__(model.rows, model.n_condition, references, joined)
        self.members = model.members
        self.register_buffer("residual_scale", torch.ones(model.members, 1, numbers))
        self.register_buffer("floor", torch.zeros(2))
        self.register_buffer("unit", torch.tensor(float(joined)))
        self.register_buffer("usual", torch.zeros(()))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> KNNDensity:
        if len(shape) != 1:
            raise ConfigError(NEEDED)
        return cls(model, config.neighbours or 0)

    @torch.no_grad()
    def fit(self, normals: Normals) -> Tensor:
        """To training and held-out rows, with as many references as there are rows, at most as many as were asked for.

        Returns (n_held,) which reference each held-out row is, -1 for none.
        """
        train, (held, numbers) = normals.train(), normals.held()
        rows = self._fit(normals.model, torch.cat([train, held]), normals.generator) - len(train)  # (R,)
        own = torch.full((normals.n_held,), -1)
        mine = (rows >= 0).nonzero()[:, 0]
        own[numbers[rows[mine]]] = mine
        return own

    def _fit(self, model: VAE, x: Tensor, generator: torch.Generator) -> Tensor:
        """To scaled normal rows x (N, E). Returns (R,) which of them are references."""
        n = len(x)
        squares = torch.cat([self._residual(self._batch(model, some)).square() for some in x.split(4096)], dim=1)
        self.residual_scale = RESIDUAL / squares.mean(1, keepdim=True).sqrt().clamp(min=0.02)
        rows, bags = self._draw(n, generator)
        references = x[rows.to(x.device)]
        place, apart, nearest = self._fit_space(self._pieces(self._batch(model, references)), NEAR)
        near = nearest.mean(1)
        median = near.median().clamp(min=1e-6)
        power = ADAPT * n / (n + ADAPT_ROWS)
        weight = (near / median).clamp(0.5, 5.0) ** (-2 * power)
        smallest = (0.02 * median) ** 2
        by_bag = (apart.square() + smallest).unflatten(1, (bags, -1))  # (R, bags, R / bags)
        scaled = (by_bag * weight.view(bags, -1)).amin(2).log() / 2  # (R, bags)
        self.unit = nats_of_log_distance(
            nearest.clamp(min=0.02 * float(median)), by_bag.amin(2).log() / 2, scaled, len(place) / bags
        )
        self.usual = scaled.mean()
        self.floor = torch.stack([smallest, smallest * weight.min()])
        self.weights = distances.scaled_references(place, weight, bags)
        return rows

    def nats(self, batch: Batch) -> Tensor:
        """(B,) -log density of scaled rows (B, E) in the joined space, less that of a usual one.

        The constant is each fit's own. From 0 on, `unit` would move the level of all rows by the few percent that it
        differs from fit to fit, and what models of other folds say of a row would not calibrate the final one.
        """
        left = distances.read_against(self._project(self._pieces(batch)), self.floor[0])
        size = self.weights.shape[2]
        nearest = torch.cat(
            [self._nearest(left[rows], batch.own, rows, scratch) for rows, scratch in distances.tiles(left, size)]
        )
        return self.unit * (0.5 * nearest.clamp(min=self.floor[1]).log().mean(1) - self.usual)

    def _nearest(self, left: Tensor, own: Tensor | None, some: slice, scratch: Tensor | None) -> Tensor:
        """(B, bags) the smallest scaled squared distance to each bag, of `some` of the rows."""
        size, nearest = self.weights.shape[2], []
        for bag in range(len(self.weights)):
            squared = torch.mm(left, self.weights[bag], out=scratch)  # (B, R / bags)
            if own is not None:
                mine = own[some]
                rows = ((mine >= 0) & (mine // size == bag)).nonzero()[:, 0]
                squared[rows, mine[rows] % size] = math.inf
            nearest.append(squared.amin(1))
        return torch.stack(nearest, dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name in ("unit", "usual"):  # folders that were saved before they were fitted
            state_dict.setdefault(f"{prefix}{name}", getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _batch(self, model: VAE, x: Tensor) -> Batch:
        return Batch(x, model(x), x)

    def _residual(self, batch: Batch) -> Tensor:
        """(M, B, F) of the numbers; 0 where x is missing."""
        numbers = self.rows.pick(batch.x[:, : self.rows.elements])
        there = torch.eq(numbers, numbers).to(numbers.dtype)  # a product with it takes a fifth of filling by a mask
        return (numbers.nan_to_num() - self.rows.pick(batch.out.px.mean)).mul_(there)

    def _pieces(self, batch: Batch) -> list[Tensor]:
        """The joined space (B, j): inputs, latent means of all members, and their weighted residuals, members counting
        as one."""
        share = 1 / math.sqrt(self.members)
        residual = self._residual(batch).mul_(self.residual_scale * share)
        return [self._inputs(batch.x), batch.out.mu * share, residual.transpose(0, 1).flatten(1)]


def nats_of_log_distance(nearest: Tensor, plain: Tensor, scaled: Tensor, references: float) -> Tensor:
    """() nats of -log density that a unit of the log of scaled distance is worth.

    nearest: (R, k) distances of points to their k nearest, rising. plain, scaled: (R, bags) log distances to the
    nearest of each bag, without the local scale and with it. references: points of a bag.

    Where dimensions are many and references few, the nearest is so far away that the dimension D at its distance is
    below the data's dimension d, and that a ball around x is filled from the side of the mode, so that its probability
    changes by less than the density at x.
    For a Gaussian both follow from the tilt t of the saddle point of the probability of a ball that holds one reference
    (Bahadur & Rao 1960): D = d t (2 + t) / (1 + t)^2, that of the probability is below, and D log r has t / (1 + t) of
    the slope of -log p. What dividing by the local scale takes of the slope is given back.
    """
    local = distances.intrinsic_dimension(nearest)  # D
    t = torch.logspace(-2, 6, 4001, dtype=torch.float64, device=local.device)
    d = local * (1 + t).square() / (t * (2 + t))
    chernoff = d / 2 * (torch.log1p(t) - t / (1 + t).square())
    deviation = (d / 2 + d / (1 + t)).sqrt() / (1 + t)  # of half the squared distance, under the tilt
    rare = chernoff + torch.log1p(math.sqrt(2 * math.pi) * t * deviation)  # -log probability of the ball
    tilt = t[(rare - math.log(max(references, 2.0))).abs().argmin()]
    kept = local.new_tensor(1.0)
    if plain.shape[1] > 1:  # by one bag of what another says, whose noise is independent
        known = plain[:, 0].double() - plain[:, 0].double().mean()
        kept = (scaled[:, 1:].double().mean(1) * known).mean() / (plain[:, 1:].double().mean(1) * known).mean()
    return (local * (1 + tilt) / tilt / kept.nan_to_num(1.0).clamp(0.25, 1.0)).float()
