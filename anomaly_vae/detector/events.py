"""Events of a series: stretches of alarms that follow each other, as operators count them.

An event ends where more than `events.gap` steps follow an alarm without another, where time jumps, and where its group
ends. It is told as soon as it ended, so a stream of any length is read in constant memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import UsageError
from anomaly_vae.core.settings import EventsConfig
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector, largest_shares
from anomaly_vae.detector.event_rate import JUMP
from anomaly_vae.scoring.scores import Scores, numbered

SENSORS = 3  # that an event names


@dataclass(frozen=True)
class Event:
    """Alarms of one group, from the first to the last.

    group: its name, "" of a single one. first, last: positions in the group, which differ by the steps between them.
    start, end, peak: ids (times) of the first alarm, the last, and the one with the highest score. row: of the first
    alarm, in the data. score: of the peak (nats). alarms: steps at or above the threshold. excess: (C,) nats of each
    sensor above the usual, summed over the alarms.
    """

    group: str
    first: int
    last: int
    start: Any
    end: Any
    peak: Any
    row: int
    score: float
    alarms: int
    excess: NDArray[np.float64]

    @property
    def steps(self) -> int:
        return self.last - self.first + 1

    def joined(self, later: Event) -> Event:
        """One event of this one and the next."""
        highest = self if self.score >= later.score else later
        alarms, excess = self.alarms + later.alarms, self.excess + later.excess
        return replace(highest, first=self.first, start=self.start, row=self.row, last=later.last, end=later.end,
                       alarms=alarms, excess=excess)  # fmt: skip


@dataclass
class _Group:
    next: int = 0  # position of the next step
    open: Event | None = None  # the event that may go on


class EventStream:
    """Joins steps of a kind, alarms or labelled anomalies, into events, as they come."""

    def __init__(self, normal_mean: NDArray[np.float32], rules: EventsConfig) -> None:
        """normal_mean: (C,) the usual nats of each sensor."""
        self._normal_mean, self._rules = normal_mean, rules
        self._groups: dict[str, _Group] = {}
        self._rows = 0

    def add(self, chunk: Chunk, scores: Scores, is_in: NDArray[np.bool_]) -> Iterator[Event]:
        """The events that have ended, now that these steps, the next of their groups, are known. is_in: (N,) which of
        the steps are of the kind."""
        if not len(chunk):
            return
        rows = self._rows + np.arange(len(chunk)) if chunk.places is None else chunk.places
        self._rows += len(chunk)
        total, apart = scores.total, self._rules.gap + 1
        for name in [""] if chunk.groups is None else list(dict.fromkeys(chunk.groups.tolist())):
            group = self._groups.setdefault(name, _Group())
            here = np.arange(len(chunk)) if chunk.groups is None else np.flatnonzero(chunk.groups == name)
            positions = group.next + np.arange(len(here))
            if chunk.after_gap is not None:
                positions += JUMP * np.cumsum(chunk.after_gap[here])
            group.next = int(positions[-1]) + 1
            found = np.flatnonzero(is_in[here])
            cuts = 1 + np.flatnonzero(np.diff(positions[found]) > apart)
            for run in np.split(found, cuts) if len(found) else []:
                at = here[run]
                event = self._event(name, positions[run], scores.ids[at], int(rows[at[0]]), total[at],
                                    None if scores.elements is None else scores.elements[at])  # fmt: skip
                if group.open is not None and event.first - group.open.last <= apart:
                    event = group.open.joined(event)
                else:
                    yield from self._ended(group)
                group.open = event
            if group.open is not None and group.next - group.open.last > apart:
                yield from self._ended(group)

    def close(self) -> Iterator[Event]:
        """The events that were open at the end of the data."""
        for group in self._groups.values():
            yield from self._ended(group)

    def _ended(self, group: _Group) -> Iterator[Event]:
        if group.open is not None and group.open.alarms >= self._rules.shortest:
            yield group.open
        group.open = None

    def _event(
        self, name: str, positions: NDArray[np.intp], ids: NDArray[Any], row: int, nats: NDArray[np.float64],
        elements: NDArray[np.float32] | None,
    ) -> Event:  # fmt: skip
        excess, peak = np.zeros(self._normal_mean.shape), int(np.argmax(nats))
        if elements is not None:
            excess = np.clip(elements - self._normal_mean, 0, None).sum(axis=0, dtype=np.float64)
        return Event(name, int(positions[0]), int(positions[-1]), ids[0], ids[-1], ids[peak], row, float(nats[peak]),
                     len(nats), excess)  # fmt: skip


class EventMeter:
    """The events of scored steps and, where these are labelled, how well they meet the labelled ones."""

    def __init__(self, detector: Detector, threshold: float, rules: EventsConfig | None = None) -> None:
        """threshold: nats. rules: instead of the detector's. Raises UsageError for a detector of no series."""
        if not KINDS[detector.layout.kind].ordered:
            raise UsageError(f"events are of the steps of a series, and this detector reads a {detector.layout.kind}")
        self._threshold, self._per_day = threshold, detector.layout.per_day
        self._alarms = EventStream(detector.normal_mean, rules or detector.config.events)
        self._anomalies = EventStream(detector.normal_mean, EventsConfig(gap=0))
        self._found: list[Event] = []
        self._labelled: list[Event] | None = None
        self._normal_steps = 0

    def watch(
        self, stream: Iterable[tuple[Chunk, Scores]], tested: NDArray[np.bool_] | None = None,
        anomalous: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[Chunk, Scores]]:  # fmt: skip
        """The same stream, whose events are kept. tested, anomalous: (N,) of the whole stream, see `add`."""
        for chunk, scores, rows in numbered(stream):
            self.add(
                chunk, scores, None if tested is None else tested[rows], None if anomalous is None else anomalous[rows]
            )
            yield chunk, scores

    def add(
        self, chunk: Chunk, scores: Scores, tested: NDArray[np.bool_] | None = None,
        anomalous: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        """Further steps. tested: (N,) those that count; None: all. anomalous: (N,), None where nothing is labelled."""
        tested = np.ones(len(chunk), bool) if tested is None else tested
        self._found += self._alarms.add(chunk, scores, tested & (scores.total >= self._threshold))
        if anomalous is not None:
            self._labelled = [*(self._labelled or ()), *self._anomalies.add(chunk, scores, tested & anomalous)]
            tested = tested & ~anomalous
        self._normal_steps += int(tested.sum())

    def events(self) -> list[Event]:
        """All events, in the order of the data; no steps are added after."""
        self._found += self._alarms.close()
        return sorted(self._found, key=lambda event: event.row)

    def metrics(self) -> dict[str, float]:
        """See `event_metrics`."""
        found, labelled = self.events(), self._labelled
        if labelled is not None:
            labelled = [*labelled, *self._anomalies.close()]
        return event_metrics(found, labelled, self._normal_steps, self._per_day)


def event_columns(events: Sequence[Event], detector: Detector) -> dict[str, Any]:
    """The columns of a table of events: group where there are several, start, end, peak,
    score and p_value of the peak, steps, alarms among them, and the sensors most responsible with their shares of the
    nats above the usual; "" and 0 where none is above it."""
    columns: dict[str, Any] = {"group": [event.group for event in events]} if detector.layout.group else {}
    for name in ("start", "end", "peak"):
        columns[name] = np.array([getattr(event, name) for event in events]) if events else np.empty(0, np.str_)
    scores = np.array([event.score for event in events], np.float64)
    columns |= {"score": scores, "p_value": detector.p_values(scores)}
    columns |= {name: np.array([getattr(event, name) for event in events], np.intp) for name in ("steps", "alarms")}
    excess = np.stack([event.excess for event in events]) if events else np.zeros((0, len(detector.layout.columns)))
    order, shares = largest_shares(excess, SENSORS)
    names = [column.name for column in detector.layout.columns]
    for rank, (sensors, share) in enumerate(zip(order.T, shares.T, strict=True), 1):
        columns[f"top{rank}"] = [names[i] if s > 0 else "" for i, s in zip(sensors, share, strict=True)]
        columns[f"top{rank}_share"] = np.round(share, 4)
    return columns


def event_metrics(
    found: Sequence[Event], labelled: Sequence[Event] | None, normal_steps: int, per_day: float | None
) -> dict[str, float]:
    """Figures by event, beside those by step. found: events of the detector. labelled: stretches of anomalous steps;
    None: nothing is labelled. normal_steps: steps outside of these. per_day: steps a day, None without a clock.

    event_recall: share of the labelled stretches that an event meets. event_precision: share of the events that meet
    one. range_recall, range_precision: mean share of a labelled stretch that events cover, and of an event that lies
    within such stretches (Tatbul et al. 2018 with a flat bias, without a cardinality factor): never point-adjusted.
    false_events_a_day; without labels events_a_day.
    """
    figures = {"events": float(len(found))}
    if labelled is None:
        return figures | ({} if per_day is None else {"events_a_day": len(found) * per_day / max(1, normal_steps)})
    inside, caught = _covered(found, labelled), _covered(labelled, found)
    if len(caught):
        figures |= {"event_recall": float((caught > 0).mean()), "range_recall": float(caught.mean())}
        if len(inside):
            figures |= {"event_precision": float((inside > 0).mean()), "range_precision": float(inside.mean())}
    figures["false_events"] = float((inside == 0).sum())
    if per_day is not None and normal_steps:
        figures["false_events_a_day"] = figures["false_events"] * per_day / normal_steps
    return figures


def _covered(events: Sequence[Event], others: Sequence[Event]) -> NDArray[np.float64]:
    """(K,) the share of each event's steps that lie within one of the others, which do not overlap."""
    of_group: dict[str, list[Event]] = {}
    for other in sorted(others, key=lambda other: other.first):
        of_group.setdefault(other.group, []).append(other)
    shares = np.zeros(len(events))
    for index, event in enumerate(events):
        rivals = of_group.get(event.group, [])
        at = bisect_left(rivals, event.first, key=lambda other: other.last)
        while at < len(rivals) and rivals[at].first <= event.last:
            shares[index] += min(event.last, rivals[at].last) - max(event.first, rivals[at].first) + 1
            at += 1
        shares[index] /= event.steps
    return shares
