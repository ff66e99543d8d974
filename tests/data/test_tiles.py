"""Tiles cover a picture, and what is computed of them is what the tiles alone would give."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import ConfigError, DetectorError
from anomaly_vae.data.datasets import make_dataset
from anomaly_vae.data.open import open_source
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.data.tiles import Tiling
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit as fit_detector
from anomaly_vae.scoring.compose import build_score_model
from anomaly_vae.scoring.scores import join
from anomaly_vae.scoring.tiled_score import TiledScore
from anomaly_vae.workflows.latent.space import LatentSpace


@pytest.mark.parametrize(
    ("length", "side", "overlap", "starts"),
    [(16, 8, 0.0, [0, 8]), (20, 8, 0.0, [0, 6, 12]), (16, 8, 0.5, [0, 4, 8]), (9, 8, 0.25, [0, 1]), (8, 8, 0.5, [0])],
)
def test_tiles_cover_the_picture_and_share_at_least_the_overlap(
    length: int, side: int, overlap: float, starts: list[int]
) -> None:
    corners = Tiling(length, side, side, overlap).corners
    assert corners == [(start, 0) for start in starts]
    assert starts[-1] + side == length
    assert all(b - a <= side * (1 - overlap) for a, b in pairwise(starts))


@pytest.mark.parametrize("tiling", [Tiling(20, 24, 8, 0.25), Tiling(9, 8, 8, 0.5)])
def test_stitched_tiles_are_the_picture(tiling: Tiling) -> None:
    x = torch.randn(3, 2, tiling.height, tiling.width, generator=torch.Generator().manual_seed(0))
    tiles = tiling.cut(x)
    assert tiles.shape == (3 * len(tiling.corners), 2, 8, 8)
    torch.testing.assert_close(tiling.stitch(tiles), x)


def test_where_tiles_differ_the_one_whose_middle_is_nearer_counts_more() -> None:
    """Two tiles of 8 over 12 columns, of 0 and of 1: weights 4 3 2 1 against 1 2 3 4 over the 4 they share."""
    found = Tiling(8, 12, 8, 0.5).stitch(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]))
    expected = torch.tensor([0, 0, 0, 0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 1, 1])
    torch.testing.assert_close(found[0, 0], expected.expand(8, 12))


LAYOUT = Layout("images", (1, 12, 16), tile=8, overlap=0.5)


def test_training_samples_are_the_tiles() -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 1, 12, 16), dtype=np.uint8)
    found = make_dataset(
        Chunk(np.arange(3), values), np.array([0, 2]), Scaler([], 1.0), LAYOUT, torch.device("cpu"), None
    )
    expected = Tiling(12, 16, 8, 0.5).cut(torch.from_numpy(values[[0, 2]]).float() / 255)
    assert len(found) == len(expected) == 2 * 2 * 3
    torch.testing.assert_close(found.take(torch.arange(len(found))), expected)


def test_the_score_of_a_picture_is_that_of_its_worst_tile_and_its_map_is_stitched() -> None:
    overrides = ["model.kind=conv2d", "model.channels=[4,8]", "scoring.recon=likelihood", "scoring.prior=normal"]
    config = resolve(load(overrides=overrides), "images")
    net = build_score_model(config, LAYOUT, Scaler([], 1.0)).eval()
    assert isinstance(net, TiledScore)
    x = torch.rand(5, 1, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        nats, parts = net(x)
        mean = net.mean(x)
        for row in range(len(x)):
            tiles = net.tiling.cut(x[row : row + 1])
            alone = [net.tile(tile[None]) for tile in tiles]
            worst = max((found for _, found in alone), key=lambda found: float(sum(found.values())))
            for name in ("recon", "kl", "neighbours"):
                assert float(parts[name][row]) == pytest.approx(float(worst[name]), rel=1e-5)
            torch.testing.assert_close(nats[row : row + 1], net.tiling.stitch(torch.cat([found for found, _ in alone])))
            means = torch.cat([net.model(tile[None]).px.mean for tile in tiles])
            torch.testing.assert_close(mean[row : row + 1], net.tiling.stitch(means))


def test_a_detector_of_tiles_finds_a_small_defect_in_a_large_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        picture = np.clip(rng.normal(120, 6, (48, 48)), 0, 255)
        if number >= 17:
            picture[30:34, 8:12] = 255
        place = tmp_path / ("cut" if number >= 17 else "good") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(place)
    settings = ["data.size=48", "data.tile=16", "training.steps=40", "model.kind=conv2d", "model.channels=[4,8]"]
    good = open_source(tmp_path / "good", DataConfig(size=48, tile=16))
    detector = fit_detector(good, load(overrides=settings))[0]
    detector.save(tmp_path / "detector")
    detector = Detector.load(tmp_path / "detector")
    assert detector.layout.tile == 16
    normal, cut = (
        join(detector.score_source(open_source(tmp_path / name, detector.config.data), explain=True))
        for name in ("good", "cut")
    )
    assert cut.total.min() > normal.total.max()
    heat = detector.maps(cut)
    assert heat.shape == (3, 48, 48)
    where = [np.unravel_index(np.argmax(one), one.shape) for one in heat]
    assert all(28 <= y < 36 and 6 <= x < 14 for y, x in where)
    with pytest.raises(DetectorError, match="sees its pictures in tiles of 16 pixels"):
        LatentSpace(detector)


def test_tiles_are_smaller_than_pictures(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(ConfigError, match=r"data\.tile=64: no smaller than the pictures, .* data\.size=64"):
        open_source(tmp_path, DataConfig(size=64, tile=64)).learn(np.arange(2))
