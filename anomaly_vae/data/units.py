"""Numbers in any unit: mean, deviation and resolution without a floor that is absolute, and without overflow.

A table or series in other units has the same scaled values; in units that differ by a power of two, the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDED = 1e-7  # relative difference of a number that a file holds as float32
RESOLUTION = 1e-12  # spread relative to the largest number that is rounding, not variation


def differs(x: Any, constant: Any) -> Any:
    """Whether each of x, an array or a tensor, is another number than `constant`, beyond rounding; NaN is not."""
    return abs(x - constant) > ROUNDED * abs(constant)


def unit_of(x: NDArray[np.float64]) -> float:
    """The power of two of the largest of |x|, by which numbers are divided before they are squared; 1 of zeros."""
    largest = float(np.abs(x).max(initial=0.0))
    return math.ldexp(1.0, max(-1000, min(1000, math.frexp(largest)[1]))) if largest else 1.0


def moments(x: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of x (N,); the deviation of what does not vary is the size of the mean, or 1."""
    unit = unit_of(x)
    mean, deviation = float(np.mean(x / unit)), float(np.std(x / unit))
    return mean * unit, (deviation if deviation > RESOLUTION * abs(mean) else abs(mean) or 1.0) * unit


def smallest_step(x: NDArray[np.float64]) -> float:
    """The resolution that x (N,) is written in: the smallest difference between values that is more than rounding; 0
    where there is none."""
    steps = np.diff(np.unique(x))
    steps = steps[steps > RESOLUTION * np.abs(x).max(initial=0.0)]
    return float(steps.min()) if len(steps) else 0.0
