"""What a computation needs, counted, and what this machine gives, measured: the bounds that speed is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from anomaly_vae.training.flops import OperationCounter

SIDE = 2048  # of the matrices that are multiplied
COPIED = 1 << 26  # float32 numbers that are copied, far more than caches hold
ROUNDS = 5
OPTIMISER_BYTES = 7 * 4  # a parameter: its gradient, both moments and itself read, all but the gradient written


@dataclass(frozen=True)
class Ceilings:
    """Floating-point operations a second of a large matrix product, and bytes a second read and written by a copy."""

    flops: dict[torch.dtype, float]
    copied: float


@dataclass(frozen=True)
class Needs:
    """Floating-point operations, and bytes that matrix operations read and write if each tensor moves once."""

    flops: float
    bytes: float

    def bound(self, ceilings: Ceilings, dtype: torch.dtype) -> float:
        """Seconds that it takes at least: the larger of both."""
        return max(self.flops / ceilings.flops[dtype], self.bytes / ceilings.copied)


def measure(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Ceilings:
    """The ceilings of a device, with as many threads as torch uses."""
    x = torch.ones(COPIED, device=device)
    y = torch.empty_like(x)
    found = {}
    for dtype in dtypes:
        a = torch.randn(SIDE, SIDE, device=device).to(dtype)
        found[dtype] = 2 * SIDE**3 / seconds(lambda a=a: a @ a, device)  # type: ignore[misc]
    return Ceilings(found, 2 * x.nbytes / seconds(lambda: y.copy_(x), device))


def needs(work: Callable[[], object], parameters: int = 0) -> Needs:
    """What `work` needs; parameters: those of an optimiser's step after it."""
    with OperationCounter() as counted:
        work()
    return Needs(float(counted.flops), float(counted.bytes + parameters * OPTIMISER_BYTES))


def seconds(work: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """The median time of some work, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])
