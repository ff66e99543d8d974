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
from anomaly_vae.scoring.parts.base import Batch, Normals
from anomaly_vae.scoring.parts.references import ReferencePart

NEAR = 10  # neighbours whose mean distance is a reference row's own


class LocalOutlierFactor(ReferencePart):
    """d log min_j |x - r_j| / rho_j nats, rho_j the mean distance of reference row j to its 10 nearest, d the intrinsic
    dimension: -log of how many times less dense it is at x than around a row nearby.

    The smallest ratio is one matrix product and a minimum, which takes a twentieth of the time of finding the nearest
    rows themselves.
    """

    column, most_bags = "lof", 8
    smallest: Tensor  # () added to squared distances, so that copies of a row have some
    unit: Tensor  # () d

    def __init__(self, rows: RowInputs, n_condition: int, references: int) -> None:
        super().__init__(rows, n_condition, references, rows.inputs + n_condition)
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
        rows, bags = self._draw(len(x), normals.generator)
        place, _, nearest = self._fit_space([self._inputs(x[rows.to(x.device)])], NEAR)
        own = nearest.mean(1)
        least = 0.02 * own.median().clamp(min=1e-3)
        self.smallest, self.unit = (
            least.square(),
            distances.intrinsic_dimension(nearest.clamp(min=float(least))).float(),
        )
        self.weights = distances.scaled_references(place, own.clamp(min=float(least)) ** -2, bags)

    def nats(self, batch: Batch) -> Tensor:
        left = distances.read_against(self._project([self._inputs(batch.x)]), self.smallest)
        ratios = [
            torch.stack([torch.mm(left[some], bag, out=scratch).amin(1) for bag in self.weights], dim=1)
            for some, scratch in distances.tiles(left, self.weights.shape[2])
        ]
        return self.unit * 0.5 * torch.cat(ratios).clamp(min=1e-12).log().mean(1)
