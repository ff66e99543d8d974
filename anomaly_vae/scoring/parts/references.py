"""What the parts have in common that measure distances from a row of a table to reference rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts import distances
from anomaly_vae.scoring.parts.base import Part

AXES = 32  # principal axes of the joined space that distances are taken in, the length of the rest being one more
SMALLEST_BAG = 12  # reference rows


class ReferencePart(Part):
    """A part that places rows in a joined space of J axes and reads them against R reference rows there, in bags."""

    most_bags: ClassVar[int]  # disjoint parts of the reference rows; the logs for the nearest row of each are averaged
    sized_by_fit = ("weights",)
    centre: Tensor  # (J,)
    axes: Tensor  # (J, A), empty where all J axes are kept
    weights: Tensor  # (bags, A + 2, R / bags), see `distances.scaled_references`

    def __init__(self, rows: RowInputs, n_condition: int, references: int, joined: int) -> None:
        """references: how many rows are wanted. joined: J."""
        super().__init__()
        self.rows, self.n_condition, self.references = rows, n_condition, references
        bags = self._bags(references)
        self.register_buffer("centre", torch.zeros(joined))
        self.register_buffer("axes", torch.zeros(joined, AXES if joined > AXES + 1 else 0))
        self.register_buffer("weights", torch.zeros(bags, min(AXES + 1, joined) + 2, references // bags))

    def _bags(self, references: int) -> int:
        """How many disjoint parts so many reference rows are divided into."""
        return max(1, min(self.most_bags, references // SMALLEST_BAG))

    def _draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """(R,) which of n rows become references, as many in each bag, and the number of bags."""
        most = min(self.references, n)
        bags = self._bags(most)
        return torch.randperm(n, generator=generator)[: bags * (most // bags)], bags

    def _fit_space(self, pieces: Sequence[Tensor], near: int) -> tuple[Tensor, Tensor, Tensor]:
        """Fits the centre and the axes to reference rows joined from pieces (R, j).

        Returns their places (R, A), the distances between them (R, R), infinite to themselves, and those to the `near`
        nearest others, rising.
        """
        joined = torch.cat(list(pieces), dim=1)  # (R, J)
        self.centre = joined.mean(0)
        if self.axes.shape[1]:
            self.axes = distances.principal_axes(joined - self.centre, AXES)
        place = self._project(pieces)
        apart = torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
        return place, apart, apart.topk(min(near, len(place) - 1), largest=False).values

    def _project(self, pieces: Sequence[Tensor]) -> Tensor:
        """The places (B, A) of rows joined from pieces (B, j)."""
        centres = self.centre.split([piece.shape[1] for piece in pieces])
        offsets = [piece - centre for piece, centre in zip(pieces, centres, strict=True)]
        return distances.place(offsets, self.axes) if self.axes.shape[1] else torch.cat(offsets, dim=1)

    def _inputs(self, x: Tensor) -> Tensor:
        """(B, inputs + n_condition) what the network reads of scaled rows x (B, E), and their condition: a neighbour is
        one under a like condition."""
        read: Tensor = self.rows(x)
        return torch.cat([read, x[:, -self.n_condition :]], dim=1) if self.n_condition else read
