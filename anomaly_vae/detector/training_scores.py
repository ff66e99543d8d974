"""The out-of-sample scores of the rows that a detector was trained on: whoever scores such a row again gets its own.

The final detector has seen its training rows: it would find each of them at a distance of 0 from itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.source import Chunk
from anomaly_vae.scoring.scores import DECIMALS, Scores

BY_CHANCE = 0.1  # share of rows that equal another, from which an equal row need not be the same one
MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))  # odd numbers (SplitMix64, Steele et al. 2014)

Hashes = NDArray[np.uint64]
Nats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingScores:
    """scores: of n training rows, by row number, with their raw parts, without elements. hashes: (n,) of their cells.
    suspects: (m,) sorted row numbers of those that the detector was not trained on, for they look anomalous."""

    scores: Scores
    hashes: Hashes
    suspects: NDArray[np.intp]

    @classmethod
    def of(cls, data: LoadedData, scores: Scores, suspects: NDArray[np.intp]) -> TrainingScores:
        """Of scored rows of a fit, whose ids are row numbers."""
        pieces = [row_hashes(chunk) for _, chunk in data.pieces(scores.ids.astype(np.intp))]
        return cls(replace(scores, elements=None), np.concatenate(pieces), suspects)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps; `from_arrays` reads it."""
        found = {"rows": self.scores.ids.astype(np.int64), "hashes": self.hashes.view(np.int64)}
        found |= {"suspects": self.suspects.astype(np.int64), "parts": np.stack(list(self.scores.parts.values()))}
        return found if self.scores.raw is None else found | {"raw": np.stack(list(self.scores.raw.values()))}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], part_names: Sequence[str]) -> TrainingScores:
        """part_names: of the rows of the arrays `parts` and `raw`."""
        parts, raw = (
            dict(zip(part_names, arrays[kind], strict=True)) if kind in arrays else None for kind in ("parts", "raw")
        )
        assert parts is not None
        return cls(Scores(arrays["rows"], parts, raw=raw), arrays["hashes"].view(np.uint64), arrays["suspects"])

    @cached_property
    def _known(self) -> tuple[Hashes, NDArray[np.intp]]:
        """(hashes, places in `scores`) of the rows that are the only ones of their kind, sorted by hash. A row that
        occurs again has been trained on, by others of its kind, wherever it comes from; none where many do."""
        hashes, first, counts = np.unique(self.hashes, return_index=True, return_counts=True)
        single = counts == 1
        if single.sum() < (1 - BY_CHANCE) * len(self.hashes):
            single[:] = False
        return hashes[single], first[single]

    def recall(self, chunk: Chunk, scores: Scores) -> Scores:
        """The scores of a chunk, with those of its training rows as they were in the fit."""
        hashes, places = self._known
        if not len(hashes):
            return scores
        here = row_hashes(chunk)
        at = np.minimum(np.searchsorted(hashes, here), len(hashes) - 1)
        known = np.flatnonzero(hashes[at] == here)
        if not len(known):
            return scores
        mine = places[at[known]]

        def of_fit(nats: dict[str, Nats] | None, kept: dict[str, Nats] | None) -> dict[str, Nats] | None:
            if nats is None or kept is None:
                return nats
            changed = {name: part.copy() for name, part in nats.items()}
            for name, part in changed.items():
                part[known] = kept[name][mine]
            return changed

        parts = of_fit(scores.parts, self.scores.parts)
        assert parts is not None
        return replace(scores, parts=parts, raw=of_fit(scores.raw, self.scores.raw), recalled=len(known))


def matched(parts: dict[str, Nats], evidence: Nats, totals: Nats, among: NDArray[np.bool_]) -> dict[str, Nats]:
    """Parts (n,) scaled so that their sums have the order of the evidence (n,), and those of the rows `among` (n,) the
    distribution of the totals (m,): what ranks the rows, in the nats of the score that the threshold is chosen by.
    Beyond the last of the totals, sums are proportional to the evidence."""
    ranked, m = np.sort(evidence[among]), len(totals)
    places, known = (np.arange(len(ranked)) + 0.5) / len(ranked), (np.arange(m) + 0.5) / m
    edge = max(float(np.interp(known[-1], places, ranked)), 1e-12)
    wanted = np.interp(np.interp(evidence, ranked, places), known, np.sort(totals))
    wanted = np.where(evidence > edge, totals.max() * evidence / edge, wanted).round(DECIMALS)
    scale = wanted / np.maximum(np.sum(list(parts.values()), axis=0), 1e-12)
    scaled = {name: (part * scale).round(DECIMALS) for name, part in parts.items()}
    first = next(iter(scaled))  # takes what rounding leaves, lest a row passes a threshold that is just above it
    scaled[first] = (scaled[first] + wanted - np.sum(list(scaled.values()), axis=0)).round(DECIMALS)
    return scaled


def row_hashes(chunk: Chunk) -> Hashes:
    """(N,) of what the cells hold, whatever the sign of a zero and the bits of a missing number."""
    total = np.zeros(len(chunk), np.uint64)
    for cells in (chunk.values.reshape(len(chunk), -1), chunk.condition):
        if cells is None:
            continue
        numbers = cells.astype(np.float64) + 0.0
        numbers[np.isnan(numbers)] = np.nan
        bits = numbers.view(np.uint64)
        bits = (bits ^ (bits >> np.uint64(32))) * MIX[1]
        odd = np.arange(1, bits.shape[1] + 1, dtype=np.uint64) * MIX[0] | np.uint64(1)
        total = (total ^ (total >> np.uint64(31))) * MIX[1] + ((bits ^ (bits >> np.uint64(29))) * odd).sum(axis=1)
    return total
