"""A detector that takes one sample at a time and answers it, with the bits of the batch score."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.source import Chunk
from anomaly_vae.data.step_clock import StepClock
from anomaly_vae.data.tabular import TabularSource
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.scorer import Scorer, first_of
from anomaly_vae.scoring.scores import Scores
from anomaly_vae.scoring.windows import Finished, WindowFolder


@dataclass(frozen=True)
class Answer:
    """The score of one sample. row: its number in the stream, from 0. id: as in a table of scores. score: nats, the sum
    of the parts (name -> nats)."""

    row: int
    id: Any
    score: float
    is_anomaly: bool
    p_value: float
    parts: dict[str, float]


@dataclass
class _Machine:
    """A group of a series: its windows, and the steps whose scores are not final."""

    folder: WindowFolder
    waiting: deque[Chunk] = field(default_factory=deque)
    steps: int = 0


class Stream:
    """Takes rows, pictures or time steps one at a time; `Detector.stream` makes one.

    settled: the answers that the last `push` made final, with the bits of `Detector.score` of the whole stream. A row
    or picture is final at once. The score of a time step has a share in later windows: it is final with the step of its
    group that comes `Detector.delay` + 1 later at most and, before a gap, a window later still. Memory is bounded: of
    each group the steps of two windows, and those that the level looks back on.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector, self.settled = detector, list[Answer]()
        self._scorer = Scorer(detector.score_model, detector.scaler, detector.layout, detector.window, "stream")
        self._clock = StepClock(detector.layout)
        self._machines: dict[str, _Machine] = {}
        self._count = 0

    def push(self, sample: Any) -> Answer | None:
        """The answer to a row (a Series, a dict, an array (F,), a DataFrame of one row) or a picture.

        Of a series: to a time step, as the last of those of its group so far; None before there is a window of them.
        A gap in time cuts a series as in `score`. Raises DataError for what cannot be read, more than one sample, and a
        step before the last; the stream then goes on as if it had not come.
        """
        chunk = self._read(sample)
        if self.detector.window is None:
            scores = self._scorer.samples(chunk, False, self._count)
            if self.detector.training is not None:
                scores = self.detector.training.recall(chunk, scores)
            self.settled = self._answers(chunk, scores)
            answer: Answer | None = self.settled[0]
        else:
            answer = self._step(chunk, self.detector.window)
        self._count += 1
        return answer

    def close(self) -> list[Answer]:
        """The answers that are not final yet, as those of the whole stream: of a series its last steps, of groups that
        have a window of them. A step that comes later begins another series."""
        machines, self._machines, self._clock = self._machines.values(), {}, StepClock(self.detector.layout)
        window = self.detector.window or 0
        ended = [a for m in machines if m.steps >= window for a in self._settle(m, self._scorer.closed(m.folder))]
        return sorted(ended, key=lambda answer: answer.row)

    def _read(self, sample: Any) -> Chunk:
        layout = self.detector.layout
        source = self.detector.opened(sample)
        chunk = Chunk.join(source.chunks(layout, 2)) if source.count() else None
        if chunk is None or len(chunk) != 1:
            raise DataError(f"{source.path}: {source.count()} samples; a stream takes one at a time, and `score` many")
        numbered = chunk.ids.dtype.kind in "iu"
        chunk = replace(chunk, ids=np.array([self._count]) if numbered else chunk.ids, places=np.array([self._count]))
        if layout.time is None:
            return chunk
        assert isinstance(source, TabularSource)
        name = "" if chunk.groups is None else str(chunk.groups[0])
        time, after_gap, local = self._clock.read(source.reader, name)
        ids = chunk.ids if layout.id is not None else np.array([time])
        if layout.profile is not None and chunk.condition is not None:
            chunk.condition[:, -1] = layout.profile.phase(np.array([local]))
        return replace(chunk, ids=ids, after_gap=np.array([after_gap]))

    def _step(self, chunk: Chunk, window: int) -> Answer | None:
        name = "" if chunk.groups is None else str(chunk.groups[0])
        chunk = replace(chunk, groups=None)
        machine = self._machines.get(name)
        if machine is None:
            machine = self._machines[name] = _Machine(self._scorer.folder(self._scorer.stage))
        machine.waiting.append(chunk)
        machine.steps += 1
        self.settled = self._settle(machine, self._scorer.pushed(machine.folder, chunk))
        if machine.steps < window:
            return None
        _, arrays, shares = self._scorer.closed(machine.folder.copy())
        scored = self._scorer.step_scores(chunk, tuple(array[-1:] for array in arrays), shares[-1:])
        return self._answers(*scored)[0]

    def _settle(self, machine: _Machine, finished: Finished) -> list[Answer]:
        ids, arrays, shares = finished
        if not len(ids):
            return []
        return self._answers(*self._scorer.step_scores(first_of(machine.waiting, len(ids)), arrays, shares))

    def _answers(self, chunk: Chunk, scores: Scores) -> list[Answer]:
        assert chunk.places is not None
        total = scores.total
        rows = zip(chunk.places, chunk.ids, total, self.detector.p_values(total), strict=True)
        return [
            Answer(
                row=int(row),
                id=id_.item() if hasattr(id_, "item") else id_,
                score=float(score),
                is_anomaly=bool(score >= self.detector.threshold.value),
                p_value=float(p),
                parts={name: float(part[place]) for name, part in scores.parts.items()},
            )
            for place, (row, id_, score, p) in enumerate(rows)
        ]
