"""The file that you have: unlabelled tables with anomalies somewhere in them, fitted and scored on the same rows.

    python -m pipelines.unlabelled FOLDER [FOLDER ...]       npz files with X, y (1 = anomaly), or with train, test, y
    python -m pipelines.unlabelled FOLDER --only 6_cardio --seeds 1 --half report

Rows come with their anomalies as they are, cut to 2,000 by a draw that keeps the share of anomalies; nobody sees a
label but the figures. Ours is `Detector.training_scores`, each row by models that never saw it; kNN leaves each row
itself out; IForest and LOF score the rows that they were fitted on, as is usual. `recalled` scores the same rows again
with the saved detector. `--half develop` runs every second table by name from the first, on which the defaults of this
mode were chosen; `--half report` the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from anomaly_vae.detector.detector import Detector
from pipelines.baselines import OURS, Rows, ranking, seconds, timed
from pipelines.study import Figures, Study, arguments, chosen, paired, settings
from pipelines.tables import names

CAP = 2_000  # rows of a table
HALVES = {"develop": slice(0, None, 2), "report": slice(1, None, 2), "all": slice(None)}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "unlabelled", seeds=1)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--half", choices=HALVES, default="all")
    options = parser.parse_args(argv)
    config = settings(options)
    files = {f"{path.name}/{name}": path / f"{name}.npz" for path in options.folders for name in names(path)}
    halves = [f"{path.name}/{name}" for path in options.folders for name in names(path)[HALVES[options.half]]]

    def compute(name: str, seed: int) -> Figures:
        X, anomalous = draw(files[name], seed)
        detector, fit_seconds = timed(lambda: Detector.fit(X, config=config, seed=seed))
        own = detector.training_scores
        assert own is not None
        again, score_seconds = timed(lambda: detector.score(X))
        found = {OURS: ranking(anomalous, own.total) | seconds(fit_seconds, score_seconds)}
        found[f"{OURS} recalled"] = ranking(anomalous, again)
        found |= {f"{OURS} {part} alone": ranking(anomalous, nats) for part, nats in (own.raw or own.parts).items()}
        return found | {method: ranking(anomalous, scores) for method, scores in rivals(X, seed).items()}

    data = " ".join(str(path.resolve()) for path in options.folders)
    with Study("unlabelled", options.out, config, data) as study:
        study.grid(chosen(halves, options.only), options.seeds, compute, options.engine)
        others = [row for row in study.rows if not row["method"].startswith(f"{OURS} ")]
        study.finish({"paired": paired(others, OURS, ("auroc", "aupr"))})


def draw(path: Path, seed: int) -> tuple[Rows, NDArray[np.bool_]]:
    """(rows, which are anomalous) of a table, in random order."""
    with np.load(path, allow_pickle=False) as file:
        if "X" in file:
            X, y = file["X"], file["y"]
        else:
            X, y = np.r_[file["train"], file["test"]], np.r_[np.zeros(len(file["train"]), int), file["y"]]
    X, anomalous, rng = np.nan_to_num(X.astype(np.float64)), y.astype(int) == 1, np.random.default_rng(seed)
    if len(X) <= CAP:
        rows = rng.permutation(len(X))
        return X[rows], anomalous[rows]
    odd, normal = np.flatnonzero(anomalous), np.flatnonzero(~anomalous)
    count = min(len(odd), max(5, round(CAP * len(odd) / len(X))))
    rows = rng.permutation(np.r_[rng.choice(odd, count, replace=False), rng.choice(normal, CAP - count, replace=False)])
    return X[rows], anomalous[rows]


def rivals(X: Rows, seed: int) -> dict[str, NDArray[np.float64]]:
    """The scores of other methods, on standardised columns."""
    Z = StandardScaler().fit_transform(X)
    apart = NearestNeighbors(n_neighbors=min(5, len(Z) - 1)).fit(Z).kneighbors()[0]  # of others than itself
    return {
        "kNN mean of 5": apart.mean(axis=1),
        "kNN nearest": apart[:, 0],
        "IForest": -IsolationForest(random_state=seed).fit(Z).score_samples(Z),
        "LOF": -LocalOutlierFactor(min(20, len(Z) - 1)).fit(Z).negative_outlier_factor_,
    }


if __name__ == "__main__":
    main()
