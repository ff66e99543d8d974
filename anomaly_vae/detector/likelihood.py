"""How probable a detector's model finds data: what makes its likelihood one of the data itself, and in which units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Chunk
from anomaly_vae.scoring.importance import Drawn, negative_elbos
from anomaly_vae.scoring.scores import DECIMALS

if TYPE_CHECKING:
    from anomaly_vae.detector.detector import Detector

UNITS: dict[Drawn, str] = {
    "given": "density in the units of the data, each number counted once; probability of categories",
    "binary": "probability of pixels that are 0 or 1",
    "binarised": "probability of pixels drawn as 0 or 1",
    "dequantised": "density of pixels from 0 to 1",
}


@dataclass(frozen=True)
class Measure:
    """What is done to a sample before it is weighed, and what brings its NLL to the units of the data; see
    `importance.weigh_batch`."""

    drawn: Drawn
    log_units: NDArray[np.float64] | None

    @property
    def unit(self) -> str:
        return UNITS[self.drawn]


def measure_of(detector: Detector) -> Measure:
    """Raises DataError for a detector whose model has no density of the data."""
    if not detector.score_model.has_density:
        raise DataError(
            "this detector models features of pictures (model.kind=features), which have no density as pictures"
        )
    if not KINDS[detector.layout.kind].pictures:
        return Measure("given", detector.scaler.log_units())
    if detector.config.model.likelihood == "bernoulli":
        return Measure("binarised" if detector.config.training.binarise else "binary", None)
    return Measure("dequantised", None)


def elbo_measure(detector: Detector) -> Measure:
    """The same for samples one by one. Raises UsageError where a model reads something else than a whole sample."""
    if KINDS[detector.layout.kind].ordered:
        raise UsageError(
            "a time step has no ELBO of its own, for the model reads windows; `evaluate --nll K` gives that of windows"
        )
    if detector.layout.tile is not None:
        raise UsageError(
            "a picture has no ELBO here, for the model reads tiles that overlap; `evaluate --nll K` gives that of tiles"
        )
    return measure_of(detector)


def elbo_of(detector: Detector, chunk: Chunk, draws: int, first: int = 0) -> NDArray[np.float64]:
    """(N,) negative ELBO in nats of the samples of a chunk, the first of which is number `first` of its source."""
    measure, scaler = elbo_measure(detector), detector.scaler

    def read(rows: slice) -> NDArray[np.float32]:
        return scaler.read(chunk.values[rows], None if chunk.condition is None else chunk.condition[rows])

    found = negative_elbos(
        detector.score_model.model, read, len(chunk), detector.layout.shape, measure.drawn, draws,
        detector.config.seed, measure.log_units, first,
    )  # fmt: skip
    big = float(np.finfo(np.float32).max)
    return np.nan_to_num(found, nan=big, posinf=big).round(DECIMALS)


def elbos(detector: Detector, chunks: Iterator[Chunk], draws: int) -> NDArray[np.float64]:
    """(N,) the same of consecutive chunks. Raises DataError where they hold no row, UsageError without a draw."""
    if draws < 1:
        raise UsageError(f"an ELBO of {draws} draws; at least 1 would work")
    found, first = [], 0
    for chunk in chunks:
        found.append(elbo_of(detector, chunk, draws, first))
        first += len(chunk)
    if not first:
        raise DataError("there are no rows to score; give at least one")
    return np.concatenate(found)
