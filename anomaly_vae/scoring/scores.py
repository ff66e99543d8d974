"""Scores of samples, with their parts, and the joining of pieces of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.source import Chunk
from anomaly_vae.data.spill import ArrayStore, release

DECIMALS = 6  # scores are given to a millionth of a nat, so that a printed line adds up exactly


@dataclass(frozen=True)
class Scores:
    """Scores of N samples.

    parts: name -> (N,) float64 nats, `recon` and `kl` first; the score is their sum. elements: (N, *shape) float32
    nats of reconstruction and of the parts that are of cells, the share of each column, sensor or pixel, of images
    summed over channels (N, 1, H, W); None where it was not asked for. raw: the parts before they were turned into
    surprises; None where the score is the sum of raw nats. recalled: how many of the samples are training rows, with
    their scores of the fit.
    """

    ids: NDArray[np.generic]
    parts: dict[str, NDArray[np.float64]]
    elements: NDArray[np.float32] | None = None
    raw: dict[str, NDArray[np.float64]] | None = None
    recalled: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def total(self) -> NDArray[np.float64]:
        """(N,) the score: higher is more anomalous."""
        total: NDArray[np.float64] = np.round(np.sum(list(self.parts.values()), axis=0), DECIMALS)
        return total

    def add(self, name: str, nats: NDArray[np.float64], rows: slice = slice(None)) -> None:
        """Adds nats to a part, in place, raw or not."""
        for parts in (self.parts, self.raw or {}):
            if name in parts:
                parts[name][rows] = (parts[name][rows] + nats).round(DECIMALS)

    def take(self, rows: NDArray[np.intp]) -> Scores:
        parts, raw = (
            None if nats is None else {name: part[rows] for name, part in nats.items()}
            for nats in (self.parts, self.raw)
        )
        assert parts is not None
        return Scores(self.ids[rows], parts, None if self.elements is None else self.elements[rows], raw)


def weighted(
    parts: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float] | None
) -> dict[str, NDArray[np.float64]]:
    """Parts (N,) times their weights; None: as they are."""
    if weights is None:
        return dict(parts)
    return {name: (nats * weights[name]).round(DECIMALS) for name, nats in parts.items()}


def numbered(stream: Iterable[tuple[Chunk, Scores]]) -> Iterator[tuple[Chunk, Scores, NDArray[np.intp]]]:
    """Each piece of a stream with the numbers (N,) that its rows have in it."""
    first = 0
    for chunk, scores in stream:
        yield chunk, scores, np.arange(first, first + len(scores))
        first += len(scores)


def join(stream: Iterable[tuple[Chunk, Scores]]) -> Scores:
    """The scores of a stream as one, in the order of the rows that were given."""
    pieces, places = [], []
    for chunk, scores in stream:
        if len(scores):
            pieces.append(scores)
            places += [] if chunk.places is None else [chunk.places]
    if not pieces:
        raise DataError("there are no rows to score; give at least one")
    parts = {name: np.concatenate([p.parts[name] for p in pieces]) for name in pieces[0].parts}
    found = [p.elements for p in pieces if p.elements is not None]
    raw = [p.raw for p in pieces if p.raw is not None]
    scores = Scores(
        np.concatenate([p.ids for p in pieces]),
        parts,
        np.concatenate(found) if found else None,
        {name: np.concatenate([nats[name] for nats in raw]) for name in parts} if raw else None,
    )
    return scores.take(np.argsort(np.concatenate(places))) if places else scores


def gathered(
    pieces: Iterable[Scores], rows: NDArray[np.intp], store: ArrayStore, places: NDArray[np.intp] | None = None
) -> Scores:
    """One Scores of several, of the rows with these numbers (N,), which are its ids; its elements live in the store.
    places: (N,) where the samples stand in it, in the order of the pieces; None: in that order."""
    parts: dict[str, list[NDArray[np.float64]]] = {}
    elements, first = None, 0
    places = np.arange(len(rows)) if places is None else places
    for piece in pieces:
        for name, part in piece.parts.items():
            parts.setdefault(name, []).append(part)
        if piece.elements is not None:
            if elements is None:
                elements = store.empty((len(rows), *piece.elements.shape[1:]), np.float32)
            elements[places[first : first + len(piece)]] = piece.elements
            release(elements)
        first += len(piece)
    order = np.argsort(places)
    return Scores(rows, {name: np.concatenate(found)[order] for name, found in parts.items()}, elements)


def in_order(pieces: Iterable[Scores], store: ArrayStore) -> Scores:
    """One Scores of several, whose ids are row numbers, in the order of these."""
    pieces = list(pieces)
    ids = np.concatenate([piece.ids for piece in pieces]).astype(np.intp)
    rows, places = np.unique(ids, return_inverse=True)
    return gathered(pieces, rows, store, places)
