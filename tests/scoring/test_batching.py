"""Blocks cover every row once, each at its own place; several sizes are used only where they have the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring import batching as module
from anomaly_vae.scoring.batching import BLOCK, SIZES, Block, block_sizes, blocks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def detector() -> Detector:
    values = np.random.default_rng(0).normal(size=(300, 5))
    return Detector.fit(values, device="cpu", training__steps=4, model__hidden=[16], split__folds=0)


@pytest.mark.parametrize("sizes", [(BLOCK,), SIZES, (1,)])
@pytest.mark.parametrize(("first", "n"), [(0, 0), (0, 1), (5, 1), (0, 16), (0, 5000), (1003, 3000), (2047, 2050)])
def test_every_row_is_in_one_block_at_its_own_place(sizes: tuple[int, ...], first: int, n: int) -> None:
    found = list(blocks(first, n, sizes))
    rows = [block.start + row for block in found for row in range(block.rows)]
    assert rows == list(range(n))
    for block in found:
        assert block.size in sizes
        assert block.place == (first + block.start) % block.size
        assert block.place + block.rows <= block.size


def test_one_row_goes_in_the_smallest_block_and_many_in_the_largest() -> None:
    assert list(blocks(0, 1, SIZES)) == [Block(0, 1, 0, 16)]
    assert list(blocks(0, 100, SIZES)) == [Block(0, 100, 0, BLOCK)]
    assert {block.size for block in blocks(65_536, 65_536, SIZES)} == {SIZES[-1]}


def test_sizes_in_which_a_product_rounds_differently_are_not_used(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(1).normal(size=(60, 5))
    net = Detector.fit(X, device="cpu", training__steps=2, split__folds=0).score_model
    forward = type(net).forward

    def rounding(self: Any, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        elements, parts = forward(self, x, own)
        return elements, {name: part * (1 + 1e-6 * (len(x) == 16)) for name, part in parts.items()}

    monkeypatch.setattr(type(net), "forward", rounding)
    monkeypatch.setattr(module, "_agreeing", type(module._agreeing)())
    assert 16 not in block_sizes(net, (5,), CPU)
    assert BLOCK in block_sizes(net, (5,), CPU)


def test_a_row_alone_has_the_bits_that_it_has_among_thousands(detector: Detector) -> None:
    values = np.random.default_rng(2).normal(size=(2 * SIZES[-1] + 77, 5))
    together = detector.parts(values, explain=True)
    for row in (0, 16, SIZES[-1], len(values) - 1):
        alone = detector.parts(values[row : row + 1], explain=True)
        assert alone.total[0] == together.total[row]
    assert together.elements is not None
    first = detector.parts(values[:20], explain=True)
    np.testing.assert_array_equal(first.elements, together.elements[:20])
