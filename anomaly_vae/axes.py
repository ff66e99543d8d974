"""Points in fewer axes, with the length of what is left out kept."""

from __future__ import annotations

import torch
from torch import Tensor


def place(offset: Tensor, axes: Tensor) -> Tensor:
    """(N, A + 1) of offsets (N, C) from a centre: along orthonormal axes (C, A), then the length of the rest."""
    along = offset @ axes
    rest = (offset.square().sum(1, keepdim=True) - along.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([along, rest], dim=1)
