"""Functions that are linear between knots and constant beyond them, for several rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

CLOSE = 1e-6  # of x and of 1, that rounding may change


def interpolated(x: Tensor, knots: Tensor, values: Tensor, left: Tensor | None = None) -> Tensor:
    """(P, N) values at x (P, N), each of P rows by its own rising knots (P, K) and values (P, K). left: see
    `left_knot`, where it is known."""
    left = left_knot(x, knots) if left is None else left
    low, high = knots.gather(1, left), knots.gather(1, left + 1)
    least, most = values.gather(1, left), values.gather(1, left + 1)
    share = ((x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return least + share * (most - least)


def left_knot(x: Tensor, knots: Tensor) -> Tensor:
    """(P, N) the number of the last knot (P, K) at or below each x (P, N), from 0 to K - 2."""
    if torch.compiler.is_exporting():  # ONNX has no search
        place = (x[:, :, None] >= knots[:, None]).sum(2)
    else:
        place = torch.searchsorted(knots, x, right=True)
    return (place - 1).clamp(0, knots.shape[1] - 2)


def near_knot(x: Tensor, knots: Tensor, left: Tensor) -> Tensor:
    """(P, N) whether each x (P, N) is one of its row's rising knots (P, K), but for rounding. left: see `left_knot`."""
    apart = torch.minimum((x - knots.gather(1, left)).abs(), (knots.gather(1, left + 1) - x).abs())
    return apart <= CLOSE * (1 + x.abs())
