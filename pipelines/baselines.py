"""The methods that the studies compare: ours, through `Detector`, and common baselines.

A baseline has the default settings of its library unless its code says otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from anomaly_vae.core.config import Config
from anomaly_vae.data.units import moments, smallest_step
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.parts.sensor_level import SMOOTH, centred_mean
from anomaly_vae.scoring.scores import Scores
from pipelines.study import Figures

Rows = NDArray[Any]  # (N, F)
Score = Callable[[Rows], NDArray[np.float64]]  # (N, F) -> (N,), higher is more anomalous
Method = Callable[[Rows, int], Score]  # training rows and a seed -> the fitted score
T = TypeVar("T")

OURS = "anomaly-vae"


def ranking(anomalous: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, float]:
    """The auroc and aupr (average precision); NaN if a class is missing, which means over files ignore."""
    if anomalous.all() or not anomalous.any():
        return {"auroc": float("nan"), "aupr": float("nan")}
    return {
        "auroc": float(roc_auc_score(anomalous, scores)),
        "aupr": float(average_precision_score(anomalous, scores)),
    }


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work`, and its wall-clock time in seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def seconds(fit: float, score: float) -> dict[str, float]:
    return {"fit_seconds": fit, "score_seconds": score}


def measure(method: Method, train: Rows, test: Rows, anomalous: NDArray[np.bool_], seed: int) -> dict[str, float]:
    """The figures of a baseline."""
    score, fit_seconds = timed(lambda: method(train, seed))
    scores, score_seconds = timed(lambda: score(test))
    return ranking(anomalous, scores) | seconds(fit_seconds, score_seconds)


def fit_ours(train: Rows, test: Rows, config: Config, seed: int) -> tuple[Scores, dict[str, float]]:
    """The scores of our detector, and its times in seconds."""
    detector, fit_seconds = timed(lambda: Detector.fit(train, config=config, seed=seed))
    scores, score_seconds = timed(lambda: detector.parts(test))
    return scores, seconds(fit_seconds, score_seconds)


def measure_ours(train: Rows, test: Rows, anomalous: NDArray[np.bool_], config: Config, seed: int) -> Figures:
    """The figures of our score, of recon + kl where it has further parts, and of each part, by raw nats, all from one
    fit."""
    scores, times = fit_ours(train, test, config, seed)
    raw = scores.raw or scores.parts
    parts = {OURS: scores.total}
    if len(raw) > 2:
        parts[f"{OURS} recon + kl"] = raw["recon"] + raw["kl"]
    parts |= {f"{OURS} {name} alone": part for name, part in raw.items()}
    return {name: ranking(anomalous, part) | times for name, part in parts.items()}


# --- rows --------------------------------------------------------------------------------------------------------


def standardised(method: Method) -> Method:
    """The method on standardised columns: mean 0 and standard deviation 1 in training."""

    def fit(train: Rows, seed: int) -> Score:
        scaler = StandardScaler().fit(train)
        score = method(scaler.transform(train), seed)
        return lambda rows: score(scaler.transform(rows))

    return fit


def knn(k: int) -> Method:
    """The mean Euclidean distance to the k nearest training rows."""

    def fit(train: Rows, seed: int) -> Score:
        index = NearestNeighbors(n_neighbors=min(k, len(train))).fit(train)
        return lambda rows: np.asarray(index.kneighbors(rows)[0].mean(axis=1))

    return fit


def iforest(train: Rows, seed: int) -> Score:
    forest = IsolationForest(random_state=seed).fit(train)
    return lambda rows: np.asarray(-forest.score_samples(rows))


def lof(train: Rows, seed: int) -> Score:
    model = LocalOutlierFactor(n_neighbors=min(20, len(train) - 1), novelty=True).fit(train)
    return lambda rows: np.asarray(-model.score_samples(rows))


def ocsvm(train: Rows, seed: int) -> Score:
    model = OneClassSVM().fit(train)
    return lambda rows: np.asarray(-model.score_samples(rows))


def pyod_vae(train: Rows, seed: int) -> Score:
    """PyOD's VAE; it standardises the columns itself. By default (`capacity=0`) its KL is clamped to 0: the loss is the
    reconstruction error alone."""
    return _pyod_vae(train, seed)


def pyod_vae_charged(train: Rows, seed: int) -> Score:
    """The same with its KL in the loss, and linear outputs (the default of PyOD 3.6, and said here for others).

    PyOD clamps its KL to at most `capacity`, which is therefore infinite here. Its reconstruction error is a mean over
    F columns, and its KL a sum: beta = 2 / F makes the loss 2 / F times the negative ELBO under a Gaussian of sigma 1.
    """
    return _pyod_vae(train, seed, capacity=math.inf, beta=2 / train.shape[1], output_activation_name="identity")


def _pyod_vae(train: Rows, seed: int, **settings: Any) -> Score:
    from pyod.models.vae import VAE

    model = VAE(random_state=seed, verbose=0, **settings).fit(train)
    return lambda rows: np.asarray(model.decision_function(rows), np.float64)


def has_pyod() -> bool:
    """Whether PyOD's VAE can be imported; prints a message if not."""
    try:
        import pyod.models.vae  # noqa: F401
    except ImportError as error:
        print(f"without PyOD's VAE: {error}; pip install 'anomaly-vae[bench]'", flush=True)
        return False
    return True


TABLES: dict[str, Method] = {
    "kNN mean of 5": standardised(knn(5)),
    "kNN nearest": standardised(knn(1)),
    "IForest": standardised(iforest),
    "LOF": standardised(lof),
    "OCSVM": standardised(ocsvm),
}
PYOD: dict[str, Method] = {"PyOD VAE": pyod_vae, "PyOD VAE, KL charged": pyod_vae_charged}
PIXELS: dict[str, Method] = {"kNN nearest": knn(1), "IForest": iforest}

# --- series ------------------------------------------------------------------------------------------------------

VARIANCE_KEPT = 0.9  # share of the variance that the kept components explain


def pca(window: int = 1) -> Method:
    """Hotelling's T2 of the components that keep 90 % of the variance, plus the Q of the other components.

    A sample is the last `window` rows side by side. Q is divided by the mean variance of the other components, so that
    both have the same unit.
    """

    def fit(train: Rows, seed: int) -> Score:
        mean, spread = np.array([moments(sensor) for sensor in train.T]).T
        spread = np.maximum(spread, [smallest_step(sensor) for sensor in train.T])  # as our own sensors are scaled
        rows = embedded((train - mean) / spread, window)
        centre = rows.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov((rows - centre).T))
        variances, axes = np.clip(variances[::-1], 1e-9, None), axes[:, ::-1]
        kept = int(np.searchsorted(np.cumsum(variances) / variances.sum(), VARIANCE_KEPT)) + 1
        rest = float(variances[kept:].mean()) if kept < len(variances) else 1.0

        def score(steps: Rows) -> NDArray[np.float64]:
            z = (embedded((steps - mean) / spread, window) - centre) @ axes
            t2 = (z[:, :kept] ** 2 / variances[:kept]).sum(axis=1)
            return np.asarray(t2 + (z[:, kept:] ** 2).sum(axis=1) / max(rest, 1e-6))

        return score

    return fit


def embedded(steps: Rows, window: int) -> Rows:
    """Each step with the steps before it, (N, F * window); the first step is repeated before the start."""
    padded = np.concatenate([np.repeat(steps[:1], window - 1, axis=0), steps])
    return np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).reshape(len(steps), -1)


def smoothed(method: Method) -> Method:
    """The method with its score averaged as our reconstruction nats of a step are: over steps t - 4 .. t + 3."""

    def fit(train: Rows, seed: int) -> Score:
        score = method(train, seed)
        return lambda steps: centred_mean(torch.from_numpy(score(steps))[:, None], SMOOTH)[:, 0].numpy()

    return fit


SERIES: dict[str, Method] = {
    "PCA rows": pca(),
    "PCA 16-row windows": pca(16),
    "PCA 16-row windows, mean of 8": smoothed(pca(16)),
    "IForest": iforest,
}
