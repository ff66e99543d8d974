"""The importance-weighted bound on -log p(x), in nats."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import VAE, with_data
from anomaly_vae.models.likelihoods import binarised

BATCH = 128  # samples that are weighed together
LEVELS = 256  # of an 8-bit pixel
# What a sample is before it is weighed. binary: every element is 0 or 1. dequantised: 8-bit pixels with uniform noise
# of one grey level, so that the bound on their density is one on their probability (Theis 2016, 3.1).
Drawn = Literal["given", "binary", "binarised", "dequantised"]


@dataclass(frozen=True)
class Bound:
    """nll: mean importance-weighted bound on -log p(x), nats a sample. error: its standard error over the samples.

    elbo: the same samples' mean negative ELBO, the mean of -log w instead of -log mean w. bits: bits a pixel, where
    the samples are 8-bit pixels under a density; else None.
    """

    nll: float
    error: float
    elbo: float
    rows: int
    draws: int
    bits: float | None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, nll: NDArray[np.float64], elbo: NDArray[np.float64], draws: int, pixels: int | None) -> Bound:
        """pixels: of a sample, where they were dequantised: a density of 0-1 times 256 is one of grey levels."""
        bits = None if pixels is None else (float(nll.mean()) / pixels + math.log(LEVELS)) / math.log(2)
        error = float(nll.std(ddof=1)) / math.sqrt(len(nll)) if len(nll) > 1 else math.nan
        return cls(float(nll.mean()), error, float(elbo.mean()), len(nll), draws, bits)


@torch.inference_mode()
def weigh(
    model: VAE, samples: RowDataset, index: Tensor, drawn: Drawn, draws: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(-log 1/K sum_k w_k, -1/K sum_k log w_k), each (B,) nats, of the samples at `index`, batch after batch, with
    K = `draws` and w_k = p(x|z_k) p(z_k) / q(z_k|x) (Burda 2016).

    The first bounds -log p(x) from above in expectation, the closer the larger K; the second is the negative ELBO. The
    weights are summed as they come, so memory does not depend on K. Each sample is drawn once, from the seed.
    Raises DataError for pixels that are neither 0 nor 1 where they should be binary.
    """
    model.eval()
    generator = torch.Generator(samples.device).manual_seed(seed)
    index = index.to("cpu" if samples.pinned else samples.device)
    for part in index.split(BATCH):
        x = with_data(samples.take(part), model.n_condition, lambda data: draw(data, drawn, generator))
        total = LogMean(len(x), x.device)
        for weight in model.log_weights(x, generator, draws):
            total.add(weight)
        yield -total.log_mean(), -total.mean_log()


def draw(x: Tensor, drawn: Drawn, generator: torch.Generator) -> Tensor:
    """x (B, *shape) as it is weighed; pixels in 0-1."""
    if drawn == "binarised":
        return binarised(x, generator)
    if drawn == "dequantised":
        noise = torch.rand(x.shape, generator=generator, device=x.device)
        return (x * (LEVELS - 1) + noise) / LEVELS
    if drawn == "binary" and bool(((x > 0) & (x < 1)).any()):
        raise DataError(
            "grey pixels have no probability under a Bernoulli; a fit with training.binarise=true, or another"
            " model.likelihood, has one"
        )
    return x


class LogMean:
    """log of the mean of exp(w), and the mean of w, over the w (B,) that were added: float64, none of them kept."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.largest = torch.full((size,), -math.inf, dtype=torch.float64, device=device)
        self.scaled = torch.zeros_like(self.largest)  # sum of exp(w - largest)
        self.sum, self.count = torch.zeros_like(self.largest), 0

    def add(self, weight: Tensor) -> None:
        weight = weight.double()
        largest = torch.maximum(self.largest, weight)
        self.scaled = self.scaled * torch.exp(self.largest - largest) + torch.exp(weight - largest)
        self.largest, self.sum, self.count = largest, self.sum + weight, self.count + 1

    def log_mean(self) -> Tensor:
        return self.largest + self.scaled.log() - math.log(self.count)

    def mean_log(self) -> Tensor:
        return self.sum / self.count
