"""The one training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from anomaly_vae.core import distributed
from anomaly_vae.core.callbacks import EpochCallback
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError, TrainingError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import VAE, with_data
from anomaly_vae.models.likelihoods import binarised
from anomaly_vae.training import checkpoint
from anomaly_vae.training.adversarial import Discriminator
from anomaly_vae.training.augment import spread
from anomaly_vae.training.objective import active_units, perplexity, terms
from anomaly_vae.training.schedules import beta_at, capacity_at, risen
from anomaly_vae.training.step import TrainingStep, adamw
from anomaly_vae.training.threads import few_threads

STEPS = 32  # of an epoch at least: a small training set is passed several times, so that every epoch makes progress
EPOCHS = 10  # at least: a training that ends before it has seen every row still has held-out metrics and early stopping
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
    step = TrainingStep(distributed.parallel(model), train, optimizer, config, schedule.spread, opponent)
    saved = time.monotonic()
    with few_threads(model, train, batch_size):
        for epoch in range(len(history.epochs), schedule.epochs):
            if epoch - history.best_epoch >= settings.patience or (last is not None and epoch > last):
                break
            figures = one_epoch(step, train, config, schedule, epoch, history)
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


def one_epoch(
    step: TrainingStep, train: RowDataset, config: Config, schedule: Schedule, epoch: int, history: History
) -> dict[str, float]:
    """One epoch; the figures are means over it. Nothing waits for the device before its end."""
    step.net.train()
    shuffle = torch.Generator().manual_seed(_seed(config.seed, epoch, 0))
    order = schedule.order(train, shuffle)
    step.start(_seed(config.seed, epoch, 1))
    start, steps, began, progress = 0, 0, time.perf_counter(), 0.0
    while start < len(order):
        progress = (epoch + start / len(order)) / schedule.epochs
        index = order[start : start + history.batch_size]
        try:
            step(index, progress)
        except torch.OutOfMemoryError as error:
            history.batch_size, history.halved = _halve(history.batch_size, error), history.halved + 1
            step.release()
            continue
        start, steps = start + len(index), steps + 1
    skipped = int(step.skipped)
    history.skipped += skipped
    if skipped > steps // 2:
        raise TrainingError(_diagnosis(train, config, epoch, skipped, steps))
    total, recon, kl = (step.sums / len(order)).tolist()
    figures = {
        "loss": total, "recon": recon, "kl": kl, "beta": beta_at(config.objective, progress),
        "samples_per_second": len(order) / (time.perf_counter() - began),
    }  # fmt: skip
    capacity = capacity_at(config.objective, progress)
    return figures if capacity is None else figures | {"capacity": capacity}


def _opponent(train: RowDataset, config: Config) -> Discriminator | None:
    """The discriminator of `objective.adversarial`; None for 0. Raises ConfigError for samples that are no pictures."""
    if not config.objective.adversarial:
        return None
    x = train.take(torch.zeros(1, dtype=torch.long, device="cpu" if train.pinned else train.device))
    if x.dim() != 4:
        raise ConfigError("objective.adversarial judges patches of pictures; 0 leaves the discriminator out")
    assert config.training.lr
    return Discriminator(x.shape[1] - train.n_condition, train.device, config.training.lr / 4, _seed(config.seed, 0, 3))


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
