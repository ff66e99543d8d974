"""Is the first reason of a score the column, or sensor, that was altered?

    python -m pipelines.reasons FOLDER         FOLDER holds npz files of ADBench and OddBench, and machines of ASD
    python -m pipelines.reasons FOLDER --only 6_cardio

Tables: scikit-learn's breast cancer data and five of the development half, normal rows alone. Two thirds of them, 3,000
at most, train without labels. Each of about 300 other rows gets one fault in one cell; columns of at most 12 values are
made categories.

far        beyond the range of training by as much as that is wide
offset     off by 4 standard deviations
sign       times -1
stuck      0
swapped    the value of another row: only its dependence on the others is wrong
category   another category

Series: a drawn log, and the machine omi-5 of ASD. A sensor has `far`, `offset` or `stuck` (its last value again) for 30
steps, in copies of held-out steps; the step of the fault with the highest score is asked for its reason.

Figures: faults; alarmed, the share of them at or above the threshold; right_alarmed, right: the share of the alarmed
and of all whose first reason is the altered column; before_alarmed, before: the same by the nats of reconstruction
alone, as versions before this study named columns. A row without a reason is not right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.reasons import reasons
from anomaly_vae.scoring.scores import Scores, join
from pipelines import series_faults
from pipelines.series import read_asd
from pipelines.study import Figures, Study, arguments, chosen, settings
from pipelines.tables import draw

TABLES = ("breast_cancer", "6_cardio", "22_magic.gamma", "DiamondClarity", "CloudNetworkAttack", "TreeRiskAssessment")
SERIES = ("drawn log", "asd/omi-5")
FAULTS, SERIES_FAULTS = ("far", "offset", "sign", "stuck", "swapped", "category"), ("far", "offset", "stuck")
COPIES, MOST, FEW = 50, 3000, 12  # of a fault; rows that train; values of a category
LONG, AROUND = 30, 100  # steps of a fault in a series, and before and behind it
Found = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]  # (N,) is an alarm; right now; right before


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "reasons", seeds=1)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    config = settings(options)
    cells: dict[str, Callable[[int], Figures]] = {
        name: partial(of_table, options.folder, name, config) for name in TABLES
    }
    cells |= {name: partial(of_series, options.folder, name, config) for name in SERIES}
    with Study("reasons", options.out, config, str(options.folder.resolve())) as study:
        for name in chosen(cells, options.only):
            for seed in range(options.seeds):
                study.cell(name, seed, partial(cells[name], seed))
        study.finish(children=False)


def of_table(folder: Path, name: str, config: Config, seed: int) -> Figures:
    rng = np.random.default_rng(seed)
    frame = normal_rows(folder, name, rng)
    n_train = min(len(frame) * 2 // 3, MOST)
    train, rest = frame[:n_train], frame[n_train:].reset_index(drop=True)
    detector = Detector.fit(train, config=config, seed=seed, data__contamination=0.0)
    faults, columns, rows = altered(train, rest, rng)
    chunk, scores = _scored(detector, rows)
    names = [column.name for column in detector.layout.columns]
    truth = np.array([names.index(column) if column in names else -2 for column in columns])
    alarm = scores.total >= detector.threshold.value
    first = reasons(detector, chunk, scores, 1, alarm).columns[:, 0]
    return by_fault(faults, (alarm, first == truth, detector.contributions(scores, 1)[0][:, 0] == truth))


def of_series(folder: Path, name: str, config: Config, seed: int) -> Figures:
    rng = np.random.default_rng(seed)
    if name.startswith("asd"):
        [place] = folder.rglob(name.removeprefix("asd/"))
        train, fresh = np.split(read_asd(place).train, [-1500])
    else:
        log, _ = series_faults.drawn(series_faults.TRAIN + 1500, seed)
        train, fresh = log[:-1500], log[-1500:]
    split = {f"split__{name}": share for name, share in NO_TEST.items()}
    detector = Detector.fit(train, config=config, seed=seed, kind="series", **split)
    spread, span = train.std(axis=0), np.ptp(train, axis=0)
    places = {column.name: place for place, column in enumerate(detector.layout.columns)}
    varied = [sensor for sensor in np.flatnonzero(spread > 0) if f"x{sensor}" in places]
    faults, found = [], []
    for fault in SERIES_FAULTS:
        for _ in range(COPIES):
            sensor, start = int(rng.choice(varied)), int(rng.integers(AROUND, len(fresh) - LONG - AROUND))
            piece = fresh[start - AROUND : start + LONG + AROUND].copy()
            part, sign = piece[AROUND : AROUND + LONG, sensor], rng.choice([-1, 1])
            part[:] = {
                "far": np.where(sign > 0, train[:, sensor].max(), train[:, sensor].min()) + sign * span[sensor],
                "offset": part + 4 * sign * spread[sensor],
                "stuck": piece[AROUND - 1, sensor],
            }[fault]
            chunk, scores = _scored(detector, piece)
            inside = np.arange(AROUND, AROUND + LONG)
            peak = inside[[scores.total[inside].argmax()]]
            alarm = scores.total[peak] >= detector.threshold.value
            at = scores.take(peak)
            first = reasons(detector, chunk.take(peak), at, 1, alarm).columns[0, 0]
            faults.append(fault)
            truth = places[f"x{sensor}"]
            found.append((alarm[0], first == truth, detector.contributions(at, 1)[0][0, 0] == truth))
    return by_fault(np.array(faults), tuple(np.array(x) for x in zip(*found, strict=True)))  # type: ignore[arg-type]


def _scored(detector: Detector, rows: pd.DataFrame | NDArray[np.float64]) -> tuple[Chunk, Scores]:
    stream = list(detector.score_source(detector.opened(rows), explain=True))
    return Chunk.join(chunk for chunk, _ in stream), join(stream)


def by_fault(faults: NDArray[np.str_], found: Found) -> Figures:
    """The figures of each fault, and of all."""
    figures: Figures = {}
    for fault in (*dict.fromkeys(faults.tolist()), "all"):
        alarm, right, before = (x[(faults == fault) | (fault == "all")] for x in found)
        figures[fault] = {"faults": float(len(alarm)), "alarmed": float(alarm.mean())}
        for name, hit in (("right", right), ("before", before)):
            some = {f"{name}_alarmed": float(hit[alarm].mean())} if alarm.any() else {}
            figures[fault] |= {**some, name: float(hit.mean())}
    return figures


def normal_rows(folder: Path, name: str, rng: np.random.Generator) -> pd.DataFrame:
    """The normal rows of a table in a drawn order, with columns of few values as text."""
    if name == "breast_cancer":
        from sklearn.datasets import load_breast_cancer

        data = load_breast_cancer()
        X, names = data.data[data.target == 1], list(data.feature_names)
    else:
        [path] = folder.rglob(f"{name}.npz")
        train, test, anomalous = draw(path, 0)
        X = np.concatenate([train, test[~anomalous]])
        names = [f"c{place}" for place in range(X.shape[1])]
    frame = pd.DataFrame(X[rng.permutation(len(X))], columns=names)
    few = [name for name in names if frame[name].nunique() <= FEW]
    return frame.assign(**{name: [f"k{value:g}" for value in frame[name]] for name in few})


def altered(
    train: pd.DataFrame, rest: pd.DataFrame, rng: np.random.Generator
) -> tuple[NDArray[np.str_], list[str], pd.DataFrame]:
    """The fault of each row (N,), the column it is in, and the rows."""
    numbers = [name for name in rest if pd.api.types.is_numeric_dtype(rest[name])]
    texts = [name for name in rest if name not in numbers]
    faults, columns, rows = [], [], []
    for fault in FAULTS:
        among = {"swapped": list(rest), "category": texts}.get(fault, numbers)
        for _ in range(COPIES if among else 0):
            name, value = among[rng.integers(len(among))], None
            for _ in range(100):
                row = int(rng.integers(len(rest)))
                was, value = rest.at[row, name], _value(fault, train[name], rest[name], rest.at[row, name], rng)
                if value != was:
                    break
            else:
                continue
            faults.append(fault)
            columns.append(name)
            rows.append(rest.loc[row].to_dict() | {name: value})
    return np.array(faults), columns, pd.DataFrame(rows)


def _value(fault: str, train: pd.Series, rest: pd.Series, value: object, rng: np.random.Generator) -> object:
    up = rng.random() < 0.5
    if fault == "far":
        span = train.max() - train.min()
        return float(train.max() + span if up else train.min() - span)
    if fault == "offset":
        return float(value) + (4 if up else -4) * train.std()  # type: ignore[arg-type]
    if fault in ("sign", "stuck"):
        return -float(value) if fault == "sign" else 0.0  # type: ignore[arg-type]
    among = rest if fault == "swapped" else pd.Series(train.unique())
    return among.iloc[int(rng.integers(len(among)))]


if __name__ == "__main__":
    main()
