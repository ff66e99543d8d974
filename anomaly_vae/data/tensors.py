"""Training samples as tensors: rows, pictures, or windows cut from a series as views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.data.base import Chunk, Layout
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.tiles import Tiling


class Samples:
    """Scaled samples, held on the device while they fill at most half of its free memory, else in pinned memory.

    Pictures stay uint8 until a batch of them is taken, a quarter of the space. columns: the name of each position on
    the first axis of a sample, for messages; empty for pictures.
    """

    columns: tuple[str, ...] = ()
    given: int = 0  # the last on the first axis of a sample that are a condition

    def __init__(self, values: NDArray[Any], device: torch.device, planes: NDArray[np.float32] | None = None) -> None:
        """values: (N, *shape) scaled float32, or pictures as uint8, whose condition (N, K) becomes constant planes."""
        self.planes = None if planes is None else torch.from_numpy(planes)
        self.device, self.divisor = device, 255.0 if values.dtype == np.uint8 else 0.0
        held = torch.from_numpy(np.ascontiguousarray(values))
        self.pinned = False
        if device.type == "cuda":
            self.pinned = held.nbytes > torch.cuda.mem_get_info(device)[0] // 2
            held = held.pin_memory() if self.pinned else held.to(device)
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def take(self, index: Tensor) -> Tensor:
        """(B, *shape) float32 on the device; index (B,) on the CPU if pinned, on the device otherwise."""
        x = self._gather(index)
        if self.pinned:
            x = x.pin_memory().to(self.device, non_blocking=True)
        x = x.float() / self.divisor if self.divisor else x
        if self.planes is None:
            return x
        planes = self.planes[index.to(self.planes.device)].to(self.device)  # (B, K)
        return torch.cat([x, planes[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """(N,) a permutation of all samples, where `take` wants its index."""
        order = torch.randperm(len(self), generator=generator)
        return order if self.pinned else order.to(self.device)

    def _gather(self, index: Tensor) -> Tensor:
        return self.held.index_select(0, index)


class Tiles(Samples):
    """Every tile (C, S, S) of pictures that are held once, whatever the overlap."""

    def __init__(self, values: NDArray[Any], device: torch.device, tiling: Tiling) -> None:
        super().__init__(values, device)
        self.side, self.corners = tiling.side, tiling.corners

    def __len__(self) -> int:
        return len(self.held) * len(self.corners)

    def _gather(self, index: Tensor) -> Tensor:
        places = (divmod(number, len(self.corners)) for number in index.tolist())
        cut = [(picture, *self.corners[place]) for picture, place in places]
        return torch.stack([self.held[p, :, y : y + self.side, x : x + self.side] for p, y, x in cut])


class Windows(Samples):
    """Windows (C, T) of a series whose steps are held once, whatever the overlap."""

    def __init__(self, values: NDArray[Any], device: torch.device, starts: NDArray[np.intp], window: int) -> None:
        super().__init__(values, device)
        where = self.held.device
        self.starts = torch.from_numpy(starts).to(where)
        self.steps = torch.arange(window, device=where)

    def __len__(self) -> int:
        return len(self.starts)

    def _gather(self, index: Tensor) -> Tensor:
        rows = self.starts[index][:, None] + self.steps  # (B, T)
        return self.held[rows].transpose(1, 2)  # (B, C, T)


def tiling_of(layout: Layout) -> Tiling | None:
    """How the pictures of a layout are cut; None where they are seen whole."""
    return None if layout.tile is None else Tiling(layout.shape[1], layout.shape[2], layout.tile, layout.overlap)


def samples(
    data: Chunk, rows: NDArray[np.intp], scaler: Scaler, layout: Layout, device: torch.device, window: int | None
) -> Samples:
    """The training samples among `rows` of the data: the rows, their tiles, or every window that lies wholly within
    them."""
    found: Samples
    if layout.kind == "series":
        assert window is not None
        order, starts = window_starts(rows, data.groups, len(data), window)
        groups = (data.take(part) for part in _by_group(order, data.groups))
        scaled = np.concatenate([scaler.read(group.values, group.condition) for group in groups])
        found = Windows(scaled, device, starts, window)
    else:
        values, condition = data.values[rows], None if data.condition is None else data.condition[rows]
        tiling = tiling_of(layout)
        if tiling is not None:
            found = Tiles(values, device, tiling)
        elif values.dtype == np.uint8:
            found = Samples(values, device, scaler.told(condition) if scaler.given else None)
        else:
            found = Samples(scaler.read(values, condition), device)
    found.given = scaler.given
    found.columns = tuple(layout.columns[index].name for index in scaler.column) if layout.columns else ()
    return found


def _by_group(order: NDArray[np.intp], groups: NDArray[np.str_] | None) -> list[NDArray[np.intp]]:
    """`order`, which is sorted by group, cut where a group ends: differences are never taken across groups."""
    if groups is None:
        return [order]
    names = groups[order]
    return np.split(order, np.flatnonzero(names[1:] != names[:-1]) + 1)


def window_starts(
    rows: NDArray[np.intp], groups: NDArray[np.str_] | None, n: int, window: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(order, starts): the n steps sorted by group, and each start in that order of a window within `rows`.

    A window never spans two groups, nor a gap in `rows`.
    """
    order = np.arange(n) if groups is None else np.argsort(groups, kind="stable")
    inside = np.zeros(n, bool)
    inside[rows] = True
    inside = inside[order]
    new = np.zeros(n, bool)  # where a run of usable steps begins anew
    if groups is not None:
        new[1:] = groups[order][1:] != groups[order][:-1]
    run = np.zeros(n, np.intp)  # usable steps in a row up to and including this one
    position = np.arange(n)
    broken = np.maximum.accumulate(np.where(~inside, position, np.where(new, position - 1, -1)))
    run = np.where(inside, position - broken, 0)
    ends = np.flatnonzero(run >= window)
    return order, ends - window + 1
