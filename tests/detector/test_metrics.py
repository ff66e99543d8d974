"""Metrics by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from anomaly_vae.detector.metrics import metrics


def test_by_hand() -> None:
    anomalous = np.array([False, False, False, False, True, True])
    scores = np.array([1.0, 2.0, 3.0, 5.0, 4.0, 6.0])
    assert metrics(anomalous, scores, 4.0) == pytest.approx(
        {
            "rows": 6.0,
            "anomalies": 2.0,
            "alarm_rate": 3 / 6,
            "false_alarm_rate": 1 / 4,  # the 5; the anomaly at the threshold itself is a hit
            "recall": 1.0,
            "precision": 2 / 3,
            "f1": 4 / 5,
            "auroc": 7 / 8,  # of 8 pairs, only (5, 4) is in the wrong order
            "auroc_low": 0.22760752907208126,  # see test_auroc.py
            "auroc_high": 0.9940221012770113,
            "auprc": 0.5 * 1 + 0.5 * 2 / 3,
            "fpr_at_95_tpr": 1 / 4,
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anomalous = rng.random(80) < 0.3
    scores = np.round(rng.normal(size=80) + anomalous, 1)  # with ties
    found, alarms = metrics(anomalous, scores, 0.8), scores >= 0.8
    expected = {
        "auroc": roc_auc_score(anomalous, scores),
        "auprc": average_precision_score(anomalous, scores),
        "f1": f1_score(anomalous, alarms),
        "precision": precision_score(anomalous, alarms),
        "recall": recall_score(anomalous, alarms),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # the smallest share of false alarms over all cuts that find 95 % of the anomalies
    rates = [(scores[~anomalous] >= c).mean() for c in scores if (scores[anomalous] >= c).mean() >= 0.95]
    assert found["fpr_at_95_tpr"] == pytest.approx(min(rates))


def test_what_needs_both_classes_is_left_out_without_them() -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    assert metrics(None, scores, 3.0) == {"rows": 4.0, "alarm_rate": 0.5}
    assert metrics(np.zeros(4, bool), scores, 3.0) == {
        "rows": 4.0, "alarm_rate": 0.5, "anomalies": 0.0, "false_alarm_rate": 0.5
    }  # fmt: skip
    assert metrics(np.ones(4, bool), scores, 3.0) == {
        "rows": 4.0, "alarm_rate": 0.5, "anomalies": 4.0, "recall": 0.5, "precision": 1.0, "f1": pytest.approx(2 / 3)
    }  # fmt: skip


def test_no_alarm_and_no_row() -> None:
    found = metrics(np.array([True, False]), np.array([1.0, 2.0]), 9.0)
    assert (found["precision"], found["recall"], found["f1"], found["alarm_rate"]) == (0.0, 0.0, 0.0, 0.0)
    assert metrics(np.empty(0, bool), np.empty(0), 1.0) == {"rows": 0.0, "alarm_rate": 0.0, "anomalies": 0.0}
