"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_vae import checkpoint
from anomaly_vae.config import Config
from anomaly_vae.data.tensors import Samples
from anomaly_vae.errors import ConfigError, TrainingError
from anomaly_vae.models import VAE
from anomaly_vae.objective import active_units, beta_at, loss, terms

Watch = Callable[[int, int, dict[str, float]], None]  # (epoch, of, metrics)
STEPS = 32  # of an epoch at least: a small training set is passed several times, so that every epoch gets somewhere
CHECKPOINT_SECONDS = 1.0  # a kill loses at most this much, and short epochs are not slowed by writing


@dataclass
class History:
    """What happened: one dict of metrics an epoch (nats a sample), and the state that a checkpoint keeps."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float = float("inf")  # held-out negative ELBO of the best epoch, nats a sample
    batch_size: int = 0
    skipped: int = 0  # steps without a finite gradient


def pick_device(wanted: str) -> torch.device:
    """The device of a setting. Raises ConfigError where CUDA is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device was found; device=auto or cpu would work")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def train(
    model: VAE, train: Samples, valid: Samples, config: Config, watch: Watch, folder: Path | None = None
) -> History:
    """Trains in place and leaves the weights of the epoch with the best held-out negative ELBO.

    watch: called after each epoch. folder: where to keep a checkpoint, and to continue from one that is there; the
    unbroken and the continued run end with the same weights (CPU), for every epoch draws from its own seed.
    Raises TrainingError where most steps of an epoch have no finite gradient, or memory fails at the smallest batch.
    """
    assert config.training.epochs and config.training.batch_size
    settings = config.training
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True)
    history = History(batch_size=min(settings.batch_size, len(train)))
    best: dict[str, Tensor] = {}
    if folder is not None and checkpoint.exists(folder):
        best, state = checkpoint.load(folder, model, optimizer)
        history = History(**state)
    saved = time.monotonic()
    for epoch in range(len(history.epochs), settings.epochs):
        if epoch - history.best_epoch >= settings.patience:
            break
        figures = _epoch(model, train, optimizer, config, epoch, history)
        figures |= held_out(model, valid, config.seed, history.batch_size)
        history.epochs.append(figures)
        warm = beta_at(config.objective, epoch / settings.epochs) >= config.objective.beta
        if figures["valid_loss"] < history.best or not warm:  # before beta is full the bound is not the final one
            history.best, history.best_epoch = figures["valid_loss"], epoch
            best = {k: v.detach().clone() for k, v in model.state_dict().items()}
        watch(epoch, settings.epochs, figures)
        if folder is not None and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            checkpoint.save(folder, model, best, optimizer, vars(history))
            saved = time.monotonic()
    model.load_state_dict(best)
    model.eval()
    return history


def _epoch(
    model: VAE, train: Samples, optimizer: torch.optim.AdamW, config: Config, epoch: int, history: History
) -> dict[str, float]:
    """One pass over the training samples; the figures are means over it. Nothing waits for the device before its end."""
    model.train()
    device, settings = train.device, config.training
    assert settings.epochs
    noise = torch.Generator(device).manual_seed(_seed(config.seed, epoch, 1))
    shuffle = torch.Generator().manual_seed(_seed(config.seed, epoch, 0))
    passes = math.ceil(STEPS / math.ceil(len(train) / history.batch_size))
    order = torch.cat([train.shuffled(shuffle) for _ in range(passes)])
    sums, bad = torch.zeros(3, device=device), torch.zeros((), device=device)
    start, steps, began, beta = 0, 0, time.perf_counter(), 0.0
    while start < len(order):
        progress = (epoch + start / len(order)) / settings.epochs
        beta = beta_at(config.objective, progress)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
        index = order[start : start + history.batch_size]
        try:
            found, step_sums = _step(model, train.take(index), optimizer, config, beta, noise)
        except torch.OutOfMemoryError as error:
            history.batch_size = _halve(history.batch_size, error)
            optimizer.zero_grad(set_to_none=True)
            continue
        bad += found
        sums += torch.where(found > 0, torch.zeros_like(sums), step_sums * len(index))
        start, steps = start + len(index), steps + 1
    skipped = int(bad)
    history.skipped += skipped
    if skipped > steps // 2:
        raise TrainingError(_diagnosis(model, train, config, epoch, skipped, steps))
    total, recon, kl = (sums / len(order)).tolist()
    return {
        "loss": total, "recon": recon, "kl": kl, "beta": beta,
        "samples_per_second": len(order) / (time.perf_counter() - began),
    }  # fmt: skip


def _step(
    model: VAE, x: Tensor, optimizer: torch.optim.AdamW, config: Config, beta: float, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One optimiser step; (found, sums): 1 where the gradient was not finite and the step was skipped, and the means."""
    with autocast(config, x.device):
        out = model(x, noise)
    total, recon, kl = loss(x, out, config.objective, beta)
    optimizer.zero_grad(set_to_none=True)
    # nats an element: one learning rate and one clip norm then serve 20 columns and 50,000 pixels
    (total / x[0].numel()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip)
    found = (~torch.isfinite(norm)).float()
    optimizer.found_inf = found  # type: ignore[attr-defined]  # the fused step skips itself on the device
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()
    return found, torch.stack([total.detach(), recon.detach(), kl.detach()])


@torch.no_grad()
def held_out(model: VAE, valid: Samples, seed: int, batch_size: int) -> dict[str, float]:
    """valid_loss: the negative ELBO (beta 1, no free bits; one sample of z, always the same) in nats; active units."""
    model.eval()
    noise = torch.Generator(valid.device).manual_seed(_seed(seed, 0, 2))
    index = torch.arange(len(valid), device="cpu" if valid.pinned else valid.device)
    total, mus = torch.zeros((), device=valid.device), []
    for part in index.split(max(batch_size, 256)):
        x = valid.take(part)
        out = model(x, noise)
        recon, kl = terms(x, out)
        total += (recon + kl).sum()
        mus.append(out.mu)
    active = active_units(torch.cat(mus))
    return {"valid_loss": float(total) / len(valid), "active_units": float(active.sum())}


def autocast(config: Config, device: torch.device) -> Any:
    """bfloat16 autocast where the setting asks for it and the hardware computes in it, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if config.training.bf16 and has_bf16(device) else nullcontext()


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulation would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _seed(seed: int, epoch: int, use: int) -> int:
    return ((seed * 1_000_003 + epoch) * 8 + use) % 2**63


def _halve(batch_size: int, error: Exception) -> int:
    if batch_size <= 2:
        raise TrainingError(
            "out of memory even with 2 samples a batch; a smaller model or data.size would work"
        ) from error
    torch.cuda.empty_cache()
    return batch_size // 2


def _diagnosis(model: VAE, train: Samples, config: Config, epoch: int, skipped: int, steps: int) -> str:
    """Why gradients are not finite: the element with the largest scaled value, and the learning rate."""
    x = train.take(torch.arange(min(len(train), 4096), device="cpu" if train.pinned else train.device))
    extreme = torch.nan_to_num(x).abs().amax(0).flatten()
    worst = int(extreme.argmax())
    return (
        f"{skipped} of {steps} steps of epoch {epoch + 1} had no finite gradient; training.lr={config.training.lr:g}"
        f" is the likely cause (try a tenth), or element {worst} with a scaled value of {float(extreme[worst]):.3g}"
    )
