"""Eight faults of sensors in a drawn log: which does the default find, and how often is a week without any disturbed?

    python -m pipelines.series_faults --seeds 1
    python -m pipelines.series_faults --only stuck --only noise --set training.steps=400

The log: SENSORS sensors every five minutes, a daily cycle each, loads that several share and that wander (AR(1), 0.98),
white noise of 0.3 of a load's standard deviation, quieter weekends. Three weeks train without labels; three weeks that
follow, without a fault, say how many false events a week there are: alarms less than an hour apart are one event. Then
each fault is drawn COPIES times into copies of these weeks, at a time and in a sensor that are drawn.

level      a sensor stands off by 1.5 of its standard deviations for 6 hours
spike      6 standard deviations for one step
stuck      repeats its last value for 6 hours
lost       wanders off the process: its mean and white noise of its usual size, for 6 hours
noise      four times its white noise, for 6 hours
drift      runs away, to 3 standard deviations within two days
hour       shows for 6 hours what it showed half a day before
phase      all sensors are a quarter of a day late, for a day

Columns: found, share of copies with an alarm while the fault lasts or in the hour after it; steps, share of its steps
that are alarms; false_week, false events a week. A fault counts as found at half of its copies. One seed: about two
minutes with one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.detector.detector import Detector
from pipelines.baselines import OURS
from pipelines.series_alarms import autoregressive
from pipelines.study import Figures, Study, arguments, chosen, settings

SENSORS, LOADS, DAY, WEEK = 8, 3, 288, 2016  # steps of a day and of a week
TRAIN, FRESH, COPIES, HOUR = 3 * WEEK, 3 * WEEK, 6, 12
NOISE, WEEKEND = 0.3, 0.6
Rows = NDArray[np.float64]
Fitted = tuple[Detector, Rows, Rows, NDArray[np.bool_]]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "series_faults", seeds=3)
    options = parser.parse_args(argv)
    config, names = settings(options, data={"kind": "series"}, split=NO_TEST), chosen(FAULTS, options.only)
    with Study("series_faults", options.out, config, "drawn log") as study:
        for seed in range(options.seeds):
            fitted = cache(partial(fit, config, seed))
            for name in names:
                study.cell(name, seed, partial(compute, name, fitted, seed))
        study.finish({"faults": faults_found(pd.DataFrame(study.rows))}, children=False)


def compute(fault: str, fitted: Callable[[], Fitted], seed: int) -> Figures:
    return {OURS: figures(fault, *fitted(), seed)}


def fit(config: Config, seed: int) -> Fitted:
    """The detector of a log, its fresh steps, their white noise, and which of them are alarms without any fault."""
    log, noise = drawn(TRAIN + FRESH, seed)
    detector = Detector.fit(timed(log[:TRAIN], 0), config=config, seed=seed)
    fresh = log[TRAIN:]
    return detector, fresh, noise[TRAIN:], detector.predict(timed(fresh, TRAIN))


def timed(log: Rows, first: int) -> pd.DataFrame:
    """Steps (N, SENSORS), of which the first is number `first` from a Monday on, with their times."""
    frame = pd.DataFrame(log, columns=[f"sensor{number}" for number in range(log.shape[1])])
    frame["time"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(5 * (first + np.arange(len(log))), "min")
    return frame


def figures(
    fault: str, detector: Detector, fresh: Rows, noise: Rows, false: NDArray[np.bool_], seed: int
) -> dict[str, float]:
    rng = np.random.default_rng([seed, list(FAULTS).index(fault)])
    spread, found, steps = fresh.std(axis=0), [], []
    make, length = FAULTS[fault]
    for _ in range(COPIES):
        log, first, sensor = fresh.copy(), int(rng.integers(DAY, FRESH - 2 * DAY - length)), int(rng.integers(SENSORS))
        here = slice(first, first + length)
        make(log, noise, here, sensor, float(spread[sensor]), rng)
        # scored from a day before on, which is more than a score looks back
        scored = timed(log[first - DAY : first + length + DAY], TRAIN + first - DAY)
        alarms = detector.predict(scored)[DAY : DAY + length + HOUR]
        found.append(alarms.any())
        steps.append(alarms[:length].mean())
    return {
        "found": float(np.mean(found)),
        "steps": float(np.mean(steps)),
        "false_week": events(false) / (FRESH / WEEK),
    }


def events(alarms: NDArray[np.bool_]) -> int:
    """The number of alarms (N,) that no other precedes by an hour or less."""
    return int((np.diff(np.flatnonzero(alarms), prepend=-2 * HOUR) > HOUR).sum())


def faults_found(frame: pd.DataFrame) -> pd.DataFrame:
    """One row: how many faults are found in at least half of the copies of all seeds, and false events a week."""
    by_fault = frame.groupby("file")[["found", "steps", "false_week"]].mean()
    return pd.DataFrame(
        {
            "faults": [len(by_fault)],
            "faults_found": [int((by_fault["found"] >= 0.5).sum())],
            "steps": [by_fault["steps"].mean()],
            "false_week": [by_fault["false_week"].mean()],
        },
        index=[OURS],
    )


def drawn(steps: int, seed: int) -> tuple[Rows, Rows]:
    """(steps, SENSORS) of a log in units of its own, and the white noise that is in it."""
    rng = np.random.default_rng([seed, 0])
    time = np.arange(steps)[:, None]
    phase = rng.uniform(0, 2 * np.pi, SENSORS)
    cycle = np.sin(2 * np.pi * time / DAY + phase) + 0.4 * np.sin(4 * np.pi * time / DAY + 2 * phase)
    busy = np.where(time // DAY % 7 >= 5, WEEKEND, 1.0)
    loads = autoregressive(rng, steps, LOADS, 0.98) @ rng.normal(size=(LOADS, SENSORS)) / np.sqrt(LOADS)
    size = rng.uniform(2.0, 20.0, SENSORS)
    noise = size * NOISE * rng.normal(size=(steps, SENSORS))
    return 50.0 + size * (busy * 1.5 * cycle + loads) + noise, noise


# --- faults: each changes a log (N, SENSORS) in place, `here` in one sensor or all ---------------------------------

Fault = Callable[[Rows, Rows, slice, int, float, np.random.Generator], None]


def level(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here, sensor] += 1.5 * spread


def spike(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here, sensor] += 6 * spread


def stuck(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here, sensor] = log[here.start - 1, sensor]


def lost(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here, sensor] = log[:, sensor].mean() + noise[here, sensor]


def noisy(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here, sensor] += 3 * noise[here, sensor]


def drift(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here, sensor] += 3 * spread * np.linspace(0, 1, here.stop - here.start)


def late(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here] = log[here.start - DAY // 4 : here.stop - DAY // 4].copy()


def half_a_day(log: Rows, noise: Rows, here: slice, sensor: int, spread: float, rng: np.random.Generator) -> None:
    log[here, sensor] = log[here.start - DAY // 2 : here.stop - DAY // 2, sensor].copy()


FAULTS: dict[str, tuple[Fault, int]] = {  # name: what it does, and for how many steps
    "level": (level, 6 * HOUR),
    "spike": (spike, 1),
    "stuck": (stuck, 6 * HOUR),
    "lost": (lost, 6 * HOUR),
    "noise": (noisy, 6 * HOUR),
    "drift": (drift, 2 * DAY),
    "phase": (late, DAY),
    "hour": (half_a_day, 6 * HOUR),
}


if __name__ == "__main__":
    main()
