"""Whether a column that never varied does now."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.data.source import Layout
from anomaly_vae.data.units import differs
from anomaly_vae.scoring.parts.base import CellPart


class Constant(CellPart):
    """An alarm for every watched column that has another value than the one, or has one where there never was any.

    A column that had the same value in n rows either always has it or has others at an unknown rate. With these two
    equally probable beforehand and the rate uniform, another value has the probability 1 / (n + 2)^2, whose nats are
    charged on top of what the largest normal score has (`detector.alarms`): such a row is an alarm, however ordinary it
    is otherwise.
    """

    column = "constant"
    constants: Tensor  # (W,)

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.first = len(layout.read)
        constants = torch.tensor([column.constant for column in layout.watched], dtype=torch.float64)
        self.register_buffer("constants", constants, persistent=False)  # which the layout keeps

    def departed(self, values: Tensor) -> Tensor:
        """(N, W) whether each watched column of rows (N, F) has another value."""
        departed: Tensor = differs(values[:, self.first :], self.constants)
        return departed

    def alarms(self, values: Tensor) -> Tensor:
        return torch.nn.functional.pad(self.departed(values), (self.first, 0))
