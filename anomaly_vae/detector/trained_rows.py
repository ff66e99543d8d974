"""Which rows a detector was trained on, as hashes: whoever compares detectors on data asks whether they know it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.datasets import by_run
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.scoring.scores import Scores

MOST = 1_000_000  # training rows whose hashes are kept: 8 MB
RUN = 8  # steps of a series that are compared together: a single step of few or coarse sensors occurs again and again
STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no product with its powers loses a bit

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class TrainedRows:
    """hashes: (n,) sorted, of the training rows as the detector's layout reads them. repeated: how many of `held`
    held-out normals equal a training row other than themselves, as rows of few categories do by chance."""

    hashes: Hashes
    repeated: int
    held: int

    @property
    def chance(self) -> float:
        """The share of unseen normals that equal a training row."""
        return self.repeated / max(1, self.held)

    @classmethod
    def of(cls, data: LoadedData, train: NDArray[np.intp], held: NDArray[np.intp]) -> TrainedRows | None:
        """From the rows of a fit; None where there are more training rows than are kept."""
        if len(train) > MOST:
            return None
        if KINDS[data.layout.kind].ordered:
            hashes = _hashes(data, np.arange(len(data)))
            learned, kept = hashes[train], hashes[held]
        else:
            learned, kept = _hashes(data, train), _hashes(data, held)
        values, counts = np.unique(learned, return_counts=True)
        others = np.zeros(len(kept), np.intp)  # training rows that equal each, other than itself
        places = np.minimum(np.searchsorted(values, kept), len(values) - 1)
        known = values[places] == kept
        others[known] = counts[places[known]]
        return cls(np.sort(learned), int((others > np.isin(held, train)).sum()), len(kept))

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """(N,) which rows were trained on, or equal one that was; hashes (N,): of a `RowHasher`."""
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        known: NDArray[np.bool_] = self.hashes[places] == hashes
        return known

    def more_than_chance(self, count: int, of: int) -> bool:
        """Whether `count` of so many rows are more than would equal a training row by chance: above the share of
        held-out rows that do by more than three standard deviations of the difference of the two."""
        variance = self.chance * (1 - self.chance) * (1 / max(1, of) + 1 / max(1, self.held))
        return count > of * (self.chance + 3 * sqrt(variance))


class RowHasher:
    """Hashes of consecutive chunks of a source, 64 bits of BLAKE2b for each row; of a step of a series together with
    the steps before it in its group, so many as there are, up to seven."""

    def __init__(self, layout: Layout) -> None:
        self._ordered = KINDS[layout.kind].ordered
        self._pieces: list[Hashes] = [np.empty(0, np.uint64)]
        self._groups: list[NDArray[np.str_]] = []

    def add(self, chunk: Chunk) -> None:
        self._pieces.append(_of_rows(chunk))
        if chunk.groups is not None:
            self._groups.append(chunk.groups)

    def watch(self, stream: Iterable[tuple[Chunk, Scores]]) -> Iterator[tuple[Chunk, Scores]]:
        """The stream as it is, with its chunks added while it passes."""
        for chunk, scores in stream:
            self.add(chunk)
            yield chunk, scores

    def hashes(self) -> Hashes:
        """(N,) of all chunks so far."""
        hashes = np.concatenate(self._pieces)
        if not self._ordered:
            return hashes
        groups = np.concatenate(self._groups) if self._groups else None
        order = np.arange(len(hashes)) if groups is None else np.argsort(groups, kind="stable")
        joined = np.empty_like(hashes)
        for steps in by_run(order, groups, order):
            own = hashes[steps]
            together = own.copy()
            for back in range(1, min(RUN, len(own))):
                together = together * STEP  # of uint64, modulo 2 ** 64
                together[back:] += own[:-back]
            joined[steps] = together
        return joined


def _hashes(data: LoadedData, rows: NDArray[np.intp]) -> Hashes:
    hasher = RowHasher(data.layout)
    for _, chunk in data.pieces(rows):
        hasher.add(chunk)
    return hasher.hashes()


def _of_rows(chunk: Chunk) -> Hashes:
    """(N,) of what the cells hold, whatever the sign of a zero and the bits of a missing number."""
    tables: list[NDArray[Any]] = [chunk.values.reshape(len(chunk), -1)]
    if chunk.condition is not None:
        tables.append(chunk.condition)
    tables = [np.where(np.isnan(t), np.nan, t + 0.0) if t.dtype.kind == "f" else t for t in tables]
    rows = zip(*(np.ascontiguousarray(table) for table in tables), strict=True)
    digests = (hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=8).digest() for row in rows)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
