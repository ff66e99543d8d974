"""What one optimiser step is given: beta at its place in the schedule, noise on the input alone, nats an element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_vae.core.config import Config
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.base import VAE, Output
from anomaly_vae.models.registry import build
from anomaly_vae.training import loop, step
from anomaly_vae.training.augment import corrupted
from anomaly_vae.training.loop import History, train
from anomaly_vae.training.objective import active_units

ROWS, COLUMNS = 32, 4


@pytest.fixture(autouse=True)
def _one_step_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS", 1)


def settings(**changes: Any) -> Config:
    base = {
        "model": {"latent": 2, "hidden": (8,), "members": 1},
        "training": {"epochs": 10, "batch_size": ROWS, "lr": 1e-2, "patience": 99, "noise": 0.0},
        "objective": {"free_bits": 0.0, "free_bits_total": 0.0},
    }
    return resolve(load(overrides=[f"{k.replace('__', '.')}={v}" for k, v in changes.items()], base=base), "table")


def rows(seed: int = 0) -> RowDataset:
    x = np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    return RowDataset(x, torch.device("cpu"))


def model_of(config: Config, categories: tuple[int, ...] = ()) -> VAE:
    torch.manual_seed(0)
    return build(config.model, (len(categories) or COLUMNS,), categories)


def trained(config: Config) -> History:
    # a batch is at most half of the rows: an epoch is two steps
    return train(model_of(config), rows(), rows(1), config, lambda *_: None)


# --- beta ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "warmup", "betas"),
    [
        ("constant", 0.2, [2.0] * 10),
        ("linear", 0.4, [0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]),
        ("linear", 1.0, [0.1 * step for step in range(20)]),
        ("cosine", 0.2, [0.0, 1 - math.sqrt(0.5), 1.0, 1 + math.sqrt(0.5), *[2.0] * 16]),
        ("sigmoid", 0.1, [2 / (1 + math.exp(6)), 1.0, *[2.0] * 18]),
        # two cycles of ten steps, each rising over its first five
        ("cyclical", 0.2, [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0] * 2),
    ],
)
def test_every_step_is_charged_beta_at_its_share_of_the_training(
    schedule: str, warmup: float, betas: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step i of the 20 is at a progress of i / 20: the first of all and the last of the warm-up included. What is
    logged of an epoch is its last step's."""
    charged: list[float] = []
    right = step.loss

    def seen(x: Tensor, out: Output, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        total, recon, kl = right(x, out, *rest)
        charged.append(float((total - recon).detach() / kl.detach()))
        return total, recon, kl

    monkeypatch.setattr(step, "loss", seen)
    schedule_settings = {"objective__schedule": schedule, "objective__warmup": warmup, "objective__cycles": 2}
    history = trained(settings(objective__beta=2.0, **schedule_settings))
    expected = betas * (20 // len(betas))
    assert charged == pytest.approx(expected, abs=2e-3)
    assert [epoch["beta"] for epoch in history.epochs] == pytest.approx(expected[1::2], abs=1e-6)


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows", "categories", "condition", "pictures"])
def test_noise_is_added_to_the_numbers_that_are_read_and_to_nothing_else(name: str) -> None:
    config = settings(training__noise=0.5)
    model = model_of(config, (0, 3, 0, 0) if name == "categories" else ())
    x = torch.randn(5000, COLUMNS, generator=torch.Generator().manual_seed(1))
    if name == "categories":
        x[:, 1] = torch.arange(5000) % 3
    if name == "condition":
        model.n_condition = 1
    if name == "pictures":
        x = x.reshape(500, 1, 5, 8)
        model.rows = None
    before = x.clone()
    target, read = corrupted(x, model, config, 3.0, torch.Generator().manual_seed(0))
    assert torch.equal(target, before)
    noise = read - before
    clean = {"categories": [1], "condition": [COLUMNS - 1]}.get(name, [])
    noisy = [column for column in range(noise.shape[1]) if column not in clean]
    assert (noise[:, clean] == 0).all()
    assert float(noise[:, noisy].mean()) == pytest.approx(0, abs=0.05)
    assert float(noise[:, noisy].std()) == pytest.approx(1.5, rel=0.03)


def test_the_loss_compares_with_the_rows_and_the_model_reads_noisy_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = settings(training__noise=0.5), rows()
    model, targets, read = model_of(config), [], []
    right, forward = step.loss, type(model).forward

    def seen(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        targets.append(x.clone())
        return right(x, *rest)

    def reads(self: VAE, x: Tensor, generator: torch.Generator | None = None) -> Output:
        if self.training:
            read.append(x.clone())
        return forward(self, x, generator)

    monkeypatch.setattr(step, "loss", seen)
    monkeypatch.setattr(type(model), "forward", reads)
    train(model, data, rows(1), config, lambda *_: None)
    known = {tuple(row) for row in data.take(torch.arange(ROWS)).tolist()}
    assert len(targets) == 20
    assert all(tuple(row) in known for target in targets for row in target.tolist())
    assert not any(tuple(row) in known for some in read[-len(targets) :] for row in some.tolist())


# --- the gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nats", [40.0, -8.0])
def test_the_gradient_that_is_clipped_is_in_nats_an_element(nats: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of `nats` for each unit of one weight, of samples of four elements."""
    config = settings(training__epochs=1)
    model = model_of(config)
    weight = next(model.parameters())
    seen: list[tuple[float, float]] = []
    right = torch.nn.utils.clip_grad_norm_

    def made_up(x: Tensor, out: Output, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        del x, out
        return nats * weight.flatten()[0], torch.zeros(()), torch.zeros(())

    def clipped(parameters: Any, most: float) -> Tensor:
        assert weight.grad is not None
        seen.append((float(weight.grad.flatten()[0]), most))
        return right(parameters, most)

    monkeypatch.setattr(step, "loss", made_up)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    train(model, rows(), rows(1), config, lambda *_: None)
    assert seen == [(nats / COLUMNS, config.training.clip)] * 2


# --- active units ----------------------------------------------------------------------------------------------------


def test_a_unit_is_active_by_its_variance() -> None:
    """Deviations 0.05 and 0.2 are variances of 0.0025 and 0.04; only the latter is above 0.01."""
    mu = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]) * torch.tensor([0.05, 0.2]) / math.sqrt(2)
    assert mu.std(0).tolist() == pytest.approx([0.05, 0.2])
    assert active_units(mu).tolist() == [False, True]
