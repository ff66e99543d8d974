"""The study of disentanglement: its pictures, and its measure on codes whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines import disentanglement
from pipelines.disentanglement import drawn, information_gaps, mutual_information


def test_every_combination_of_the_factors_is_drawn_once() -> None:
    images, factors = drawn()
    assert images.shape == (1152, 16, 16)
    assert len(np.unique(factors, axis=0)) == len(np.unique(images.reshape(len(images), -1), axis=0)) == 1152
    assert [len(np.unique(column)) for column in factors.T] == [2, 4, 12, 12]
    weight = images / images.sum((1, 2), keepdims=True, dtype=float)
    centre = (weight.sum(1) @ np.arange(16), weight.sum(2) @ np.arange(16))
    for axis, places in zip(centre, factors.T[2:], strict=True):  # x to the right, y down, within soft edges
        assert np.abs(axis - np.linspace(4, 11, 12)[places]).max() < 0.3
    assert (np.diff([images[factors[:, 1] == size].sum() for size in range(4)]) > 0).all()


def test_mutual_information_by_hand() -> None:
    a = np.array([0, 0, 1, 1])
    assert mutual_information(a, a) == pytest.approx(np.log(2))
    assert mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0)
    # p(b=0 | a) is 1 and 1/2: H(b) - H(b|a)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert mutual_information(a, np.array([0, 0, 0, 1])) == pytest.approx(entropy - 0.5 * np.log(2))


def test_the_gap_is_1_for_a_dimension_each_and_0_where_two_tell_the_same() -> None:
    factors = np.array([[i, j] for i in range(4) for j in range(5)])
    codes = np.c_[-factors[:, 1] * 2.0, factors[:, 0] + 7.0, np.zeros(20)]
    np.testing.assert_allclose(information_gaps(codes, factors), [1, 1])
    twice = np.c_[codes, codes]
    np.testing.assert_allclose(information_gaps(twice, factors), [0, 0], atol=1e-12)


def test_the_study_keeps_detectors_and_cells(workplace: Path) -> None:
    argv = ["--only", "capacity", "--seeds", "1", "--out", "out", "--save", "kept", "--set", "training.steps=32"]
    disentanglement.main([*argv, "--set", "tracking.enabled=false"])
    (cell,) = [json.loads(line) for line in Path("out/cells.jsonl").read_text().splitlines()]
    assert {"mig", "mig_x", "mig_y", "kl", "recon"} < set(cell)
    assert 0 <= cell["mig"] <= 1
    assert Path("kept/capacity-0/detector.json").is_file()
