"""From the units of the data to those of the network; fitted on training rows only, saved as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.base import Layout

LIMIT = 1e6  # scaled values are clipped here, so that a float32 square of any cell stays finite


@dataclass(frozen=True)
class Scaler:
    """(x - shift) / scale for each element of tables and series; categorical codes pass; pictures are x / 255.

    NLLs are therefore densities in scaled units: they differ from those of raw units by the constant sum(log scale).
    """

    shift: NDArray[np.float64]  # (F,) or (1,) for pictures
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, values: NDArray[Any], layout: Layout) -> Scaler:
        """From training values (N, *shape). A number gets mean 0 and standard deviation 1, missing cells ignored."""
        if layout.kind in ("pixels", "images"):
            return cls(np.zeros(1), np.full(1, 255.0))
        shift, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        named = np.array([column.categories is not None for column in layout.columns])
        shift = np.where(named, 0.0, shift)
        # a spread below the resolution of float64 at this magnitude is rounding, not signal
        tiny = scale <= 1e-12 * np.maximum(1.0, np.abs(shift))
        return cls(shift, np.where(named | tiny, 1.0, scale))

    def transform(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """(N, *shape) float32 in scaled units."""
        if values.dtype == np.uint8:
            return values.astype(np.float32) / np.float32(self.scale[0])
        scaled: NDArray[np.float32] = np.clip((values - self.shift) / self.scale, -LIMIT, LIMIT).astype(np.float32)
        return scaled

    def to_json(self) -> dict[str, Any]:
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Scaler:
        return cls(np.asarray(tree["shift"], np.float64), np.asarray(tree["scale"], np.float64))
