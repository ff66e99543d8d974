"""A scikit-learn outlier detector, with scikit-learn's conventions: +1 is normal, higher is more normal."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.samples import as_frame
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.fit import fit, without_test


class AnomalyVAE(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no annotations
    """VAE outlier detector over the rows of an array or DataFrame; cells may be missing, and text.

    A DataFrame is a table of independent rows, whatever its columns, unless `settings` has another data.kind.

    Parameters
    ----------
    contamination : share of the training rows that are outliers and train nothing; the threshold leaves so many at or
        above it. None, "auto": not known, and the threshold is by `false_alarm_rate`.
    false_alarm_rate : share of normal samples that may be called outliers; the threshold is conformal.
    epochs, latent, beta : as `training.epochs`, `model.latent` and `objective.beta`; None is the default of tables.
    settings : dotted names and values of any other setting, e.g. {"training.lr": 3e-4}.
    device : "auto", "cpu" or "cuda".
    random_state : seed of the split, the weights, the order of batches and the noise.

    Attributes
    ----------
    detector_ : the fitted `anomaly_vae.Detector`.
    decision_scores_ : (N,) nats of the training rows, each by models that never saw it; higher is more anomalous. With
        a split in `settings` those of the detector, which has seen them.
    threshold_ : nats; labels_ : (N,) 1 where `decision_scores_` is at or above it, else 0, as PyOD has them.
    offset_ : minus the threshold (nats): `decision_function = score_samples - offset_`.
    n_features_in_ : number of columns.
    """

    def __init__(
        self,
        false_alarm_rate: float = 0.05,
        *,
        contamination: float | Literal["auto"] | None = None,
        epochs: int | None = None,
        latent: int | None = None,
        beta: float | None = None,
        settings: dict[str, Any] | None = None,
        device: str = "auto",
        random_state: Any = 0,
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.contamination = contamination
        self.epochs = epochs
        self.latent = latent
        self.beta = beta
        self.settings = settings
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits on X (N, F), without labels. Raises ValueError for data or settings that cannot train."""
        X = self._rows(X, reset=True)
        rate = None if self.contamination == "auto" else self.contamination
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        chosen: dict[str, Any] = {
            "training.epochs": self.epochs,
            "model.latent": self.latent,
            "objective.beta": self.beta,
            "data.contamination": rate,
            "data.kind": "table",
        }
        chosen |= {"threshold.policy": f"fpr={self.false_alarm_rate!r}", "seed": int(seed), "device": self.device}
        chosen |= self.settings or {}
        given = {name: json.dumps(value, default=_plain) for name, value in chosen.items() if value is not None}
        try:
            config = load(overrides=[f"{name}={value}" for name, value in given.items()])
            source = open_memory(X, config.data)
            self.detector_, _ = fit(source, without_test(config, source))
        except (UsageError, DataError) as error:
            raise ValueError(str(error)) from error
        own = self.detector_.training_scores
        self.decision_scores_ = self.detector_.score(X) if own is None else own.total
        self.threshold_ = self.detector_.threshold.value
        if rate:
            count = round(rate * len(self.decision_scores_))
            self.threshold_ = float(np.sort(np.r_[self.decision_scores_, np.inf])[-1 - count])
        self.labels_ = (self.decision_scores_ >= self.threshold_).astype(int)
        self.offset_ = -self.threshold_
        return self

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[np.intp]:
        """(N,) -1 for outliers, +1 for the rest, of the rows that are fitted on: each by models that never saw it."""
        return np.where(self.fit(X).labels_ == 1, -1, 1)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """(N,) minus the score of X (N, F), in nats: the lower, the more anomalous."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        try:
            scores: NDArray[np.float64] = -self.detector_.score(rows)
        except DataError as error:
            raise ValueError(str(error)) from error
        return scores

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """(N,) nats below the threshold; negative or zero is an outlier."""
        result: NDArray[np.float64] = self.score_samples(X) - self.offset_
        return result

    def predict(self, X: Any) -> NDArray[np.intp]:
        """(N,) -1 for outliers, +1 for the rest."""
        return np.where(self.decision_function(X) > 0, 1, -1)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(N, 2) the conformal p-value of each row, and 1 minus it: the share of normals that score less."""
        scores = -self.score_samples(X)
        p = self.detector_.p_values(scores)
        both: NDArray[np.float64] = np.c_[p, 1 - p]
        return both

    def _rows(self, X: Any, reset: bool) -> Any:
        """X as it is read: a DataFrame, or rows as dicts or Series, as they stand, and anything else as numbers, or as
        cells of any type in an array of objects."""
        if not reset:
            X = as_frame(X, self.detector_.layout)
        if hasattr(X, "columns") and hasattr(X, "dtypes"):
            return validate_data(self, X, reset=reset, skip_check_array=True)
        X = np.ma.filled(X.astype(np.float64), np.nan) if isinstance(X, np.ma.MaskedArray) else X
        text = getattr(X, "dtype", np.dtype(float)).kind in "OUST" and not _are_numbers(X)
        smallest, type_ = 2 if reset else 1, None if text else np.float64
        finite = False if text else "allow-nan"
        X = validate_data(self, X, reset=reset, dtype=type_, ensure_all_finite=finite, ensure_min_samples=smallest)
        if text or (not reset and hasattr(self, "feature_names_in_")):
            import pandas as pd

            names = getattr(self, "feature_names_in_", [f"x{place}" for place in range(X.shape[1])])
            X = pd.DataFrame(X, columns=names).infer_objects()
        return X


def _are_numbers(X: Any) -> bool:
    """Whether an array of objects holds numbers alone, and missing cells."""
    try:
        np.asarray(X).astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    """A NumPy number, as a parameter grid holds, as Python's own."""
    return value.item()
