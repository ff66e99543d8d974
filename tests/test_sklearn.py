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


QUICK = tiny(epochs=1, settings=TINY | {"training.steps": 3})  # forms and conventions, of any weights


@parametrize_with_checks([QUICK])
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


def test_rows_in_other_forms_than_they_were_fitted_in() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "k": rng.choice(["red", "blue"], 60), "n": rng.integers(0, 9, 60)})
    fitted = tiny(contamination="auto").fit(frame)
    scores = fitted.score_samples(frame)
    np.testing.assert_array_equal(fitted.score_samples(frame.iloc[3].to_dict()), scores[3:4])
    np.testing.assert_array_equal(fitted.score_samples(frame.iloc[3]), scores[3:4])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_array_equal(fitted.score_samples(frame.to_numpy()), scores)
    objects = tiny().fit(frame.to_numpy())
    assert objects.n_features_in_ == 3 and objects.detector_.layout.columns[1].categories == ("blue", "red")
    np.testing.assert_array_equal(objects.score_samples(frame.to_numpy()), scores)
    with pytest.raises(ValueError, match="'oops' is not a number"):
        fitted.predict(frame.assign(x="oops"))
    with pytest.raises(ValueError, match="no rows"):
        tiny().fit(frame[:0])


def test_columns_of_every_type_of_pandas() -> None:
    rng, n = np.random.default_rng(0), 40
    of = rng.integers(0, 3, n)
    frame = pd.DataFrame({"x": rng.normal(size=n)})
    frame["ordered"] = pd.Categorical.from_codes(of, ["low", "mid", "high"], ordered=True)
    frame["counts"] = pd.Categorical.from_codes(of, [10, 20, 30])
    frame["bins"] = pd.cut(frame.x, 3)
    frame["Int64"] = pd.array([None, *of[1:]], dtype="Int64")
    frame["boolean"] = pd.array([None, *(of[1:] > 1)], dtype="boolean")
    frame["arrow"] = pd.array(np.array(["u", "v", None])[of], dtype="string[pyarrow]")
    frame["mixed"] = np.array([1, "one", 2.5], dtype=object)[of]
    frame["took"] = pd.to_timedelta(rng.integers(1, 999, n), unit="s")
    frame["when"] = pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n), unit="s")
    fitted = tiny().fit(frame)
    layout = fitted.detector_.layout
    categories = {column.name: column.categories for column in layout.columns}
    assert layout.kind == "table" and layout.left_out == {"when": "a timestamp"}
    assert categories["ordered"] == ("high", "low", "mid") and categories["counts"] == ("10", "20", "30")
    assert len(categories["bins"]) == 3 and categories["mixed"] == ("1", "2.5", "one")
    assert categories["Int64"] is None and categories["took"] is None
    assert set(categories["boolean"]) == {"", "false", "true"} and set(categories["arrow"]) == {"", "u", "v"}
    unseen = frame.assign(ordered=pd.Categorical(["other"] * n), arrow=None, boolean=False)
    assert np.isfinite(fitted.score_samples(unseen)).all()


def test_rows_with_times_in_order_are_independent_rows_unless_a_setting_says_series(cancer: tuple[Any, Any]) -> None:
    frame = pd.DataFrame(
        cancer[0][:60, :3], columns=list("abc"), index=pd.date_range("2024-01-01", periods=60, freq="h")
    )
    fitted = tiny().fit(frame)
    assert fitted.detector_.layout.kind == "table" and fitted.predict(frame[:1]).shape == (1,)
    settings = {"data.kind": "series", "training.steps": 4, "data.window": 8}
    assert tiny(settings=settings).fit(frame).detector_.layout.kind == "series"
