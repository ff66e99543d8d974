"""Schedules of the learning rate, of beta and of the KL capacity."""

from __future__ import annotations

import math

from anomaly_vae.core.config import ObjectiveConfig, TrainingConfig

RISE = 0.05  # share of the training in which the learning rate rises


def learning_rate_at(config: TrainingConfig, progress: float) -> float:
    """The learning rate after a share `progress` (0-1) of the training: it rises, then falls along half a cosine."""
    assert config.lr
    return config.lr * min(1.0, (progress + 1e-3) / RISE) * 0.5 * (1 + math.cos(math.pi * progress))


def beta_at(config: ObjectiveConfig, progress: float) -> float:
    """beta after a share `progress` (0-1) of the training; with a capacity, which rises instead, the whole of it."""
    return config.beta if config.capacity is not None else config.beta * risen(config, progress)


def capacity_at(config: ObjectiveConfig, progress: float) -> float | None:
    """The nats that the KL is held to after a share `progress` (0-1) of the training; None: it is not."""
    return None if config.capacity is None else config.capacity * risen(config, progress)


def risen(config: ObjectiveConfig, progress: float) -> float:
    """Which share (0-1) of its final value beta, or the capacity, has after a share `progress` (0-1) of the training.

    linear, cosine, sigmoid: a rise over the first `warmup` share. cyclical (Fu 2019): `cycles` rises over the whole
    training, each linear over the first half of its cycle.
    """
    if config.schedule == "constant" or (config.warmup == 0 and config.schedule != "cyclical"):
        return 1.0
    if config.schedule == "cyclical":
        return min(1.0, 2 * (progress * config.cycles % 1.0)) if progress < 1 else 1.0
    t = min(1.0, progress / config.warmup)
    return {
        "linear": t,
        "cosine": 0.5 * (1 - math.cos(math.pi * t)),
        "sigmoid": 1.0 if t == 1 else 1 / (1 + math.exp(-12 * (t - 0.5))),
    }[config.schedule]
