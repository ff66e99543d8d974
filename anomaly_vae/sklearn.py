"""A scikit-learn outlier detector, with scikit-learn's conventions: +1 is normal, higher is more normal."""

from __future__ import annotations

import json
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_vae.core.errors import ConfigError, DataError
from anomaly_vae.data.open import open_memory
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.fit import fit, without_test


class AnomalyVAE(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no annotations
    """VAE outlier detector over numeric rows.

    Parameters
    ----------
    false_alarm_rate : share of normal samples that may be called outliers; the threshold is conformal.
    epochs, latent, beta : as `training.epochs`, `model.latent` and `objective.beta`; None is the default of tables.
    settings : dotted names and values of any other setting, e.g. {"training.lr": 3e-4}.
    device : "auto", "cpu" or "cuda".
    random_state : seed of the split, the weights, the order of batches and the noise.

    Attributes
    ----------
    detector_ : the fitted `anomaly_vae.Detector`.
    offset_ : minus the threshold (nats): `decision_function = score_samples - offset_`.
    n_features_in_ : number of columns.
    """

    def __init__(
        self,
        false_alarm_rate: float = 0.05,
        *,
        epochs: int | None = None,
        latent: int | None = None,
        beta: float | None = None,
        settings: dict[str, Any] | None = None,
        device: str = "auto",
        random_state: Any = 0,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.epochs = epochs
        self.latent = latent
        self.beta = beta
        self.settings = settings
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fits on X (N, F), all rows taken as normal. Raises ValueError for data or settings that cannot train."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        chosen: dict[str, Any] = {
            "training.epochs": self.epochs,
            "model.latent": self.latent,
            "objective.beta": self.beta,
        }
        chosen |= {"threshold.policy": f"fpr={self.false_alarm_rate!r}", "seed": int(seed), "device": self.device}
        chosen |= self.settings or {}
        given = {name: json.dumps(value, default=_plain) for name, value in chosen.items() if value is not None}
        try:
            config = load(overrides=[f"{name}={value}" for name, value in given.items()])
            source = open_memory(X, config.data)
            self.detector_, _ = fit(source, without_test(config, source))
        except (ConfigError, DataError) as error:
            raise ValueError(str(error)) from error
        self.offset_ = -self.detector_.threshold.value
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """(N,) minus the score of X (N, F), in nats: the lower, the more anomalous."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores: NDArray[np.float64] = -self.detector_.score(X)
        return scores

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """(N,) nats above the threshold; negative or zero is an outlier."""
        result: NDArray[np.float64] = self.score_samples(X) - self.offset_
        return result

    def predict(self, X: ArrayLike) -> NDArray[np.intp]:
        """(N,) -1 for outliers, +1 for the rest."""
        return np.where(self.decision_function(X) > 0, 1, -1)


def _plain(value: Any) -> Any:
    """A NumPy number, as a parameter grid holds, as Python's own."""
    return value.item()
