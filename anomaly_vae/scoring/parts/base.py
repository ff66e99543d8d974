"""What every part of a score promises, and what the parts read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.data.source import Layout
from anomaly_vae.models.base import VAE, Output


class Batch(NamedTuple):
    """B samples, and what the model says of them.

    x: (B, *shape) scaled samples with their condition, as the model read them.
    raw: the same before they were standardised for the model, where they are features of a backbone; else x itself.
    own: (B,) which reference of the neighbours part each sample itself is, so that its score leaves that one out; -1
    for none. None: no sample is one.
    """

    x: Tensor
    out: Output
    raw: Tensor
    own: Tensor | None = None


@dataclass(frozen=True)
class Normals:
    """Normal samples that the parts are fitted to, and the trained model.

    n_train, n_held: numbers of training and of held-out samples, of which `train()` and `held()` draw some; `held()`
    says too which they are, (N,).
    generator: of these draws and of those that a part makes, one after the other. size: samples that the model reads at
    once. raw: turns x into `Batch.raw`.
    """

    model: VAE
    seed: int
    generator: torch.Generator
    n_train: int
    n_held: int
    train: Callable[[], Tensor]
    held: Callable[[], tuple[Tensor, Tensor]]
    size: int = 512
    raw: Callable[[Tensor], Tensor] = lambda x: x

    def batches(self, x: Tensor) -> Iterator[Batch]:
        """Samples x (N, *shape) with what the model says of them."""
        for some in x.split(self.size):
            with torch.no_grad():
                yield Batch(some, self.model(some), self.raw(some))


class AnyPart(nn.Module, ABC):
    """One summand of the score, in nats: higher is more anomalous.

    What `fit` learns is held in buffers, which a detector's folder keeps.
    """

    column: ClassVar[str]  # its name among the scores
    sized_by_fit: ClassVar[tuple[str, ...]] = ()  # buffers whose size depends on how much data there was
    from_held: ClassVar[tuple[str, ...]] = ()  # buffers that only held-out normals tell

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """Takes the size of the buffers that fit sizes from the saved ones."""
        for name in self.sized_by_fit:
            saved, buffer = state_dict.get(prefix + name), self.get_buffer(name)
            if saved is not None and saved.dim() == buffer.dim():
                setattr(self, name, buffer.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class CellPart(AnyPart):
    """A summand that is of the cells of a row, or step, as they stand in the data, whatever the model makes of them.

    Its nats have a usual size, and go the way of the other parts'. Its alarms are added behind all, as they are.
    """

    alarm: Tensor  # () nats of an alarm

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.register_buffer("alarm", torch.zeros((), dtype=torch.float64))

    def nats(self, values: Tensor) -> Tensor:
        """(N,) nats of rows (N, F) float64, NaN where missing."""
        return torch.zeros_like(values[:, 0])

    def elements(self, values: Tensor) -> Tensor:
        """(N, F) the share of each cell."""
        return torch.zeros_like(values)

    @abstractmethod
    def alarms(self, values: Tensor) -> Tensor:
        """(N, F) the share of each cell in the alarms of a row, of `alarm` nats each."""


class Part(AnyPart):
    """A summand that is of what the model makes of a sample."""

    further_columns: ClassVar[tuple[str, ...]] = ()  # names of what folding windows adds behind all columns
    of_steps: ClassVar[bool] = False  # whether it has nats of time steps, once windows are folded, and none of samples

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> Self:
        """The unfitted part for a model and the shape of a sample's data. Raises ConfigError where it has no sense."""
        return cls()

    def fit(self, normals: Normals) -> Tensor | None:
        """Fits the part after training.

        Returns (n_held,) which of its references each held-out sample is, -1 for none; None for a part without.
        """
        return None

    @abstractmethod
    def nats(self, batch: Batch) -> Tensor:
        """(B,) nats."""


class ElementPart(Part, ABC):
    """A part that is the sum of nats of each element of a sample, which explain it."""

    @abstractmethod
    def elements(self, batch: Batch) -> Tensor:
        """(B, *shape) nats."""

    def nats(self, batch: Batch) -> Tensor:
        return self.elements(batch).flatten(1).sum(1)


class StepPart(ElementPart):
    """A part of the steps of a series: the nats that a sensor has in a step are the mean of its elements in the windows
    that cover the step, averaged over a few steps as those of recon are (`sensor_level.SMOOTH`)."""

    of_steps = True


def residual(batch: Batch) -> Tensor:
    """(B, *shape) the data of x less its reconstruction; 0 where x is missing."""
    x = batch.out.data(batch.x)
    mean = batch.out.px.mean
    mean = mean if mean.dim() == x.dim() else mean.mean(0)  # over members
    return torch.where(torch.isnan(x), 0.0, x - mean)
