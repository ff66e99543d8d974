"""Blocks of samples: sizes that are fast, chosen so that a score's bits do not depend on them.

The last bit of a matrix product may depend on its size and on the place of a row in it. Sample i of a source is
therefore always at place i modulo the size of a padded block of one size: its score depends neither on other samples
nor on the chunks. Rows of a table may go in blocks of several sizes, a small one for a single row and a large one for
millions, provided that a probe has the same bits in all of them on this machine; the order in which a product is summed
up does not depend on the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from anomaly_vae.core.threads import workers
from anomaly_vae.scoring.score_model import ScoreModule

BLOCK = 256  # samples of every forward pass, where there is one size
SIZES = (16, BLOCK, 1024)  # of rows, each a multiple of the one before
FEATURE_BLOCK = {"cpu": 1, "cuda": 32}  # pictures that go through a backbone at once: a block is computed whole
# Samples and elements of a block at most. Caches of a CPU hold 256 pictures of 1 x 28 x 28, or 32 of 3 x 64 x 64; on a
# CUDA device a small block takes as long as a large one, the time of launching its kernels.
LIMITS = {"cpu": (BLOCK, 3 << 17), "cuda": (8192, 3 << 21)}

_agreeing: WeakKeyDictionary[ScoreModule, dict[str, tuple[int, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Block:
    """Samples start .. start + rows of a piece, at `place` of a padded block of `size`."""

    start: int
    rows: int
    place: int
    size: int


def block_sizes(net: ScoreModule, shape: tuple[int, ...], device: torch.device) -> tuple[int, ...]:
    """The sizes of block, in rising order, that samples of a shape may go through the network in."""
    if net.backbone is not None:
        return (FEATURE_BLOCK[device.type],)
    if len(shape) > 1 or net.model.rows is None or device.type == "cuda":
        return (one_size(shape, device),)
    found = _agreeing.setdefault(net, {})
    if device.type not in found:
        # with a thread like those that will compute the blocks
        found[device.type] = workers().submit(_agree, net, device).result()
    return found[device.type]


def one_size(shape: tuple[int, ...], device: torch.device) -> int:
    """The size of block that samples of any shape may go through a network in."""
    samples, elements = LIMITS[device.type]
    return max(1, min(samples, elements // math.prod(shape)))


def padded(x: Tensor, block: Block) -> Tensor:
    """The samples of a block (rows, *shape) at its place among `size`, the others of which are zeros."""
    if block.rows == block.size:
        return x
    whole = x.new_zeros(block.size, *x.shape[1:])
    whole[block.place : block.place + block.rows] = x
    return whole


def blocks(first: int, n: int, sizes: tuple[int, ...]) -> Iterator[Block]:
    """The blocks of n samples, the first of which is number `first`: the largest that are full, then the smallest that
    holds what is left, if no more than BLOCK would be computed for it."""
    at, end = first, first + n
    while at < end:
        holding = [size for size in sizes if end - at <= size - at % size and size <= BLOCK]
        full = [size for size in sizes if at % size == 0 and end - at >= size]
        size = holding[0] if holding else (full or sizes[:1])[-1]
        rows = min(end - at, size - at % size)
        yield Block(at - first, rows, at % size, size)
        at += rows


@torch.inference_mode()
def _agree(net: ScoreModule, device: torch.device) -> tuple[int, ...]:
    """Those of SIZES in which a random probe has the same bits as in blocks of BLOCK."""
    model = net.model
    rows = model.rows
    assert rows is not None
    probe = torch.randn(SIZES[-1], rows.elements + model.n_condition, generator=torch.Generator().manual_seed(0))
    probe[:, rows.named] = 0
    probe = probe.to(device)

    def numbers(x: Tensor, size: int) -> Tensor:
        """(B, E + parts) elements and parts of rows x."""
        found = [net(block) for block in x.split(size)]
        return torch.cat([torch.cat([elements, *(p[:, None] for p in parts.values())], 1) for elements, parts in found])

    known = numbers(probe, BLOCK)
    some = {size: slice(max(size, BLOCK)) for size in SIZES}
    return tuple(size for size in SIZES if torch.equal(numbers(probe[some[size]], size), known[some[size]]))
