"""A PyOD detector: PyOD's base class, utilities and ensembles take it as one of their own (extra `pyod`)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pyod.models.base import BaseDetector
from sklearn.utils.validation import check_is_fitted

from anomaly_vae import sklearn


class AnomalyVAE(BaseDetector):  # type: ignore[misc]  # PyOD ships no annotations
    """`anomaly_vae.sklearn.AnomalyVAE` with PyOD's conventions: 1 is an outlier, higher is more anomalous.

    Parameters
    ----------
    contamination : share of the training rows above the threshold, or a PyThresh object, as PyOD has it. It trains
        nothing: PyOD's 0.1 is no knowledge of the data. Where the share is known, settings={"data.contamination": RATE}
        keeps so many rows out of training.
    epochs, latent, beta, settings, device, random_state : as `anomaly_vae.sklearn.AnomalyVAE`.

    Attributes
    ----------
    estimator_ : the fitted `anomaly_vae.sklearn.AnomalyVAE`; its `detector_` explains, saves and streams.
    decision_scores_, threshold_, labels_ : as PyOD's; scores in nats, of each training row by models that never saw it.
    """

    def __init__(
        self,
        contamination: Any = 0.1,
        *,
        epochs: int | None = None,
        latent: int | None = None,
        beta: float | None = None,
        settings: dict[str, Any] | None = None,
        device: str = "auto",
        random_state: Any = 0,
    ) -> None:
        super().__init__(contamination=contamination)
        self.epochs = epochs
        self.latent = latent
        self.beta = beta
        self.settings = settings
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits on X (N, F), an array or DataFrame; y is ignored. Raises ValueError for data that cannot train."""
        self._set_n_classes(y)
        parameters = {name: value for name, value in self.get_params(deep=False).items() if name != "contamination"}
        self.estimator_ = sklearn.AnomalyVAE(**parameters).fit(X)
        self.decision_scores_ = self.estimator_.decision_scores_
        self._process_decision_scores()
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """(N,) nats of the rows X (N, F)."""
        check_is_fitted(self)
        scores: NDArray[np.float64] = -self.estimator_.score_samples(X)
        return scores
