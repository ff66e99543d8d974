"""Reasons: what a score loses when a column has the value that suits the rest of its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.reasons import Trials, reasons
from anomaly_vae.scoring.graph import RowGraph


def table(n: int = 240) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    a = rng.normal(size=n)
    return pd.DataFrame(
        {"a": a, "twice": 2 * a + 0.1 * rng.normal(size=n), "b": rng.normal(5, 1, n), "c": rng.choice(["x", "y"], n)}
    )


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.fit(table(), training__steps=120, model__hidden=[16], split__folds=0, device="cpu")


def chunk_of(detector: Detector, frame: pd.DataFrame) -> Chunk:
    return Chunk.join(detector.opened(frame).chunks(detector.layout, 100))


def test_a_reason_is_what_the_score_loses_and_reasons_add_up(detector: Detector) -> None:
    odd = pd.DataFrame({"a": [0.5, 0.3], "twice": [1.0, 0.6], "b": [60.0, 5.0], "c": ["x", "new"]})
    odd.loc[0, "a"] = 40.0
    chunk, scores = chunk_of(detector, odd), detector.parts(odd, explain=True)
    found = reasons(detector, chunk, scores, 4, np.ones(2, bool))
    names = [column.name for column in detector.layout.columns]
    assert {names[column] for column in found.columns[0, :2]} == {"a", "b"}
    assert names[found.columns[1, 0]] == "c"
    mended = odd.copy()
    for row, rank in np.argwhere(found.columns >= 0):
        name, suiting = names[found.columns[row, rank]], found.suiting[row, rank]
        mended.loc[row, name] = ["x", "y"][int(suiting)] if name == "c" else suiting
    assert scores.total[1] - detector.score(mended)[1] == pytest.approx(found.nats[1, 0], abs=1e-5)
    assert (np.diff(found.nats, axis=1) <= 0).all() and (found.columns[1, 1:] == -1).all()
    np.testing.assert_allclose(detector.score(mended) + found.nats.sum(1), scores.total, atol=1e-5)
    assert (found.shares.sum(1) <= 1 + 1e-9).all() and found.shares[1, 0] > 0.5


def test_a_value_that_is_usual_by_itself_is_told_what_suits_the_rest(detector: Detector) -> None:
    odd = pd.DataFrame({"a": [1.5], "twice": [-3.0], "b": [5.0], "c": ["x"]})
    found = detector.explain(odd, 1).iloc[0]
    assert found["column"] in ("a", "twice") and found["usual"].endswith("in such rows")
    suiting = float(found["usual"].split()[0])
    assert suiting == pytest.approx(3.0 if found["column"] == "twice" else -1.5, abs=0.6)


def test_trials_are_of_the_values_of_training(detector: Detector) -> None:
    train = table()
    for column, tried, values in zip(
        detector.layout.columns, Trials(detector).tried, [train[n] for n in ("a", "twice", "b", "c")], strict=True
    ):
        expected = {0.0, 1.0} if column.categories else set(values)
        assert set(tried.tolist()) <= expected and len(tried) > 1


def test_usual_rows_have_no_reason(detector: Detector) -> None:
    new = table(400)[240:].reset_index(drop=True)
    scores = detector.parts(new, explain=True)
    found = reasons(detector, chunk_of(detector, new), scores, 3, scores.total >= detector.threshold.value)
    quiet = scores.total <= np.quantile(detector.normal, 0.95)
    assert quiet.mean() > 0.6 and (found.columns[quiet] == -1).all() and not found.nats[quiet].any()


def test_a_column_that_matters_only_when_high_has_no_nats_when_low(tmp_path: Path) -> None:
    frame = table().assign(always=7.0)
    quick = {"training__steps": 60, "model__hidden": [8], "split__folds": 0, "device": "cpu"}
    detector = Detector.fit(frame, data__only_high=["b", "always"], **quick)
    usual = pd.DataFrame({"a": [0.1], "twice": [0.2], "b": [float(frame["b"].median())], "c": ["x"], "always": [7.0]})
    low, high = usual.assign(b=-50.0, always=3.0), usual.assign(b=60.0)
    median = detector.scaler.floors[0].value
    assert abs(median - frame["b"].median()) < 0.2
    usual["b"] = median
    assert detector.parts(low).parts.keys() >= {"recon", "kl", "neighbours", "lof", "marginals", "missing", "constant"}
    np.testing.assert_array_equal(detector.score(low), detector.score(usual))
    assert detector.score(high)[0] > detector.score(usual)[0] + 3
    assert detector.explain(high, 1)["column"].tolist() == ["b"]
    assert detector.predict(usual.assign(always=8.0))[0] and not detector.predict(low)[0]
    detector.save(tmp_path / "detector")
    np.testing.assert_array_equal(Detector.load(tmp_path / "detector", "cpu").score(low), detector.score(low))
    graph = RowGraph(detector.score_model, detector.scaler)
    cells = torch.from_numpy(chunk_of(detector, pd.concat([low, usual, high])).values)
    with torch.inference_mode():
        found = graph(cells)[0].numpy()
    assert found[0] == found[1] < found[2]
    with pytest.raises(DataError, match=r"data\.only_high: 'nowhere' not found"):
        Detector.fit(frame, data__only_high=["nowhere"], **quick)
    with pytest.raises(DataError, match=r"data\.only_high: 'c' is no column of numbers"):
        Detector.fit(frame, data__only_high=["c"], **quick)
