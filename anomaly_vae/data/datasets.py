"""Training samples as tensors: rows, pictures, or windows cut from a series as views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import ROWS, Chunk, Layout
from anomaly_vae.data.spill import IN_MEMORY, ArrayStore, is_mapped, release
from anomaly_vae.data.tiles import Tiling

FAULT = 1 << 16  # bytes that Linux maps around a row that is read from a mapped array
TOUCHED = 1 << 28  # of such bytes after which they are let go


class RowDataset:
    """Scaled samples, held on the device while they fill at most half of its free memory; else pinned in memory, or
    mapped where the store has them in a file.

    Pictures stay uint8 until a batch of them is taken, a quarter of the space. columns: the name of each position on
    the first axis of a sample, for messages; empty for pictures.
    """

    columns: tuple[str, ...] = ()
    n_condition: int = 0  # number of trailing channels of a sample that hold the condition

    def __init__(
        self, values: NDArray[Any], device: torch.device, planes: NDArray[np.float32] | None = None,
        rows: NDArray[np.intp] | None = None,
    ) -> None:  # fmt: skip
        """values: (M, *shape) scaled float32, or pictures as uint8, whose condition (N, K) becomes constant planes.
        rows: (N,) which of the values are the samples; None: all."""
        self.planes = None if planes is None else torch.from_numpy(planes)
        self.device, self.divisor = device, 255.0 if values.dtype == np.uint8 else 0.0
        self.pinned = False  # whether what is held is on the CPU while the device is another
        self._mapped, self._touched = values if is_mapped(values) else None, 0
        if device.type == "cuda":
            size = values[:1].nbytes * (len(values) if rows is None else len(rows))
            self.pinned = size > torch.cuda.mem_get_info(device)[0] // 2
        if device.type == "cuda" and not self.pinned:
            self.held, rows, self._mapped = _uploaded(values, rows, device), None, None
        elif self.pinned and self._mapped is None:
            self.held, rows = torch.from_numpy(values if rows is None else values[rows]).pin_memory(), None
        else:
            self.held = torch.from_numpy(np.ascontiguousarray(values))
        self.rows = None if rows is None else torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.held) if self.rows is None else len(self.rows)

    def take(self, index: Tensor) -> Tensor:
        """(B, *shape) float32 on the device; index (B,) on the CPU if pinned, on the device otherwise."""
        x = self._gather(index)
        self._touched += len(index) * FAULT
        if self._touched > TOUCHED:
            release(self._mapped)
            self._touched = 0
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

    def spaced(self, most: int) -> Tensor:
        """All samples or, evenly spaced, the first and the last among them, `most`: where `take` wants its index."""
        count = min(len(self), most)
        index = torch.arange(count) * (len(self) - 1) // max(1, count - 1)
        return index if self.pinned else index.to(self.device)

    def _gather(self, index: Tensor) -> Tensor:
        return self.held.index_select(0, index if self.rows is None else self.rows[index])


class TileDataset(RowDataset):
    """Every tile (C, S, S) of pictures that are held once, whatever the overlap."""

    def __init__(
        self, values: NDArray[Any], device: torch.device, tiling: Tiling, rows: NDArray[np.intp] | None = None
    ) -> None:
        super().__init__(values, device, rows=rows)
        self.side, self.corners = tiling.side, tiling.corners

    def __len__(self) -> int:
        return super().__len__() * len(self.corners)

    def _gather(self, index: Tensor) -> Tensor:
        places = (divmod(number, len(self.corners)) for number in index.tolist())
        cut = [(picture, *self.corners[place]) for picture, place in places]
        if self.rows is not None:
            cut = [(int(self.rows[picture]), y, x) for picture, y, x in cut]
        return torch.stack([self.held[p, :, y : y + self.side, x : x + self.side] for p, y, x in cut])


class WindowDataset(RowDataset):
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


def _uploaded(values: NDArray[Any], rows: NDArray[np.intp] | None, device: torch.device) -> Tensor:
    """The values, or some rows of them, on the device, copied piece by piece."""
    rows = np.arange(len(values)) if rows is None else rows
    kind = torch.from_numpy(np.empty(0, values.dtype)).dtype
    held = torch.empty((len(rows), *values.shape[1:]), dtype=kind, device=device)
    for first in range(0, len(rows), ROWS):
        here = rows[first : first + ROWS]
        held[first : first + len(here)] = torch.from_numpy(values[here]).to(device)
        release(values)
    return held


def make_dataset(
    data: Chunk | LoadedData, rows: NDArray[np.intp], scaler: Scaler, layout: Layout, device: torch.device,
    window: int | None, store: ArrayStore = IN_MEMORY,
) -> RowDataset:  # fmt: skip
    """The training samples among `rows` of the data: the rows, their tiles, or every window that lies wholly within
    them."""
    dataset = KINDS[layout.kind].dataset(data, rows, scaler, layout, device, window, store)
    dataset.n_condition = scaler.n_condition
    dataset.columns = tuple(layout.columns[index].name for index in scaler.column) if layout.columns else ()
    return dataset


def scaled_rows(
    data: Chunk | LoadedData, parts: list[NDArray[np.intp]], scaler: Scaler, layout: Layout, store: ArrayStore
) -> NDArray[np.float32]:
    """(N, E) what the network reads of rows or steps, one part after the other, each on its own: a difference is never
    taken between two.

    A plain array that torch reads as it is, row after row, for a batch takes whole rows from anywhere in it.
    """
    width = len(scaler.column) + scaler.n_condition
    scaled = store.empty((sum(map(len, parts)), width), np.float32)
    place = 0
    for part in parts:
        before = None
        for first in range(0, len(part), layout.chunk_rows):
            chunk = data.take(part[first : first + layout.chunk_rows])
            scaled[place : place + len(chunk)] = scaler.read(chunk.values, chunk.condition, before)
            before, place = chunk.values[-1], place + len(chunk)
            release(scaled)
            release(data.values)
    return scaled


def by_run(order: NDArray[np.intp], groups: NDArray[Any] | None, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """`order`, which is sorted by group, cut where a group ends and where steps among `rows` begin or end: a difference
    is never taken across groups, nor from a step that is left out, such as the last of an anomaly."""
    inside = np.zeros(len(order), bool)
    inside[rows] = True
    inside = inside[order]
    ends = inside[1:] != inside[:-1]
    if groups is not None:
        names = groups[order]
        ends |= names[1:] != names[:-1]
    return np.split(order, np.flatnonzero(ends) + 1)


def window_starts(
    rows: NDArray[np.intp], groups: NDArray[Any] | None, n: int, window: int
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
