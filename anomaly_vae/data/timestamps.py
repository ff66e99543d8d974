"""Time columns: recognised by type or name, and read in one format from the first row to the last."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import is_number, is_text, parse_numbers

NAMES = frozenset({"time", "timestamp", "datetime", "date", "ts", "date_time", "time_stamp", "timestamps"})
# Ranges of seconds, milliseconds, microseconds and nanoseconds since 1970, for the years 2000 to 2065.
EPOCHS = tuple((0.95e9 * unit, 3e9 * unit) for unit in (1, 1e3, 1e6, 1e9))

Parse = Callable[[pa.ChunkedArray], NDArray[np.float64]]


def is_time_name(name: str) -> bool:
    """Whether a column is named like a time."""
    return name.strip().lower().replace(" ", "_") in NAMES


def find(reader: Reader) -> str | None:
    """The first column that holds points in time, judged by the first rows; None: there is none."""
    peek = reader.peek
    for name in reader.columns:
        type_ = peek[name].type
        if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
            return name
        if is_time_name(name) and (parse_of(peek[name]) is not None) and not _is_other_number(peek[name]):
            return name
    return None


def find_number(reader: Reader) -> str | None:
    """The first column of numbers that is named like a time, e.g. seconds since the start; None: there is none.

    Such a name is no proof of a time, so this is used only for data that is read as a series.
    """
    names = (name for name in reader.columns if is_time_name(name) and is_number(reader.peek[name].type))
    return next(names, None)


def parse_of(column: pa.ChunkedArray) -> Parse | None:
    """A function that converts a time column to numbers that grow with time; None if the column holds no times.

    The function returns NaN for a cell that it cannot read. It is chosen on cells as text, because the reader later
    delivers text, whatever type the first rows suggest.
    """
    if is_number(column.type):
        return _numbers
    try:
        text = pc.cast(column, pa.string()).drop_null()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if not len(text) or pa.types.is_boolean(column.type):
        return None
    best: tuple[tuple[int, bool], Parse] | None = None
    for parse in _parsers(str(text[0])):
        times = parse(text)
        # 03/04/2024 can be read in two ways; the right one reads every cell, and time never runs backwards in it.
        faults = (int(np.isnan(times).sum()), not _is_sorted(times))
        if faults == (0, False):
            return parse
        # A few unreadable cells are reported when they are read; with many the column is not a time column.
        if _is_mostly_read(times) and (best is None or faults < best[0]):
            best = faults, parse
    return None if best is None else best[1]


def per_day(column: pa.ChunkedArray) -> float | None:
    """How many time steps a day has, by the median time from one to the next; None where the column is no clock: it
    does not parse, stands still, or holds numbers that are no seconds, or fractions of them, since 1970."""
    parse = parse_of(column)
    if parse is None:
        return None
    clock, unit = parse(column if is_number(column.type) else pc.cast(column, pa.string())), 1e6
    clock = clock[~np.isnan(clock)]
    if is_number(column.type):
        units = [
            high / EPOCHS[0][1] for low, high in EPOCHS if len(clock) and low <= clock.min() <= clock.max() <= high
        ]
        if not units:
            return None
        (unit,) = units
    steps = np.diff(clock)
    steps = steps[steps > 0]  # machines may share a file
    return float(86_400 * unit / np.median(steps)) if len(steps) else None


def _is_mostly_read(times: NDArray[np.float64]) -> bool:
    n_unread = np.isnan(times).sum()
    return bool(n_unread <= 0.1 * len(times) or (n_unread == 1 and len(times) >= 5))


def _is_sorted(times: NDArray[np.float64]) -> bool:
    return bool((np.diff(times[~np.isnan(times)]) >= 0).all())


def _parsers(sample: str) -> Iterator[Parse]:
    """Candidate functions for a column that begins with `sample`; pandas is imported only if ISO 8601 fails."""
    yield _iso(pa.timestamp("us"))
    yield _iso(pa.timestamp("us", "UTC"))
    from pandas.tseries.api import guess_datetime_format

    for day_first in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas warns if the sample fits only one order of day and month
            format_ = guess_datetime_format(sample, dayfirst=day_first)
        if format_ is not None:
            yield _formatted(format_)


def _iso(type_: pa.DataType) -> Parse:
    def parse(cells: pa.ChunkedArray) -> NDArray[np.float64]:
        try:
            return _since(pc.cast(cells, type_))
        except pa.ArrowInvalid:
            pass
        try:
            return _since(pc.cast(_cut(cells), type_))
        except pa.ArrowInvalid:
            return np.full(len(cells), np.nan)

    return parse


def _cut(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of times, with seconds cut to 6 decimals."""
    return pc.replace_substring_regex(cells, r"(\.\d{6})\d+", r"\1")


def _since(times: pa.ChunkedArray) -> NDArray[np.float64]:
    """Microseconds since 1970."""
    micros = pc.cast(times, pa.int64())
    return np.asarray(pc.cast(micros, pa.float64(), safe=False).to_numpy())


def _formatted(format_: str) -> Parse:
    def parse(cells: pa.ChunkedArray) -> NDArray[np.float64]:
        import pandas as pd

        times = pd.to_datetime(pd.Series(cells.to_pylist(), dtype="object"), format=format_, errors="coerce", utc=True)
        micros = times.to_numpy(dtype="datetime64[us]")
        return np.where(np.isnat(micros), np.nan, micros.astype(np.float64))

    return parse


def _numbers(cells: pa.ChunkedArray) -> NDArray[np.float64]:
    numbers = parse_numbers(cells)[0] if is_text(cells.type) else cells
    return np.asarray(pc.cast(numbers, pa.float64(), safe=False).to_numpy())


def _is_other_number(column: pa.ChunkedArray) -> bool:
    """Whether a column holds numbers that are not a time since 1970 in one of the units of EPOCHS."""
    if not is_number(column.type):
        return False
    values = pc.cast(column, pa.float64()).drop_null().to_numpy()
    return not any(len(values) and low <= values.min() and values.max() <= high for low, high in EPOCHS)


def in_order(reader: Reader) -> bool:
    """Whether there is a time column in which time never runs backwards, judged by the first rows."""
    name = find(reader)
    if name is None:
        return False
    parse = parse_of(reader.peek[name])
    if parse is None:
        return False
    column = reader.peek[name]
    present = column.drop_null()
    times = parse(present if is_number(column.type) else pc.cast(present, pa.string()))
    return len(present) >= 0.9 * len(column) and _is_sorted(times)
