"""The one training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from anomaly_vae.core import distributed
from anomaly_vae.core.callbacks import EpochCallback
from anomaly_vae.core.config import Config
from anomaly_vae.core.device import autocast
from anomaly_vae.core.errors import ConfigError, TrainingError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import VAE, Output, with_data
from anomaly_vae.models.likelihoods import binarised
from anomaly_vae.training import checkpoint
from anomaly_vae.training.adversarial import Discriminator
from anomaly_vae.training.augment import corrupted, spread
from anomaly_vae.training.objective import active_units, loss, perplexity, terms
from anomaly_vae.training.optimizer import AdamW
from anomaly_vae.training.schedules import beta_at, capacity_at, risen
from anomaly_vae.training.threads import few_threads

STEPS = 32  # of an epoch at least: a small training set is passed several times, so that every epoch makes progress
EPOCHS = 10  # at least: a training that ends before it has seen every row still has held-out metrics and early stopping
RISE = 0.05  # share of the training in which the learning rate rises
JUDGED = 1 << 16  # held-out samples at most that an epoch is judged by: their mean is known to 0.4 % of their spread
CHECKPOINT_SECONDS = 1.0  # a kill loses at most this much, and short epochs are not slowed by writing


@dataclass
class History:
    """Metrics of each epoch (nats a sample), and the state that a checkpoint keeps."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    kl: list[list[float]] = field(default_factory=list)  # of each epoch: held-out KL of each latent group (G,)
    best_epoch: int = 0
    best: float = float("inf")  # held-out negative ELBO of the best epoch, nats a sample
    batch_size: int = 0
    skipped: int = 0  # steps without a finite gradient
    halved: int = 0  # times that memory did not hold a batch
    planned: int = 0  # epochs, if training does not stop before


@dataclass(frozen=True)
class Schedule:
    """How a training is divided: `epochs` of `samples` each, which for most data is one pass over the rows."""

    epochs: int
    samples: int
    spread: float = 1.0  # of the data, the unit of the noise

    @classmethod
    def of(cls, train: RowDataset, batch_size: int, config: Config) -> Schedule:
        assert config.training.steps
        rows, one_pass = len(train), math.ceil(len(train) / batch_size)
        steps = config.training.steps
        if config.training.epochs:
            an_epoch = max(STEPS, one_pass)
            steps = config.training.epochs * an_epoch
        else:
            an_epoch = max(STEPS, min(one_pass, steps // EPOCHS))
        samples = rows if an_epoch == one_pass else an_epoch * batch_size
        return cls(math.ceil(steps / an_epoch), samples, spread(train) if config.training.noise else 1.0)

    def order(self, train: RowDataset, generator: torch.Generator) -> Tensor:
        """(samples,) the samples of an epoch: as many shuffled passes over the rows as it needs."""
        passes = math.ceil(self.samples / len(train))
        return torch.cat([train.shuffled(generator) for _ in range(passes)])[: self.samples]


def train(
    model: VAE, train: RowDataset, valid: RowDataset, config: Config, watch: EpochCallback, folder: Path | None = None,
    share: float | None = None,
) -> History:  # fmt: skip
    """Trains in place and leaves the weights of the epoch with the best held-out negative ELBO.

    share: leave those after this share of the epochs instead, where nothing is held out; valid is then only measured.
    watch: called after each epoch, and for those of a checkpoint again. folder: where to keep a checkpoint, and to
    continue from one that is there; the unbroken and the continued run end with the same weights (CPU), for every
    epoch draws from its own seed.
    Raises TrainingError where most steps of an epoch have no finite gradient, or memory fails at the smallest batch.
    """
    settings = config.training
    assert settings.batch_size
    optimizer = adamw(model, config)
    batch_size = min(settings.batch_size, max(16, len(train) // 2))
    schedule = Schedule.of(train, batch_size, config)
    history = History(batch_size=batch_size, planned=schedule.epochs)
    last = None if share is None else max(1, round(share * schedule.epochs)) - 1
    best: dict[str, Tensor] = {}
    opponent = _opponent(train, config)
    kept = distributed.from_lead(lambda: checkpoint.read(folder) if folder and checkpoint.exists(folder) else None)
    if kept is not None:
        best = kept.restore(model, optimizer)
        if opponent is not None:
            opponent.restore(kept.folder)
        history = History(**kept.state)
        for epoch, figures in enumerate(history.epochs):
            watch(epoch, schedule.epochs, figures)
    net, saved = distributed.parallel(model), time.monotonic()
    with few_threads(model, train, batch_size):
        for epoch in range(len(history.epochs), schedule.epochs):
            if epoch - history.best_epoch >= settings.patience or (last is not None and epoch > last):
                break
            figures = one_epoch(net, train, optimizer, config, schedule, epoch, history, opponent)
            held, kl = held_out(model, valid, config.seed, history.batch_size, settings.binarise)
            figures |= held
            history.kl.append(kl)
            history.epochs.append(figures)
            warm = risen(config.objective, epoch / schedule.epochs) >= 1
            bound = figures["valid_loss"] if math.isfinite(figures["valid_loss"]) else math.inf
            # before beta is full the bound is not yet the one that is trained for
            if bound < history.best or not warm or not best or last is not None:
                history.best, history.best_epoch = bound, epoch
                best = {k: v.detach().clone() for k, v in model.state_dict().items()}
            watch(epoch, schedule.epochs, figures)
            if folder is not None and distributed.is_lead() and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                if opponent is not None:
                    opponent.save(folder)
                checkpoint.save(folder, model, best, optimizer, vars(history))
                saved = time.monotonic()
    model.load_state_dict(best)
    model.eval()
    return history


def adamw(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """The optimiser of a resolved configuration."""
    settings = config.training
    assert settings.lr
    return AdamW(model.parameters(), settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True)


def one_epoch(
    model: nn.Module, train: RowDataset, optimizer: torch.optim.AdamW, config: Config, schedule: Schedule, epoch: int,
    history: History, opponent: Discriminator | None = None,
) -> dict[str, float]:  # fmt: skip
    """One epoch; the figures are means over it. Nothing waits for the device before its end."""
    model.train()
    device, lr = train.device, config.training.lr
    assert lr
    noise = distributed.generator(device, _seed(config.seed, epoch, 1))
    shuffle = torch.Generator().manual_seed(_seed(config.seed, epoch, 0))
    order = schedule.order(train, shuffle)
    sums, bad = torch.zeros(3, device=device), torch.zeros((), device=device)
    start, steps, began, progress = 0, 0, time.perf_counter(), 0.0
    while start < len(order):
        progress = (epoch + start / len(order)) / schedule.epochs
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (progress + 1e-3) / RISE) * 0.5 * (1 + math.cos(math.pi * progress))
        index = order[start : start + history.batch_size]
        try:
            x = train.take(distributed.share(index, noise))
            found, step_sums = _step(model, x, optimizer, config, progress, schedule.spread, noise, opponent)
        except torch.OutOfMemoryError as error:
            history.batch_size, history.halved = _halve(history.batch_size, error), history.halved + 1
            optimizer.zero_grad(set_to_none=True)
            continue
        bad += found
        sums += torch.where(found > 0, torch.zeros_like(sums), step_sums * len(index))
        start, steps = start + len(index), steps + 1
    skipped = int(bad)
    history.skipped += skipped
    if skipped > steps // 2:
        raise TrainingError(_diagnosis(train, config, epoch, skipped, steps))
    total, recon, kl = (sums / len(order)).tolist()
    figures = {
        "loss": total, "recon": recon, "kl": kl, "beta": beta_at(config.objective, progress),
        "samples_per_second": len(order) / (time.perf_counter() - began),
    }  # fmt: skip
    capacity = capacity_at(config.objective, progress)
    return figures if capacity is None else figures | {"capacity": capacity}


def _step(
    model: nn.Module, x: Tensor, optimizer: torch.optim.AdamW, config: Config, progress: float, scale: float,
    noise: torch.Generator, opponent: Discriminator | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One optimiser step; (found, means): found is 1 where the gradient was not finite and the step was skipped."""
    x, read = corrupted(x, distributed.inner(model), config, scale, noise)
    with autocast(config, x.device):
        out = model(read, noise)
    total, recon, kl = loss(
        x, out, config.objective, beta_at(config.objective, progress), capacity_at(config.objective, progress)
    )
    judged = opponent is not None and risen(config.objective, progress) >= 1  # not before beta is full
    if opponent is not None and judged:
        total = total + config.objective.adversarial * x[0].numel() * opponent.objection(_pictures(x, out))
    optimizer.zero_grad(set_to_none=True)
    # nats an element: one learning rate and one clip norm then serve 20 columns and 50,000 pixels
    (total / x[0].numel()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip)
    found = (~torch.isfinite(norm)).float()
    optimizer.found_inf = found  # type: ignore[attr-defined]  # the fused step skips itself on the device
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()
    if opponent is not None and judged:
        opponent.learn(out.data(x), _pictures(x, out))
    return found, torch.stack([total.detach(), recon.detach(), kl.detach()])


def _opponent(train: RowDataset, config: Config) -> Discriminator | None:
    """The discriminator of `objective.adversarial`; None for 0. Raises ConfigError for samples that are no pictures."""
    if not config.objective.adversarial:
        return None
    x = train.take(torch.zeros(1, dtype=torch.long, device="cpu" if train.pinned else train.device))
    if x.dim() != 4:
        raise ConfigError("objective.adversarial judges patches of pictures; 0 leaves the discriminator out")
    assert config.training.lr
    return Discriminator(x.shape[1] - train.n_condition, train.device, config.training.lr / 4, _seed(config.seed, 0, 3))


def _pictures(x: Tensor, out: Output) -> Tensor:
    """The reconstruction (B, C, H, W), the mean over members."""
    return out.px.mean if out.px.mean.dim() == x.dim() else out.px.mean.mean(0)


@torch.no_grad()
def held_out(
    model: VAE, valid: RowDataset, seed: int, batch_size: int, binarise: bool = False
) -> tuple[dict[str, float], list[float]]:
    """(figures, KL): valid_loss, the negative ELBO (beta 1, no free bits; one sample of z, always the same) in nats,
    and active units; the mean KL of each latent group (G,) in nats.

    Of more than JUDGED samples so many, evenly spaced. With a codebook also the perplexity of its codes. binarise: of
    one draw of the pixels, always the same.
    """
    model.eval()
    noise = distributed.generator(valid.device, _seed(seed, 0, 2))
    index = valid.spaced(JUDGED)
    total, mus, kls, codes = torch.zeros((), device=valid.device), [], [], []
    for part in index.split(max(batch_size, 256)):
        x = valid.take(distributed.share(part, noise))
        x = with_data(x, model.n_condition, lambda data: binarised(data, noise)) if binarise else x
        out = model(x, noise)
        recon, kl = terms(x, out)
        total += distributed.gathered(recon + kl, noise).sum()
        mus.append(distributed.gathered(out.mu, noise))
        kls.append(distributed.gathered(out.kl, noise))
        if out.codes is not None:
            codes.append(distributed.gathered(out.codes, noise))
    found = {"valid_loss": float(total) / len(index), "active_units": float(active_units(torch.cat(mus)).sum())}
    found |= {"perplexity": perplexity(torch.cat(codes))} if codes else {}
    return found, torch.cat(kls).float().mean(0).tolist()


def _seed(seed: int, epoch: int, use: int) -> int:
    return ((seed * 1_000_003 + epoch) * 8 + use) % 2**63


def _halve(batch_size: int, error: Exception) -> int:
    if distributed.launched():
        raise TrainingError(
            f"out of memory in this process with its share of {batch_size} samples; a smaller training.batch_size or"
            " more processes would work"
        ) from error
    if batch_size <= 2:
        raise TrainingError(
            "out of memory even with 2 samples a batch; a smaller model or data.size would work"
        ) from error
    torch.cuda.empty_cache()
    return batch_size // 2


def _diagnosis(train: RowDataset, config: Config, epoch: int, skipped: int, steps: int) -> str:
    """Why gradients are not finite: the element with the largest scaled value, and the learning rate."""
    x = train.take(torch.arange(min(len(train), 4096), device="cpu" if train.pinned else train.device))
    extreme = torch.nan_to_num(x).abs().amax(0)
    worst = int(extreme.argmax())
    column = worst // extreme[0].numel()
    name = f"column '{train.columns[column]}'" if train.columns else f"element {worst}"
    return (
        f"{skipped} of {steps} steps of epoch {epoch + 1} had no finite gradient; training.lr={config.training.lr:g}"
        f" is the likely cause (try a tenth), or {name} with a scaled value of {float(extreme.max()):.3g}"
    )
