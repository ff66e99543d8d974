"""scikit-learn's own checks, and the conventions in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_vae.sklearn import AnomalyVAE

TINY = {"training.steps": 20, "split.folds": 2, "model.hidden": [8], "model.members": 1, "scoring.neighbours": 16}


def tiny(**parameters: Any) -> AnomalyVAE:
    return AnomalyVAE(**{"epochs": 2, "latent": 2, "settings": TINY, "device": "cpu"} | parameters)


@parametrize_with_checks([tiny()])
def test_scikit_learns_own_checks(estimator: AnomalyVAE, check: Callable[[AnomalyVAE], None]) -> None:
    check(estimator)


def test_signs(cancer: tuple[Any, Any]) -> None:
    X, anomalous = cancer
    fitted = tiny(false_alarm_rate=0.1).fit(X[~anomalous])
    score = fitted.score_samples(X)
    np.testing.assert_array_equal(score, -fitted.detector_.score(X))
    np.testing.assert_array_equal(fitted.decision_function(X), score - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(X), np.where(fitted.detector_.predict(X), -1, 1))
    assert score[anomalous].mean() < score[~anomalous].mean()
    assert fitted.detector_.threshold.policy == "fpr=0.1"


def test_random_state(cancer: tuple[Any, Any]) -> None:
    X = cancer[0][:100]
    a, b, other = (tiny(random_state=seed).fit(X).score_samples(X) for seed in (3, np.random.RandomState(0), 4))
    again = tiny(random_state=np.random.RandomState(0)).fit(X).score_samples(X)
    np.testing.assert_array_equal(b, again)
    np.testing.assert_array_equal(a, tiny(random_state=3).fit(X).score_samples(X))
    assert not np.array_equal(a, other)


def test_a_grid_of_numpy_numbers(cancer: tuple[Any, Any]) -> None:
    grid = {"latent": np.array([2, 3]), "beta": np.array([0.5])}
    search = GridSearchCV(
        tiny(), grid, scoring=lambda e, X, y=None: e.score_samples(X).mean(), cv=2, error_score="raise"
    )
    search.fit(cancer[0][:100])
    assert search.best_params_["latent"] in (2, 3)
    assert search.best_estimator_.detector_.config.model.latent == search.best_params_["latent"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"false_alarm_rate": 2.0}, "no threshold policy"), ({"epochs": 0}, "epochs"), ({"settings": {"a.b": 1}}, "'a'")],
)
def test_a_wrong_parameter_is_a_value_error(cancer: tuple[Any, Any], parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny(**parameters).fit(cancer[0])


def test_the_rows_that_are_fitted_on_are_scored_by_models_that_never_saw_them(cancer: tuple[Any, Any]) -> None:
    X = cancer[0]
    fitted = tiny(contamination=0.1).fit(X[:120])
    own = fitted.detector_.training_scores
    assert own is not None
    np.testing.assert_array_equal(fitted.decision_scores_, own.total)
    np.testing.assert_array_equal(fitted.labels_, fitted.decision_scores_ >= fitted.threshold_)
    assert fitted.labels_.sum() == 12 == len(fitted.detector_.training.suspects)
    np.testing.assert_array_equal(fitted.predict(X[:120]), np.where(fitted.labels_, -1, 1))
    np.testing.assert_array_equal(tiny(contamination=0.1).fit_predict(X[:120]), np.where(fitted.labels_, -1, 1))
    p = fitted.predict_proba(X)
    np.testing.assert_array_equal(p.sum(1), 1)
    np.testing.assert_array_equal(p[:, 0], fitted.detector_.p_values(fitted.detector_.score(X)))


def test_text_and_missing_cells() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "colour": pd.Categorical(rng.choice(["red", "blue"], 60))})
    frame.loc[::7, "x"] = np.nan
    frame.loc[3, "colour"] = None
    fitted = tiny().fit(frame)
    assert fitted.n_features_in_ == 2 and np.isfinite(fitted.decision_scores_).all()
    assert set(fitted.predict(frame)) <= {-1, 1}
    values = rng.normal(size=(40, 3))
    values[0, 0] = np.nan
    assert np.isfinite(tiny().fit(values).score_samples(values)).all()
