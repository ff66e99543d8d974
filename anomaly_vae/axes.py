"""Points in fewer axes, with the length of what is left out kept."""

from __future__ import annotations

import torch
from torch import Tensor


def place(offset: Tensor, axes: Tensor) -> Tensor:
    """(N, A + 1) of offsets (N, C) from a centre: along orthonormal axes (C, A), then the length of the rest."""
    along = offset @ axes
    whole, kept = (torch.linalg.vector_norm(part, dim=1, keepdim=True).square() for part in (offset, along))
    rest = (whole - kept).clamp(min=0).sqrt()
    return torch.cat([along, rest], dim=1)
