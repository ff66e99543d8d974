"""Series scored in a stream: windows out of steps as they come, and window scores folded back onto the steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


class _Group:
    """The steps of one group that still wait for a window: values and, for each, its place and its sums."""

    def __init__(self, sensors: int) -> None:
        self.first = 0  # step number of the first one held
        self.next = 0  # start of the next window
        self.values = np.empty((0, sensors), np.float32)
        self.places = np.empty(0, np.intp)
        self.nats = np.empty((0, sensors))
        self.kl = np.empty(0)
        self.count = np.empty(0)

    @property
    def end(self) -> int:
        return self.first + len(self.values)


class Folder:
    """Cuts windows of T steps, every T // 4 steps and one at the end of each group, and averages what covers a step.

    A step's reconstruction nats are the mean over the windows that cover it; the KL of a window is shared evenly by
    its T steps, and a step has the mean of its shares. Steps come out in the order they came in, whatever the size of
    the pieces and however groups are interleaved; held are only the steps that a later window can still reach.
    """

    def __init__(self, window: int) -> None:
        self.window, self.stride = window, max(1, window // 4)
        self.groups: dict[str, _Group] = {}
        self.closed = False
        self.short: tuple[str, int] | None = None  # a group with fewer steps than a window, and how many
        self.ids: list[NDArray[np.generic]] = []
        self.base = self.total = 0  # place of the first step not yet given out, and of the next to come
        self.done: dict[str, NDArray[np.float64]] = {}
        self.pending: list[tuple[_Group, NDArray[np.intp]]] = []
        self.ready: list[tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]] = []

    def push(self, ids: NDArray[np.generic], values: NDArray[np.float32], groups: NDArray[np.str_] | None) -> None:
        """N further steps: ids (N,), scaled values (N, C), group names (N,) or None."""
        places = self.total + np.arange(len(values))
        self.ids.append(ids)
        self.total += len(values)
        names = [""] if groups is None else list(dict.fromkeys(groups.tolist()))
        for name in names:
            rows = slice(None) if groups is None else groups == name
            group = self.groups.setdefault(name, _Group(values.shape[1]))
            group.values = np.concatenate([group.values, values[rows]])
            group.places = np.concatenate([group.places, places[rows]])
            fresh = len(group.values) - len(group.count)
            group.nats = np.concatenate([group.nats, np.zeros((fresh, values.shape[1]))])
            group.kl = np.concatenate([group.kl, np.zeros(fresh)])
            group.count = np.concatenate([group.count, np.zeros(fresh)])

    def close(self) -> None:
        """No more steps: the last window of each group may now be cut at its end."""
        self.closed = True

    def windows(self, most: int) -> Iterator[NDArray[np.float32]]:
        """Batches (B, C, T), B <= most, of every window that can be cut; `add` its result before asking for the next."""
        for name, group in self.groups.items():
            starts = list(range(group.next, group.end - self.window + 1, self.stride))
            if starts:
                group.next = starts[-1] + self.stride
            if self.closed:
                last = group.end - self.window
                if last < 0:
                    self.short = (name, group.end)
                elif last + self.stride != group.next:  # the grid does not end with the group
                    starts.append(last)
                    group.next = last + self.stride
            for first in range(0, len(starts), most):
                part = np.asarray(starts[first : first + most])
                rows = (part - group.first)[:, None] + np.arange(self.window)
                self.pending.append((group, rows))
                yield np.ascontiguousarray(group.values[rows].transpose(0, 2, 1))
            self._retire(group)

    def add(self, nats: NDArray[np.float32], kl: NDArray[np.float32]) -> None:
        """The element nats (B, C, T) and the KL (B,) of the batch of windows given out last."""
        group, rows = self.pending.pop()
        np.add.at(group.nats, rows, nats.transpose(0, 2, 1))
        np.add.at(group.kl, rows, (kl / self.window)[:, None])
        np.add.at(group.count, rows, 1)

    def finished(self) -> tuple[NDArray[np.generic], NDArray[np.float64], NDArray[np.float64]]:
        """(ids, nats (N, C), kl (N,)) of the steps, in order, that are complete and not given out before."""
        sensors = next(iter(self.groups.values())).values.shape[1] if self.groups else 0
        waiting = self.total - self.base
        nats, kl, known = np.zeros((waiting, sensors)), np.zeros(waiting), np.zeros(waiting, bool)
        for places, some_nats, some_kl in self.ready:
            nats[places - self.base], kl[places - self.base], known[places - self.base] = some_nats, some_kl, True
        n = waiting if known.all() else int(np.argmin(known))
        ids = np.concatenate(self.ids) if self.ids else np.empty(0)
        self.ids = [ids[n:]]
        rest = np.flatnonzero(known[n:]) + n
        self.ready = [(rest + self.base, nats[rest], kl[rest])] if len(rest) else []
        self.base += n
        return ids[:n], nats[:n], kl[:n]

    def _retire(self, group: _Group) -> None:
        """Steps that no later window can reach move to `ready`; the window at the end may still reach the last T."""
        keep = group.end if self.closed else max(group.first, min(group.next, group.end - self.window))
        n = keep - group.first
        n = int(min(n, np.count_nonzero(group.count)))
        if n <= 0:
            return
        count = group.count[:n]
        self.ready.append((group.places[:n], group.nats[:n] / count[:, None], group.kl[:n] / count))
        group.values, group.places = group.values[n:], group.places[n:]
        group.nats, group.kl, group.count = group.nats[n:], group.kl[n:], group.count[n:]
        group.first += n
