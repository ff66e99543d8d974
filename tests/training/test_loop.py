"""The loop: the same bits from the same seed, broken or not; one clear line when it cannot go on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomaly_vae.core import callbacks, device
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError, RunError, TrainingError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.base import VAE, Output, elements
from anomaly_vae.models.registry import build
from anomaly_vae.training import checkpoint, loop, step, threads
from anomaly_vae.training.loop import History, held_out, train
from anomaly_vae.training.step import TrainingStep

CPU = torch.device("cpu")
F = 4


@pytest.fixture(autouse=True)
def _short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS", 1)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)


def settings(**changes: Any) -> Config:
    base = {
        "model": {"latent": 2, "hidden": (8,), "members": 2},
        "training": {"epochs": 5, "batch_size": 8, "lr": 1e-2, "bf16": False, "patience": 99, "noise": 0.1},
    }
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
    return resolve(load(overrides=overrides, base=base), "table")


def part(seed: int, n: int = 48) -> RowDataset:
    """Samples on a line in space, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1)) * np.arange(1, F + 1) / 2 + 0.1 * rng.normal(size=(n, F))
    return RowDataset(x.astype(np.float32), CPU)


def model_of(config: Config) -> VAE:
    torch.manual_seed(config.seed)
    return build(config.model, (F,))


def trained(
    config: Config, folder: Path | None = None, watch: callbacks.Watch = lambda *_: None
) -> tuple[VAE, History]:
    model = model_of(config)
    return model, train(model, part(0), part(1), config, watch, folder)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def figures(history: History) -> list[dict[str, float]]:
    return [{k: v for k, v in epoch.items() if k != "samples_per_second"} for epoch in history.epochs]


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    (first, history), (second, again) = trained(settings()), trained(settings())
    assert same(first, second)
    assert figures(history) == figures(again)
    assert not same(first, trained(settings(seed=1))[0])


def test_the_global_generator_plays_no_part() -> None:
    first = model_of(settings())
    train(first, part(0), part(1), settings(), lambda *_: None)
    second = model_of(settings())
    torch.manual_seed(99)
    train(second, part(0), part(1), settings(), lambda *_: torch.manual_seed(98))
    assert same(first, second)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_killed_and_continued_is_unbroken(tmp_path: Path, last: int) -> None:
    unbroken, history = trained(settings())

    def kill(epoch: int, *_: Any) -> None:
        if epoch == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(settings(), tmp_path, kill)
    assert checkpoint.exists(tmp_path) == (last > 0)  # the epoch that was interrupted is done again
    seen: list[int] = []
    continued, rest = trained(settings(), tmp_path, lambda epoch, *_: seen.append(epoch))
    assert seen == list(range(5))  # those of the checkpoint again, for the record of the run
    assert same(unbroken, continued)
    assert figures(history) == figures(rest)
    assert (history.best, history.best_epoch) == (rest.best, rest.best_epoch)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    trained(settings(), tmp_path)
    with pytest.raises(RunError, match="of another model; fit again"):
        trained(settings(model__latent=3), tmp_path)


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_missing_or_broken_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / checkpoint.FILE).write_bytes(content)
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        checkpoint.read(tmp_path)


def test_the_loss_falls() -> None:
    _, history = trained(settings(training__epochs=30, objective__schedule="constant"))
    losses = [epoch["loss"] for epoch in history.epochs]
    assert losses[-1] < losses[0] - 1
    assert history.epochs[-1]["active_units"] >= 1
    assert [epoch["beta"] for epoch in history.epochs] == [1.0] * 30


def test_what_is_logged_is_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(
        objective__schedule="constant", objective__beta=0.5, objective__free_bits=0, objective__free_bits_total=0
    )
    for epoch in trained(config)[1].epochs:
        assert epoch["loss"] == pytest.approx(epoch["recon"] + 0.5 * epoch["kl"], rel=1e-5)


def risen(schedule: str, progress: float) -> float:
    """The share of beta after a share of the training, with a warm-up of 0.6 and two cycles; written out anew."""
    if schedule == "cyclical":
        return min(1.0, 2 * ((progress * 2) % 1))
    t = min(1.0, progress / 0.6)
    return {
        "constant": 1.0,
        "linear": t,
        "cosine": (1 - math.cos(math.pi * t)) / 2,
        "sigmoid": 1.0 if t == 1 else 1 / (1 + math.exp(6 - 12 * t)),
    }[schedule]


@pytest.mark.parametrize("capacity", [None, 3.0])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "sigmoid", "cyclical"])
@pytest.mark.parametrize("kind", ["dense", "vq"])
def test_the_logged_loss_is_the_objective_at_every_epoch_of_every_schedule(
    kind: str, schedule: str, capacity: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "objective__schedule": schedule, "objective__beta": 0.5, "objective__warmup": 0.6, "objective__cycles": 2,
        "objective__free_bits": 0, "objective__free_bits_total": 0, "training__batch_size": 20,
    }  # fmt: skip
    if capacity is not None:
        changes["objective__capacity"] = capacity
    if kind == "vq":
        changes |= {"model__kind": "vq", "model__channels": "[4]", "model__members": 1, "training__jitter": 0}
        changes |= {"model__codes": 5, "model__code_prior": "unigram", "model__blocks": 0, "model__latent": 2}
    steps: list[tuple[int, float, float, float]] = []  # of each step: samples, recon, KL, aux; means in nats
    inner = step.loss

    def recording(x: Tensor, out: Output, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        found = inner(x, out, *rest)
        nats = (elements(x, out).sum() / len(x), out.kl.sum() / len(x), torch.as_tensor(out.aux).mean())
        recon, kl, aux = (each.item() for each in nats)
        steps.append((len(x), recon, kl, aux))
        return found

    monkeypatch.setattr(step, "loss", recording)
    config = settings(**changes)
    x = part(0, 46).values
    data = RowDataset((x if kind == "dense" else x.repeat(1, 2)[:, None]).numpy(), CPU)
    torch.manual_seed(0)
    history = train(build(config.model, tuple(data.values.shape[1:])), data, data, config, lambda *_: None)
    assert len(history.epochs) == 5
    assert (max(step[3] for step in steps) > 0) == (kind == "vq")
    for epoch, figures in enumerate(history.epochs):
        now, total, place = steps[3 * epoch : 3 * epoch + 3], 0.0, 0
        assert [step[0] for step in now] == [20, 20, 6]
        for rows, recon, kl, aux in now:
            share = risen(schedule, (epoch + place / 46) / 5)
            charged = share * 0.5 * kl if capacity is None else 0.5 * abs(kl - share * capacity)
            total, place = total + rows * (recon + charged + aux), place + rows
        assert figures["loss"] == pytest.approx(total / 46, rel=1e-5)
        assert figures["recon"] == pytest.approx(sum(step[0] * step[1] for step in now) / 46, rel=1e-5)
        assert figures["kl"] == pytest.approx(sum(step[0] * step[2] for step in now) / 46, rel=1e-5)
        # beta and the capacity as they are logged: those of the last step
        assert figures["beta"] == pytest.approx(0.5 if capacity is not None else 0.5 * share)
        assert figures.get("capacity") == (None if capacity is None else pytest.approx(share * capacity))


def held_out_says(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(losses)
    monkeypatch.setattr(loop, "held_out", lambda *_: ({"valid_loss": next(left), "active_units": 1.0}, [0.5]))


@pytest.mark.parametrize(
    ("warmup", "losses", "best"),
    [
        (0.0, [5.0, 4.0, 2.0, 3.0, 2.0], 2),  # the first of equals
        (0.0, [float("nan"), 4.0, 5.0, 3.0, 6.0], 3),
        (0.0, [1.0, 2.0, 3.0, 4.0, 5.0], 0),
        (0.6, [1.0, 2.0, 9.0, 5.0, 4.0], 4),  # what comes before beta is full is given up
        (1.0, [1.0, 2.0, 3.0, 4.0, 5.0], 4),
    ],
)
def test_the_weights_of_the_best_epoch_are_kept(
    warmup: float, losses: list[float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out_says(losses, monkeypatch)
    config = settings(objective__warmup=warmup)
    weights: list[dict[str, Tensor]] = []
    model = model_of(config)

    def watch(*_: Any) -> None:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})

    history = train(model, part(0), part(1), config, watch)
    assert (history.best_epoch, history.best) == (best, losses[best])
    assert all(torch.equal(value, weights[best][name]) for name, value in model.state_dict().items())
    assert not all(torch.equal(value, weights[best - 1][name]) for name, value in model.state_dict().items())


def test_the_best_loss_is_that_of_the_weights() -> None:
    config = settings(objective__warmup=0)
    model, history = trained(config)
    assert history.best == min(epoch["valid_loss"] for epoch in history.epochs)
    assert held_out(model, part(1), config.seed, history.batch_size)[0]["valid_loss"] == history.best


def test_patience_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out_says([5.0, 3.0, 4.0, 3.5, 9.0], monkeypatch)
    history = trained(settings(objective__warmup=0, training__patience=2))[1]
    assert (len(history.epochs), history.best_epoch) == (3, 1)


def test_the_held_out_loss_is_the_elbo_whatever_beta() -> None:
    model = model_of(settings())
    found, kl = held_out(model, part(1), 0, 8)
    assert (found, kl) == held_out(model, part(1), 0, 8)
    x = part(1).take(torch.arange(48))
    out = model(x, torch.Generator().manual_seed(loop._seed(0, 0, 2)))
    expected = (out.px.nll(x).mean(0).sum(1) + out.kl.sum(1)).mean().item()
    assert found["valid_loss"] == pytest.approx(expected, rel=1e-5)
    assert kl == pytest.approx(out.kl.mean(0).tolist(), rel=1e-5)


def test_data_without_a_finite_gradient_ends_in_one_line() -> None:
    bad = part(0)
    bad.values[:, 2] = torch.inf
    with pytest.raises(TrainingError) as caught:
        train(model_of(settings()), bad, part(1), settings(), lambda *_: None)
    said = str(caught.value)
    # 48 rows in batches of 8 are 6 steps
    assert said.startswith("6 of 6 steps of epoch 1 had no finite gradient; training.lr=0.01 is the likely cause")
    assert "element 2 with" in said
    assert "\n" not in said


def test_a_single_bad_row_is_skipped_and_counted() -> None:
    bad = part(0)
    bad.values[7, 1] = torch.inf
    model = model_of(settings())
    history = train(model, bad, part(1), settings(training__noise=0), lambda *_: None)
    assert history.skipped == 5  # one batch of each epoch holds it
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert np.isfinite([list(epoch.values()) for epoch in history.epochs]).all()


def out_of_memory_above(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = TrainingStep._compute

    def limited(self: TrainingStep, index: Tensor, at_full_beta: bool) -> None:
        if len(index) > most:
            raise torch.OutOfMemoryError("no memory")
        compute(self, index, at_full_beta)

    monkeypatch.setattr(TrainingStep, "_compute", limited)


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(2, monkeypatch)
    assert trained(settings())[1].batch_size == 2


def test_no_memory_for_the_smallest_batch_says_what_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(0, monkeypatch)
    with pytest.raises(TrainingError, match=r"a smaller model or data\.size would work"):
        trained(settings())


def test_bf16_is_used_where_the_hardware_has_it_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained(settings())[0]
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    assert same(plain, trained(settings(training__bf16=True))[0])
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert same(plain, trained(settings(training__bf16=False))[0])
    mixed, history = trained(settings(training__bf16=True))
    assert not same(plain, mixed)
    assert {value.dtype for value in mixed.parameters()} == {torch.float32}
    assert np.isfinite(history.best)


def test_the_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device("auto") == device.pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match="no CUDA device was found; device=auto or cpu would work"):
        device.pick_device("cuda")


def test_every_epoch_takes_every_row_once_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    rows = part(0)
    take = rows.take
    monkeypatch.setattr(rows, "take", lambda index: (taken.extend(index.tolist()), take(index))[1])
    train(model_of(settings()), rows, part(1), settings(training__noise=0), lambda *_: None)
    del taken[:2]  # with which the operations of a step are counted
    epochs = [taken[start : start + 48] for start in range(0, 5 * 48, 48)]
    assert len(taken) == 5 * 48
    assert all(sorted(epoch) == list(range(48)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


@pytest.mark.parametrize(("alone", "expected"), [(0.0, 2), (1e12, 1)])
def test_a_small_step_is_computed_by_one_thread(alone: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "ALONE", alone)
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        trained(settings(training__epochs=1), watch=lambda *_: seen.append(torch.get_num_threads()))
        assert seen == [expected]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_operations_of_a_step_are_those_of_its_layers() -> None:
    model = model_of(settings())  # two members, latent 2, hidden 8
    there, back = F * 8 + 8 * 2 * 2, 2 * 8 + 8 * 2 * F  # mu and log variance; mean and scale of each element
    assert threads.step_flops(model, part(0), 16) == 3 * 2 * 16 * 2 * (there + back)
