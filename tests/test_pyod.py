"""PyOD's own base class, utilities and ensembles, from the package itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

pytest.importorskip("pyod", reason="the extra `pyod` is not installed")

from pyod.models.base import BaseDetector
from pyod.models.feature_bagging import FeatureBagging
from pyod.models.knn import KNN
from pyod.models.lscp import LSCP
from pyod.utils.data import evaluate_print, generate_data
from pyod.utils.utility import standardizer

from anomaly_vae.pyod import AnomalyVAE

TINY = {"training.steps": 20, "split.folds": 2, "model.hidden": [8], "model.members": 1, "scoring.neighbours": 16}
Data = tuple[Any, Any, Any, Any]


def tiny(**parameters: Any) -> AnomalyVAE:
    return AnomalyVAE(**{"latent": 2, "settings": TINY, "device": "cpu"} | parameters)


@pytest.fixture(scope="module")
def data() -> Data:
    """X (N, 2) and y (N,) of training and test, a tenth of them outliers: PyOD's own example."""
    X, X_test, y, y_test = generate_data(n_train=100, n_test=60, contamination=0.1, random_state=42)
    return X, X_test, y, y_test


@pytest.fixture(scope="module")
def fitted(data: Data) -> AnomalyVAE:
    return tiny(contamination=0.1).fit(data[0])


def test_a_detector_of_pyod(fitted: AnomalyVAE, data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    X, X_test, _, y_test = data
    assert isinstance(fitted, BaseDetector)
    np.testing.assert_array_equal(fitted.decision_scores_, fitted.estimator_.detector_.training_scores.total)
    np.testing.assert_array_equal(fitted.decision_function(X), fitted.decision_scores_)
    np.testing.assert_array_equal(fitted.decision_function(X_test), fitted.estimator_.detector_.score(X_test))
    assert fitted.labels_.sum() == 10
    np.testing.assert_array_equal(fitted.labels_, fitted.decision_scores_ > fitted.threshold_)
    np.testing.assert_array_equal(fitted.predict(X), fitted.labels_)
    evaluate_print("ours", y_test, fitted.decision_function(X_test))
    assert f"ROC:{np.round(roc_auc_score(y_test, fitted.decision_function(X_test)), 4)}" in capsys.readouterr().out


def test_the_guess_of_pyod_keeps_nothing_out_of_training(fitted: AnomalyVAE) -> None:
    assert len(fitted.estimator_.detector_.training.suspects) == 0
    assert fitted.estimator_.detector_.config.data.contamination is None


def test_probability_confidence_and_rejection(fitted: AnomalyVAE, data: Data) -> None:
    _, X_test, _, _ = data
    scores = fitted.decision_function(X_test)
    for method in ("linear", "unify"):
        chance, sure = fitted.predict_proba(X_test, method=method, return_confidence=True)
        assert chance.shape == (60, 2) and sure.shape == (60,)
        assert ((chance >= 0) & (chance <= 1)).all() and ((sure >= 0) & (sure <= 1)).all()
        assert (np.diff(chance[np.argsort(scores), 1]) >= 0).all()  # the higher the score, the likelier an outlier
    rejected, (rate, bound, cost) = fitted.predict_with_rejection(X_test, return_stats=True, c_r=0.1)
    kept = rejected != -2
    np.testing.assert_array_equal(rejected[kept], fitted.predict(X_test)[kept])
    assert 0 <= rate <= bound <= 1 and cost >= 0


@pytest.mark.filterwarnings("ignore:Function fit_predict")  # PyOD: deprecated, and called all the same
def test_fit_and_predict_in_one(fitted: AnomalyVAE, data: Data) -> None:
    X, _, y, _ = data
    model = clone(fitted)
    assert model.fit_predict_score(X, y) == roc_auc_score(y, fitted.decision_scores_)
    np.testing.assert_array_equal(model.fit_predict(X), fitted.labels_)


@pytest.mark.filterwarnings("ignore:The number of histogram bins")
def test_ensembles_and_combinations(fitted: AnomalyVAE, data: Data) -> None:
    combination = pytest.importorskip("pyod.models.combination", reason="the extra `pyod` is not installed")
    X, X_test, _, y_test = data
    other = KNN().fit(X)
    train, test = (np.c_[fitted.decision_function(rows), other.decision_function(rows)] for rows in (X, X_test))
    _, scaled = standardizer(train, test)
    np.testing.assert_allclose(combination.average(scaled), scaled.mean(1))
    np.testing.assert_allclose(combination.maximization(scaled), scaled.max(1))
    np.testing.assert_allclose(combination.aom(scaled, n_buckets=2), scaled.mean(1))  # a bucket each
    np.testing.assert_allclose(combination.moa(scaled, n_buckets=2), scaled.max(1))
    wide = np.c_[X, X**2, X[:, ::-1] * X]
    bagged = FeatureBagging(tiny(), n_estimators=2, random_state=0).fit(wide)
    assert len({tuple(features) for features in bagged.estimators_features_}) == 2
    np.testing.assert_allclose(bagged.decision_function(wide), bagged.decision_scores_)
    chosen = LSCP([tiny(), KNN()], random_state=0).fit(X)
    assert roc_auc_score(y_test, chosen.decision_function(X_test)) > 0.9
