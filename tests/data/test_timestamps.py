"""Time columns: the format of the whole column, the column that orders the rows, and what speaks for a series."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.data import timestamps
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.source import Source

MOMENT = dt.datetime(2024, 1, 5, 21, 58, 7, tzinfo=dt.UTC)
SECONDS = MOMENT.timestamp()
SENSORS = np.random.default_rng(0).normal(size=(3000, 2)).round(3)


def opened(folder: Path, columns: dict[str, Sequence[object]], **settings: object) -> Source:
    n = len(next(iter(columns.values())))
    frame = pd.DataFrame({**columns, "a": SENSORS[:n, 0], "b": SENSORS[:n, 1]})
    frame.to_csv(folder / "x.csv", index=False)
    return open_source(folder / "x.csv", DataConfig.model_validate(settings))


def stamps(n: int, step: str, format_: str, start: str = "2024-01-05 09:58") -> list[str]:
    return list(pd.date_range(start, periods=n, freq=step).strftime(format_))


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("2024-01-05 21:58:07", 0),
        ("2024-01-05T21:58:07.5Z", 0.5),
        ("2024-01-05 21:58:07,250", 0.25),
        ("2024-01-05T22:58:07+01:00", 0),
        ("2024-01-05 21:58:07 UTC", 0),
        ("2024-01-05 23:58:07 CEST", 0),
        ("01/05/2024 09:58:07 PM", 0),
        ("1/5/2024 9:58:07 pm", 0),
        ("05.01.24 21:58", -7),
        ("5.1.2024 21:58:07", 0),
        ("21:58:07 05.01.2024", 0),
        ("2024/01/05 21:58:07", 0),
        ("05-Jan-2024 21:58:07", 0),
        ("Jan 05, 2024 21:58", -7),
        ("January 5, 2024 21:58:07", 0),
        ("Fri Jan  5 21:58:07 2024", 0),
        ("Fri, 05 Jan 2024 21:58:07 GMT", 0),
        ("05/Jan/2024:22:58:07 +0100", 0),
        ("[05/Jan/2024:21:58:07 +0000]", 0),
        ("20240105T215807", 0),
    ],
)
def test_formats(text: str, off: float) -> None:
    """Each is the same moment, by one of the formats that are tried."""
    cells = pa.chunked_array([pa.array([text])])
    read = [timestamps.read(cells, format_)[0] / 1e6 for format_ in timestamps.formats_of(cells)]
    assert SECONDS + off in read
    assert np.nanmin(np.abs(np.array(read) - SECONDS)) == abs(off)


@pytest.mark.parametrize("text", ["12.5", "1,234.50", "T00012", "10.0.0.1", "12.5 bar", "7f3a-11", "a"])
def test_no_times(text: str) -> None:
    assert timestamps.formats_of(pa.chunked_array([pa.array([text])])) == []


@pytest.mark.parametrize(
    ("name", "times", "words"),
    [
        ("time", stamps(40, "2h", "%H:%M:%S"), "2 h"),  # begins anew at midnight
        ("time", stamps(40, "D", "%b %e %H:%M:%S", "2023-12-20"), "1 day"),  # and at new year
        ("Date", np.round(45296.25 + np.arange(40) / 4, 6), "6 h"),  # Excel
        ("ts", 1_704_448_680_000_000_000 + 2_000_000_000 * np.arange(40), "2 s"),
        ("epoch_ms", 1_704_448_680_000 + 500 * np.arange(40), "500 ms"),
        ("time", 0.5 * np.arange(40), "0.5"),  # of a unit that is not known
        ("stamp", stamps(40, "D", "%G-W%V-%u"), "1 day"),
        ("timestamp", stamps(900, "7min", "%G-W%V-%u"), "1 day"),  # 205 or 206 rows each
        ("timestamp", stamps(12, "D", "%d/%m/%Y", "2024-02-01"), "1 day"),  # month first would be a step a month
    ],
)
def test_clocks(tmp_path: Path, name: str, times: Sequence[object], words: str) -> None:
    source = opened(tmp_path, {name: list(times)})
    assert source.kind == "series"
    assert f"time column '{name}', a step each {words}" in source.why


def test_days_first_are_decided_on_the_whole_column(tmp_path: Path) -> None:
    """The first 1,000 minutes could be in May; the 13th day could not be a month."""
    times = stamps(3000, "5min", "%d/%m/%Y %H:%M", "2024-02-05")
    source = opened(tmp_path, {"timestamp": times})
    assert source.learn(np.arange(3000)).per_day == 288
    assert source.notes == ()


@pytest.mark.parametrize("days", [1, 9])  # of 5-minute steps before the change: within the first rows, and after them
def test_the_end_of_summer_time(tmp_path: Path, days: int) -> None:
    start = dt.datetime(2024, 10, 27, tzinfo=dt.UTC) - dt.timedelta(days=days)
    local = [(start + dt.timedelta(minutes=5 * i)).astimezone(ZoneInfo("Europe/Berlin")) for i in range(3000)]
    source = opened(tmp_path, {"timestamp": [f"{time:%Y-%m-%d %H:%M}" for time in local]})
    assert source.kind == "series"
    (note,) = source.notes
    assert note.startswith("the clock of 'timestamp' goes back by an hour, as at the end of summer time (1 x)")
    layout = source.learn(np.arange(3000))
    assert [chunk.places for chunk in source.chunks(layout, 1000)] == [None] * 3
    assert not any(chunk.after_gap.any() for chunk in source.chunks(layout, 1000) if chunk.after_gap is not None)


def test_the_column_that_orders_the_rows(tmp_path: Path) -> None:
    calibrated = ["2023-06-01"] * 500 + ["2022-12-01"] * 400
    times = stamps(900, "min", "%Y-%m-%d %H:%M:%S")
    assert "time column 'timestamp'" in opened(tmp_path, {"calibrated": calibrated, "timestamp": times}).why


@pytest.mark.parametrize("formats", [("%d.%m.%Y", "%H:%M:%S"), ("%Y-%m-%d", "%H:%M"), ("%m/%d/%Y", "%I:%M %p")])
def test_a_date_and_a_time_are_joined(tmp_path: Path, formats: tuple[str, str]) -> None:
    dates, times = (stamps(900, "7min", format_) for format_ in formats)
    source = opened(tmp_path, {"Date": dates, "Time": times})
    assert "time columns 'Date' and 'Time', a step each 7 min" in source.why
    layout = source.learn(np.arange(900))
    assert (layout.time, layout.time_of_day) == ("Date", "Time")
    (chunk,) = source.chunks(layout, 1000)
    assert chunk.ids.tolist() == [f"{date} {time}" for date, time in zip(dates, times, strict=True)]
    assert source.ids(layout, np.array([5])).tolist() == [f"{dates[5]} {times[5]}"]


def events(n: int = 900) -> list[str]:
    """Irregular times."""
    seconds = np.cumsum(np.random.default_rng(1).exponential(300, n)).round()
    return [str(dt.datetime(2024, 1, 1) + dt.timedelta(seconds=float(s))) for s in seconds]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"time": events(), "tx": [f"T{7 * i % 900:04d}" for i in range(900)]}, "an id in every row ('tx')"),
        ({"time": events(), "shop": ["web", "mall", "post"] * 300}, "text categories ('shop')"),
        ({"time": events()}, "rows no more like their neighbours than others"),
        (
            {"date": [f"2024-01-{1 + i // 30:02d}" for i in range(900)], "shop": list("uvw") * 300},
            "several rows a time",
        ),
        ({"Time": np.sort(np.random.default_rng(0).integers(0, 900, 900)).tolist()}, "several rows a time"),
        ({"Time": np.sort(np.random.default_rng(0).integers(0, 10**6, 900)).tolist()}, "uneven numbers"),
    ],
)
def test_events_are_a_table(tmp_path: Path, columns: dict[str, Sequence[object]], why: str) -> None:
    source = opened(tmp_path, columns)
    assert source.kind == "table"
    assert why in source.why
    assert source.otherwise == "--kind series reads rows as time steps in order"


def test_irregular_steps_of_sensors_are_a_series(tmp_path: Path) -> None:
    walk = np.cumsum(SENSORS[:900], axis=0)
    pd.DataFrame({"time": events(), "a": walk[:, 0], "b": walk[:, 1]}).to_csv(tmp_path / "x.csv", index=False)
    source = open_source(tmp_path / "x.csv", DataConfig())
    assert source.why == "a series: 900 time steps of 2 sensors, time column 'time', irregular steps"
    layout = source.learn(np.arange(900))
    assert (layout.step, layout.gap) == (None, None)


def test_gaps_and_weekends(tmp_path: Path) -> None:
    """Three missing days are a gap in a series of days; weekends that training has too are none."""
    days = pd.date_range("2024-01-01", periods=400)
    gappy = opened(tmp_path, {"date": list(days.delete([200, 201, 202]).astype(str))})
    layout = gappy.learn(np.arange(397))
    assert (layout.step, layout.gap) == (86_400, 3 * 86_400)
    found = [chunk.after_gap for chunk in gappy.chunks(layout, 100)]
    assert np.flatnonzero(np.concatenate([gaps for gaps in found if gaps is not None])).tolist() == [200]
    assert gappy.notes == ("1 gap in time (4 days) cut the series: no window spans one",)
    business = opened(tmp_path, {"date": list(pd.bdate_range("2024-01-01", periods=400).astype(str))})
    assert list(business.chunks(business.learn(np.arange(400)), 400))
    assert business.notes == ()
    hourly = opened(tmp_path, {"date": stamps(400, "h", "%Y-%m-%d %H:%M")})
    assert list(hourly.chunks(layout, 400))
    assert hourly.notes[0].startswith("steps come every 1 h where training had 1 day: scores mean little")


@pytest.mark.parametrize(
    "index",
    [pd.date_range("2024", periods=50, freq="h"), pd.period_range("2024", periods=50, freq="D", name="when")],
)
def test_a_frame_is_recognised_as_a_file_is(index: pd.Index) -> None:
    frame = pd.DataFrame(SENSORS[:50], columns=["a", "b"], index=index)
    source = open_memory(frame, DataConfig())
    assert source.kind == "series"
    assert f"time column '{index.name or 'time'}'" in source.why
    assert open_memory(frame.reset_index(drop=True), DataConfig()).kind == "table"
    assert open_memory(frame.to_numpy(), DataConfig()).kind == "table"
