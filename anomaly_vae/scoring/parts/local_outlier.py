"""How much farther a row lies from its nearest training row than that one does from its own neighbours.

A density finds what lies far from everything; this finds what lies beside a dense group, as far from it as is ordinary
elsewhere (local outlier factor, Breunig 2000). It is taken in what the network reads, without any model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts import distances
from anomaly_vae.scoring.parts.base import Batch, Normals, Part

BAGS = 8  # disjoint parts of the reference rows; the log ratios to the nearest of each are averaged
AXES = 32  # principal axes that distances are taken in, the length of the rest being one more
NEAR = 10  # neighbours whose mean distance is a reference row's own


class LocalOutlierFactor(Part):
    """d log min_j |x - r_j| / rho_j nats, rho_j the mean distance of reference row j to its 10 nearest, d the intrinsic
    dimension: -log of how many times less dense it is at x than around a row nearby.

    The smallest ratio is one matrix product and a minimum, which takes a twentieth of the time of finding the nearest
    rows themselves.
    """

    column, sized_by_fit = "lof", ("weights",)
    centre: Tensor  # (J,)
    axes: Tensor  # (J, A), empty where all J axes are kept
    weights: Tensor  # (bags, A + 2, R / bags), see `distances.scaled_references`
    smallest: Tensor  # () added to squared distances, so that copies of a row have some
    unit: Tensor  # () d

    def __init__(self, rows: RowInputs, n_condition: int, references: int) -> None:
        super().__init__()
        self.rows, self.n_condition, self.references = rows, n_condition, references
        joined, bags = rows.inputs + n_condition, _bags(references)
        self.register_buffer("centre", torch.zeros(joined))
        self.register_buffer("axes", torch.zeros(joined, AXES if joined > AXES + 1 else 0))
        self.register_buffer("weights", torch.zeros(bags, min(AXES + 1, joined) + 2, references // bags))
        self.register_buffer("smallest", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> LocalOutlierFactor:
        if model.rows is None:
            raise ConfigError("scoring.parts=lof is of the rows of a table; leave it out")
        return cls(model.rows, model.n_condition, config.neighbours or 0)

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        x = normals.train()
        bags = _bags(min(self.references, len(x)))
        rows = torch.randperm(len(x), generator=normals.generator)
        rows = rows[: bags * (min(self.references, len(x)) // bags)]
        joined = self._join(x[rows.to(x.device)])  # (R, J)
        self.centre = joined.mean(0)
        if self.axes.shape[1]:
            self.axes = distances.principal_axes(joined - self.centre, AXES)
        place = self._project(joined)
        apart = torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
        nearest = apart.topk(min(NEAR, len(place) - 1), largest=False).values
        own = nearest.mean(1)
        least = 0.02 * own.median().clamp(min=1e-3)
        self.smallest, self.unit = (
            least.square(),
            distances.intrinsic_dimension(nearest.clamp(min=float(least))).float(),
        )
        self.weights = distances.scaled_references(place, own.clamp(min=float(least)) ** -2, bags)

    def nats(self, batch: Batch) -> Tensor:
        left = distances.read_against(self._project(self._join(batch.x)), self.smallest)
        ratios = [
            torch.stack([torch.mm(left[some], bag, out=scratch).amin(1) for bag in self.weights], dim=1)
            for some, scratch in distances.tiles(left, self.weights.shape[2])
        ]
        return self.unit * 0.5 * torch.cat(ratios).clamp(min=1e-12).log().mean(1)

    def _join(self, x: Tensor) -> Tensor:
        """(B, J): what the network reads of x, and its condition."""
        return torch.cat([self.rows(x), x[:, x.shape[1] - self.n_condition :]], dim=1)

    def _project(self, joined: Tensor) -> Tensor:
        offset = joined - self.centre
        return distances.place(offset, self.axes) if self.axes.shape[1] else offset


def _bags(references: int) -> int:
    """How many disjoint parts so many reference rows are divided into."""
    return max(1, min(BAGS, references // 12))
