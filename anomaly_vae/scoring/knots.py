"""Functions that are linear between knots and constant beyond them, for several rows at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CLOSE = 1e-6  # of x and of 1, that rounding may change


class Place(NamedTuple):
    """Where each x (P, N) lies among the rising knots (P, K) of its row.

    left: (P * N,) the number, in P * K, of the last knot at or below it, of the row's first where there is none, but
    not of its last. after: x less that knot. width: the next knot less that one.
    """

    left: Tensor
    after: Tensor
    width: Tensor


def place(x: Tensor, knots: Tensor) -> Place:
    """The place of each x (P, N) among the knots (P, K) of its row."""
    rows, count = knots.shape
    row = torch.arange(rows, dtype=torch.int32, device=x.device)[:, None]
    if x.device.type == "cpu" or torch.compiler.is_exporting():
        below = _search(x, knots, row)
    else:
        below = torch.searchsorted(knots, x, right=True, out_int32=True)
    left = below.sub_(1).clamp_(0, count - 2).add_(row * count).view(-1)
    low, step = _between(knots, left, x)
    return Place(left, x - low, step)


def _search(x: Tensor, knots: Tensor, row: Tensor) -> Tensor:
    """(P, N) how many knots (P, K) are at or below each x (P, N), by a binary search of all numbers a level at a time:
    searchsorted takes three times as long on a CPU, and ONNX has none. row: (P, 1) their numbers."""
    levels = knots.shape[1].bit_length()
    padded = torch.nn.functional.pad(knots, (0, 2**levels - 1 - knots.shape[1]), value=torch.inf)
    place, flat = row.expand_as(x).reshape(-1), x.reshape(-1)
    for half in (2**level for level in reversed(range(levels))):
        # of the knots of a level, those of all rows behind each other; below knot i are 2 i and 2 i + 1
        knot = padded[:, half - 1 :: 2 * half].flatten().index_select(0, place)
        place = torch.add(knot <= flat, place, alpha=2)
    below: Tensor = place.view_as(x) - row * 2**levels
    return below


def interpolated(at: Place, values: Tensor) -> Tensor:
    """(P, N) what a function with the values (P, K) at its knots has at a place."""
    share = (at.after / at.width.clamp(min=torch.finfo(at.width.dtype).tiny)).clamp_(0, 1)
    least, step = _between(values, at.left, share)
    return least.add_(share.mul_(step))


def is_knot(at: Place, x: Tensor) -> Tensor:
    """(P, N) whether each x (P, N), of that place, is one of its row's knots, but for rounding."""
    return torch.minimum(at.after.abs(), (at.width - at.after).abs()) <= CLOSE * (1 + x.abs())


def _between(values: Tensor, left: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Values (P, K) on the left, and from there to the next, of the shape (P, N) of another tensor."""
    flat = values.flatten()
    least, most = (some.index_select(0, left).view_as(like) for some in (flat, flat[1:]))
    return least, most - least
