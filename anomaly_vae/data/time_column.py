"""Which column is the time, and whether the rows are the steps of a series: told by the first rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import NULLS, is_number, is_text
from anomaly_vae.data.timestamps import (
    DAY,
    EPOCHS,
    EXCEL,
    ISO,
    ISO_ZONE,
    NUMBER,
    Clock,
    Times,
    duration,
    formats_of,
    irregular,
    read,
    usual_step,
)

NAMES = frozenset(
    {"time", "timestamp", "timestamps", "datetime", "date", "ts", "clock", "day", "epoch", "unixtime"}
    | {"datum", "zeit", "uhrzeit", "zeitstempel", "zeitpunkt", "fecha", "hora", "heure", "data", "ora"}
)
SINCE_START = NAMES | {"t", "sec", "secs", "second", "seconds", "elapsed"}  # of numbers with regular steps
SERIALS = (20_000.0, 80_000.0)  # Excel's serial days of the years 1954 to 2119
ORDERLY = 0.1  # largest disorder of a column that orders the rows


@dataclass(frozen=True)
class Candidate:
    """A clock with the times that it reads in the first rows, (N,)."""

    clock: Clock
    times: Times
    named: bool  # like a time

    @property
    def distinct(self) -> int:
        return len(np.unique(self.times[~np.isnan(self.times)]))

    @property
    def disorder(self) -> float:
        """The share of steps against the direction of the others: 0 for a column that orders the rows."""
        _, steps = self.clock.steps(usual_step(self.times)).read(self.times[~np.isnan(self.times)], None)
        return min(float((steps < 0).sum()), float((steps > 0).sum())) / max(1, len(steps) - 1)

    @property
    def faults(self) -> tuple[int, bool, float]:
        """How badly a format fits: cells that it does not read, steps back, and irregular steps."""
        return int(np.isnan(self.times).sum()), self.disorder > 0, irregular(self.times)


def find(reader: Reader, config: DataConfig) -> Candidate | None:
    """The time column, judged by the first rows: the one that orders them and varies most, `config.time` if it is set.

    A date and a time of day are joined. Where none orders the rows, the first named like a time. None: there is none.
    """
    taken = {config.label, config.id, config.group, *config.drop, *config.condition} - {config.time}
    names = [name for name in reader.columns if name not in taken]
    found = [c for name in names if (c := candidate(reader, name, name == config.time)) is not None]
    of_day = [c for c in found if not c.clock.format.startswith("%") or re.match("%[HI]", c.clock.format)]
    of_day = [c for c in of_day if re.fullmatch(r"%[HI]:[^dbY]*", c.clock.format)]
    dated = [c for c in found if c not in of_day]
    chosen = [c for c in found if config.time in c.clock.columns]
    candidates = chosen or [c for c in dated + [c for c in of_day if c.named] if c.distinct > 1 or len(c.times) == 1]
    orderly = [c for c in candidates if c.disorder <= ORDERLY]
    candidates = orderly or [c for c in candidates if c.named or c in chosen]
    if not candidates:
        return None
    most = max(c.distinct for c in candidates)
    best = max(candidates, key=lambda c: (c.distinct >= most / 2, c in dated, c.named))
    if best in of_day and dated and not chosen:
        best = dated[0]
    if best in dated and of_day and (best.times[~np.isnan(best.times)] % DAY == 0).all():
        joined = _joined(reader, best, of_day[0])
        if joined is not None and joined.distinct > best.distinct and joined.disorder <= ORDERLY:
            return joined
    return best


def candidate(reader: Reader, name: str, wanted: bool) -> Candidate | None:
    """The column as a clock; None if it holds no times. wanted: the settings name it."""
    column = reader.peek[name]
    type_, tokens = column.type, set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
    named = bool(tokens & NAMES) or name.strip().lower() in NAMES
    if is_number(type_):
        values = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), np.float64)
        present = values[~np.isnan(values)]
        if not len(present) or not (wanted or named or tokens & SINCE_START):
            return None
        inside = [format_ for format_, (low, high) in EPOCHS.items() if low <= present.min() and present.max() <= high]
        if named and not inside and SERIALS[0] <= present.min() and present.max() <= SERIALS[1]:
            inside = [EXCEL] if (present % 1 != 0).any() or tokens & {"date", "datum", "fecha"} else []
        clock = Clock((name,), tuple(inside) or (NUMBER,))
        return Candidate(clock, read(clock.cells(pa.table({name: column})), clock.format), named)
    timed = pa.types.is_temporal(type_) and not pa.types.is_duration(type_)
    if not (timed or is_text(type_)):
        return None
    text = pc.cast(column, pa.string()) if timed else column
    filled = np.flatnonzero([cell is not None and cell not in NULLS for cell in text.to_pylist()])
    formats = formats_of(text.take(pa.array(filled[:: max(1, len(filled) // 5)]))) if len(filled) else []
    full = [f for f in formats if not f.startswith("%") or "%y" not in f or named or wanted]
    candidate = _best(Clock((name,), tuple(full)), text, named) if full else None
    mostly = candidate is not None and np.isnan(candidate.times).sum() <= max(0.1 * len(text), len(text) >= 5)
    return candidate if mostly else None


def clock_of(reader: Reader, names: Sequence[str]) -> Clock | None:
    """A column, or a date and a time of day, as the clock that they are known to be; None if they hold no times."""
    found = [candidate(reader, name, True) for name in names]
    first, *rest = found
    if first is None or None in rest:
        return None
    joined = _joined(reader, first, rest[0]) if rest and rest[0] is not None else first
    return None if joined is None else joined.clock


def _joined(reader: Reader, date: Candidate, of_day: Candidate) -> Candidate | None:
    columns = (*date.clock.columns, *of_day.clock.columns)
    clock = Clock(
        columns, tuple(f"{a} {b}" for a in _spelled(date.clock.formats) for b in _spelled(of_day.clock.formats))
    )
    table = pa.table({name: pc.cast(reader.peek[name], pa.string()) for name in columns})
    return _best(clock, clock.cells(table), True)


def _spelled(formats: tuple[str, ...]) -> list[str]:
    return ["%Y-%m-%d" if format_ == ISO else format_ for format_ in formats]


def _best(clock: Clock, cells: pa.ChunkedArray, named: bool) -> Candidate:
    """The clock with the formats that fit best, in order, as far as no other reads more cells."""
    tried = []
    for format_ in clock.formats:
        one = replace(clock, formats=(format_,))
        tried.append(Candidate(one, one.steps(None).read(read(cells, format_), None)[0], named))
        if format_ in (ISO, ISO_ZONE) and not tried[-1].faults[0]:
            return tried[-1]  # nothing else looks like it
    tried = sorted(tried, key=lambda c: c.faults)
    unread = tried[0].faults[0]
    return replace(
        tried[0], clock=replace(clock, formats=tuple(c.clock.format for c in tried if c.faults[0] == unread))
    )


@dataclass(frozen=True)
class Evidence:
    """What the first rows say for and against a series. fit: 0 (it has no time) to 1; above a half it is a series.

    group: the column that tells apart rows of the same time.
    """

    fit: float
    why: str
    time: Candidate | None = None
    group: str | None = None


def evidence(reader: Reader, config: DataConfig) -> Evidence:
    """Whether the rows are the steps of a series, by its time column, its steps and the columns beside it."""
    best = find(reader, config)
    if best is None:
        return Evidence(0.0, "no time column in order")
    clock, times = best.clock, best.times[~np.isnan(best.times)]
    name, n, order = clock.name, len(times), best.disorder
    if order > ORDERLY:
        return Evidence(0.3, f"{name} in no order", best)
    distinct, uneven = best.distinct, irregular(best.times)
    usual = usual_step(times)
    step = duration(usual / 1e6) if usual and clock.dated else f"{(usual or 0) / 1e6:g}"
    regular = f"{name}, a step each {step}" if usual else name
    if not clock.dated and (n < 10 or uneven > 0.2 or (np.diff(times) < 0).mean() > 0.5):
        # a number may count anything: only regular seconds are a clock
        return Evidence(
            0.3 * best.named, f"uneven numbers in {name}" if best.named else "no time column in order", best
        )
    others = [c for c in reader.columns if c not in {*clock.columns, config.label, *config.drop, *config.condition}]
    repeated = 1 - distinct / max(1, n)
    if repeated >= 0.2 and distinct > 1:
        group = tells_apart(reader.peek, best.times, [c for c in others if c != config.id])
        if group is not None:
            return Evidence(0.7, f"{regular}, several rows a time that '{group}' tells apart", best, group)
    texts = {c: t for c in others if (t := _words(reader.peek[c])) is not None}
    named_rows = next((c for c, t in texts.items() if len(t) == len(set(t)) >= 10), None)
    categories = next((c for c, t in texts.items() if 2 < len(set(t)) <= len(t) / 2), None)
    if repeated >= 0.2 and distinct > 1:
        counts = np.unique(times, return_counts=True)[1][1:-1]
        even = len(counts) > 0 and (np.abs(counts / np.median(counts) - 1) <= 0.05).mean() >= 0.9
        if not even or named_rows or categories or uneven > 0.2:
            beside = f", beside text ('{named_rows or categories}')" if named_rows or categories else ""
            return Evidence(0.3, f"several rows a time in {name}{beside}: events, not steps", best)
        return Evidence(0.6, f"{regular}, {np.median(counts):.0f} rows each", best)
    if uneven <= 0.2 or n < 10:
        return Evidence(0.9, regular, best)
    if named_rows or categories:
        what = f"an id in every row ('{named_rows}')" if named_rows else f"text categories ('{categories}')"
        return Evidence(0.3, f"irregular steps in {name} and {what}: events, not steps", best)
    alike = _alike(reader.peek, [c for c in others if is_number(reader.peek[c].type)])
    if alike < 0.3:
        return Evidence(0.4, f"irregular steps in {name}, and rows no more like their neighbours than others", best)
    return Evidence(0.6, f"{name}, irregular steps, and rows like their neighbours (correlation {alike:.2f})", best)


def tells_apart(table: pa.Table, times: Times, names: list[str]) -> str | None:
    """The first column, of text before whole numbers, whose few values tell apart the rows of the same time."""
    for right in (is_text, pa.types.is_dictionary, pa.types.is_integer):
        for name in names:
            if not right(table[name].type):
                continue
            coded = pc.dictionary_encode(pc.cast(table[name], pa.string()).combine_chunks())
            codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
            known = ~np.isnan(times)
            pairs = np.unique(np.stack([times[known], codes[known]]), axis=1).shape[1]
            if 2 <= len(coded.dictionary) <= len(times) / 4 and pairs >= 0.99 * known.sum():
                return name
    return None


def _words(column: pa.ChunkedArray) -> list[str] | None:
    """The cells of a column of words; None for other columns, numbers as people write them and yes or no."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if not is_text(column.type):
        return None
    cells = [cell.strip() for cell in column.to_pylist() if cell and cell.strip() not in NULLS]
    numeric = re.compile(r"[^\w]*\d[\d.,'\s]*([eE][-+]?\d+)?\s*[^\d\s]{0,6}\d?\)?")
    words = [cell for cell in cells if not numeric.fullmatch(cell)]
    return cells if len(words) > len(cells) / 2 else None


def _alike(table: pa.Table, names: list[str]) -> float:
    """The median correlation of consecutive rows over the columns of numbers that vary; 0 without any."""
    found = []
    for name in names:
        x = np.asarray(pc.cast(table[name], pa.float64(), safe=False).to_numpy(), np.float64)
        x = x[np.isfinite(x)]
        ranks = np.argsort(np.argsort(x, kind="stable"), kind="stable").astype(np.float64)  # outliers weigh no more
        if len(x) >= 10 and len(np.unique(x)) > 2:
            found.append(float(np.corrcoef(ranks[1:], ranks[:-1])[0, 1]))
    return float(np.median(found)) if found else 0.0
