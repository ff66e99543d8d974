"""Functions that are linear between knots and constant beyond them, for several rows at once."""

from __future__ import annotations

import torch
from torch import Tensor


def interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """(P, N) values at x (P, N), each of P rows by its own rising knots (P, K) and values (P, K)."""
    if torch.compiler.is_exporting():  # ONNX has no search
        place = (x[:, :, None] >= knots[:, None]).sum(2)
    else:
        place = torch.searchsorted(knots, x, right=True)
    left = (place - 1).clamp(0, knots.shape[1] - 2)
    low, high = knots.gather(1, left), knots.gather(1, left + 1)
    least, most = values.gather(1, left), values.gather(1, left + 1)
    share = ((x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return least + share * (most - least)
