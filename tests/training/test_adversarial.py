"""The discriminator: what it learns, whom its gradients reach, and a training with it that is killed and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anomaly_vae.core import callbacks
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.base import VAE
from anomaly_vae.models.registry import build
from anomaly_vae.training import loop
from anomaly_vae.training.adversarial import Discriminator
from anomaly_vae.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS", 1)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)


def stripes(n: int, seed: int = 0) -> torch.Tensor:
    x = torch.zeros(n, 1, 16, 16)
    x[:, :, ::2] = 1.0
    return x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def test_it_learns_to_tell_stripes_from_their_mean() -> None:
    opponent = Discriminator(1, CPU, lr=3e-3, seed=0)
    data, blurred = stripes(4), torch.full((4, 1, 16, 16), 0.5)
    first = opponent.learn(data, blurred).item()
    for seed in range(20):
        last = opponent.learn(stripes(4, seed), blurred).item()
    assert first == pytest.approx(2.0, abs=0.3)  # it begins undecided: 1 for the data and 1 for the reconstructions
    assert last < 0.2
    assert opponent.objection(blurred).item() > opponent.objection(stripes(4, 99)).item() + 1


def test_its_objection_moves_the_reconstruction_and_not_itself() -> None:
    opponent = Discriminator(1, CPU, lr=1e-3, seed=0)
    made = torch.full((4, 1, 16, 16), 0.5, requires_grad=True)
    opponent.objection(made).backward()
    assert made.grad is not None
    assert bool(made.grad.any())
    assert all(value.grad is None for value in opponent.net.parameters())
    before = made.grad.clone()
    opponent.learn(stripes(4), made)
    assert torch.equal(made.grad, before)


# --- in training -----------------------------------------------------------------------------------------------------


def settings(**changes: Any) -> Config:
    base = {
        "model": {"latent": 2, "hidden": (8,), "channels": (4,)},
        "objective": {"adversarial": 0.5, "warmup": 0.4},
        "training": {"epochs": 5, "batch_size": 8, "lr": 1e-2, "bf16": False, "patience": 99, "noise": 0, "jitter": 0},
    }
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
    return resolve(load(overrides=overrides, base=base), "pixels")


def trained(config: Config, folder: Path | None = None, watch: callbacks.Watch = lambda *_: None) -> VAE:
    torch.manual_seed(0)
    model = build(config.model, (1, 16, 16))
    pictures = (stripes(24).clamp(0, 1).numpy() * 255).astype(np.uint8)
    train(model, RowDataset(pictures[:16], CPU), RowDataset(pictures[16:], CPU), config, watch, folder)
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_enters_when_beta_is_full() -> None:
    assert not same(trained(settings()), trained(settings(objective__adversarial=0)))
    never = {"objective__warmup": 1.0}
    assert same(trained(settings(**never)), trained(settings(objective__adversarial=0, **never)))


def test_killed_and_continued_is_unbroken(tmp_path: Path) -> None:
    def kill(epoch: int, *_: Any) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    unbroken = trained(settings())
    with pytest.raises(KeyboardInterrupt):
        trained(settings(), tmp_path, kill)
    assert same(unbroken, trained(settings(), tmp_path))


def test_rows_have_no_patches() -> None:
    config = resolve(load(overrides=["objective.adversarial=1", "training.epochs=1"]), "table")
    rows = RowDataset(np.zeros((8, 3), np.float32), CPU)
    with pytest.raises(ConfigError, match="judges patches of pictures"):
        train(build(config.model, (3,)), rows, rows, config, lambda *_: None)
