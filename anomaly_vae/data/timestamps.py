"""Time columns: which column orders the rows, in what format it is written, and how regular its steps are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import NULLS, is_number, is_text, parse_numbers

Times = NDArray[np.float64]  # microseconds since 1970, or since any start; NaN for a cell that holds no time

NAMES = frozenset(
    {"time", "timestamp", "timestamps", "datetime", "date", "ts", "clock", "day", "epoch", "unixtime"}
    | {"datum", "zeit", "uhrzeit", "zeitstempel", "zeitpunkt", "fecha", "hora", "heure", "data", "ora"}
)
SINCE_START = NAMES | {"t", "sec", "secs", "second", "seconds", "elapsed"}  # of numbers with regular steps
# Numbers of these ranges are seconds, milliseconds, microseconds or nanoseconds since 1970, in the years 2000 to 2065.
EPOCHS = {f"since 1970, {unit}": (0.95e9 * per, 3e9 * per) for unit, per in
          (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))}  # fmt: skip
EXCEL, NUMBER = "days since 1900", "number"  # Excel's serial days; and seconds, or any unit, since a start
SERIALS = (20_000.0, 80_000.0)  # Excel's serial days of the years 1954 to 2119
ISO, ISO_ZONE = "ISO 8601", "ISO 8601 with a zone"
DAY, YEAR, HOUR = 86_400e6, 366 * 86_400e6, 3_600e6  # microseconds
ZONES = {"Z": "+0000", "UTC": "+0000", "GMT": "+0000", "WET": "+0000", "WEST": "+0100", "BST": "+0100", "CET": "+0100",
         "CEST": "+0200", "EET": "+0200", "EEST": "+0300", "EST": "-0500", "EDT": "-0400", "CST": "-0600",
         "CDT": "-0500", "MST": "-0700", "MDT": "-0600", "PST": "-0800", "PDT": "-0700"}  # fmt: skip

TIME = re.compile(r"(?<!\d)\d{1,2}:\d{2}(?P<s>:\d{2}(?P<f>\.\d+)?)?(?P<p>\s*[AaPp]\.?[Mm]\.?)?(?!\d)")
ZONE = re.compile(r"\s*[+-]\d{2}:?\d{2}$")
MONTH = r"[A-Za-z]{3,9}"
# The dates that are known, as (pattern, formats); `s` is the separator, which occurs twice.
DATES = (
    (r"\d{4}(?P<s>[-/. ])\d{1,2}(?P=s)\d{1,2}", ("%Y{s}%m{s}%d",)),
    (r"\d{1,2}(?P<s>[-/ ])\d{1,2}(?P=s)\d{4}", ("%m{s}%d{s}%Y", "%d{s}%m{s}%Y")),
    (r"\d{1,2}(?P<s>[-/])\d{1,2}(?P=s)\d{2}", ("%m{s}%d{s}%y", "%d{s}%m{s}%y", "%y{s}%m{s}%d")),
    (r"\d{1,2}(?P<s>[.])\d{1,2}(?P=s)\d{4}", ("%d.%m.%Y",)),  # nobody writes the month first with points
    (r"\d{1,2}(?P<s>[.])\d{1,2}(?P=s)\d{2}", ("%d.%m.%y", "%y.%m.%d")),
    (rf"\d{{1,2}}(?P<s>[-/. ]){MONTH}(?P=s)\d{{4}}", ("%d{s}%b{s}%Y", "%d{s}%B{s}%Y")),
    (rf"\d{{1,2}}(?P<s>[-/. ]){MONTH}(?P=s)\d{{2}}", ("%d{s}%b{s}%y",)),
    (rf"{MONTH} +\d{{1,2}}, +\d{{4}}", ("%b %d, %Y", "%B %d, %Y")),
    (rf"{MONTH} +\d{{1,2}} +\d{{4}}", ("%b %d %Y", "%B %d %Y")),
    (r"\d{8}", ("%Y%m%d",)),
    (r"\d{8}T\d{6}", ("%Y%m%dT%H%M%S",)),
    (r"\d{4}-W\d{2}-\d", ("%G-W%V-%u",)),
    (rf"{MONTH} +\d{{1,2}}", ("%b %d",)),  # a log of syslog names no year
    ("", ("",)),
)


@dataclass(frozen=True)
class Clock:
    """Where the time of a row stands, and how it is written.

    columns: one column; or two, a date and a time of day, which are joined with a blank. formats: the formats that the
    first rows can be read in, the likeliest first; once the whole column was read, the only one.
    """

    columns: tuple[str, ...]
    formats: tuple[str, ...]

    @property
    def format(self) -> str:
        return self.formats[0]

    @property
    def name(self) -> str:
        """As messages call it."""
        names = " and ".join(f"'{name}'" for name in self.columns)
        return f"time column{'s' if len(self.columns) > 1 else ''} {names}"

    @property
    def dated(self) -> bool:
        """Whether its times are on a calendar, whose seconds are known; not a number of an unknown unit."""
        return self.format != NUMBER

    def cells(self, table: pa.Table) -> pa.ChunkedArray:
        """The texts of the times, (N,); joined of two columns. The columns of `table` are text or numbers."""
        parts = [table[name] if is_text(table[name].type) else pc.cast(table[name], pa.string(), safe=False)
                 for name in self.columns]  # fmt: skip
        return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, " ")

    def steps(self, usual: float | None) -> Steps:
        """The time from step to step, where the median of the first rows is `usual` microseconds."""
        day_only = re.search("%[dju]", self.format) is None and self.format.startswith("%")
        period = DAY if day_only else YEAR if self.format.startswith("%b %d") and "%Y" not in self.format else None
        local = self.format == ISO or (self.format.startswith("%") and "%z" not in self.format)
        return Steps(period, usual if local and usual is not None and usual < HOUR else None)


class Steps:
    """The time from each step to the one before in its group, over consecutive pieces.

    A time of day that begins anew at midnight, and a date without a year at new year, goes on. At the end of summer
    time the clock goes back by an hour, as no other clock of regular steps does; `summer_ends` counts such hours.
    """

    def __init__(self, period: float | None, usual: float | None) -> None:
        """period: microseconds after which the clock begins anew; None: never. usual: of a local clock, the usual
        step (microseconds); None: an hour back is no end of summer time."""
        self._period, self._usual = period, usual
        self._last: dict[str, tuple[float, float]] = {}  # of each group: the last time as written, and its correction
        self.summer_ends = 0

    def read(self, times: Times, groups: NDArray[Any] | None) -> tuple[Times, Times]:
        """(times, since) of the next N steps: corrected times, and microseconds since the step before, NaN for the
        first of a group."""
        times, since = times.copy(), np.empty(len(times))
        for name in [""] if groups is None else list(dict.fromkeys(groups.tolist())):
            rows = slice(None) if groups is None else groups == name
            own = times[rows]
            last, correction = self._last.get(name, (np.nan, 0.0))
            steps = np.diff(own, prepend=last)
            corrections = np.zeros(len(own))
            if self._period is not None:
                corrections[steps < -self._period / 2] = self._period
            if self._usual is not None:
                back = np.abs(steps + HOUR - self._usual) <= self._usual / 4
                back &= (steps < 0) & (own % DAY < 4 * HOUR)
                back[:-1] &= np.abs(steps[1:] - self._usual) <= self._usual / 4  # and goes on in regular steps
                corrections[back] = HOUR
                self.summer_ends += int(back.sum())
            if len(own):
                self._last[name] = (float(own[-1]), correction + float(corrections.sum()))
            times[rows], since[rows] = own + correction + np.cumsum(corrections), steps + corrections
        return times, since


def read(cells: pa.ChunkedArray, format_: str) -> Times:
    """The times of texts, (N,); NaN for a cell that is not of the format."""
    if format_ in (ISO, ISO_ZONE):
        return _iso(cells, pa.timestamp("us") if format_ == ISO else pa.timestamp("us", "UTC"))
    if not format_.startswith("%"):
        values = np.asarray(pc.cast(parse_numbers(cells)[0], pa.float64()).to_numpy(), np.float64)
        if format_ == EXCEL:
            return (values - 25_569) * DAY
        return values * (1e6 * EPOCHS["since 1970, s"][0] / EPOCHS[format_][0] if format_ in EPOCHS else 1e6)
    import pandas as pd

    year = "" if "%Y" in format_ or not format_.startswith("%b %d") else "2000 "  # a leap year
    series = pd.Series(_plain(cells).to_pylist(), dtype="object")
    series = year + series if year else series

    def parsed(texts: Any, one: str) -> Times:
        found = pd.to_datetime(texts, format=one, errors="coerce", utc=True).to_numpy(dtype="datetime64[us]")
        return np.where(np.isnat(found), np.nan, found.astype(np.float64))

    format_ = ("%Y " if year else "") + format_
    times = parsed(series, format_)
    for left_out in (".%f", ":%S"):  # programs leave out a fraction, or seconds, of 0
        unread = np.isnan(times)
        if left_out in format_ and unread.any():
            format_ = format_.replace(left_out, "")
            times[unread] = parsed(series[unread], format_)
    return times


def _iso(cells: pa.ChunkedArray, type_: pa.DataType) -> Times:
    for texts in (
        lambda: cells,
        lambda: pc.replace_substring_regex(cells, r"(\.\d{6})\d+", r"\1"),
        lambda: _plain(cells),
    ):
        try:
            micros = pc.cast(pc.cast(texts(), type_), pa.int64())
        except pa.ArrowInvalid:
            continue
        return np.asarray(pc.cast(micros, pa.float64(), safe=False).to_numpy())
    if len(cells) <= 1:
        return np.full(len(cells), np.nan)
    half = len(cells) // 2  # pyarrow rejects all cells if one is no time
    return np.concatenate([_iso(cells.slice(0, half), type_), _iso(cells.slice(half), type_)])


def _plain(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of times as the formats have them: a point before fractions of a second, a blank before the time of day,
    zones as offsets."""
    text = pc.utf8_trim_whitespace(cells)
    text = pc.replace_substring_regex(text, r"(:\d{2}),(\d{1,9})\b", r"\1.\2")
    text = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
    text = pc.replace_substring_regex(text, r"^\[?(\d{1,2}/[A-Za-z]{3}/\d{4}):(.*?)\]?$", r"\1 \2")  # Apache
    if pc.any(pc.match_substring_regex(text, "[A-Z]$")).as_py():
        for zone, offset in ZONES.items():
            text = pc.replace_substring_regex(text, rf"(\d)\s*{zone}$", rf"\1{offset}")
    return text


def formats_of(texts: pa.ChunkedArray) -> list[str]:
    """The formats that some of the texts could be written in."""
    cells = _plain(texts).to_pylist()
    formats = [ISO, ISO_ZONE] if any(re.match(r"\d{4}-\d\d-\d\d", cell.strip()) for cell in cells) else []
    for cell in cells:
        zone = ZONE.search(cell) if ":" in cell else None
        time = TIME.search(cell)
        rest = cell[: zone.start()] if zone else cell
        of_day = ""
        if time is not None:
            of_day = "%I:%M" if time["p"] else "%H:%M"
            of_day += ":%S" * bool(time["s"]) + ".%f" * bool(time["f"])
            of_day += time["p"][: len(time["p"]) - len(time["p"].lstrip())] + "%p" if time["p"] else ""
            rest = rest[: time.start()] + "\0" + rest[time.end() :]
        rest = re.sub(r"\s+", " ", rest)
        for pattern, dates in DATES:
            match = re.fullmatch(
                rf"(?P<day>[A-Z][a-z]{{2}},? )?(?P<a>\0[ ,T]*)?(?P<date>{pattern})(?P<z>[ ,T]*\0)?", rest
            )
            if match is None and time and pattern.startswith(MONTH):  # Fri Jan  5 09:58:01 2024
                match = re.fullmatch(rf"(?P<day>[A-Z][a-z]{{2}} )(?P<date>{MONTH} +\d+ \0 \d{{4}})", rest)
                dates = ("%b %d \0 %Y",)
            found = match.groupdict() if match else {}
            if not match or (time is not None and "\0" not in rest) or (not found["date"] and time is None):
                continue
            for date in dates:
                day = found["day"].replace(found["day"][:3], "%a") if found["day"] else ""
                whole = day + (found.get("a") or "") + date.format(s=found.get("s", "")) + (found.get("z") or "")
                formats.append(whole.replace("\0", of_day) + (("%z" if zone[0][0] in "+-" else " %z") if zone else ""))
    return list(dict.fromkeys(formats))


# --- which column is the time --------------------------------------------------------------------------------------


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


ORDERLY = 0.1  # largest disorder of a column that orders the rows


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


# --- how regular the steps are -------------------------------------------------------------------------------------


def usual_step(times: Times) -> float | None:
    """The median time (microseconds) between the distinct ones of the times; None of a single one."""
    steps = np.diff(np.unique(times[~np.isnan(times)]))
    return float(np.median(steps)) if len(steps) else None


def irregular(times: Times) -> float:
    """The share of steps, of the times in order, that are no multiple of the median step, up to a quarter of it; up to
    0.01 more for steps that differ at all, as days of months do."""
    steps = np.diff(np.unique(times[~np.isnan(times)]))
    if not len(steps):
        return 1.0
    multiples = steps / np.median(steps)
    nearest = np.maximum(1, np.round(multiples))
    return float((np.abs(multiples - nearest) > 0.25).mean() + 0.01 * min(1.0, multiples.std()))


def duration(seconds: float) -> str:
    """A time in words: "10 s", "1.5 h", "3 days"."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size * (1 - 1e-9) or unit == "us":
            break
    number = f"{seconds / size:.3g}"
    return f"{number} {'day' if unit == 'days' and number == '1' else unit}"


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


def pieces(reader: Reader, clock: Clock, group: str | None, rows: int) -> Iterator[tuple[pa.ChunkedArray, pa.Table]]:
    """The texts of the times, and the table of the columns they came from and of the group, `rows` rows at a time."""
    types = dict.fromkeys((*clock.columns, *filter(None, (group,))), pa.string())
    for table in reader.batches(types, rows):
        yield clock.cells(table), table
