"""Streams of time steps: windows are cut as steps arrive, and their results are folded back onto the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Prepare = Callable[[NDArray[np.float64], NDArray[np.float64] | None], NDArray[np.float32]]
Arrays = tuple[NDArray[np.float64], ...]


class Stage(Protocol):
    """Turns the residuals of a group's consecutive steps into the arrays that are reported for them."""

    def push(self, residual: NDArray[np.float64], closed: bool) -> Arrays:
        """Arrays (n, C) of the next n steps; n may lag behind the residuals (m, C) until `closed`."""


class Residuals:
    """A stage that reports the residuals themselves."""

    def push(self, residual: NDArray[np.float64], closed: bool) -> Arrays:
        return (residual,)


class _Group:
    """The steps of one group that later windows can still cover: values and, for each, its place and its sums."""

    def __init__(self, read: int, sensors: int, stage: Stage, n_shares: int) -> None:
        """read: numbers of a step that a window holds, sensors: those that residuals come back for."""
        self.stage = stage
        self.last: NDArray[np.float64] | None = None  # the raw step that came before the next one
        # of steps that the stage holds
        self.waiting_places, self.waiting_shares = np.empty(0, np.intp), np.empty((0, n_shares))
        self.first = 0  # step number of the first one held
        self.next = 0  # start of the next window
        self.emitted = 0  # windows cut so far
        self.values = np.empty((0, read), np.float32)
        self.places = np.empty(0, np.intp)
        self.residual = np.empty((0, sensors))
        self.shares = np.empty((0, n_shares))
        self.count = np.empty(0)

    @property
    def end(self) -> int:
        return self.first + len(self.values)


class WindowFolder:
    """Cuts windows of T steps, every T // 8 steps and one at the end of each group, and averages what covers a step.

    A step's residual is the mean over the windows that cover it. Nats of a window, such as its KL, are shared evenly by
    its T steps, and a step has the mean of its shares. Steps come out in the order they came in, whatever the size of
    the pieces and however groups are interleaved; only the steps that a later window can still reach are held.

    n_condition: number of trailing channels of a prepared step that hold the condition, which has no residual.
    n_shares: how many kinds of nats a window has that its steps share.
    """

    def __init__(self, window: int, prepare: Prepare, stage: Callable[[], Stage], n_condition: int = 0,
        n_shares: int = 1,
    ) -> None:  # fmt: skip
        self.n_condition, self.n_shares = n_condition, n_shares
        self.window, self.stride, self.prepare, self.stage = window, max(1, window // 8), prepare, stage
        self.groups: dict[str, _Group] = {}
        self.closed = False
        self.short: tuple[str, int] | None = None  # a group with fewer steps than a window, and how many
        self.ids: list[NDArray[np.generic]] = []
        self.base = self.total = 0  # place of the first step not yet given out, and of the next to come
        self.pending: list[tuple[_Group, NDArray[np.intp]]] = []
        self.ready: list[tuple[NDArray[np.intp], Arrays, NDArray[np.float64]]] = []

    def push(self, ids: NDArray[np.generic], values: NDArray[np.float64], groups: NDArray[np.str_] | None) -> None:
        """N further steps: ids (N,), raw values (N, F), group names (N,) or None."""
        places = self.total + np.arange(len(values))
        self.ids.append(ids)
        self.total += len(values)
        for name in [""] if groups is None else list(dict.fromkeys(groups.tolist())):
            rows = slice(None) if groups is None else groups == name
            raw = values[rows]
            before = self.groups[name].last if name in self.groups else None
            scaled = self.prepare(raw, before)
            if name not in self.groups:
                sensors = scaled.shape[1] - self.n_condition
                self.groups[name] = _Group(scaled.shape[1], sensors, self.stage(), self.n_shares)
            group = self.groups[name]
            group.last = raw[-1] if len(raw) else before
            group.values = np.concatenate([group.values, scaled])
            group.places = np.concatenate([group.places, places[rows]])
            fresh = len(group.values) - len(group.count)
            group.residual = np.concatenate([group.residual, np.zeros((fresh, group.residual.shape[1]))])
            group.shares = np.concatenate([group.shares, np.zeros((fresh, self.n_shares))])
            group.count = np.concatenate([group.count, np.zeros(fresh)])

    def close(self) -> None:
        """No more steps: the last window of each group may now be cut at its end."""
        self.closed = True

    def windows(self, most: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Every window that can be cut, in batches (B, C, T), and the number of the first of them in its group.

        A batch ends where that number is a multiple of `most`. `add` its result before asking for the next.
        """
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
            while starts:
                number, room = group.emitted, most - group.emitted % most
                part, starts = np.asarray(starts[:room]), starts[room:]
                group.emitted += len(part)
                rows = (part - group.first)[:, None] + np.arange(self.window)
                self.pending.append((group, rows))
                yield number, np.ascontiguousarray(group.values[rows].transpose(0, 2, 1))
            self._retire(group)

    def add(self, residual: NDArray[np.float32], nats: NDArray[np.float32]) -> None:
        """The residuals (B, C, T) and the nats (B, n_shares) of the batch of windows that was cut last."""
        group, rows = self.pending.pop()
        np.add.at(group.residual, rows, residual.transpose(0, 2, 1))
        np.add.at(group.shares, rows, (nats / self.window)[:, None])
        np.add.at(group.count, rows, 1)

    def finished(self) -> tuple[NDArray[np.generic], Arrays, NDArray[np.float64]]:
        """(ids, arrays of the stage (n, C), shares (n, n_shares)) of the steps that are complete and were not returned
        before, in order."""
        waiting = self.total - self.base
        known = np.zeros(waiting, bool)
        shares = np.zeros((waiting, self.n_shares))
        found: list[NDArray[np.float64]] = []
        for places, arrays, some_shares in self.ready:
            at = places - self.base
            found = found or [np.zeros((waiting, array.shape[1])) for array in arrays]
            for whole, array in zip(found, arrays, strict=True):
                whole[at] = array
            shares[at], known[at] = some_shares, True
        n = waiting if known.all() else int(np.argmin(known))
        ids = np.concatenate(self.ids) if self.ids else np.empty(0)
        self.ids = [ids[n:]]
        rest = np.flatnonzero(known[n:]) + n
        self.ready = [(rest + self.base, tuple(whole[rest] for whole in found), shares[rest])] if len(rest) else []
        self.base += n
        return ids[:n], tuple(whole[:n] for whole in found), shares[:n]

    def _retire(self, group: _Group) -> None:
        """Steps that no later window can reach go to the stage; the window at the end may still reach the last T."""
        keep = group.end if self.closed else max(group.first, min(group.next, group.end - self.window))
        n = min(keep - group.first, int(np.count_nonzero(group.count)))
        if n <= 0 and not self.closed:
            return
        count = group.count[:n]
        group.waiting_places = np.concatenate([group.waiting_places, group.places[:n]])
        group.waiting_shares = np.concatenate([group.waiting_shares, group.shares[:n] / count[:, None]])
        arrays = group.stage.push(group.residual[:n] / count[:, None], self.closed)
        done = len(arrays[0])
        self.ready.append((group.waiting_places[:done], arrays, group.waiting_shares[:done]))
        group.waiting_places, group.waiting_shares = group.waiting_places[done:], group.waiting_shares[done:]
        group.values, group.places = group.values[n:], group.places[n:]
        group.residual, group.shares, group.count = group.residual[n:], group.shares[n:], group.count[n:]
        group.first += n
