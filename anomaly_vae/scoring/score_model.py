"""A trained model and what is fitted to it afterwards, as one module: scaled samples in, nats out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from anomaly_vae.core.config import Config, ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Layout
from anomaly_vae.data.tiles import Tiling, tiling_of
from anomaly_vae.models import backbone, registry
from anomaly_vae.models.base import VAE, Output, elements
from anomaly_vae.models.feature_maps import FeatureMaps
from anomaly_vae.scoring.parts.knn_density import KNNDensity
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.scoring.parts.patch_score import PatchScore
from anomaly_vae.scoring.parts.residual_energy import ResidualEnergy
from anomaly_vae.scoring.parts.sensor_level import SensorLevel

PICTURE_KINDS = ("pixels", "images")
FITTED_ON = 20_000  # training samples at most that are looked at for what is fitted after training


class ScoreModel(nn.Module):
    """The parts of the score for a batch of samples.

    recon: the training likelihood's nats (`likelihood`), or those of a likelihood calibrated after training: of the
    blurred residual of pictures (`energy`), or of each sensor, computed where windows are folded (`level`).
    kl: to N(0, I), or to a mixture fitted to the training posteriors. neighbours: see `neighbours`.

    Of pictures that are seen in tiles every part is that of the tile with the largest sum: one defect counts whole,
    however large the picture around it; the elements are those of all tiles, stitched.

    With feature maps the model reads positions of them instead of pictures; see `positions`, which then has the parts.
    """

    def __init__(
        self, model: VAE, config: ScoringConfig, shape: tuple[int, ...], tiling: Tiling | None = None,
        features: FeatureMaps | None = None,
    ) -> None:  # fmt: skip
        """shape: of a sample, a tile of it where there is a tiling; features: of such samples, which are pictures."""
        super().__init__()
        self.model, self.recon, self.tiling = model, config.recon, tiling
        self.neighbours: KNNDensity | None = None
        self.prior: MixturePrior | None = None
        self.positions = None if features is None else PatchScore(features, config, model.latent)
        if self.positions is not None:
            self.energy = self.level = None
            return
        if self.recon == "covariance":
            raise ConfigError(
                "scoring.recon=covariance is of model.kind=features; likelihood, or energy of pictures, would work"
            )
        self.energy = ResidualEnergy(shape) if self.recon == "energy" else None
        self.level = SensorLevel(shape[0]) if self.recon == "level" else None
        if config.prior == "mixture":
            if not model.diagonal:
                raise ConfigError(
                    "scoring.prior=mixture is fitted to Gaussian posteriors, which this kind of model does not have;"
                    " scoring.prior=normal, the prior it was trained with, would work"
                )
            self.prior = MixturePrior(config.components, model.latent)
        if config.neighbours:
            self.neighbours = KNNDensity(model, config.neighbours)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts of the score, in their order."""
        remembered = self.neighbours if self.positions is None else self.positions.memory
        neighbours = ("neighbours",) if remembered is not None else ()
        return ("recon", "kl", *neighbours, *(("level",) if self.level is not None else ()))

    @property
    def each(self) -> int:
        """Samples of the model that one picture gives: the positions of its feature maps, else one."""
        return 1 if self.positions is None else self.positions.features.cells

    def prepare(
        self, train: RowDataset, held: RowDataset, cache: Path | None, seed: int
    ) -> tuple[RowDataset, RowDataset]:
        """What the model trains on and is stopped by: the samples, or positions of their feature maps.

        cache: folder that feature maps are kept in, None for nowhere.
        """
        return (train, held) if self.positions is None else self.positions.prepare(train, held, cache, seed)

    def fit(self, train: RowDataset, held: RowDataset, seed: int) -> Tensor:
        """Fits what comes after training, to what `prepare` gave and to the held-out samples as they were; `level` is
        fitted where windows are folded.

        Returns (len(held),) which reference of the neighbours part each held-out sample is, -1 for none: its own score
        must leave that reference out.
        """
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        own = torch.full((len(held),), -1)
        if self.positions is not None:
            self.positions.fit(self.model, train, held, seed)
            return own
        if self.prior is not None:
            outs = self._outputs(train, generator)
            log_var = torch.cat([out.log_var for _, out in outs if out.log_var is not None])
            self.prior.fit(torch.cat([out.mu for _, out in outs]), log_var, seed)
        if self.energy is not None:
            energies = [
                self.energy.energy(_residual(x, out)).flatten(1).sum(1) for x, out in self._outputs(held, generator)
            ]
            self.energy.fit(torch.cat(energies))
        if self.neighbours is not None:
            rows = torch.cat([_some(train, generator), _some(held, generator)])
            references = self.neighbours.fit(self.model, rows, generator) - min(len(train), FITTED_ON)
            mine = (references >= 0).nonzero()[:, 0]
            if len(held) <= FITTED_ON:  # beyond, which rows were taken is not kept, and one in so many hardly matters
                own[references[mine]] = mine
        return own

    def forward(self, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """(elements (B, *shape), parts name -> (B,)) in nats of scaled samples x (B, *shape).

        With `level` the elements are residuals, and recon is left to who folds them. own: see `fit`.
        """
        if self.tiling is None:
            return self._whole(x, own)
        nats, parts = self._whole(self.tiling.cut(x), None)
        by_tile = {name: part.unflatten(0, (len(x), -1)) for name, part in parts.items()}  # (B, T)
        worst = torch.stack(list(by_tile.values())).sum(0).argmax(1, keepdim=True)  # (B, 1)
        return self.tiling.stitch(nats), {name: part.gather(1, worst)[:, 0] for name, part in by_tile.items()}

    def mean(self, x: Tensor) -> Tensor:
        """(B, *shape) the expected x, stitched where it is seen in tiles."""
        read = x if self.tiling is None else self.tiling.cut(x)
        mean = self.model(read).px.mean
        mean = mean if mean.dim() == read.dim() else mean.mean(0)  # over members
        return mean if self.tiling is None else self.tiling.stitch(mean)

    def _whole(self, x: Tensor, own: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """What `forward` promises, of x as the model reads it."""
        if self.positions is not None:
            found: tuple[Tensor, dict[str, Tensor]] = self.positions(self.model, x)
            return found
        out: Output = self.model(x)
        parts = {"kl": self.prior.kl(out.mu) if self.prior is not None else out.kl.sum(1)}
        if self.level is not None:
            return _residual(x, out), parts
        nats = self.energy.nats(_residual(x, out)) if self.energy is not None else elements(x, out)
        parts = {"recon": nats.flatten(1).sum(1), **parts}
        if self.neighbours is not None:
            parts["neighbours"] = self.neighbours.nats(self.model, x, out, own)
        return nats, parts

    @torch.inference_mode()
    def _outputs(self, samples: RowDataset, generator: torch.Generator) -> list[tuple[Tensor, Output]]:
        return [(x, self.model(x)) for x in _some(samples, generator).split(512)]


def build_score_model(config: Config, layout: Layout, scaler: Scaler) -> ScoreModel:
    """The untrained network of a resolved configuration, its weights drawn from the configuration's seed alone."""
    if config.model.kind == "features":
        return _feature_net(config, layout)
    shape = layout.sample if not layout.columns else (len(scaler.column),)
    if layout.kind == "series":
        assert config.data.window
        shape = (*shape, config.data.window)  # (C, T)
    categories = scaler.categories(layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        read = (shape[0] + scaler.n_condition, *shape[1:])
        model = registry.build(config.model, read, categories if any(categories) else (), scaler.n_condition)
    return ScoreModel(model, config.scoring, shape, tiling_of(layout))


def _feature_net(config: Config, layout: Layout) -> ScoreModel:
    """`build_score_model` of a model that reads a backbone's maps of pictures."""
    if layout.kind not in PICTURE_KINDS:
        raise ConfigError(
            f"model.kind=features reads pictures, and this is a {layout.kind}; model.kind=None, the default, would work"
        )
    assert config.model.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        features = FeatureMaps(backbone.Backbone(config.model.backbone, config.model.layers), *layout.sample[1:])
        model = registry.build(config.model, (features.channels,))
    return ScoreModel(model, config.scoring, layout.sample, tiling_of(layout), features)


def _some(samples: RowDataset, generator: torch.Generator) -> Tensor:
    """All samples, or so many drawn at random, in order."""
    rows = torch.randperm(len(samples), generator=generator)[:FITTED_ON].sort().values
    return samples.take(rows if samples.pinned else rows.to(samples.device))


def _residual(x: Tensor, out: Output) -> Tensor:
    """x, less its condition, less its reconstruction; 0 where x is missing."""
    x = out.data(x)
    mean = out.px.mean
    mean = mean if mean.dim() == x.dim() else mean.mean(0)  # over members
    return torch.where(torch.isnan(x), 0.0, x - mean)
