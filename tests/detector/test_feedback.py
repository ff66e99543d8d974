"""Verdicts choose weights and threshold again without training, and can be taken back to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.core.errors import ConfigError, DataError, UsageError
from anomaly_vae.detector import part_weights
from anomaly_vae.detector.calibration import Calibration, merged
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.feedback import give, judged
from anomaly_vae.detector.fit import fit_memory
from anomaly_vae.detector.thresholds import choose
from anomaly_vae.scoring.scores import weighted
from anomaly_vae.workflows.export import trace
from anomaly_vae.workflows.feedback import _notes as verdict_notes

Array = NDArray[Any]
QUICK = {"device": "cpu", "training__steps": 20, "model__hidden": [8], "model__members": 1, "scoring__neighbours": 64}


def data(rows: int = 150, odd: int = 30) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Normals, of which `still` never moves, and rows that are out in `a`, every second one far out."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(rows + odd, 3)), columns=["a", "b", "c"]).assign(still=1.0)
    anomalous = np.arange(rows + odd) >= rows
    frame.loc[anomalous, "a"] += np.where(np.arange(odd) % 2 == 0, 6, 1.5)
    return frame, anomalous


@pytest.fixture(autouse=True)
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any gain is enough, so that these few rows are weighted."""
    monkeypatch.setattr(part_weights, "SURE", -1e9)


@pytest.fixture(scope="module")
def plain() -> Detector:
    """Fitted on normals alone, all of which are scored by models of the others."""
    frame, anomalous = data()
    return Detector.fit(frame[~anomalous], **QUICK)


@pytest.fixture
def taught(plain: Detector) -> Detector:
    frame, anomalous = data()
    return plain.feedback(frame, np.where(np.arange(len(frame)) % 3 == 0, anomalous, np.nan))


def test_verdicts_weigh_the_parts_and_the_score_is_their_exact_sum(plain: Detector, taught: Detector) -> None:
    frame, _ = data()
    weights = taught.score_model.weights
    assert weights is not None and min(weights.values()) >= 0 and len(set(weights.values())) > 2
    before, after = plain.parts(frame), taught.parts(frame)
    expected = weighted(before.parts, weights)
    expected["constant"] = before.parts["constant"]
    for name, nats in after.parts.items():
        np.testing.assert_array_equal(nats, expected[name])
        assert after.raw is not None and before.raw is not None
        np.testing.assert_array_equal(after.raw[name], before.raw[name])
    np.testing.assert_array_equal(after.total, np.round(sum(after.parts.values()), 6))
    assert f"{weights['recon']:g} recon" in repr(taught)


def test_undo_brings_back_every_bit_also_from_a_folder(plain: Detector, taught: Detector, tmp_path: Path) -> None:
    frame, _ = data()
    twice = taught.feedback(frame[:9], [0, 0, 0, 1, 1, 1, np.nan, np.nan, np.nan]).with_threshold("fpr=0.2")
    twice.save(tmp_path / "twice")
    loaded = Detector.load(tmp_path / "twice", "cpu")
    np.testing.assert_array_equal(loaded.score(frame), twice.score(frame))
    assert (loaded.threshold, loaded.score_model.weights) == (twice.threshold, twice.score_model.weights)
    for detector, earlier in (
        (loaded.without_feedback(), taught),
        (loaded.without_feedback().without_feedback(), plain),
    ):
        np.testing.assert_array_equal(detector.score(frame), earlier.score(frame))
        np.testing.assert_array_equal(detector.normal, earlier.normal)
        np.testing.assert_array_equal(detector.anomalous, earlier.anomalous)
        assert (detector.threshold, detector.config) == (earlier.threshold, earlier.config)
    with pytest.raises(UsageError, match="no feedback"):
        loaded.without_feedback().without_feedback().without_feedback()


def test_a_row_that_calibrated_counts_as_its_verdict_says(plain: Detector) -> None:
    frame, _ = data()
    n = len(plain.normal)
    wrong = plain.feedback(frame[:5], np.ones(5))
    assert (len(wrong.normal), len(wrong.anomalous)) == (n - 5, 5)
    right = wrong.feedback(frame[:5], np.zeros(5))
    assert (len(right.normal), len(right.anomalous)) == (n, 0)
    np.testing.assert_array_equal(right.normal, plain.normal)


def test_false_alarms_alone_move_the_threshold_and_its_promise_stays(plain: Detector) -> None:
    frame, anomalous = data()
    alarms = frame[anomalous][plain.predict(frame[anomalous])][:8]
    assert len(alarms) == 8
    calmer = plain.feedback(alarms, np.zeros(8))
    assert calmer.score_model.weights is None
    scores = np.sort(np.r_[plain.normal, plain.score(alarms)])
    assert calmer.threshold.value == choose(plain.threshold.policy, scores, scores[:0]).value > plain.threshold.value
    assert calmer.threshold.policy == plain.threshold.policy


def test_what_a_watched_column_says_stays_an_alarm(plain: Detector, taught: Detector) -> None:
    frame, _ = data()
    moved = frame[:20].assign(still=2.0)
    assert plain.predict(moved).all() and taught.predict(moved).all()
    again = taught.feedback(moved, np.zeros(20))
    assert again.predict(moved).all() and again.threshold.value < 100


def test_the_graph_and_a_frame_give_the_weighted_score(taught: Detector) -> None:
    frame, _ = data()
    served = taught.score_frame(frame)
    np.testing.assert_array_equal(served["score"], taught.score(frame))
    fresh = replace(taught, training=None)  # a graph knows no training rows
    score, *parts = trace(fresh).module()(torch.from_numpy(frame.to_numpy()))
    np.testing.assert_allclose(score, fresh.score(frame), rtol=1e-4)
    for part, nats in zip(parts, fresh.parts(frame).parts.values(), strict=True):
        np.testing.assert_allclose(part, nats, rtol=1e-4, atol=1e-5)


def test_training_rows_get_their_own_scores_with_the_weights(plain: Detector, taught: Detector) -> None:
    assert plain.training_scores is not None and taught.training_scores is not None
    frame, anomalous = data()
    again = taught.parts(frame[~anomalous])
    np.testing.assert_array_equal(again.total, taught.training_scores.total)
    np.testing.assert_array_equal(
        taught.training_scores.parts["kl"],
        weighted(plain.training_scores.parts, taught.score_model.weights)["kl"],
    )


def test_labels_of_a_fit_weigh_the_parts_unless_told_otherwise() -> None:
    frame, anomalous = data()
    once = QUICK | {"split__folds": 0}
    detector, seen = fit_memory(frame, anomalous, **once)
    sums, other = fit_memory(frame, anomalous, **once, scoring__weights="none")
    weights = detector.score_model.weights
    assert weights is not None and sums.score_model.weights is None
    assert any("--set scoring.weights=none" in note for note in seen.notes)
    test, _ = seen.part(seen.split.test)
    plain, _ = other.part(other.split.test)
    for name, nats in weighted(plain.parts, weights).items():
        if name != "constant":
            np.testing.assert_array_equal(test.parts[name], nats)
    np.testing.assert_array_equal(detector.parts(frame[150:]).total, np.round(
        sum(weighted(sums.parts(frame[150:]).parts, weights).values()), 6))  # fmt: skip
    assert len(detector.anomalous) == len(sums.anomalous) > 0
    without, _ = fit_memory(frame[~anomalous], None, **once)
    unset, _ = fit_memory(frame[~anomalous], None, **once, scoring__weights="none")
    np.testing.assert_array_equal(without.score(frame), unset.score(frame))
    assert without.threshold == unset.threshold


def test_steps_and_detectors_without_calibration_follow_with_the_threshold_alone(plain: Detector) -> None:
    frame, anomalous = data()
    old = replace(plain, calibration=None).feedback(frame[anomalous], np.ones(anomalous.sum()))
    assert old.score_model.weights is None
    np.testing.assert_array_equal(old.anomalous, np.sort(plain.score(frame[anomalous])))
    np.testing.assert_array_equal(old.normal, plain.normal)
    with pytest.raises(ConfigError, match=r"scoring\.weights=auto is of samples that are independent"):
        Detector.fit(np.random.default_rng(0).normal(size=(80, 2)), kind="series", scoring__weights="auto")


def test_verdicts_that_count_twice_are_said(plain: Detector) -> None:
    """Of a detector that keeps scores alone, no verdict takes the place of a row."""
    frame, _ = data()
    scores_alone = replace(plain, calibration=None)
    for detector, said, normals in ((plain, 0, -5), (scores_alone, 1, 0)):
        rows = judged(detector, detector.opened(frame[:5]), np.ones(5))
        changed, _ = give(detector, rows, "rows")
        notes = [note for note in verdict_notes(changed, rows) if "5 verdicts are of rows that calibrated" in note]
        assert len(notes) == said
        assert len(changed.normal) == len(plain.normal) + normals


def test_what_is_no_verdict_is_refused(plain: Detector) -> None:
    frame, _ = data()
    with pytest.raises(DataError, match="'2' in column 'y' is no verdict"):
        plain.feedback(frame[:2], [0, 2])
    with pytest.raises(DataError, match="holds no verdict"):
        plain.feedback(frame[:2], [np.nan, np.nan])
    with pytest.raises(DataError, match="no normal is left"):
        replace(plain, calibration=Calibration.of_totals(np.empty(0), np.empty(0))).feedback(frame[:2], [1, 1])


def test_a_later_verdict_replaces_only_a_row_that_is_alone_of_its_kind() -> None:
    def rows(hashes: list[int], anomalous: bool) -> Calibration:
        n = len(hashes)
        nats, some = np.arange(float(n)), np.full(n, anomalous)
        return Calibration({"a": nats}, np.array(hashes, np.uint64), np.zeros(n), some, some)

    found = merged((rows([0, 0, 1, 2, 2, 3], False), rows([0, 1, 2], True)))
    assert found.hashes.tolist() == [0, 0, 2, 2, 3, 0, 1, 2]
    assert found.anomalous.tolist() == [False] * 5 + [True] * 3
    assert found.parts["a"].tolist() == [0, 1, 3, 4, 5, 0, 2, 2]
