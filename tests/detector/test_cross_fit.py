"""Every unlabelled row is scored by models that never saw it, and the final detector trains on all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector import cross_fit
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit, fit_memory
from anomaly_vae.detector.suspicion import bulk, suspicion
from anomaly_vae.detector.training_scores import TrainingScores, matched
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts.base import Normals
from anomaly_vae.scoring.parts.residual_energy import ResidualEnergy
from anomaly_vae.scoring.scores import Scores

Array = NDArray[Any]
QUICK = {
    "training__steps": 40, "model__hidden": [16], "model__members": 1, "scoring__neighbours": 64, "device": "cpu",
    "tracking__enabled": False,
}  # fmt: skip


def contaminated(rows: int = 300, group: int = 20) -> tuple[Array, NDArray[np.bool_]]:
    """Correlated normals, and a group of anomalies so close together that each has the others for neighbours."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, 4))
    odd = np.zeros(rows, bool)
    odd[:group] = True
    X[odd] = X.max(0) + 4 + 0.02 * rng.normal(size=(group, 4))
    return X, odd


@pytest.fixture(scope="module")
def fitted() -> tuple[Detector, Any, Array, NDArray[np.bool_]]:
    X, odd = contaminated()
    return *fit_memory(X, None, None, **QUICK), X, odd


def test_a_group_of_anomalies_does_not_hide_itself(fitted: tuple[Detector, Any, Array, NDArray[np.bool_]]) -> None:
    detector, seen, X, odd = fitted
    scores = detector.training_scores
    assert scores is not None and scores.ids.tolist() == list(range(len(X)))
    assert roc_auc_score(odd, scores.total) > 0.99
    assert (len(seen.split.train), len(seen.split.test), len(detector.normal)) == (300, 0, 300)


def test_scoring_the_training_rows_again_gives_the_scores_of_the_fit(
    fitted: tuple[Detector, Any, Array, NDArray[np.bool_]], tmp_path: Path
) -> None:
    detector, _, X, _ = fitted
    detector.save(tmp_path / "detector")
    for known in (detector, Detector.load(tmp_path / "detector", "cpu")):
        assert known.training_scores is not None
        new = X[5:9] + 0.25
        found = known.parts(np.r_[X[::-1], new])
        np.testing.assert_array_equal(found.total[:300], known.training_scores.total[::-1])
        np.testing.assert_array_equal(found.total[300:], known.score(new))
        assert found.raw is not None and known.training_scores.raw is not None
        for name, nats in known.training_scores.raw.items():
            np.testing.assert_array_equal(found.raw[name][:300], nats[::-1])


def test_no_model_sees_the_rows_that_it_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose value no other has: a model that was trained on it would know that value."""
    X, _ = contaminated(80, 2)
    trained: list[set[float]] = []
    scored: list[set[float]] = []
    real = cross_fit.train

    def train(model: Any, samples: Any, *others: Any) -> Any:
        trained.append(set(samples.take(torch.arange(len(samples)))[:, 0].tolist()))
        return real(model, samples, *others)

    class Scorer(cross_fit.Scorer):
        def samples(self, chunk: Chunk, *others: Any) -> Scores:
            scored.append(set(self.scaler.read(chunk.values, None)[:, 0].tolist()))
            return super().samples(chunk, *others)

    monkeypatch.setattr(cross_fit, "train", train)
    monkeypatch.setattr(cross_fit, "Scorer", Scorer)
    Detector.fit(X, **QUICK)
    assert len(trained) == len(scored) == 8, "four folds that rank the rows and four that calibrate"
    for learned, asked in zip(trained, scored, strict=True):
        assert not learned & asked
    for folds in (scored[:4], scored[4:]):
        assert sorted(value for fold in folds for value in fold) == sorted(set().union(*folds))
        assert len(set().union(*folds)) == 80


def test_labelled_normals_calibrate_by_folds_and_the_test_part_stays() -> None:
    X, odd = contaminated(100, 10)
    detector, seen = fit_memory(X, odd.astype(float), None, **QUICK)
    parts = seen.split
    assert len(parts.train) == len(detector.normal) == 72  # 80 % of 90 normals
    assert not odd[parts.train].any() and set(parts.train) <= set(parts.valid)
    assert sorted([*parts.valid, *parts.test]) == list(range(100))
    assert len(detector.anomalous) == 5


def test_a_chosen_split_holds_rows_out(fitted: tuple[Detector, Any, Array, NDArray[np.bool_]]) -> None:
    _, _, X, _ = fitted
    detector = Detector.fit(X, split__train=0.5, split__valid=0.5, **QUICK)
    assert detector.training_scores is None and len(detector.normal) == 150


def test_a_known_share_of_anomalies_trains_nothing() -> None:
    X, odd = contaminated()
    detector, seen = fit_memory(X, None, None, data__contamination=20 / 300, **QUICK)
    assert detector.training is not None
    assert odd[detector.training.suspects].sum() >= 18 and len(detector.training.suspects) == 20
    assert len(detector.normal) == len(seen.split.train) == 280
    assert detector.predict(X[detector.training.suspects]).all()
    assert any("20 of 300 rows score highest, and trained nothing: id " in note for note in seen.notes)


def test_what_no_model_that_ranks_was_made_of_is_listed(
    fitted: tuple[Detector, Any, Array, NDArray[np.bool_]],
) -> None:
    _, seen, _, odd = fitted
    (note,) = (note for note in seen.notes if "look most suspicious at first" in note)
    assert note.startswith("75 of 300 rows look most suspicious") and "--contamination 0 takes them into all" in note
    named = re.findall(r"\d+", note.partition("id ")[2].partition(", ...")[0])
    assert len(named) == 10 and odd[np.array(named, int)].sum() > 5  # by chance less than one


def test_a_known_share_that_nothing_is_done_with_is_said() -> None:
    X, odd = contaminated(100, 10)
    for labels, more in ((None, {"split__folds": 0}), (odd.astype(float), {})):
        _, seen = fit_memory(X, labels, None, data__contamination=0.1, **QUICK, **more)
        assert any("data.contamination=0.1 kept nothing out of training" in note for note in seen.notes)


def test_steps_of_a_series_are_not_cross_fitted_and_it_is_said() -> None:
    config = load(overrides=["data.kind=series", "tracking.enabled=false"])
    with pytest.raises(DataError, match="steps of a series train in order, so none is cross-fitted"):
        fit(open_memory(np.random.default_rng(0).normal(size=(200, 2)), config.data), config, every_row=True)


def test_suspicion_finds_a_group_that_nearest_neighbours_miss() -> None:
    X, odd = contaminated()
    looks = suspicion(torch.from_numpy(X).float(), RowInputs((0,) * 4), 0)
    nearest = NearestNeighbors(n_neighbors=6).fit(X).kneighbors(X)[0][:, 1:].mean(axis=1)
    assert roc_auc_score(odd, nearest) < 0.1 < 0.95 < roc_auc_score(odd, looks)
    kept = bulk(looks, 0.75)
    assert kept.sum() == 225 and not kept[odd].any()


def test_matched_parts_have_the_distribution_of_the_totals_in_the_order_of_the_evidence() -> None:
    rng = np.random.default_rng(0)
    parts = {"a": rng.exponential(size=50), "b": rng.exponential(size=50)}
    totals, evidence = np.sort(10 * rng.exponential(size=50)), rng.exponential(size=50)
    found = matched(parts, evidence, totals, np.ones(50, bool))
    sums, before = sum(found.values()), sum(parts.values())
    np.testing.assert_array_equal(np.sort(np.round(sums, 6)), totals.round(6))
    np.testing.assert_array_equal(np.argsort(sums), np.argsort(evidence))
    np.testing.assert_allclose(found["a"] / sums, parts["a"] / before, atol=1e-4)
    among = np.arange(50) != evidence.argmax()
    beyond = sum(matched(parts, evidence, totals[:49], among).values())[evidence.argmax()]
    assert beyond == pytest.approx(totals[48] * evidence.max() / np.sort(evidence)[-2], rel=1e-4)


def test_rows_of_which_there_are_several_are_scored_as_new() -> None:
    """One of two equal rows has been seen by the model of the other; where many rows are equal, none is recalled."""
    values = np.arange(30.0)[:, None].repeat(2, axis=1)
    values[1] = values[0]
    chunk = Chunk(np.arange(30), values)
    scores = Scores(np.arange(30), {"recon": np.arange(30.0)})

    class Data:
        def pieces(self, rows: Array) -> Iterator[tuple[slice, Chunk]]:
            yield slice(None), chunk.take(rows)

    known = TrainingScores.of(Data(), scores, np.empty(0, np.intp))  # type: ignore[arg-type]
    new = Scores(np.arange(30), {"recon": np.full(30, -1.0)})
    found = known.recall(chunk, new)
    assert found.total.tolist() == [-1.0, -1.0, *range(2, 30)] and found.recalled == 28
    chunk.values[:20] = 5.0
    assert TrainingScores.of(Data(), scores, np.empty(0, np.intp)).recall(chunk, new) is new  # type: ignore[arg-type]


def test_pictures_that_calibrate_by_folds_are_weighed_as_their_folds_weigh_them(
    digits: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weight of a residual is told by held-out pictures alone, and a fit on all pictures holds none."""
    weights: list[float] = []
    real = ResidualEnergy.fit

    def noted(part: ResidualEnergy, normals: Normals) -> None:
        real(part, normals)
        weights.append(float(part.weight))

    monkeypatch.setattr(ResidualEnergy, "fit", noted)
    pictures, odd = digits
    quick = {"training__steps": 4, "model__channels": [4, 8], "device": "cpu", "tracking__enabled": False}
    detector = Detector.fit(pictures[~odd][:40], split__folds=2, **quick)
    assert len(weights) == 5, "two folds that rank, two that calibrate, and the last"
    (part,) = (part for part in detector.score_model.modules() if isinstance(part, ResidualEnergy))
    assert float(part.weight) == pytest.approx((weights[2] + weights[3]) / 2) != 1


def test_no_fit_ends_with_what_is_no_number(digits: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResidualEnergy, "fit", lambda part, _: part.weight.fill_(np.nan) and None)
    with pytest.raises(ArithmeticError, match=r"parts\.recon\.weight"):
        Detector.fit(digits[0][:40], training__steps=2, model__channels=[4, 8], device="cpu", tracking__enabled=False)
