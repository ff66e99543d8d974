"""Places among knots, against torch.searchsorted and NumPy's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_vae.scoring.knots import interpolated, is_knot, place


@pytest.mark.parametrize("count", [2, 3, 4, 191, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_place_is_what_searching_finds(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    knots = torch.randint(-9, 9, (5, count), generator=generator).to(dtype).sort(1).values / 4  # many are repeated
    beyond = torch.tensor([-torch.inf, -9.0, 9.0, torch.inf], dtype=dtype).expand(5, -1)
    x = torch.cat([torch.randn(5, 40, generator=generator, dtype=dtype), knots[:, ::3], beyond], dim=1)
    values = torch.rand(5, count, generator=generator, dtype=dtype)
    at = place(x, knots)
    left = (torch.searchsorted(knots, x, right=True) - 1).clamp(0, count - 2)
    assert torch.equal(at.left.view_as(x) - torch.arange(5)[:, None] * count, left)
    assert torch.equal(at.after, x - knots.gather(1, left))
    found = interpolated(at, values)
    for row in range(5):  # NumPy takes any of the values of a repeated knot
        here = torch.isin(x[row], knots[row]).logical_not() & x[row].isfinite()
        np.testing.assert_allclose(found[row, here], np.interp(x[row, here], knots[row], values[row]), rtol=1e-5)
    assert torch.equal(found[:, -1], values[:, -1])
    assert is_knot(place(knots, knots), knots).all()
