"""The gradients of pictures and their nearest neighbours, on pictures whose gradients are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_vae.core.errors import ConfigError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.parts.base import Batch
from anomaly_vae.scoring.parts.gradients import CELLS, DIRECTIONS, GradientNeighbours, pooling

TINY = {"training__steps": 2, "model__channels": [4], "model__hidden": [8], "model__latent": 4, "device": "cpu"}


def ramp(angle: float, side: int = 20) -> Tensor:
    """(1, 1, side, side) whose roots rise by 0.01 a pixel in a direction; 0 is to the right, 90 degrees down."""
    at = torch.arange(side) - side / 2
    along = at[None] * math.cos(angle) + at[:, None] * math.sin(angle)
    return (0.5 + 0.01 * along).square()[None, None]


@pytest.mark.parametrize("direction", range(DIRECTIONS))
def test_a_ramp_has_the_length_of_its_gradient_in_its_direction_and_a_sixteenth_beside_it(direction: int) -> None:
    part = GradientNeighbours((1, 20, 20), 10)
    lengths = part.lengths(ramp(direction * math.pi / 4)).view(DIRECTIONS, CELLS, CELLS)
    inner = lengths[:, 2, 2]  # a cell that the border is far from
    expected = torch.zeros(DIRECTIONS)
    expected[direction] = 0.01
    expected[[direction - 1, (direction + 1) % DIRECTIONS]] = 0.01 / 16  # cos(45 degrees) to the 8th power
    torch.testing.assert_close(inner, expected, rtol=1e-3, atol=1e-6)


def test_a_cell_is_a_gaussian_of_half_a_cell() -> None:
    weights = pooling(10, 5)  # cells of two pixels, their centres at the borders between these
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    assert weights[2].argsort(descending=True)[:2].sort().values.tolist() == [4, 5]
    assert float(weights[2, 6] / weights[2, 5]) == pytest.approx(math.exp((0.5**2 - 1.5**2) / 2), rel=1e-5)


def test_contrast_hardly_counts_and_a_blank_picture_is_no_ones_neighbour() -> None:
    part = GradientNeighbours((1, 20, 20), 10)
    x = ramp(0.3)
    lengths = part.lengths(x)
    part.faint = 0.05 * lengths.sum()
    described = part.rooted(lengths)
    assert float(described.square().sum()) == pytest.approx(1 / 1.05, rel=1e-5)
    darker = part.rooted(part.lengths(x / 4))  # of half the gradient
    assert float((darker - described).norm()) == pytest.approx((1 / 1.05) ** 0.5 - (1 / 1.1) ** 0.5, abs=1e-4)
    blank = part.rooted(part.lengths(torch.full((1, 1, 20, 20), 0.7)))
    assert float(blank.norm()) == 0.0


def test_nats_are_the_mean_log_distance_to_the_nearest_of_each_bag() -> None:
    part = GradientNeighbours((1, 20, 20), 4)
    x = torch.cat([ramp(angle) for angle in (0.0, 0.4, 0.9)])
    part.faint, part.unit, part.closest = torch.tensor(0.1), torch.tensor(7.0), torch.tensor(1e-4)
    described = part.rooted(part.lengths(x))
    part.points = torch.stack([described[:1], described[2:]])  # two bags of one
    found = part.nats(Batch(x, None, x))  # type: ignore[arg-type]
    logs = torch.cdist(described, described).log()
    # the first and the last are references themselves
    expected = 7.0 * torch.stack([logs[0, 2], (logs[1, 0] + logs[1, 2]) / 2, logs[2, 0]])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def stripes(n: int, seed: int, along: bool) -> np.ndarray:
    """(n, 16, 16) uint8 waves of random phase, down or along the rows; all have the same grey levels."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(16) * 2 * np.pi / 8 + rng.uniform(0, 2 * np.pi, (n, 1)))
    pictures = np.broadcast_to((wave[:, None, :] if along else wave[:, :, None]), (n, 16, 16))
    return (127 + 80 * pictures + rng.normal(0, 5, (n, 16, 16))).clip(0, 255).astype(np.uint8)


def test_a_detector_of_stripes_knows_them_from_turned_ones(tmp_path: Path) -> None:
    detector = Detector.fit(stripes(120, 0, True), scoring__neighbours=50, **TINY)
    assert detector.score_model.part_names == ("recon", "kl", "neighbours")
    usual, turned = (detector.parts(stripes(40, 1, along)) for along in (True, False))
    assert turned.parts["neighbours"].min() > usual.parts["neighbours"].max() + 5
    np.testing.assert_allclose(usual.total, sum(usual.parts.values()), atol=1e-5)
    detector.save(tmp_path / "detector")
    again = Detector.load(tmp_path / "detector", "cpu").parts(stripes(40, 1, True))
    np.testing.assert_array_equal(again.parts["neighbours"], usual.parts["neighbours"])
    one = detector.parts(stripes(40, 1, True)[7:8])
    assert len(detector.score_model.state_dict()["parts.neighbours.points"]) == 4  # bags
    np.testing.assert_allclose(one.parts["neighbours"], usual.parts["neighbours"][7], rtol=1e-6)


def test_without_neighbours_and_of_a_table() -> None:
    assert Detector.fit(stripes(40, 0, True), scoring__neighbours=0, **TINY).score_model.part_names == ("recon", "kl")
    with pytest.raises(ConfigError, match=r"scoring\.parts=gradients is of pictures"):
        Detector.fit(np.random.default_rng(0).normal(size=(60, 3)), scoring__parts=["gradients"],
                     training__steps=2, split__folds=0)  # fmt: skip
