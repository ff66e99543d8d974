"""Streams of time steps: windows are cut as steps arrive, and their results are folded back onto the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Prepare = Callable[[NDArray[np.float64], NDArray[np.float64] | None], NDArray[np.float32]]
Arrays = tuple[NDArray[np.float64], ...]
Finished = tuple[NDArray[np.generic], Arrays, NDArray[np.float64]]  # see `WindowFolder.finished`


class Stage(Protocol):
    """Turns the residuals of a group's consecutive steps into the arrays that are reported for them."""

    def push(self, residual: NDArray[np.float64], closed: bool) -> Arrays:
        """Arrays (n, C) of the next n steps; n may lag behind the residuals (m, C) until `closed`."""


class Residuals:
    """A stage that reports the residuals themselves, and the elements of further parts beside them.

    sensors: C of the residuals (m, K * C), which become K arrays; None: all.
    """

    def __init__(self, sensors: int | None = None) -> None:
        self.sensors = sensors

    def push(self, residual: NDArray[np.float64], closed: bool) -> Arrays:
        if not self.sensors:
            return (residual,)
        return tuple(np.split(residual, range(self.sensors, residual.shape[1], self.sensors), axis=1))


class _Segment:
    """The steps of a group between two gaps that later windows can still cover: values and, for each, its place and
    its sums."""

    def __init__(self, read: int, sensors: int, stage: Stage, n_shares: int) -> None:
        """read: numbers of a step that a window holds, sensors: how many residuals and other elements come back."""
        self.stage = stage
        self.closed = False  # no further step of it comes
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

    def push(self, places: NDArray[np.intp], scaled: NDArray[np.float32]) -> None:
        """Further steps: places (n,), prepared values (n, F)."""
        n = len(places)
        self.places = np.concatenate([self.places, places])
        self.values = np.concatenate([self.values, scaled])
        self.residual = np.concatenate([self.residual, np.zeros((n, self.residual.shape[1]))])
        self.shares = np.concatenate([self.shares, np.zeros((n, self.shares.shape[1]))])
        self.count = np.concatenate([self.count, np.zeros(n)])


@dataclass
class _Group:
    """What comes next in a group. last: the raw step before. behind: steps after a gap, (places, prepared values), that
    begin a segment of their own once they are as many as a window."""

    segment: _Segment
    last: NDArray[np.float64]
    behind: list[tuple[NDArray[np.intp], NDArray[np.float32]]] = field(default_factory=list)


class WindowFolder:
    """Cuts windows of T steps, every T // 8 steps and one at the end of each segment, and averages what covers a step.

    A segment is what a gap in time cuts off of a group. Fewer steps than a window are no segment: they belong to the
    next one, or to the one before, and a window spans the gap; see `datasets.segment_starts`.

    A step's residual is the mean over the windows that cover it. Nats of a window, such as its KL, are shared evenly by
    its T steps, and a step has the mean of its shares. Steps come out in the order they came in, whatever the size of
    the pieces and however groups are interleaved; only the steps that a later window can still reach are held.

    n_condition: number of trailing channels of a prepared step that hold the condition, which has no residual.
    layers: how many numbers a sensor has in each step of a window: its residual, and elements of further parts.
    n_shares: how many kinds of nats a window has that its steps share.
    """

    def __init__(self, window: int, prepare: Prepare, stage: Callable[[], Stage], n_condition: int = 0,
        n_shares: int = 1, layers: int = 1,
    ) -> None:  # fmt: skip
        self.n_condition, self.n_shares, self.layers = n_condition, n_shares, layers
        self.window, self.stride, self.prepare, self.stage = window, max(1, window // 8), prepare, stage
        self.groups: dict[str, _Group] = {}
        self.ended: list[_Segment] = []
        self.short: tuple[str, int] | None = None  # a group with fewer steps than a window, and how many
        self.ids: list[NDArray[np.generic]] = []
        self.base = self.total = 0  # place of the first step not yet given out, and of the next to come
        self.pending: list[tuple[_Segment, NDArray[np.intp]]] = []
        self.ready: list[tuple[NDArray[np.intp], Arrays, NDArray[np.float64]]] = []

    def push(
        self,
        ids: NDArray[np.generic],
        values: NDArray[np.float64],
        groups: NDArray[np.str_] | None,
        after_gap: NDArray[np.bool_] | None = None,
    ) -> None:
        """N further steps: ids (N,), raw values (N, F), group names (N,) or None, (N,) whether time jumped before."""
        places = self.total + np.arange(len(values))
        self.ids.append(ids)
        self.total += len(values)
        for name in [""] if groups is None else list(dict.fromkeys(groups.tolist())):
            rows = np.arange(len(values)) if groups is None else np.flatnonzero(groups == name)
            cuts = np.empty(0, np.intp) if after_gap is None else np.flatnonzero(after_gap[rows])
            for number, run in enumerate(np.split(rows, cuts)):
                if len(run):
                    self._push_run(name, places[run], values[run], is_after_gap=number > 0)

    def copy(self) -> WindowFolder:
        """The same, with a state of its own."""
        other = copy(self)
        state = {name: getattr(self, name) for name in ("groups", "ended", "ids", "pending", "ready")}
        other.__dict__.update(deepcopy(state))
        return other

    def _push_run(self, name: str, places: NDArray[np.intp], raw: NDArray[np.float64], is_after_gap: bool) -> None:
        """Consecutive steps of a group, without a gap between them; no difference is taken across one before them."""
        group = self.groups.get(name)
        scaled = self.prepare(raw, None if group is None or is_after_gap else group.last)
        if group is None:
            group = self.groups[name] = _Group(self._segment(scaled.shape[1]), raw[-1])
        group.last = raw[-1]
        if not group.behind and not (is_after_gap and group.segment.end >= self.window):
            group.segment.push(places, scaled)
            return
        group.behind.append((places, scaled))
        if sum(len(places) for places, _ in group.behind) >= self.window:
            group.segment.closed = True
            self.ended.append(group.segment)
            group.segment = self._segment(scaled.shape[1])
            self._join(group)

    def _segment(self, read: int) -> _Segment:
        return _Segment(read, self.layers * (read - self.n_condition), self.stage(), self.n_shares)

    @staticmethod
    def _join(group: _Group) -> None:
        for places, scaled in group.behind:
            group.segment.push(places, scaled)
        group.behind = []

    def close(self) -> None:
        """No more steps: the last window of each group may now be cut at its end."""
        for group in self.groups.values():
            self._join(group)
            group.segment.closed = True

    def windows(self, most: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Every window that can be cut, in batches (B, C, T), and the number of the first of them in its segment.

        A batch ends where that number is a multiple of `most`. `add` its result before asking for the next.
        """
        ended, self.ended = self.ended, []
        for name, segment in [("", segment) for segment in ended] + [(n, g.segment) for n, g in self.groups.items()]:
            starts = list(range(segment.next, segment.end - self.window + 1, self.stride))
            if starts:
                segment.next = starts[-1] + self.stride
            if segment.closed:
                last = segment.end - self.window
                if last < 0:
                    self.short = (name, segment.end)
                elif last + self.stride != segment.next:  # the grid does not end with the group
                    starts.append(last)
                    segment.next = last + self.stride
            while starts:
                number, room = segment.emitted, most - segment.emitted % most
                part, starts = np.asarray(starts[:room]), starts[room:]
                segment.emitted += len(part)
                rows = (part - segment.first)[:, None] + np.arange(self.window)
                self.pending.append((segment, rows))
                yield number, np.ascontiguousarray(segment.values[rows].transpose(0, 2, 1))
            self._retire(segment)

    def add(self, residual: NDArray[np.float32], nats: NDArray[np.float32]) -> None:
        """The residuals (B, layers * C, T) and the nats (B, n_shares) of the batch of windows that was cut last."""
        segment, rows = self.pending.pop()
        shares = nats / self.window
        for step in reversed(range(self.window)):  # one step of each window, so that no place comes twice
            here = rows[:, step]
            segment.residual[here] += residual[:, :, step]
            segment.shares[here] += shares
            segment.count[here] += 1

    def finished(self) -> Finished:
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

    def _retire(self, segment: _Segment) -> None:
        """Steps that no later window can reach go to the stage; the window at the end may still reach the last T."""
        keep = segment.end if segment.closed else max(segment.first, min(segment.next, segment.end - self.window))
        n = min(keep - segment.first, int(np.count_nonzero(segment.count)))
        if n <= 0 and not segment.closed:
            return
        count = segment.count[:n]
        segment.waiting_places = np.concatenate([segment.waiting_places, segment.places[:n]])
        segment.waiting_shares = np.concatenate([segment.waiting_shares, segment.shares[:n] / count[:, None]])
        arrays = segment.stage.push(segment.residual[:n] / count[:, None], segment.closed)
        done = len(arrays[0])
        self.ready.append((segment.waiting_places[:done], arrays, segment.waiting_shares[:done]))
        segment.waiting_places, segment.waiting_shares = segment.waiting_places[done:], segment.waiting_shares[done:]
        segment.values, segment.places = segment.values[n:], segment.places[n:]
        segment.residual, segment.shares, segment.count = segment.residual[n:], segment.shares[n:], segment.count[n:]
        segment.first += n
