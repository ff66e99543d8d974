"""Sample data for trying the commands: two data sets of scikit-learn, and a synthetic plant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

STEPS = 3_000  # number of time steps of the synthetic plant, 10 s each
RHYTHM = 360  # steps of one working cycle, an hour
SENSORS = ("temperature", "pressure", "flow", "speed", "vibration", "current")


def digits() -> pd.DataFrame:
    """scikit-learn's 1797 handwritten digits: `label` (0-9), then `pixel_0_0` ... `pixel_7_7` (row, column; 0-255)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images.reshape(-1, 64) * (255 / 16)).astype(np.int64)  # (N, 64), from 0-16
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    frame = pd.DataFrame(pixels, columns=names)
    frame.insert(0, "label", data.target.astype(np.int64))
    return frame


def table() -> pd.DataFrame:
    """scikit-learn's breast cancer data: 569 rows, 30 measures, and `diagnosis` (benign or malignant)."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    frame = pd.DataFrame(data.data, columns=[str(name).replace(" ", "_") for name in data.feature_names])
    frame["diagnosis"] = np.asarray(data.target_names)[data.target].astype(str)
    return frame


def series(seed: int = 0) -> pd.DataFrame:
    """A synthetic plant: 3000 steps of 10 s, six correlated sensors with an hourly rhythm, and faults.

    Columns: `time` (ISO 8601), the sensors (temperature in °C, pressure in bar, flow in l/min, speed in rpm, vibration
    in mm/s, current in A) and `anomaly` (1 within a fault). The first half is free of faults. In the second half a
    sensor sticks, a level shifts, a correlation breaks and noise bursts, each twice. The same seed gives the same data.
    """
    rng = np.random.default_rng(seed)
    values = _healthy(rng)
    anomaly = np.zeros(STEPS, dtype=np.int64)
    faults = (_stuck, _shifted, _decoupled, _noisy) * 2
    # One fault in each eighth of the second half, at a random start, with normal steps before and after it.
    eighth = STEPS // 2 // len(faults)
    for number, fault in enumerate(faults):
        length = int(rng.integers(30, 71))
        start = STEPS // 2 + number * eighth + int(rng.integers(40, eighth - length - 20))
        fault(values[start : start + length], rng)
        anomaly[start : start + length] = 1
    time = pd.date_range("2025-01-01", periods=STEPS, freq="10s").strftime("%Y-%m-%dT%H:%M:%S")
    frame = pd.DataFrame(np.round(values, 3), columns=list(SENSORS))
    frame.insert(0, "time", np.asarray(time, dtype=object))
    frame["anomaly"] = anomaly
    return frame


SAMPLES: dict[str, Callable[[], pd.DataFrame]] = {"digits": digits, "table": table, "series": series}

# The options that `fit` needs for each: without them it trains on the anomalies and reads the label as an input.
LABELLED = {"digits": "--label label --normal 3", "table": "--label diagnosis", "series": "--label anomaly"}


def _healthy(rng: np.random.Generator) -> NDArray[np.float64]:
    """Normal operation, (STEPS, 6): the load follows the rhythm and drives every sensor, with delay and noise."""
    step = np.arange(STEPS)
    rhythm = 0.5 * np.sin(2 * np.pi * step / RHYTHM) + 0.2 * np.sin(4 * np.pi * step / RHYTHM + 0.7)
    load = 1 + rhythm + 0.15 * _smooth(rng.normal(size=STEPS), 30)  # dimensionless, around 1
    warmth = _smooth(load, 40)  # heat follows the load slowly
    noise = rng.normal(size=(STEPS, len(SENSORS)))
    speed = 1_450 + 260 * load + 6 * noise[:, 3]
    columns = (
        41 + 14 * warmth + 0.25 * noise[:, 0],
        2.2 + 0.9 * load + 0.03 * noise[:, 1],
        18 + 22 * load + 0.5 * noise[:, 2],
        speed,
        0.8 + 0.0006 * (speed - 1_450) + 0.03 * noise[:, 4],
        3.5 + 4.2 * load + 0.05 * (warmth - 1) + 0.1 * noise[:, 5],
    )
    return np.stack(columns, axis=1)


def _smooth(x: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """The exponential moving average of x (N,) with a time constant of `steps` steps."""
    out = np.empty_like(x)
    state = x[0]
    for i, value in enumerate(x):
        state += (value - state) / steps
        out[i] = state
    return out


# Each fault changes `part`, (T, 6), in place.


def _stuck(part: NDArray[np.float64], rng: np.random.Generator) -> None:
    """One sensor repeats its first value of the part."""
    sensor = int(rng.integers(3))
    part[:, sensor] = part[0, sensor]


def _shifted(part: NDArray[np.float64], rng: np.random.Generator) -> None:
    """The level of one sensor jumps: pressure by a bar, or current by 3 A."""
    sensor, by = ((1, 1.0), (5, 3.0))[int(rng.integers(2))]
    part[:, sensor] += by


def _decoupled(part: NDArray[np.float64], rng: np.random.Generator) -> None:
    """The flow falls when the load rises. Its values stay in their normal range: only the correlation is wrong."""
    part[:, 2] = 2 * 40 - part[:, 2] + 6 * np.sin(np.linspace(0, 2 * np.pi, len(part)))


def _noisy(part: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Vibration and speed get noisy, as with a loose bearing."""
    part[:, 4] += 0.25 * np.abs(rng.normal(size=len(part)))
    part[:, 3] += 45 * rng.normal(size=len(part))
