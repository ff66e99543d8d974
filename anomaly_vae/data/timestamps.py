"""Times: the formats they are written in, the numbers they are read as, and the steps from one to the next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import is_text, parse_numbers

Times = NDArray[np.float64]  # microseconds since 1970, or since any start; NaN for a cell that holds no time

# Numbers of these ranges are seconds, milliseconds, microseconds or nanoseconds since 1970, in the years 2000 to 2065.
EPOCHS = {f"since 1970, {unit}": (0.95e9 * per, 3e9 * per) for unit, per in
          (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))}  # fmt: skip
EXCEL, NUMBER = "days since 1900", "number"  # Excel's serial days; and seconds, or any unit, since a start
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

    @property
    def weekly(self) -> bool:
        """Whether its times tell the day of the week."""
        return self.dated and (
            not self.format.startswith("%") or any(year in self.format for year in ("%Y", "%y", "%G"))
        )

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


def local(cells: pa.ChunkedArray, format_: str) -> Times:
    """The same as a clock on the wall shows them: with the offset of their zone, where it is written."""
    times = read(cells, format_)
    if format_ != ISO_ZONE and "%z" not in format_:
        return times
    found = pc.extract_regex(_plain(cells), r"(?P<s>[+-])(?P<h>\d{2}):?(?P<m>\d{2})$").combine_chunks()
    hours, minutes = (pc.fill_null(pc.cast(found.field(name), pa.float64()), 0.0).to_numpy() for name in "hm")
    sign = np.where(pc.fill_null(pc.equal(found.field("s"), "-"), False).to_numpy(zero_copy_only=False), -1.0, 1.0)
    shown: Times = times + sign * (hours + minutes / 60) * HOUR
    return shown


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


def pieces(reader: Reader, clock: Clock, group: str | None, rows: int) -> Iterator[tuple[pa.ChunkedArray, pa.Table]]:
    """The texts of the times, and the table of the columns they came from and of the group, `rows` rows at a time."""
    types = dict.fromkeys((*clock.columns, *filter(None, (group,))), pa.string())
    for table in reader.batches(types, rows):
        yield clock.cells(table), table
