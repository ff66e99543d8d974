"""Compares all models as detectors on sets of each kind of data.

    python -m pipelines.family FOLDER                       FOLDER holds mnist/, adbench/ and skab/
    python -m pipelines.family FOLDER --only "digit 8" --set training.steps=300

Pictures: MNIST, one digit against the rest, as in `one_class_images`. Tables: ADBench, as in `tables`. Series: SKAB,
the first 400 steps of a file train, as in `series`. Each member has its own defaults, nothing is tuned.

A table takes about a minute, a valve four, a digit with the second command half an hour (one thread of a busy CPU); the
AUROCs are in FAMILY.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.detector.detector import Detector
from pipelines import baselines, one_class_images, series, tables
from pipelines.idx import read_set
from pipelines.study import Figures, Study, arguments, chosen, settings

NAME = "family"
DIGITS = (3, 8)
TABLES = ("6_cardio", "40_vowels", "15_Hepatitis", "4_breastw")
VALVES = ("valve1/0", "valve1/1", "valve1/2")
MEMBERS: dict[str, dict[str, dict[str, Any]]] = {  # kind of data -> member -> its model, the rest being defaults
    "pixels": {
        "conv2d": {},
        "dense": {"kind": "dense"},
        "flow": {"kind": "flow"},
        "hierarchical": {"kind": "hierarchical"},
        "vq": {"kind": "vq"},
        "kl_autoencoder": {"kind": "kl_autoencoder", "channels": [16, 32, 32, 32]},
    },
    "table": {"dense": {}, "dense, one member": {"members": 1}, "flow": {"kind": "flow"}},
    "series": {
        "conv1d": {},
        "dense": {"kind": "dense", "hidden": [64]},
        "flow": {"kind": "flow"},
        "hierarchical": {"kind": "hierarchical"},
        "vq": {"kind": "vq"},
    },
}
Drawn = tuple[NDArray[Any], NDArray[Any], Callable[[NDArray[np.float64]], NDArray[np.float64]], NDArray[np.bool_]]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, NAME, seeds=1)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    sets = find(options.folder)

    def compute(name: str, seed: int) -> Figures:
        kind, draw = sets[name]
        train, test, select, anomalous = draw(seed)
        figures = {}
        for member, model in MEMBERS[kind].items():
            config = settings(options, data={"kind": kind}, split=NO_TEST, model=model)
            fit = baselines.timed(lambda config=config: Detector.fit(train, config=config, seed=seed))  # type: ignore[misc]
            detector, seconds = fit
            parameters = sum(p.numel() for p in detector.score_model.model.parameters())
            ranked = baselines.ranking(anomalous, select(detector.score(test)))
            figures[member] = ranked | {"parameters": float(parameters), "fit_seconds": seconds}
            print(f"  {member}: {ranked['auroc']:.4f}, {seconds:.0f} s", flush=True)
        return figures

    with Study(NAME, options.out, settings(options, split=NO_TEST), str(options.folder.resolve())) as study:
        study.grid(chosen(sets, options.only), options.seeds, compute)
        study.finish()


def find(folder: Path) -> dict[str, tuple[str, Callable[[int], Drawn]]]:
    """Name -> the kind of data, and a function of a seed that draws (training samples, scored samples, a selection of
    the scores that count, their labels)."""
    sets: dict[str, tuple[str, Callable[[int], Drawn]]] = {}
    for digit in DIGITS:
        sets[f"digit {digit}"] = ("pixels", lambda seed, digit=digit: of_digit(folder / "mnist", digit))  # type: ignore[misc]
    for table in TABLES:
        sets[table] = ("table", lambda seed, table=table: of_table(folder / "adbench" / f"{table}.npz", seed))  # type: ignore[misc]
    for valve in VALVES:
        sets[valve] = ("series", lambda seed, valve=valve: of_series(folder / "skab" / f"{valve}.csv"))  # type: ignore[misc]
    return sets


def of_digit(folder: Path, digit: int) -> Drawn:
    train, test, anomalous = one_class_images.one_class(read_set(folder), digit)
    return train, test, lambda scores: scores, anomalous


def of_table(path: Path, seed: int) -> Drawn:
    train, test, anomalous = tables.draw(path, seed)
    return train, test, lambda scores: scores, anomalous


def of_series(path: Path) -> Drawn:
    file = series.read_skab(path)
    return file.train, file.stream, lambda scores: scores[file.first :], file.anomalous


if __name__ == "__main__":
    main()
