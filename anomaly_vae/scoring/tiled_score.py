"""The score of large pictures from that of their tiles."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.tiles import Tiling
from anomaly_vae.models.backbone import Backbone
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.scoring.parts.sensor_level import SensorLevel
from anomaly_vae.scoring.score_model import ScoreModule


class TiledScore(ScoreModule):
    """Every part is that of the tile with the largest sum: one defect counts whole, however large the picture around
    it. The elements are those of all tiles, stitched.

    It is fitted to tiles, and scores pictures.
    """

    def __init__(self, tile: ScoreModule, tiling: Tiling) -> None:
        super().__init__()
        self.tile, self.tiling = tile, tiling
        self.reconstructs, self.maps_are_scores, self.has_density = (
            tile.reconstructs, tile.maps_are_scores, tile.has_density,
        )  # fmt: skip
        self.frozen_prefix = f"tile.{tile.frozen_prefix}" if tile.frozen_prefix else ""

    @property
    def backbone(self) -> Backbone | None:
        return self.tile.backbone

    @property
    def model(self) -> VAE:
        return self.tile.model

    @property
    def model_parts(self) -> tuple[str, ...]:
        return self.tile.model_parts

    @property
    def level(self) -> SensorLevel | None:
        return self.tile.level

    @property
    def prior(self) -> MixturePrior | None:
        return self.tile.prior

    def prepare(
        self, train: RowDataset, held: RowDataset, cache: Path | None, seed: int
    ) -> tuple[RowDataset, RowDataset]:
        return self.tile.prepare(train, held, cache, seed)

    def fit(self, train: RowDataset, held: RowDataset, seed: int) -> Tensor:
        return self.tile.fit(train, held, seed)

    def forward(self, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        nats, parts = self.tile(self.tiling.cut(x))
        by_tile = {name: part.unflatten(0, (len(x), -1)) for name, part in parts.items()}  # (B, T)
        worst = torch.stack(list(by_tile.values())).sum(0).argmax(1, keepdim=True)  # (B, 1)
        return self.tiling.stitch(nats), {name: part.gather(1, worst)[:, 0] for name, part in by_tile.items()}

    def mean(self, x: Tensor) -> Tensor:
        return self.tiling.stitch(self.tile.mean(self.tiling.cut(x)))
