"""The rows that the threshold and the weights of the parts are chosen by; verdicts of `feedback` join them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.detector.alarms import count_alarms
from anomaly_vae.detector.part_weights import Weighing, choose_weights
from anomaly_vae.detector.training_scores import row_hashes
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scores import DECIMALS, Scores

UNKNOWN = 0  # the hash of a row that is not known


@dataclass(frozen=True)
class Calibration:
    """n rows that were scored by models that did not see them.

    parts: (n,) nats of each part, before they are weighted and without alarms. hashes: (n,) uint64 of their cells.
    alarms: (n,) of cells, each of `CellPart.alarm` nats. anomalous: (n,). marked: (n,) whether a person said so.
    """

    parts: dict[str, NDArray[np.float64]]
    hashes: NDArray[np.uint64]
    alarms: NDArray[np.float64]
    anomalous: NDArray[np.bool_]
    marked: NDArray[np.bool_]

    @classmethod
    def of(
        cls, score_model: ScoreModule, data: LoadedData, scores: Scores, anomalous: NDArray[np.bool_]
    ) -> Calibration:
        """Of rows of a fit, whose ids are row numbers."""
        hashes, alarms = np.empty(len(scores), np.uint64), np.zeros(len(scores))
        for here, chunk in data.pieces(scores.ids.astype(np.intp)):
            hashes[here] = row_hashes(chunk)
            for counts in count_alarms(score_model, chunk.values).values():
                alarms[here] += counts
        return cls(scores.parts, hashes, alarms, anomalous, np.zeros(len(scores), bool))

    @classmethod
    def of_totals(cls, normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> Calibration:
        """Of scores alone, of a detector that keeps no more."""
        n, both = len(normal), np.r_[normal, anomalous]
        empty = np.zeros(len(both))
        return cls({"": both}, np.full(len(both), UNKNOWN, np.uint64), empty, np.arange(len(both)) >= n, empty > 0)

    @property
    def known(self) -> bool:
        """Whether there is more than scores."""
        return "" not in self.parts

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, rows: NDArray[Any]) -> Calibration:
        parts = {name: nats[rows] for name, nats in self.parts.items()}
        return Calibration(parts, self.hashes[rows], self.alarms[rows], self.anomalous[rows], self.marked[rows])

    def of_score(self) -> Calibration:
        """The same with nothing but scores."""
        return Calibration(
            {"": np.sum(list(self.parts.values()), axis=0)}, self.hashes, self.alarms, self.anomalous, self.marked
        )

    def weighed(self, how: str | None) -> Weighing:
        """What each part counts (by `scoring.weights`), and each row's score by parts that it did not weigh."""
        if how == "auto" and self.known:
            return choose_weights(self.parts, self.anomalous, self.marked)
        return Weighing(None, np.round(np.sum(list(self.parts.values()), axis=0), DECIMALS))

    def anomalous_scores(self, weighing: Weighing, score_model: ScoreModule) -> NDArray[np.float64]:
        """The sorted scores of the anomalies, with their alarms."""
        alarm = max((float(part.alarm) for part in score_model.cell_parts.values()), default=0.0)
        found: NDArray[np.float64] = np.sort((weighing.totals + alarm * self.alarms)[self.anomalous].round(DECIMALS))
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps; `from_arrays` reads it."""
        found = {f"part.{name}": nats for name, nats in self.parts.items()} | {"hashes": self.hashes.view(np.int64)}
        return found | {"alarms": self.alarms, "anomalous": self.anomalous, "marked": self.marked}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], part_names: Iterable[str]) -> Calibration:
        """part_names: of the score, in their order."""
        parts = {name: arrays[f"part.{name}"] for name in (*part_names, "") if f"part.{name}" in arrays}
        rest = (arrays[name] for name in ("alarms", "anomalous", "marked"))
        return cls(parts, arrays["hashes"].view(np.uint64), *rest)


def merged(pieces: Iterable[Calibration]) -> Calibration:
    """All rows; of one that comes again in a later piece, and is the only one of its kind in the earlier one, the nats
    stay and the verdict is the later one."""
    first, *later = pieces
    for piece in later:
        if first.known != piece.known:
            first, piece = (one.of_score() if one.known else one for one in (first, piece))
        kinds, places, counts = np.unique(first.hashes, return_index=True, return_counts=True)
        single = (counts == 1) & (kinds != UNKNOWN)
        at = np.searchsorted(kinds[single], piece.hashes).clip(max=max(single.sum() - 1, 0))
        again = np.flatnonzero(np.isin(piece.hashes, kinds[single]))
        earlier = places[single][at[again]]
        nats = {name: part.copy() for name, part in piece.parts.items()}
        for name, part in nats.items():
            part[again] = first.parts[name][earlier]
        first = joined((first.take(np.delete(np.arange(len(first)), earlier)), replace(piece, parts=nats)))
    return first


def joined(pieces: Sequence[Calibration]) -> Calibration:
    """The rows of one piece behind those of another."""
    arrays = [piece.arrays() for piece in pieces]
    every = {name: np.concatenate([piece[name] for piece in arrays]) for name in arrays[0]}
    return Calibration.from_arrays(every, pieces[0].parts)
