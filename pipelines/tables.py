"""ADBench's and OddBench's tables, trained on normal rows only: our default beside kNN, IForest, LOF, OCSVM and PyOD's
VAE.

    python -m pipelines.tables FOLDER                  FOLDER holds npz files, see below
    python -m pipelines.tables FOLDER --half reporting --seeds 1
    python -m pipelines.tables FOLDER --only 4_breastw --seeds 1

ADBench: X (N, F) and y (1 = anomaly), the protocol of Livernoche et al. 2023: tables over 10,000 rows are cut to 10,000
by a stratified draw, half of the normals train, the other half and all anomalies are scored; seeds 0-4. OddBench:
train (N, F), test (M, F) and y of test. A default is chosen on the development half and reported on the other, see
`collections.yaml`. The row `anomaly-vae recon + kl` ranks by the
VAE alone, `anomaly-vae PART alone` by one part of our score, from the same fit. The sd over seeds says nothing of the
choice of tables: the table `paired` has wins and losses against each rival over tables, and the p-value of Wilcoxon's
signed ranks.

PyOD's VAE has its KL clamped to 0 by its own default; a second row has the KL in the loss. Both need the extra `bench`
and are left out, with a line that says so, where it cannot be imported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import baselines
from pipelines.baselines import OURS, Rows
from pipelines.study import Figures, Study, arguments, chosen, listed, paired, settings

CAP = 10_000  # rows of a table


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "tables", halves=True)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    config = settings(options)
    others = baselines.TABLES | (baselines.PYOD if baselines.has_pyod() else {})

    def compute(name: str, seed: int) -> Figures:
        train, test, anomalous = draw(options.folder / f"{name}.npz", seed)
        found = baselines.measure_ours(train, test, anomalous, config, seed)
        for method, fit in others.items():
            found[method] = baselines.measure(fit, train, test, anomalous, seed)
        return found

    with Study("tables", options.out, config, str(options.folder.resolve())) as study:
        half = listed(names(options.folder), options.half, "adbench", "oddbench")
        study.grid(chosen(half, options.only), options.seeds, compute, options.engine)
        rivals = [row for row in study.rows if not row["method"].startswith(f"{OURS} ")]  # no single parts of ours
        study.finish({"paired": paired(rivals, OURS, ("auroc", "aupr"))})


def names(folder: Path) -> list[str]:
    """The tables of a folder. Exits with a message where there are none."""
    found = sorted(path.stem for path in folder.glob("*.npz"))
    if not found:
        raise SystemExit(f"{folder}: holds no .npz files")
    return found


def draw(path: Path, seed: int) -> tuple[Rows, Rows, NDArray[np.bool_]]:
    """(training rows, scored rows, which of the scored are anomalous) of one table; without a draw where it says what
    trains."""
    with np.load(path, allow_pickle=False) as file:
        if "train" in file:
            return file["train"].astype(np.float64), file["test"].astype(np.float64), file["y"] == 1
        X, y = file["X"].astype(np.float64), file["y"].astype(int)
    rng = np.random.default_rng(seed)
    if len(X) > CAP:
        anomalies, normals = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
        k = max(1, round(CAP * len(anomalies) / len(X)))
        keep = np.r_[rng.choice(anomalies, k, replace=False), rng.choice(normals, CAP - k, replace=False)]
        X, y = X[keep], y[keep]
    normals = rng.permutation(np.flatnonzero(y == 0))
    test = np.r_[normals[len(normals) // 2 :], np.flatnonzero(y == 1)]
    return X[normals[: len(normals) // 2]], X[test], y[test] == 1


if __name__ == "__main__":
    main()
