"""Lower bounds of computation time: operations and bytes, counted, over the measured rates of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from anomaly_vae.training.flops import OperationCounter

SIDES = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices that are multiplied
COPIED = 1 << 26  # number of float32 values that are copied, far more than caches hold
ROUNDS = 5
OPTIMISER_BYTES = (
    7 * 4
)  # bytes for each parameter: reads of it, its gradient and two moments; writes of all but the gradient


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of a device.

    flops: floating-point operations per second of a large matrix product. copied: bytes per second that a copy reads
    and writes.
    """

    flops: dict[torch.dtype, float]
    copied: float


@dataclass(frozen=True)
class Needs:
    """What a computation needs: floating-point operations, and bytes read and written if each tensor moves once."""

    flops: float
    bytes: float

    def bound(self, ceilings: Ceilings, dtype: torch.dtype) -> float:
        """The least time in seconds: the larger of the times of the operations and of the bytes."""
        return max(self.flops / ceilings.flops[dtype], self.bytes / ceilings.copied)


def measure(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Ceilings:
    """The rates of a device, with the number of threads that torch uses."""
    side = SIDES[device.type]
    x = torch.ones(COPIED, device=device)
    y = torch.empty_like(x)
    flops = {}
    for dtype in dtypes:
        a = torch.randn(side, side, device=device).to(dtype)
        flops[dtype] = 2 * side**3 / seconds(lambda a=a: a @ a, device)  # type: ignore[misc]
    return Ceilings(flops=flops, copied=2 * x.nbytes / seconds(lambda: y.copy_(x), device))


def needs(work: Callable[[], object], parameters: int = 0) -> Needs:
    """What `work` needs. parameters: the number of parameters of an optimiser step that follows."""
    with OperationCounter() as counter:
        work()
    return Needs(flops=float(counter.flops), bytes=float(counter.bytes + parameters * OPTIMISER_BYTES))


def seconds(work: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """The median time of `work` in seconds, after one run that is not counted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
