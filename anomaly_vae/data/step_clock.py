"""The times of steps that come one at a time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomaly_vae.core.errors import DataError
from anomaly_vae.data import time_column, timestamps
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.source import Layout


class StepClock:
    """Tells which steps follow a gap. A step alone does not say how its time is written, as a column does: where two
    formats read it differently, it is refused."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._clock: timestamps.Clock | None = None  # its formats are those that read all steps so far
        self._steps: dict[str, timestamps.Steps] = {}

    def read(self, reader: Reader, group: str) -> tuple[str, bool, float]:
        """(time as text, whether time jumped before, local time) of the next step of a group, the only row of a reader.

        Raises DataError, and forgets the step, where it holds no time, an ambiguous one, or one before the last.
        """
        names = tuple(name for name in (self.layout.time, self.layout.time_of_day) if name)
        reader.require(names, "time column")
        clock = self._clock or time_column.clock_of(reader, names)
        table = pa.table({name: pc.cast(reader.peek[name], pa.string(), safe=False) for name in names})
        cells = [] if clock is None else clock.cells(table)
        read = {} if clock is None else {form: timestamps.read(cells, form)[0] for form in clock.formats}
        read = {form: time for form, time in read.items() if not np.isnan(time)}
        text = " ".join(str(table[name][0].as_py()) for name in names)
        if clock is None or not read:
            raise DataError(
                f"{reader.path}: column '{names[0]}': {text!r} is no time in the format of the steps before"
            )
        if len(set(read.values())) > 1:
            raise DataError(
                f"{reader.path}: column '{names[0]}': {text!r} may be {' or '.join(read)}; give times as datetime"
                " objects or in ISO 8601"
            )
        clock = replace(clock, formats=tuple(read))
        usual = None if self.layout.step is None else self.layout.step * 1e6
        steps = deepcopy(self._steps.get(group)) or clock.steps(usual)
        since = float(steps.read(np.array([read[clock.format]]), None)[1][0])
        if since < 0:
            raise DataError(
                f"{reader.path}: the time {text!r} is before that of the last step; a stream takes steps in"
                " order of time, and `score` puts those of a file in order"
            )
        self._clock, self._steps[group] = clock, steps
        jumped = since > (np.inf if self.layout.gap is None else self.layout.gap * 1e6)
        return text, jumped, float(timestamps.local(cells, clock.format)[0])
