"""SKAB and ASD: our default for series beside PCA reconstruction, IForest and a plain convolutional autoencoder.

    python -m pipelines.series FOLDER                  a folder of SKAB, of ASD, or one that holds both
    python -m pipelines.series FOLDER --only skab/valve1/0 --seeds 1
    python -m pipelines.series FOLDER/asd --half reporting

SKAB: CSVs with `;`, a datetime, sensors, `anomaly` and `changepoint`; per file the first 400 rows train, the rest is
scored, in one stream with those the detector has seen before. ASD: a folder a machine with train.csv.gz and
test.csv.gz, whose `label` says what is anomalous. No label is used in training or for the threshold.

Threshold, one rule for all methods: the last training rows are held out from the fit (`settings.NO_TEST` says how
many), and a step is an alarm where it lies in the upper tail of their scores, by our default (`threshold.unlabelled`)
and the number of independent steps that they are worth.

far = FP / (FP + TN), mar = FN / (FN + TP), by time step and never point-adjusted. The table `joined` has them over the
joined predictions of all files, as SKAB's leaderboard does, and the mean over files of auroc, aupr and vus_pr; `paired`
compares us with each rival over files. Our nats of a step are a mean over 8 steps; one PCA has that mean too.

16 files of SKAB's valve1 and 6 machines of ASD, three seeds: about 20 minutes with one thread; SKAB F1 0.846 at 3.7 %
false alarms, ASD AUROC 0.898 and AUPR 0.595; windowed PCA 0.831 at 18.6 %, 0.773 and 0.345.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.tails import independent_scores
from anomaly_vae.detector.thresholds import choose
from anomaly_vae.models.likelihoods import LOG_2PI
from pipelines import baselines
from pipelines.baselines import OURS, Rows
from pipelines.study import Figures, Study, arguments, by_seed, chosen, listed, natural, paired, settings
from pipelines.vus import vus_pr

TRAIN = 400  # rows of a SKAB file
COUNTS = ("tp", "fp", "fn", "tn")
PLAIN: dict[str, dict[str, Any]] = {  # the same network as an autoencoder that minimises the mean squared error
    "model": {"sigma": "fixed", "sigma_value": 1.0},
    "objective": {"beta": 0.0, "free_bits": 0.0, "free_bits_total": 0.0},
    "training": {"noise": 0.0},
    "scoring": {"recon": "likelihood"},
}


@dataclass(frozen=True)
class Series:
    """One file or machine. stream (M, F) is what is scored; its steps from `first` on are judged by `anomalous`."""

    collection: str
    train: Rows
    stream: Rows
    first: int
    anomalous: NDArray[np.bool_]


Fitted = tuple[Callable[[Rows], NDArray[np.float64]], float]  # the score of a stream, and the threshold


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "series", seeds=3, halves=True)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    base: dict[str, Any] = {"data": {"kind": "series"}, "split": NO_TEST}
    config, plain = settings(options, **base), settings(options, **base, **PLAIN)
    files = find(options.folder)
    with Study("series", options.out, config, str(options.folder.resolve()), hidden=COUNTS) as study:
        names = listed(chosen(files, options.only), options.half, "skab", "asd", "smd")
        study.grid(names, options.seeds, lambda name, seed: compare(files[name](), config, plain, seed), options.engine)
        frame = pd.DataFrame(study.rows)
        frame["collection"] = [files[file].collection if file in files else "" for file in frame["file"]]
        study.finish({"joined": joined(frame), "paired": paired(study.rows, OURS, ("auroc", "aupr", "vus_pr"))})


def compare(series: Series, config: Config, plain: Config, seed: int) -> Figures:
    """The figures of all methods on one series."""
    rule = config.threshold.unlabelled or KINDS["series"].defaults["threshold"]["unlabelled"]
    methods: dict[str, Callable[[], Fitted]] = {
        OURS: lambda: fit_ours(series.train, config, seed),
        "Conv-AE": lambda: fit_autoencoder(series.train, plain, seed, rule),
    }
    for name, method in baselines.SERIES.items():
        methods[name] = lambda method=method: fit_baseline(method, series.train, seed, rule)  # type: ignore[misc]
    found = {}
    for name, fit in methods.items():
        (score, threshold), fit_seconds = baselines.timed(fit)
        scores, score_seconds = baselines.timed(lambda score=score: score(series.stream)[series.first :])  # type: ignore[misc]
        found[name] = figures(series.anomalous, scores, threshold) | baselines.seconds(fit_seconds, score_seconds)
    return found


def fit_ours(train: Rows, config: Config, seed: int) -> Fitted:
    detector = Detector.fit(train, config=config, seed=seed)
    return detector.score, detector.threshold.value


def fit_autoencoder(train: Rows, config: Config, seed: int, rule: str) -> Fitted:
    detector = Detector.fit(train, config=config, seed=seed)

    def error(rows: Rows) -> NDArray[np.float64]:
        nats = detector.parts(rows).parts["recon"]  # of sigma 1: half the squared error and a constant
        return np.asarray(np.maximum(2 * nats / rows.shape[1] - LOG_2PI, 1e-12))

    return error, tail(error(train), rule)


def fit_baseline(method: baselines.Method, train: Rows, seed: int, rule: str) -> Fitted:
    score = method(train[: round(NO_TEST["train"] * len(train))], seed)
    return score, tail(score(train), rule)


def tail(scores: NDArray[np.float64], rule: str) -> float:
    """The threshold from the scores of all training rows, of which the last were held out."""
    held = np.maximum(scores[round(NO_TEST["train"] * len(scores)) :], 1e-12)
    return choose(rule, held, np.empty(0), independent=independent_scores(held)).value


def figures(anomalous: NDArray[np.bool_], scores: NDArray[np.float64], threshold: float) -> dict[str, float]:
    alarms = scores >= threshold
    pairs = ((anomalous & alarms), (~anomalous & alarms), (anomalous & ~alarms), (~anomalous & ~alarms))
    counts = dict(zip(COUNTS, (float(pair.sum()) for pair in pairs), strict=True))
    found = baselines.ranking(anomalous, scores) | {"vus_pr": vus_pr(anomalous, scores)}
    return found | rates(**counts) | counts


def rates(tp: float, fp: float, fn: float, tn: float) -> dict[str, float]:
    nan = float("nan")
    return {
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else nan,
        "far": fp / (fp + tn) if fp + tn else nan,
        "mar": fn / (fn + tp) if fn + tp else nan,
    }


def joined(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a collection and method: rates over the joined predictions, rankings averaged over files."""
    groups = frame.groupby(["collection", "method", "seed"], sort=False)
    ranked = groups[["auroc", "aupr", "vus_pr"]].mean()
    sums = groups[list(COUNTS)].sum()
    found = pd.DataFrame([rates(**row) for row in sums.to_dict("records")], index=sums.index).join(ranked)
    return by_seed(found, ["collection", "method"])


# --- files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A series still on disk."""

    collection: str
    path: Path

    def __call__(self) -> Series:
        return read_skab(self.path) if self.collection == "skab" else read_asd(self.path)


def find(folder: Path) -> dict[str, File]:
    """Name -> series of either collection anywhere under a folder. Exits with a message where there is none."""
    found = {}
    for path in folder.rglob("*.csv"):
        with open(path, encoding="utf-8") as file:
            if "anomaly" in file.readline().strip().split(";"):
                found[str(path.relative_to(folder).with_suffix(""))] = File("skab", path)
    for path in folder.rglob("test.csv.gz"):
        if (path.parent / "train.csv.gz").is_file():
            name = str(path.parent.relative_to(folder)) if path.parent != folder else folder.resolve().name
            found[name] = File("asd", path.parent)
    if not found:
        raise SystemExit(f"{folder}: holds neither CSVs with a column 'anomaly' nor train.csv.gz beside test.csv.gz")
    return {name: found[name] for name in sorted(found, key=natural)}


def read_skab(path: Path) -> Series:
    table = pd.read_csv(path, sep=";")
    steps = numbers(table.drop(columns=["datetime", "anomaly", "changepoint"], errors="ignore"))
    return Series("skab", steps[:TRAIN], steps, TRAIN, table["anomaly"].to_numpy()[TRAIN:] > 0)


def read_asd(folder: Path) -> Series:
    train, test = pd.read_csv(folder / "train.csv.gz"), pd.read_csv(folder / "test.csv.gz")
    sensors = [column for column in test if column != "label"]
    return Series("asd", numbers(train[sensors]), numbers(test[sensors]), 0, test["label"].to_numpy() > 0)


def numbers(table: pd.DataFrame) -> Rows:
    """(N, F), row after row in memory: the last bits of a mean depend on that order."""
    return np.ascontiguousarray(table.to_numpy(np.float64))


if __name__ == "__main__":
    main()
