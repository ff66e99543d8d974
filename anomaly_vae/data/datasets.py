"""Training samples as tensors: rows, pictures, tiles of pictures, or windows of a series."""

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

FAULT = 1 << 16  # bytes that Linux maps into memory around a row that is read from a mapped array
RELEASE_AFTER = 1 << 28  # bytes mapped in this way after which they are released


class RowDataset:
    """Scaled samples, on the device if they fill at most half of its free memory.

    Larger data stays in pinned memory, or in the mapped file where the store has it. Pictures are uint8, a quarter of
    the space, until a batch of them is taken.

    columns: the column of each index on the first axis of a sample, for messages; empty for pictures.
    """

    columns: tuple[str, ...] = ()
    n_condition: int = 0  # number of trailing channels of a sample that hold the condition

    def __init__(
        self,
        values: NDArray[Any],
        device: torch.device,
        planes: NDArray[np.float32] | None = None,
        rows: NDArray[np.intp] | None = None,
    ) -> None:
        """values: (M, *shape) scaled float32, or pictures as uint8. planes: (N, K) encoded condition of pictures, which
        becomes K constant planes. rows: (N,) indices of the values that are samples; None: all."""
        self.device, self.divisor = device, 255.0 if values.dtype == np.uint8 else 0.0
        self.pinned = False  # whether the values are on the CPU and the device is another
        self._mapped, self._faulted = values if is_mapped(values) else None, 0
        if device.type == "cuda":
            size = values[:1].nbytes * (len(values) if rows is None else len(rows))
            self.pinned = size > torch.cuda.mem_get_info(device)[0] // 2
        if device.type == "cuda" and not self.pinned:
            self.values, rows, self._mapped = _uploaded(values, rows, device), None, None
        elif self.pinned and self._mapped is None:
            self.values, rows = torch.from_numpy(values if rows is None else values[rows]).pin_memory(), None
        else:
            self.values = torch.from_numpy(np.ascontiguousarray(values))
        self.rows = None if rows is None else torch.from_numpy(rows)
        self.planes = None if planes is None else torch.from_numpy(planes).to(self.values.device)

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    def take(self, index: Tensor) -> Tensor:
        """Samples (B, *shape), float32 on the device; index (B,) on the CPU if pinned, else on the device."""
        x = self._gather(index)
        self._faulted += len(index) * FAULT
        if self._faulted > RELEASE_AFTER:
            release(self._mapped)
            self._faulted = 0
        if self.pinned:
            x = x.pin_memory().to(self.device, non_blocking=True)
        x = x.float() / self.divisor if self.divisor else x
        if self.planes is None:
            return x
        planes = self.planes[index].to(self.device)  # (B, K)
        return torch.cat([x, planes[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """A random permutation of all samples, (N,), on the device that `take` needs its index on."""
        order = torch.randperm(len(self), generator=generator)
        return order if self.pinned else order.to(self.device)

    def spaced(self, most: int) -> Tensor:
        """The indices of at most `most` samples, evenly spaced from the first to the last, for `take`."""
        count = min(len(self), most)
        index = torch.arange(count) * (len(self) - 1) // max(1, count - 1)
        return index if self.pinned else index.to(self.device)

    def _gather(self, index: Tensor) -> Tensor:
        return self.values.index_select(0, index if self.rows is None else self.rows[index])


class TileDataset(RowDataset):
    """Every tile (C, S, S) of pictures; tiles are cut when they are taken, so overlap costs no memory."""

    def __init__(
        self, values: NDArray[Any], device: torch.device, tiling: Tiling, rows: NDArray[np.intp] | None = None
    ) -> None:
        super().__init__(values, device, rows=rows)
        self.corners = torch.tensor(tiling.corners, device=self.values.device)  # (T, 2) top and left
        self.tiles = self.values.unfold(2, tiling.side, 1).unfold(3, tiling.side, 1)  # (M, C, H', W', S, S), a view

    def __len__(self) -> int:
        return super().__len__() * len(self.corners)

    def _gather(self, index: Tensor) -> Tensor:
        pictures, (top, left) = index // len(self.corners), self.corners[index % len(self.corners)].T
        return self.tiles[pictures if self.rows is None else self.rows[pictures], :, top, left]


class WindowDataset(RowDataset):
    """Windows (C, T) of a series; windows are cut when they are taken, so overlap costs no memory.

    starts: indices of the first step of each window. window: T, in steps.
    """

    def __init__(self, values: NDArray[Any], device: torch.device, starts: NDArray[np.intp], window: int) -> None:
        super().__init__(values, device)
        place = self.values.device
        self.starts = torch.from_numpy(starts).to(place)
        self.steps = torch.arange(window, device=place)

    def __len__(self) -> int:
        return len(self.starts)

    def _gather(self, index: Tensor) -> Tensor:
        rows = self.starts[index][:, None] + self.steps  # (B, T)
        return self.values[rows].transpose(1, 2)  # (B, C, T)


def _uploaded(values: NDArray[Any], rows: NDArray[np.intp] | None, device: torch.device) -> Tensor:
    """The values, or those at the indices `rows`, on the device, copied in pieces of ROWS rows."""
    rows = np.arange(len(values)) if rows is None else rows
    dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
    uploaded = torch.empty((len(rows), *values.shape[1:]), dtype=dtype, device=device)
    for first in range(0, len(rows), ROWS):
        piece = rows[first : first + ROWS]
        uploaded[first : first + len(piece)] = torch.from_numpy(values[piece]).to(device)
        release(values)
    return uploaded


def make_dataset(
    data: Chunk | LoadedData,
    rows: NDArray[np.intp],
    scaler: Scaler,
    layout: Layout,
    device: torch.device,
    window: int | None,
    store: ArrayStore = IN_MEMORY,
) -> RowDataset:
    """The samples made of the data's rows with the indices `rows`: the rows themselves, their tiles, or every window
    whose steps are all among them."""
    dataset = KINDS[layout.kind].dataset(data, rows, scaler, layout, device, window, store)
    dataset.n_condition = scaler.n_condition
    dataset.columns = tuple(layout.columns[index].name for index in scaler.column) if layout.columns else ()
    return dataset


def scaled_rows(
    data: Chunk | LoadedData, parts: list[NDArray[np.intp]], scaler: Scaler, layout: Layout, store: ArrayStore
) -> NDArray[np.float32]:
    """The network's inputs for the rows of each part, one part after the other, (N, E).

    parts: row indices. Parts are scaled separately, so that no difference is taken across two of them.
    The array is in C order: a batch gathers rows from anywhere in it.
    """
    width = len(scaler.column) + scaler.n_condition
    scaled = store.empty((sum(map(len, parts)), width), np.float32)
    n_scaled = 0
    for part in parts:
        before = None
        for first in range(0, len(part), layout.chunk_rows):
            chunk = data.take(part[first : first + layout.chunk_rows])
            scaled[n_scaled : n_scaled + len(chunk)] = scaler.read(chunk.values, chunk.condition, before)
            before, n_scaled = chunk.values[-1], n_scaled + len(chunk)
            release(scaled)
            release(data.values)
    return scaled


def by_run(
    order: NDArray[np.intp],
    groups: NDArray[Any] | None,
    rows: NDArray[np.intp],
    after_gap: NDArray[np.bool_] | None = None,
) -> list[NDArray[np.intp]]:
    """`order`, which is sorted by group, cut where a group ends, after a gap in time and where steps among `rows` begin
    or end: a difference is never taken across these, nor from a step that is left out, such as the last of an
    anomaly."""
    inside = np.zeros(len(order), bool)
    inside[rows] = True
    inside = inside[order]
    ends = inside[1:] != inside[:-1]
    if groups is not None:
        names = groups[order]
        ends |= names[1:] != names[:-1]
    if after_gap is not None:
        ends |= after_gap[order][1:]
    return np.split(order, np.flatnonzero(ends) + 1)


def segment_starts(
    groups: NDArray[Any] | None, after_gap: NDArray[np.bool_] | None, n: int, window: int
) -> NDArray[np.bool_]:
    """(N,) where a segment begins, of steps sorted by group: with each group, and at a gap in time.

    A segment has at least `window` steps: a gap that comes sooner does not cut, and neither does the last one of a
    group that is followed by fewer. `scoring.windows` cuts a stream at the same gaps.
    """
    starts = np.zeros(n, bool)
    starts[:1] = True
    if groups is not None:
        starts[1:] = groups[1:] != groups[:-1]
    if after_gap is None or not after_gap.any():
        return starts
    firsts = np.flatnonzero(starts)
    for first, end in zip(firsts, np.r_[firsts[1:], n], strict=True):
        begin = first
        for gap in first + np.flatnonzero(after_gap[first:end]):
            if gap - begin >= window and end - gap >= window:
                starts[gap] = True
                begin = gap
    return starts


def window_starts(
    rows: NDArray[np.intp],
    groups: NDArray[Any] | None,
    n: int,
    window: int,
    after_gap: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The windows whose steps all have their indices in `rows`; a window never spans two segments.

    Returns (order, starts): the indices of the n steps sorted by group, and for each window the place of its first step
    in `order`.
    """
    order = np.arange(n) if groups is None else np.argsort(groups, kind="stable")
    is_usable = np.zeros(n, bool)
    is_usable[rows] = True
    is_usable = is_usable[order]
    is_first = segment_starts(
        None if groups is None else groups[order], None if after_gap is None else after_gap[order], n, window
    )
    is_first[:1] = False  # of the very first step it does not matter
    place = np.arange(n)
    # the last place before each step that a window which ends there cannot cover
    barrier = np.maximum.accumulate(np.where(~is_usable, place, np.where(is_first, place - 1, -1)))
    run_length = np.where(is_usable, place - barrier, 0)  # consecutive usable steps up to and including this one
    ends = np.flatnonzero(run_length >= window)
    return order, ends - window + 1
