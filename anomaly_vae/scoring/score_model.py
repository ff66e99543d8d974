"""The score of a batch of samples: a trained model and the parts that the score is the sum of, as one module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from anomaly_vae.core.device import full_precision
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.backbone import Backbone
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, CellPart, ElementPart, Normals, Part, StepPart
from anomaly_vae.scoring.parts.constant import Constant
from anomaly_vae.scoring.parts.missing import Missing
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.scoring.parts.sensor_level import SensorLevel
from anomaly_vae.scoring.surprise import Surprise

FITTED_ON = 20_000  # training samples at most that the parts are fitted to, and as many held-out ones
P = TypeVar("P", bound=Part)


class ScoreModule(nn.Module, ABC):
    """From scaled samples to nats; what `ScoreModel`, `TiledScore` and `PatchScore` have in common.

    model: the trained VAE. reconstructs: whether `mean` gives samples, to be shown beside the data. maps_are_scores:
    whether elements are scores as they stand, rather than nats whose usual size differs from element to element.
    has_density: whether the model's likelihood is one of the data itself. backbone: the frozen network in front of the
    model, whose weights begin with `frozen_prefix` in the state; None and "" without one. level, prior: the parts that
    are more than nats of samples, None where the score has none: the level of sensors is fitted and computed where
    windows are folded, and a mixture prior can be sampled. cells: the parts that are of cells, by column, which
    `forward` has none of. surprise: what turns the parts of `forward`, once windows
    are folded, into those of the score; None: the score is the sum of raw nats. part_weights: (P,) float64 what each of
    `part_names` counts, alarms apart; None: 1.
    """

    surprise: Surprise | None
    part_weights: Tensor | None
    reconstructs: bool = True
    maps_are_scores: bool = False
    has_density: bool = True
    frozen_prefix: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.register_module("surprise", None)
        self.register_buffer("part_weights", None)
        self.cells = nn.ModuleDict()

    @property
    @abstractmethod
    def model(self) -> VAE: ...

    @property
    def backbone(self) -> Backbone | None:
        return None

    @property
    @abstractmethod
    def model_parts(self) -> tuple[str, ...]:
        """The columns of the score that are of what the model makes of a sample, in their order."""

    @property
    def step_columns(self) -> tuple[str, ...]:
        """Those of `model_parts` that a step of a series has by itself, in the order in which folding makes them."""
        return ("recon",)

    @property
    def shared_columns(self) -> tuple[str, ...]:
        """Those that a window has, whose steps share them."""
        return tuple(name for name in self.model_parts if name not in self.step_columns)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The columns of the score, in their order."""
        return (*self.model_parts, *self.cells)

    @property
    def weights(self) -> dict[str, float] | None:
        """What each part counts, by column; None: 1."""
        return (
            None if self.part_weights is None else dict(zip(self.part_names, self.part_weights.tolist(), strict=True))
        )

    def set_weights(self, weights: Mapping[str, float] | None) -> None:
        device = next(self.parameters()).device
        values = None if weights is None else [weights[name] for name in self.part_names]
        self.part_weights = None if values is None else torch.tensor(values, dtype=torch.float64, device=device)

    @property
    def cell_parts(self) -> dict[str, CellPart]:
        return cast("dict[str, CellPart]", dict(self.cells.items()))

    @property
    def missing(self) -> Missing | None:
        return cast("Missing | None", self.cell_parts.get("missing"))

    @property
    def constant(self) -> Constant | None:
        return cast("Constant | None", self.cell_parts.get("constant"))

    @property
    @abstractmethod
    def level(self) -> SensorLevel | None: ...

    @property
    @abstractmethod
    def prior(self) -> MixturePrior | None: ...

    def prepare(
        self, train: RowDataset, held: RowDataset, cache: Path | None, seed: int
    ) -> tuple[RowDataset, RowDataset]:
        """What the model trains on and is stopped by. cache: folder that computed features are kept in; None: none."""
        return train, held

    @abstractmethod
    def fit(self, train: RowDataset, held: RowDataset, seed: int) -> Tensor:
        """Fits the parts to what `prepare` gave for training, and to the held-out normals as they were.

        Returns (len(held),) which reference of the neighbours part each held-out sample is, -1 for none.
        """

    @abstractmethod
    def forward(self, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """(elements (B, *shape), column -> (B,)) in nats of scaled samples x (B, *shape).

        With a level part the elements are residuals, and its columns are left to the folding of windows, as are those
        of a `StepPart`, whose elements come behind on the first axis of a sample. own: (B,) see `fit`.
        """

    @abstractmethod
    def mean(self, x: Tensor) -> Tensor:
        """(B, *shape) the expected x. Only where it `reconstructs`."""

    def held_state(self) -> dict[str, Tensor]:
        """The buffers that only held-out normals tell: what a fit on all rows takes from the models of its folds."""
        return {
            f"{prefix}.{name}".lstrip("."): module.get_buffer(name)
            for prefix, module in self.named_modules()
            for name in getattr(module, "from_held", ())
        }

    def learned_state(self) -> dict[str, Tensor]:
        """The state without the frozen backbone's weights."""
        frozen = self.frozen_prefix
        return {name: v for name, v in self.state_dict().items() if not (frozen and name.startswith(frozen))}

    def load_learned(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `learned_state` gave; the backbone stays as it is. Raises RuntimeError where it does not fit."""
        if "part_weights" in state:
            self.set_weights(dict.fromkeys(self.part_names, 1.0))
        learned = self.learned_state()
        self.load_state_dict({name: v for name, v in self.state_dict().items() if name not in learned} | dict(state))


class ScoreModel(ScoreModule):
    """A model and a list of parts, by column, whose sum is the score."""

    def __init__(self, model: VAE, parts: list[Part], cells: Iterable[CellPart] = ()) -> None:
        """Raises ConfigError where two parts have the same column."""
        super().__init__()
        self.vae, self.parts = model, nn.ModuleDict()
        self.cells.update({part.column: part for part in cells})
        for part in parts:
            if part.column in self.parts:
                raise ConfigError(
                    f"the score has two parts in its column '{part.column}'; leave one out of scoring.parts"
                )
            self.parts[part.column] = part

    @property
    def model(self) -> VAE:
        return self.vae

    @property
    def by_column(self) -> dict[str, Part]:
        return cast("dict[str, Part]", dict(self.parts.items()))

    @property
    def model_parts(self) -> tuple[str, ...]:
        return (*self.by_column, *(column for part in self.by_column.values() for column in part.further_columns))

    @property
    def step_columns(self) -> tuple[str, ...]:
        further = self.by_column["recon"].further_columns
        return ("recon", *further, *(part.column for part in self.step_parts))

    @property
    def step_parts(self) -> list[StepPart]:
        return [part for part in self.by_column.values() if isinstance(part, StepPart)]

    @property
    def level(self) -> SensorLevel | None:
        return self.part(SensorLevel)

    @property
    def prior(self) -> MixturePrior | None:
        return self.part(MixturePrior)

    def part(self, kind: type[P]) -> P | None:
        """The part of a class; None where the score has none."""
        return next((part for part in self.parts.values() if isinstance(part, kind)), None)

    def fit(self, train: RowDataset, held: RowDataset, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return self.fit_parts(
            Normals(
                self.model, seed, generator, len(train), len(held),
                lambda: _some(train, generator)[0], lambda: _some(held, generator),
            )
        )  # fmt: skip

    @full_precision()
    def fit_parts(self, normals: Normals) -> Tensor:
        """Fits every part; see `fit`."""
        self.eval()
        own = torch.full((normals.n_held,), -1)
        # the order of the draws decides what is drawn, and the prior's come first
        for part in sorted(self.by_column.values(), key=lambda part: part.column != "kl"):
            found = part.fit(normals)
            own = own if found is None else found
        return own

    def forward(self, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        batch = Batch(x, self.model(x), x, own)
        recon = cast(ElementPart, self.parts["recon"])
        elements = recon.elements(batch)
        of_steps = [part.elements(batch) for part in self.step_parts]
        return torch.cat([elements, *of_steps], 1) if of_steps else elements, {
            column: elements.flatten(1).sum(1) if part is recon else part.nats(batch)
            for column, part in self.by_column.items()
            if not part.of_steps
        }

    def nats(self, batch: Batch) -> dict[str, Tensor]:
        """column -> (B,) nats, of parts that need not have any of elements."""
        return {column: part.nats(batch) for column, part in self.by_column.items()}

    def mean(self, x: Tensor) -> Tensor:
        mean: Tensor = self.model(x).px.mean
        return mean if mean.dim() == x.dim() else mean.mean(0)  # over members


def renamed_format_4(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """The weights of a detector's folder of format 4 under the names that they have now.

    expected: the names in the state of the score that they are for. What format 4 kept though no part read it is left
    out.
    """
    whole = "tile." if any(name.startswith("tile.") for name in expected) else ""  # of samples
    inner = f"{whole}patches." if any(name.startswith(f"{whole}patches.") for name in expected) else whole
    beginnings = {  # the first that fits
        "model.": f"{inner}vae.",
        "prior.": f"{inner}parts.kl.",
        "energy.": f"{inner}parts.recon.",
        "level.": f"{inner}parts.recon.",
        "neighbours.": f"{inner}parts.neighbours.",
        "positions.prior.": f"{inner}parts.kl.",
        "positions.memory.": f"{inner}parts.neighbours.",
        "positions.unit": f"{inner}parts.neighbours.unit",
        "positions.residual_mean": f"{inner}parts.recon.residual_mean",
        "positions.whiten": f"{inner}parts.recon.whiten",
        "positions.mean": f"{whole}mean_feature",
        "positions.": whole,
    }
    renamed = {}
    for name, tensor in state.items():
        old = next((old for old in beginnings if name.startswith(old)), "")
        renamed[beginnings.get(old, "") + name.removeprefix(old)] = tensor
    return {name: tensor for name, tensor in renamed.items() if name in expected}


def _some(samples: RowDataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All samples, or so many drawn at random, in order, and which they are (N,)."""
    rows = torch.randperm(len(samples), generator=generator)[:FITTED_ON].sort().values
    return samples.take(rows if samples.pinned else rows.to(samples.device)), rows
