"""Labels weigh the parts of a score by a regression that starts from their sum, where that surely ranks better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from anomaly_vae.detector import part_weights
from anomaly_vae.detector.part_weights import choose_weights
from anomaly_vae.detector.thresholds import choose

Array = NDArray[Any]


def rows(normals: int, anomalies: int, seed: int = 0, shift: float = 4.0) -> tuple[dict[str, Array], Array]:
    """Two parts, each exponential of mean 1 on normals, as surprises are; anomalies are farther out in `a` alone."""
    rng = np.random.default_rng(seed)
    anomalous = np.arange(normals + anomalies) >= normals
    parts = {"a": rng.exponential(size=len(anomalous)) + shift * anomalous, "b": rng.exponential(size=len(anomalous))}
    return {name: nats.round(6) for name, nats in parts.items()}, anomalous


def test_weights_are_the_most_probable_ones_by_another_implementation() -> None:
    parts, anomalous = rows(200, 8, shift=1.0)
    marked = np.zeros(len(anomalous), bool)
    marked[:3] = True
    x = torch.from_numpy(np.stack(list(parts.values())))
    y = torch.from_numpy(anomalous).double()
    counts = torch.where(torch.from_numpy(anomalous | marked), 1.0, 8 / 197).double()
    free = torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([free], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        likelihood = torch.distributions.Bernoulli(logits=free[:2] @ x + free[2]).log_prob(y)
        prior = torch.distributions.Normal(1.0, part_weights.SPREAD).log_prob(free[:2])
        total = -(counts @ likelihood) - prior.sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    assert free[:2].min() > 0, "the bound does not take part here"
    found = part_weights._fitted(x.numpy(), anomalous, marked)
    np.testing.assert_allclose(found, free[:2].detach().numpy(), atol=2e-4)


def test_a_part_that_tells_counts_more_and_left_out_anomalies_rank_better() -> None:
    parts, anomalous = rows(400, 20)
    found = choose_weights(parts, anomalous, np.zeros(420, bool))
    assert found.weights is not None and found.weights["a"] > 1 > found.weights["b"] >= 0
    assert "20 labelled anomalies" in found.note and "--set scoring.weights=none" in found.note


def test_anomalies_below_the_normals_leave_a_score() -> None:
    parts, anomalous = rows(200, 20, shift=0.0)
    below = {name: np.where(anomalous, 0.0, nats) for name, nats in parts.items()} | {"missing": np.zeros(220)}
    found = choose_weights(below, anomalous, np.zeros(220, bool))
    assert found.weights is None and found.totals.std() > 0


@pytest.mark.parametrize("seed", range(8))
def test_labels_do_not_cost_what_the_sum_finds_without_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nats, fresh = (rng.exponential(size=(4, 320)) + 1.2 * (np.arange(320) >= n) for n in (314, 160))  # all parts tell
    anomalous = np.arange(320) >= 314
    found = choose_weights({str(i): part for i, part in enumerate(nats)}, anomalous, np.zeros(320, bool))
    weights = np.ones(4) if found.weights is None else np.array(list(found.weights.values()))
    plain, weighted = (roc_auc_score(np.arange(320) >= 160, w @ fresh) for w in (np.ones(4), weights))
    assert weighted > plain - 0.01
    if found.weights is None:
        np.testing.assert_array_equal(found.totals, nats.sum(0).round(6))


def test_one_anomaly_and_none_leave_the_sum_alone() -> None:
    for count in (0, 1):
        parts, anomalous = rows(50, count)
        assert choose_weights(parts, anomalous, np.zeros(50 + count, bool)).weights is None


def test_normals_that_chose_the_weights_keep_the_promise_of_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """99 normals and 3 anomalies of ten parts choose weights: of fresh normals the promised rate are alarms."""
    monkeypatch.setattr(part_weights, "SURE", -1e9)
    monkeypatch.setattr(part_weights, "FOLDS", 5)
    rates = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        nats = rng.exponential(size=(10, 102))
        nats[seed % 10, 99:] += 3
        anomalous = np.arange(102) >= 99
        found = choose_weights({str(i): part for i, part in enumerate(nats)}, anomalous, np.zeros(102, bool))
        weights = np.ones(10) if found.weights is None else np.array(list(found.weights.values()))
        threshold = choose("fpr=0.1", np.sort(found.totals[:99]), np.empty(0)).value
        rates.append((weights @ rng.exponential(size=(10, 500)) >= threshold).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=4 * np.std(rates) / len(rates) ** 0.5)
