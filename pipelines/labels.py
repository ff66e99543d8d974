"""A few labelled anomalies: how much they improve the score of ADBench's and OddBench's tables through `feedback`.

    python -m pipelines.labels FOLDER [FOLDER ...] --half reporting --seeds 1 --set training.steps=200

Normal rows train, at most 1,500; of the others 1,500 normals and 400 anomalies at most are kept (see
`pipelines.tables`). So many anomalies are drawn from them and given to `Detector.feedback`, three times; figures are of
the rest, beside those of the same rows without labels. Tables with fewer than 30 anomalies or more than 120 columns are
left out, and of each folder the --tables smallest are taken. The table `labels` has means over tables, the share of
tables that lose more than 0.002, and the share of normals above the threshold, chosen for 0.01, before and after.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.detector.fit import fit_memory
from anomaly_vae.scoring.scores import weighted
from pipelines.baselines import Rows, ranking
from pipelines.study import Figures, Study, arguments, chosen, listed, settings
from pipelines.tables import draw, names

COUNTS = (0, 1, 2, 3, 5, 10, 20)  # labelled anomalies
DRAWS = 3  # of these
TRAIN, NORMALS, ANOMALIES = 1_500, 1_500, 400  # rows at most
FEWEST, WIDEST = 30, 120  # anomalies and columns of a table
LOST = 0.002


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "labels", halves=True)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--tables", type=int, default=13, help="of each folder")
    options = parser.parse_args(argv)
    config = settings(options)
    files = {name: path for folder in options.folders for name, path in _smallest(folder, options).items()}

    def compute(name: str, seed: int) -> Figures:
        train, test, anomalous = draw(files[name], seed)
        rng = np.random.default_rng(seed)
        train = train[rng.permutation(len(train))[:TRAIN]]
        kept = [rng.permutation(np.flatnonzero(anomalous == kind)) for kind in (False, True)]
        rows = np.r_[kept[0][:NORMALS], kept[1][:ANOMALIES]]
        return measured(train, test[rows], anomalous[rows], config, seed)

    data = " ".join(str(path.resolve()) for path in options.folders)
    with Study("labels", options.out, config, data) as study:
        study.grid(chosen(files, options.only), options.seeds, compute, options.engine)
        study.finish({"labels": summary(pd.DataFrame(study.rows))}, children=False)


def _smallest(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Name -> file of the smallest tables of a folder that can be studied."""
    sizes = {}
    for name in listed(names(folder), options.half, "adbench", "oddbench"):
        path = folder / f"{name}.npz"
        with np.load(path, allow_pickle=False) as file:
            columns, anomalies = file["train" if "train" in file else "X"].shape[1], int((file["y"] == 1).sum())
        if anomalies >= FEWEST and columns <= WIDEST:
            sizes[path] = path.stat().st_size
    return {path.stem: path for path in sorted(sizes, key=lambda path: sizes[path])[: options.tables]}


def measured(train: Rows, test: Rows, anomalous: NDArray[np.bool_], config: Config, seed: int) -> Figures:
    """The figures of each number of labels, means over draws."""
    detector, _ = fit_memory(train, np.zeros(len(train)), config, seed=seed)
    scores, found = detector.parts(test), {}
    for count in COUNTS:
        draws = []
        for repeat in range(DRAWS if count else 1):
            rng = np.random.default_rng((seed, count, repeat))
            given = rng.permutation(np.flatnonzero(anomalous))[:count]
            rest = np.setdiff1d(np.arange(len(test)), given)
            taught = detector.feedback(test[given], np.ones(count)) if count else detector
            parts = weighted(scores.take(rest).parts, taught.score_model.weights)
            totals, plain = np.sum(list(parts.values()), axis=0), scores.total[rest]
            figures, before = ranking(anomalous[rest], totals), ranking(anomalous[rest], plain)
            figures |= {f"{name}_gain": figures[name] - before[name] for name in before}
            normals = ~anomalous[rest]
            figures["false_alarms_without"] = float((plain[normals] >= detector.threshold.value).mean())
            figures["false_alarms"] = float((totals[normals] >= taught.threshold.value).mean())
            figures["weighted"] = float(taught.score_model.weights is not None)
            draws.append(figures)
        found[f"{count} labels"] = {name: float(np.mean([d[name] for d in draws])) for name in draws[0]}
    return found


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each number of labels."""
    tables = rows.groupby(["method", "file"], sort=False).mean(numeric_only=True).drop(columns="seed")
    means = tables.groupby("method", sort=False).mean()
    for name in ("auroc", "aupr"):
        means[f"{name}_lost"] = (tables[f"{name}_gain"] < -LOST).groupby("method", sort=False).mean()
    return means


if __name__ == "__main__":
    main()
