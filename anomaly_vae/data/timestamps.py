"""Time columns: found by type or name, read in one format from the first row to the last."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.data.readers.base import Reader, is_number, is_text, parse_numbers

NAMES = frozenset({"time", "timestamp", "datetime", "date", "ts", "date_time", "time_stamp", "timestamps"})
# Seconds, milliseconds, microseconds and nanoseconds since 1970, for the years 2000 to 2065.
EPOCHS = tuple((0.95e9 * unit, 3e9 * unit) for unit in (1, 1e3, 1e6, 1e9))

Parse = Callable[[pa.ChunkedArray], NDArray[np.float64]]


def is_time_name(name: str) -> bool:
    return name.strip().lower().replace(" ", "_") in NAMES


def find(reader: Reader) -> str | None:
    """The first column whose values, as far as they are peeked at, are points in time."""
    peek = reader.peek
    for name in reader.columns:
        type_ = peek[name].type
        if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
            return name
        if is_time_name(name) and (parse_of(peek[name]) is not None) and not _counts(peek[name]):
            return name
    return None


def find_number(reader: Reader) -> str | None:
    """A column of numbers named like a time, e.g. seconds since the start; trusted only where a series is expected."""
    names = (name for name in reader.columns if is_time_name(name) and is_number(reader.peek[name].type))
    return next(names, None)


def parse_of(column: pa.ChunkedArray) -> Parse | None:
    """How to read a time column as numbers that grow with time, NaN where it does not parse; None if it is no time.

    Cells come as text later, whatever type they seem to have, so the format is found on the text.
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
        clock = parse(text)
        # 03/04/2024 can be read in two ways: the one that reads every cell and in which time never runs backwards.
        faults = (int(np.isnan(clock).sum()), not _rises(clock))
        if faults == (0, False):
            return parse
        # A few cells that are no time are reported where they are read; where most are none, this is no time column.
        if _mostly(clock) and (best is None or faults < best[0]):
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


def _mostly(clock: NDArray[np.float64]) -> bool:
    unread = np.isnan(clock).sum()
    return bool(unread <= 0.1 * len(clock) or (unread == 1 and len(clock) >= 5))


def _rises(clock: NDArray[np.float64]) -> bool:
    return bool((np.diff(clock[~np.isnan(clock)]) >= 0).all())


def _parsers(sample: str) -> Iterator[Parse]:
    """Ways to read a column that begins with `sample`; pandas loads only where ISO 8601 is not enough."""
    yield _iso(pa.timestamp("us"))
    yield _iso(pa.timestamp("us", "UTC"))
    from pandas.tseries.api import guess_datetime_format

    for day_first in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the sample can be read in one way only
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
    """Times without what is finer than a microsecond."""
    return pc.replace_substring_regex(cells, r"(\.\d{6})\d+", r"\1")


def _since(times: pa.ChunkedArray) -> NDArray[np.float64]:
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


def _counts(column: pa.ChunkedArray) -> bool:
    """Whether these are numbers, but none that are seconds or fractions of them since 1970."""
    if not is_number(column.type):
        return False
    values = pc.cast(column, pa.float64()).drop_null().to_numpy()
    return not any(len(values) and low <= values.min() and values.max() <= high for low, high in EPOCHS)


def in_order(reader: Reader) -> bool:
    """Whether there is a time column of which, as far as it is peeked at, time never runs backwards."""
    name = find(reader)
    if name is None:
        return False
    parse = parse_of(reader.peek[name])
    if parse is None:
        return False
    column = reader.peek[name]
    written = column.drop_null()
    clock = parse(written if is_number(column.type) else pc.cast(written, pa.string()))
    return len(written) >= 0.9 * len(column) and _rises(clock)
