"""What a training step costs, and how many threads it is worth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anomaly_vae.core.config import Config
from anomaly_vae.core.device import autocast
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import VAE

ALONE = 5e8  # floating-point operations of a step up to which one thread is as fast as two


@contextmanager
def few_threads(model: VAE, train: RowDataset, batch_size: int) -> Iterator[None]:
    """One CPU thread for training steps that are too small to be shared: two are no faster, and where something else
    runs, they wait for each other most of the time."""
    threads = torch.get_num_threads()
    if train.device.type == "cpu" and step_flops(model, train, batch_size) < ALONE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def step_flops(model: VAE, train: RowDataset, batch_size: int) -> float:
    """Floating-point operations of a training step: three times those of the forward pass, because the backward pass
    takes gradients of inputs and of weights."""
    from anomaly_vae.training.flops import OperationCounter

    few = train.take(train.spaced(2))
    with OperationCounter() as counted:
        model.eval()(few)
    return float(3 * counted.flops * batch_size / len(few))


@torch.no_grad()
def step_seconds(model: VAE, train: RowDataset, config: Config) -> float:
    """Seconds of a training step, as three times those of a second forward pass: the first prepares the layers."""
    batch_size = config.training.batch_size
    assert batch_size
    x, start = train.take(train.spaced(batch_size)), 0.0
    with few_threads(model, train, batch_size), autocast(config, x.device):
        for _ in range(2):
            start = time.perf_counter()
            float(model.eval()(x).kl.sum())  # waits for the device
    return 3 * (time.perf_counter() - start) * batch_size / len(x)
