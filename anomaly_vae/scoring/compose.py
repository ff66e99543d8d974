"""Which model and which parts the score of a configuration consists of."""

from __future__ import annotations

from typing import cast

import torch

from anomaly_vae.core.config import Config, ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Layout
from anomaly_vae.data.tiles import tiling_of
from anomaly_vae.models import registry
from anomaly_vae.models.backbone import Backbone
from anomaly_vae.models.base import VAE
from anomaly_vae.models.feature_maps import FeatureMaps
from anomaly_vae.scoring.parts import DISTANCES, part_class
from anomaly_vae.scoring.parts.base import CellPart, Part
from anomaly_vae.scoring.parts.constant import Constant
from anomaly_vae.scoring.patch_score import PatchScore
from anomaly_vae.scoring.score_model import ScoreModel, ScoreModule
from anomaly_vae.scoring.surprise import Surprise, factors
from anomaly_vae.scoring.tiled_score import TiledScore


def build_score_model(config: Config, layout: Layout, scaler: Scaler) -> ScoreModule:
    """The untrained score of a resolved configuration; its weights are drawn from the configuration's seed alone.

    Raises ConfigError for settings that do not go together.
    """
    score: ScoreModule
    score = _of_patches(config, layout) if config.model.kind == "features" else _of_samples(config, layout, scaler)
    tiling = tiling_of(layout)
    score = score if tiling is None else TiledScore(score, tiling)
    if config.scoring.combine == "surprise":
        known = [name for name in score.cells if name == "missing"]
        score.surprise = Surprise(len(score.model_parts), len(known), factors([*score.model_parts, *known]))
    return score


def parts_of(model: VAE, config: ScoringConfig, shape: tuple[int, ...], neighbours: str | None) -> list[Part]:
    """The parts of a score, in their order. shape: of a sample's data. neighbours: the part of PARTS that
    scoring.neighbours is about; None: this data has none."""
    assert config.recon and config.prior
    further = tuple(name for name in config.parts or () if not issubclass(part_class(name), CellPart))
    if neighbours is not None and config.neighbours:
        further = (neighbours, *further)
    else:
        further = tuple(name for name in further if name not in DISTANCES)
    classes = [cast("type[Part]", part_class(name)) for name in (config.recon, config.prior, *further)]
    return [part.of(model, config, shape) for part in classes]


def cells_of(config: ScoringConfig, layout: Layout) -> list[CellPart]:
    """The parts that are of cells, in their order: those of scoring.parts, and one for columns that are watched."""
    named = [part_class(name) for name in config.parts or ()]
    cells = [part for part in named if issubclass(part, CellPart) and part is not Constant]
    if cells and not layout.columns:
        raise ConfigError(f"scoring.parts={cells[0].column} is of tables and series; leave it out")
    return [part(layout) for part in (*cells, *((Constant,) if layout.watched else ()))]


def _of_samples(config: Config, layout: Layout, scaler: Scaler) -> ScoreModel:
    """Of rows, windows or pictures, as the model reads them."""
    if config.scoring.recon == "covariance":
        raise ConfigError(
            "scoring.recon=covariance is of model.kind=features; likelihood, or energy of pictures, would work"
        )
    shape = layout.sample if not layout.columns else (len(scaler.column),)
    if KINDS[layout.kind].ordered:
        assert config.data.window
        shape = (*shape, config.data.window)  # (C, T)
    categories = scaler.categories(layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        read = (shape[0] + scaler.n_condition, *shape[1:])
        model = registry.build(config.model, read, categories if any(categories) else (), scaler.n_condition)
    # A table without numbers has no distances. The density among all training pictures knows nothing of a condition,
    # under which the same picture may be normal or not.
    has_numbers = not layout.columns or any(column.categories is None for column in layout.read)
    is_dense = has_numbers and not (KINDS[layout.kind].pictures and layout.conditions)
    parts = parts_of(model, config.scoring, shape, KINDS[layout.kind].nearest if is_dense else None)
    return ScoreModel(model, parts, cells_of(config.scoring, layout))


def _of_patches(config: Config, layout: Layout) -> PatchScore:
    """Of a backbone's feature maps of pictures, at each of their positions."""
    if not KINDS[layout.kind].pictures:
        raise ConfigError(
            f"model.kind=features reads pictures, and this is a {layout.kind}; model.kind=None, the default, would work"
        )
    assert config.model.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        features = FeatureMaps(Backbone(config.model.backbone, config.model.layers), *layout.sample[1:])
        model = registry.build(config.model, (features.channels,))
    if config.scoring.recon not in ("covariance", "likelihood"):
        raise ConfigError(
            f"scoring.recon={config.scoring.recon} is of pictures that a model reconstructs; model.kind=features"
            " reconstructs features: covariance or likelihood would work"
        )
    parts = parts_of(model, config.scoring, (features.channels,), "memory")
    return PatchScore(features, ScoreModel(model, parts), config.scoring.border)
