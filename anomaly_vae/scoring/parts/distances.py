"""Projection of points to fewer axes, keeping the length of the rest; scaled distances as one matrix product, and the
tiles in which they are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TILE = {"cpu": 256, "cuda": 4096}  # points whose distances are computed at once


def place(offsets: Sequence[Tensor], axes: Tensor) -> Tensor:
    """(N, A + 1) of offsets from a centre, in pieces (N, c) of all C: along orthonormal axes (C, A), then the length of
    the rest. Pieces are not joined, which would take longer than the products."""
    (piece, some), *others = zip(offsets, axes.split([piece.shape[1] for piece in offsets]), strict=True)
    along, whole = piece @ some, _squared_length(piece)
    for piece, some in others:
        along, whole = torch.addmm(along, piece, some), whole + _squared_length(piece)
    return torch.cat([along, (whole - _squared_length(along)).clamp(min=0).sqrt()], dim=1)


def _squared_length(x: Tensor) -> Tensor:
    """(N, 1) of x (N, C)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return length.square()


def principal_axes(offset: Tensor, count: int) -> Tensor:
    """(C, count) orthonormal axes of offsets (N, C) from their mean, by falling variance; those beyond N are 0.

    They are eigenvectors of the smaller of the two matrices of products, a tenth of the work of an SVD. Products have
    the square of its condition, so they are float64, which tells variances apart down to 1e-16 of the largest.
    """
    from scipy.linalg import eigh

    x = offset.double()
    products = x @ x.T if len(x) < x.shape[1] else x.T @ x
    first = max(0, len(products) - count)
    found = torch.from_numpy(
        eigh(products.cpu().numpy(), subset_by_index=(first, len(products) - 1))[1][:, ::-1].copy()
    )
    found = found.to(x)
    if len(x) < x.shape[1]:
        found = torch.linalg.qr(x.T @ found).Q  # normed, and orthogonal where the variance is 0 too
    return torch.nn.functional.pad(found, (0, count - found.shape[1])).to(offset.dtype).contiguous()


def scaled_references(points: Tensor, weight: Tensor, bags: int) -> Tensor:
    """(bags, A + 2, R / bags) what `read_against` is multiplied with to give weight (R,) times squared distances to
    points (R, A), the first of which are in the first bag."""
    # w (|x - r|^2 + s) = w (|x|^2 + s) - 2 w x.r + w |r|^2
    columns = [-2 * points * weight[:, None], weight[:, None], (points.square().sum(1) * weight)[:, None]]
    joined = torch.cat(columns, dim=1)  # (R, A + 2)
    return joined.view(bags, -1, joined.shape[1]).transpose(1, 2).contiguous()


def read_against(points: Tensor, smallest: Tensor) -> Tensor:
    """(B, A + 2) of points (B, A); `smallest` () is added to every squared distance."""
    return torch.cat([points, points.square().sum(1, keepdim=True) + smallest, torch.ones_like(points[:, :1])], dim=1)


def intrinsic_dimension(nearest: Tensor) -> Tensor:
    """() the maximum likelihood of the dimension at the distance of points' neighbours, 1 / mean log(r_k / r_j) (Levina
    & Bickel 2004). nearest: (R, k) distances to the k nearest, rising."""
    logs = nearest.double().log()
    if logs.shape[1] < 2:
        return logs.new_tensor(1.0)
    return 1 / (logs[:, -1:] - logs[:, :-1]).mean().clamp(min=1e-2)


def tiles(points: Tensor, others: int) -> Iterator[tuple[slice, Tensor | None]]:
    """Some of the points (N, A) after the other, with room for the products (n, others) of these with so many.

    The room is the same memory for all of them, and stays in the cache: there a product is written five times faster.
    None: in a graph that is exported, whose runtime allocates as it likes.
    """
    if torch.compiler.is_exporting():
        yield slice(None), None
        return
    size = TILE[points.device.type]
    scratch = points.new_empty(size, others)
    for start in range(0, len(points), size):
        yield slice(start, start + size), scratch[: len(points) - start]
