"""The negative ELBO and the importance-weighted bound on -log p(x), in nats, from draws of the posterior."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.core.distributed import RepeatedGenerator, uniform_like
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.threads import workers
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import VAE, with_data
from anomaly_vae.models.likelihoods import binarised
from anomaly_vae.scoring.batching import Block, blocks, one_size, padded

BATCH = 128  # samples that are weighed together
LEVELS = 256  # of an 8-bit pixel
# What a sample is before it is weighed. binary: every element is 0 or 1. dequantised: 8-bit pixels with uniform noise
# of one grey level, so that the bound on their density is one on their probability (Theis 2016, 3.1).
Drawn = Literal["given", "binary", "binarised", "dequantised"]


@dataclass(frozen=True)
class Bound:
    """nll: mean importance-weighted bound on -log p(x), nats a sample. error: its standard error over the samples.

    elbo: the same samples' mean negative ELBO, the mean of -log w instead of -log mean w. bits: bits a pixel, where
    the samples are 8-bit pixels under a density; else None. unit: what it is a density or probability of, in which
    units.
    """

    nll: float
    error: float
    elbo: float
    rows: int
    draws: int
    bits: float | None
    unit: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(
        cls, nll: NDArray[np.float64], elbo: NDArray[np.float64], draws: int, pixels: int | None, unit: str = ""
    ) -> Bound:
        """pixels: of a sample, where they were dequantised: a density of 0-1 times 256 is one of grey levels."""
        bits = None if pixels is None else (float(nll.mean()) / pixels + math.log(LEVELS)) / math.log(2)
        error = float(nll.std(ddof=1)) / math.sqrt(len(nll)) if len(nll) > 1 else math.nan
        return cls(float(nll.mean()), error, float(elbo.mean()), len(nll), draws, bits, unit)


@torch.inference_mode()
def weigh(
    model: VAE, samples: RowDataset, index: Tensor, drawn: Drawn, draws: int, seed: int,
    log_units: NDArray[np.float64] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """`weigh_batch` of the samples at `index`, batch after batch, each with draws of its own from the seed."""
    model.eval()
    generator = torch.Generator(samples.device).manual_seed(seed)
    index = index.to("cpu" if samples.pinned else samples.device)
    for part in index.split(BATCH):
        yield weigh_batch(model, samples.take(part), drawn, draws, generator, log_units)


def weigh_batch(
    model: VAE, x: Tensor, drawn: Drawn, draws: int, generator: torch.Generator,
    log_units: NDArray[np.float64] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(-log 1/K sum_k w_k, -1/K sum_k log w_k), each (B,) float64 nats, of samples x (B, *shape), with K = `draws` and
    w_k = p(x|z_k) p(z_k) / q(z_k|x) (Burda 2016).

    The first bounds -log p(x) from above in expectation, the closer the larger K; the second is the negative ELBO. The
    weights are summed as they come, so memory does not depend on K. x is drawn once.

    log_units: (E,) as `Scaler.log_units` gives them, of the elements on the first axis of the data: p(x) is then a
    density in the units of the data, of the elements that are not NaN there. The others are left out of p(x|z), which
    is p of the rest exactly, for elements are independent given z; the encoder still reads them.
    Raises DataError for pixels that are neither 0 nor 1 where they should be binary.
    """
    x = with_data(x, model.n_condition, lambda data: draw(data, drawn, generator))
    target, constant = None, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if log_units is not None:
        data = x[:, : x.shape[1] - model.n_condition]
        units = torch.from_numpy(log_units).to(x.device).reshape(-1, *(1,) * (x.dim() - 2))  # (E, 1, ...)
        target = data.masked_fill(units.isnan(), math.nan)
        constant = torch.where(target.isnan(), 0.0, units).flatten(1).sum(1)
    total = LogMean(len(x), x.device)
    for weight in model.log_weights(x, generator, draws, target):
        total.add(weight)
    return constant - total.log_mean(), constant - total.mean_log()


def negative_elbos(
    model: VAE, read: Callable[[slice], NDArray[np.float32]], n: int, shape: tuple[int, ...], drawn: Drawn, draws: int,
    seed: int, log_units: NDArray[np.float64] | None = None, first: int = 0,
) -> NDArray[np.float64]:  # fmt: skip
    """(n,) the negative ELBO of each sample with K = `draws` draws, in nats.

    The noise of every draw is the same for all samples: what a sample gets depends on itself and the seed alone, and
    samples are compared at the same noise. Its bits do not depend on how the data is cut, for samples go through
    the model in padded blocks of one size. read: scaled samples (B, *shape) of some of the n, the first of which is
    number `first` of its source.
    """
    model.eval()
    device = next(model.parameters()).device

    @torch.inference_mode()
    def run(block: Block) -> Tensor:
        x = padded(torch.from_numpy(read(slice(block.start, block.start + block.rows))), block).to(device)
        generator = RepeatedGenerator(device).manual_seed(seed)
        return weigh_batch(model, x, drawn, draws, generator, log_units)[1][block.place : block.place + block.rows]

    pieces = blocks(first, n, (one_size(shape, device),))
    done = list(workers().map(run, pieces) if device.type == "cpu" else map(run, pieces))
    found: NDArray[np.float64] = torch.cat(done).cpu().numpy()
    return found


def draw(x: Tensor, drawn: Drawn, generator: torch.Generator) -> Tensor:
    """x (B, *shape) as it is weighed; pixels in 0-1."""
    if drawn == "binarised":
        return binarised(x, generator)
    if drawn == "dequantised":
        return (x * (LEVELS - 1) + uniform_like(x, generator)) / LEVELS
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
