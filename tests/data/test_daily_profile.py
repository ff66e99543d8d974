"""What a sensor usually does at an hour: learned where it is beyond chance, by the clock on the wall."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data import timestamps
from anomaly_vae.data.daily_profile import DAY, Profile, learn
from anomaly_vae.data.open import open_memory

QUARTER = DAY / 96  # a step of 15 minutes


def steps(days: int, start: str = "2024-01-03 05:00") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=96 * days, freq="15min")


def micros(times: pd.DatetimeIndex) -> np.ndarray:
    return times.to_numpy().astype("datetime64[us]").astype(np.float64)


def plant(days: int, start: str = "2024-01-03 05:00") -> pd.DataFrame:
    """A sensor that follows the hour, off on Sundays, and one that wanders."""
    times, rng = steps(days, start), np.random.default_rng(0)
    hour = times.hour + times.minute / 60
    a = 5 + np.where(times.day_of_week == 6, 0.0, np.sin(2 * np.pi * hour / 24)) + 0.1 * rng.normal(size=len(times))
    return pd.DataFrame({"time": times.astype(str), "a": a, "b": np.cumsum(rng.normal(size=len(times)))})


@pytest.mark.parametrize(("days", "cycle"), [(5, 1), (42, 7)])
def test_the_profile_of_a_sensor_that_follows_the_clock(days: int, cycle: int) -> None:
    frame, local = plant(days), micros(steps(days))
    profile, shares = learn([frame["a"].to_numpy(), frame["b"].to_numpy()], local, None, QUARTER, 7, False)
    assert profile is not None
    assert profile.days == cycle
    assert shares[0] > 0.6
    assert shares[1] == 0
    new = micros(steps(7, "2024-06-03 12:10"))
    found = profile.at(profile.phase(new))
    hours, weekday = new % DAY / DAY, (new // DAY + 3) % 7
    wanted = np.sin(2 * np.pi * hours)
    known = weekday < 6 if cycle == 7 else np.ones(len(new), bool)
    np.testing.assert_allclose(found[known, 0], wanted[known], atol=0.15 if cycle == 7 else 0.35)
    if cycle == 7:  # Sunday, the edge of the day apart
        at_noon = (weekday == 6) & (np.abs(hours - 0.5) < 0.4)
        assert np.abs(found[at_noon, 0]).max() < 0.2
    np.testing.assert_array_equal(found[:, 1], 0)


def test_a_row_stands_where_its_steps_do() -> None:
    profile = Profile(1, 0.5, ((0.0,), (24.0,), (0.0,), (0.0,)))  # parts of six hours, rows at 3:00, 9:00, ...
    local = np.array([0.0, 3, 6, 9, 21, 24]) / 24 * DAY
    np.testing.assert_allclose(profile.at(profile.phase(local))[:, 0], [0, 0, 12, 24, 0, 0])


@pytest.mark.parametrize("days", [3, 12])
def test_what_wanders_has_no_profile(days: int) -> None:
    found = 0
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(2, 96 * days)).cumsum(1)
        found += learn(list(x), micros(steps(days)), None, QUARTER, 7, False)[0] is not None
    assert found <= 1


def test_machines_of_other_levels_share_a_profile_and_too_little_has_none() -> None:
    frame, local = plant(4), micros(steps(4))
    x = np.concatenate([frame["a"], 1000 + frame["a"][:300]])
    machines = np.repeat([0, 1], [len(frame), 300]).astype(np.int32)
    profile, _ = learn([x], np.r_[local, local[:300]], machines, QUARTER, 7, False)
    assert profile is not None
    assert np.ptp(profile.usual) < 3
    assert learn([frame["a"].to_numpy()[:200]], local[:200], None, QUARTER, 7, False)[0] is None
    assert learn([frame["a"].to_numpy()[::16]], local[::16], None, 16 * QUARTER, 1, False)[0] is None  # six a day
    missing = np.full(len(frame), np.nan)
    assert learn([missing], local, None, QUARTER, 7, False)[0] is None


def test_daily_values_have_a_week() -> None:
    times = pd.date_range("2024-01-03", periods=70, freq="D")
    x = np.where(times.day_of_week >= 5, 3.0, 0.0) + 0.1 * np.random.default_rng(0).normal(size=70)
    profile, _ = learn([x], micros(times), None, DAY, 7, False)
    assert profile is not None
    assert profile.days == 7
    np.testing.assert_allclose(profile.at(profile.phase(micros(times)))[:, 0], x - x.mean(), atol=0.5)


@pytest.mark.parametrize(
    ("text", "format_", "hour"),
    [
        ("2024-03-01 10:30:00", timestamps.ISO, 10.5),
        ("2024-03-01T10:30:00+02:00", timestamps.ISO_ZONE, 10.5),
        ("2024-03-01T10:30:00Z", timestamps.ISO_ZONE, 10.5),
        ("01/Mar/2024:10:30:00 -0730", "%d/%b/%Y %H:%M:%S %z", 10.5),
        ("01.03.2024 10:30 CET", "%d.%m.%Y %H:%M%z", 10.5),
        ("1709287200", "since 1970, s", 10.0),
    ],
)
def test_local_time_is_that_of_the_clock_on_the_wall(text: str, format_: str, hour: float) -> None:
    (local,) = timestamps.local(pa.chunked_array([[text]]), format_)
    assert local % DAY / DAY * 24 == pytest.approx(hour)


def test_the_setting_decides_and_is_said() -> None:
    frame = plant(5)

    def learned(data: pd.DataFrame = frame, **settings: object) -> tuple[Profile | None, str]:
        source = open_memory(data, DataConfig.model_validate(settings))
        return source.learn(np.arange(len(data))).profile, " ".join(source.notes)

    profile, notes = learned()
    assert profile is not None
    assert "what is usual at a time of day is taken off the sensors that follow it" in notes
    assert "--set data.calendar=none judges steps whatever their time" in notes
    assert learned(calendar="none") == (None, "")
    assert learned(frame[: 96 * 2]) == (None, "")
    with pytest.raises(DataError, match="calendar=day needs a time column"):
        learned(frame.drop(columns="time"), calendar="day", kind="series")
    with pytest.raises(DataError, match="should span 3 cycles; leave"):
        learned(frame[: 96 * 2], calendar="day")


def test_the_phase_is_the_last_condition_and_needs_times() -> None:
    frame = plant(5).assign(mode=["x", "y"] * 240)
    config = DataConfig.model_validate({"condition": ["mode"]})
    source = open_memory(frame, config)
    layout = source.learn(np.arange(len(frame)))
    chunk = next(source.chunks(layout, 10))
    assert chunk.condition is not None
    np.testing.assert_array_equal(chunk.condition[:3, 0], [0, 1, 0])
    np.testing.assert_allclose(np.diff(chunk.condition[:, 1]), 0.25)  # of the hours of a day
    late = open_memory(frame[50:60], config)
    np.testing.assert_array_equal(
        next(late.chunks(layout, 3)).condition, next(source.chunks(layout, 99)).condition[50:53]
    )
    without = open_memory(frame.drop(columns="time"), config.model_copy(update={"kind": "series"}))
    with pytest.raises(DataError, match="no time column, and the detector judges by the time of day"):
        next(without.chunks(layout, 10))
