"""Compares the promised false-alarm rate of a threshold chosen without labels with the realised one on unseen normals.

    python -m pipelines.false_alarms FOLDER            FOLDER holds npz tables; scikit-learn's digits come on top
    python -m pipelines.false_alarms FOLDER --only digit-3 --seeds 1
    python -m pipelines.false_alarms FOLDER --contamination 0.05    anomalies among the rows that it is fitted on

For each table, and each digit as pictures of one class, a detector with default settings is fitted on half of the
normals. The other half gives the false alarms at `fpr=RATE` for 1 %, 5 % and 10 %, chosen from the same fit
(`Detector.with_threshold`).

n held-out normals support the rates k / (n + 1) only: the threshold keeps the largest k with k / (n + 1) <= RATE, or
k = 1 with a note where even that is too much; `promised` is that rate. A cell is inside where its count of m lies in
the central 95 % interval (at least 95 %, counts are whole) of
  binomial       (m, promised): as if the threshold's true rate were the promised one;
  beta_binomial  (m; k, n + 1 - k): over exchangeable normals the true rate of a threshold chosen from n of them is
                 itself Beta(k, n + 1 - k) distributed about the promised one (Vovk 2012): the interval is wider.
The first is the stricter reading, and even a perfect conformal threshold leaves it in more than 5 % of the cells where
m is not small beside n; the second is what conformal prediction promises.

With --contamination, so many of the rows that a detector is fitted on are anomalies of the same table, which nobody
tells it of. A promise then needs an assumption: that anomalies score at least as high as normals do. Each anomaly above
the threshold takes the place of a normal, so that fewer normals are above it than promised, never more; what it costs
is recall, unless `--set data.contamination=RATE` says how many there are.

31 tables, one seed: about 3 minutes with one thread; all of 93 cells inside beta_binomial, 41 % inside binomial;
realised 0.047 where 0.058 was promised.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.thresholds import alarm_interval
from pipelines import tables
from pipelines.study import Figures, Study, arguments, chosen, settings

RATES = (0.01, 0.05, 0.10)
DIGITS = {f"digit-{digit}": digit for digit in range(10)}
INSIDE = ("inside_binomial", "inside_beta_binomial")
HIDDEN = ("false_alarms", "supported")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "false_alarms")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--contamination", type=float, default=0.0, help="share of anomalies among the rows fitted on")
    options = parser.parse_args(argv)
    config = settings(options)
    files = chosen([*tables.names(options.folder), *DIGITS], options.only)

    def compute(file: str, seed: int) -> Figures:
        path = options.folder / f"{file}.npz"
        train, unseen, odd = digit(DIGITS[file], seed) if file in DIGITS else normals(path, seed)
        share = options.contamination
        mixed = min(len(odd), round(share / (1 - share) * len(train)))
        train = np.concatenate([train, np.random.default_rng(seed).permutation(odd)[:mixed]])
        detector = Detector.fit(train, config=config, seed=seed)
        scores = detector.score(unseen)
        return {f"{rate:.0%} asked": count(detector, scores, rate) for rate in RATES}

    with Study("false_alarms", options.out, config, str(options.folder.resolve()), hidden=HIDDEN) as study:
        study.grid(files, options.seeds, compute, options.engine)
        study.finish({"shares": shares(pd.DataFrame(study.rows))})


def normals(path: Path, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The two halves of a table's normal rows, drawn as in the study of tables, and its anomalies."""
    train, test, anomalous = tables.draw(path, seed)
    return train, test[~anomalous], test[anomalous]


def digit(label: int, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The two halves of the pictures (N, 8, 8) of one of scikit-learn's digits, and all others."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    every = (bunch.images * (255 / 16)).astype(np.uint8)
    pictures = every[bunch.target == label]
    order = np.random.default_rng(seed).permutation(len(pictures))
    half = len(pictures) // 2
    return pictures[order[:half]], pictures[order[half:]], every[bunch.target != label]


def count(detector: Detector, scores: NDArray[np.float64], rate: float) -> dict[str, float]:
    """The figures of the threshold for `rate`: promised and realised rates, intervals, and numbers of normals.

    scores: (m,) of unseen normals.
    """
    threshold = detector.with_threshold(f"fpr={rate:g}").threshold
    n, m = threshold.normals, len(scores)
    k = max(1, math.floor(rate * (n + 1) + 1e-9))
    alarms = int((scores >= threshold.value).sum())
    figures = {"promised": k / (n + 1), "realised": alarms / m, "calibrated_on": float(n), "unseen": float(m)}
    plain = binom(m, k / (n + 1)).ppf([0.025, 0.975]) / m
    for name, (low, high) in (("binomial", plain), ("beta_binomial", alarm_interval(k, n, m))):
        figures |= {f"{name}_low": low, f"{name}_high": high, f"inside_{name}": float(low <= alarms / m <= high)}
    return figures | {"false_alarms": float(alarms), "supported": float(not threshold.note)}


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """For each requested rate, and for all: the number of cells, mean rates, and the shares inside the intervals."""
    kinds = {1.0: "supported", 0.0: "too few held-out normals"}
    pieces = [
        (f"{rate}, {kinds[supported]}", part)
        for (rate, supported), part in frame.groupby(["method", "supported"], sort=False)
    ]
    pieces = [*pieces, ("all", frame)]
    columns = ["promised", "realised", *INSIDE]
    rows = {name: {"cells": len(part), **part[columns].mean()} for name, part in pieces}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("cells of")


if __name__ == "__main__":
    main()
