"""How rare each value of a row is in its column, whatever the distances, in nats: tail probabilities of the empirical
distribution (ECOD, Li et al. 2022), or of values that repeat their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.knots import interpolated, is_knot, place
from anomaly_vae.scoring.parts.base import Batch, Normals, Part

SIDE = 96  # ranks that are kept of each side of an element's distribution, denser towards its ends
REPEATED = 10  # rows a value, on average, from which an element of at most 2 * SIDE values counts value by value


class Tails(Part):
    """Sum over a row's elements of -log of the share of training rows that are as far out on the same side.

    It asks for ranks alone, so anomalies in training, which move means, scales and distances, hardly move it. Between
    the ranks that are kept it is linear. A number of few values that repeat, a category and a missing cell count by
    their own share: a code, a grade or a count is rare without being far out, and one between two that there are was
    never seen. A row that is scored counts itself.
    """

    column = "marginals"
    knots: Tensor  # (E, K) values of training rows, rising; the last is repeated where there are fewer
    surprises: Tensor  # (E, K) nats at the knots
    by_value: Tensor  # (E,) whether the knots are all values that there are
    missing: Tensor  # (E,) nats of a missing cell
    most: Tensor  # () nats of a value beyond all of training, and of an unseen category

    def __init__(self, rows: RowInputs) -> None:
        super().__init__()
        knots = max(2 * SIDE, *(k + 1 for k in rows.classes), 2)
        self.named, self.classes = rows.named, rows.classes
        for name, shape in (("knots", (knots,)), ("surprises", (knots,)), ("missing", ())):
            self.register_buffer(name, torch.zeros(rows.elements, *shape))
        self.register_buffer("by_value", torch.zeros(rows.elements, dtype=torch.bool))
        self.register_buffer("most", torch.zeros(()))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> Tails:
        if model.rows is None:
            raise ConfigError("scoring.parts=tails is of the rows of a table; leave it out")
        return cls(model.rows)

    @torch.no_grad()
    def fit(self, normals: Normals) -> None:
        self.fit_rows(normals.train())

    def fit_rows(self, x: Tensor) -> None:
        """To scaled training rows (N, E)."""
        n, cells = len(x), x[:, : len(self.missing)].T.contiguous()  # (E, N)
        absent = torch.isnan(cells)
        known = n - absent.sum(1, keepdim=True)  # (E, 1)
        nats = math.log(n + 1) - torch.arange(1, n + 2, device=x.device).log()  # by how many others are as far out
        self.most, self.missing = nats[0], nats[n - known[:, 0]]
        ordered = cells.masked_fill(absent, math.inf).sort(1).values
        share = _ranks(n).to(x.device) / max(1, n - 1)
        values = ordered.gather(1, (share * (known - 1).clamp(min=0)).round().long())  # (E, K)
        values[known[:, 0] == 0] = 0.0
        upto, below = torch.searchsorted(ordered, values, right=True), torch.searchsorted(ordered, values)
        self._keep(slice(None), values, nats[torch.minimum(upto, known - below).clamp(0, n)])
        distinct = 1 + (ordered[:, 1:] > ordered[:, :-1]).sum(1) - (known[:, 0] < n).long()
        self.by_value = (distinct > 0) & (distinct <= 2 * SIDE) & (REPEATED * distinct <= known[:, 0])
        for element in self.by_value.nonzero()[:, 0].tolist():
            values, counts = ordered[element, : int(known[element])].unique(return_counts=True)
            self._keep(slice(element, element + 1), values[None], nats[counts][None])
        for element, classes in zip(self.named.tolist(), self.classes, strict=True):
            codes = torch.arange(classes, dtype=x.dtype, device=x.device)
            here = cells[element][~absent[element]].long()
            self._keep(slice(element, element + 1), codes[None], nats[torch.bincount(here, minlength=classes)][None])

    def _keep(self, elements: slice, values: Tensor, nats: Tensor) -> None:
        """Knots of some elements (E, up to K), the last of which is repeated."""
        rest = self.knots.shape[1] - values.shape[1]
        for buffer, found in ((self.knots, values), (self.surprises, nats)):
            buffer[elements] = torch.nn.functional.pad(found[None], (0, rest), "replicate")[0]

    def nats(self, batch: Batch) -> Tensor:
        return self.of_rows(batch.x)

    def of_rows(self, x: Tensor) -> Tensor:
        """(B,) nats of scaled rows x (B, E)."""
        cells = x[:, : len(self.missing)].contiguous()
        read = cells.nan_to_num().T.contiguous()  # (E, B)
        at = place(read, self.knots)
        beyond = (read < self.knots[:, :1]) | (read > self.knots[:, -1:])
        unseen = torch.where(self.by_value[:, None], ~is_knot(at, read), beyond)
        nats = torch.where(unseen, self.most, interpolated(at, self.surprises))
        # a sum has other bits where its numbers do not lie in a row
        return torch.where(torch.isnan(cells), self.missing, nats.T).contiguous().sum(1)


def _ranks(n: int) -> Tensor:
    """Ranks of n sorted values that are kept, 0 and n - 1 among them, denser towards both ends."""
    if n <= 2 * SIDE:
        return torch.arange(n)
    steps = torch.logspace(0, math.log10((n + 1) / 2), SIDE, dtype=torch.float64).round().long() - 1
    found: Tensor = torch.cat([steps, n - 1 - steps]).unique()
    return found
