"""Explain one row, step or picture: open, find it, score it, draw it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anomaly_vae.core.callbacks import Say
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.files import replacing, require_apart
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.readers.base import plural
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.detector.detector import Detector
from anomaly_vae.reporting.explained import drawn_picture, drawn_row, drawn_steps
from anomaly_vae.scoring.scores import Scores
from anomaly_vae.workflows.opening import reopen

AROUND = 150  # steps of a series before and behind the one that is explained
NEAR, LISTED = 3, 50_000  # ids that are offered instead of an unknown one, and those that are looked through


@dataclass(frozen=True)
class Explanation:
    """A sample and its score (nats). reasons: name, value, usual value, nats and share of each, the largest first."""

    id: str
    score: float
    p_value: float
    is_anomaly: bool
    reasons: list[dict[str, Any]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def explain(
    path: str, detector: Detector, row: str, output: str, *, id_column: str | None = None, say: Say = lambda _: None
) -> Explanation:
    """Draws a row beside the training distribution of its columns, a step of a series with the sensors around it, or a
    picture with its map, into a PNG.

    row: an id, or a row number from 0 where no id is that. Raises DataError where there is no such row.
    """
    require_apart(path, output)
    source = reopen(path, detector, id_column)
    at, number = find(source, detector, row, say)
    if detector.window is not None:
        chunk, scores, place = _steps(source, detector, at, number)
        found, png = drawn_steps(detector, chunk, scores, place)
    else:
        ((chunk, scores),) = detector.score_chunks([at], explain=True, path=source.path)
        place = 0
        if KINDS[detector.layout.kind].pictures:
            found, png = drawn_picture(detector, source, chunk, scores, number)
        else:
            found, png = drawn_row(detector, chunk, scores)
    with replacing(output) as beside:
        beside.write_bytes(png)
    total = scores.total[place]
    return Explanation(
        id=str(scores.ids[place]),
        score=float(total),
        p_value=float(detector.p_values(scores.total)[place]),
        is_anomaly=bool(total >= detector.threshold.value),
        reasons=found,
    )


def find(source: Source, detector: Detector, row: str, say: Say) -> tuple[Chunk, int]:
    """The sample whose id is `row`, or else whose number it is, and its number in the source."""
    by_number: tuple[Chunk, int] | None = None
    ids: list[str] = []
    first, wanted = 0, int(row) if row.isascii() and row.isdigit() else -1
    for chunk in source.chunks(detector.layout, detector.chunk_rows):
        names = chunk.ids.astype(str)
        rows = first + np.arange(len(chunk)) if chunk.places is None else chunk.places
        for match in np.flatnonzero(names == row)[:1]:
            return chunk.take(np.array([match])), first + int(match)
        for match in np.flatnonzero(rows == wanted)[:1]:
            by_number = chunk.take(np.array([match])), first + int(match)
        ids += names[: max(0, LISTED - len(ids))].tolist()
        first += len(chunk)
    if by_number is not None:
        say(f"note: no id is {row!r}; row number {row}, counted from 0, has the id {by_number[0].ids[0]}")
        return by_number
    near = difflib.get_close_matches(row, ids, NEAR, 0.3) or ids[:NEAR]
    raise DataError(
        f"{source.path}: no row has the id {row!r}, nor that number, among {plural(first, 'row')}; there are"
        f" {', '.join(map(repr, near))} and numbers from 0 to {first - 1}"
    )


def _steps(source: Source, detector: Detector, at: Chunk, number: int) -> tuple[Chunk, Scores, int]:
    """The steps around one in its group, with their scores, and which of them it is."""
    group = None if at.groups is None else at.groups[0]
    pieces: list[tuple[Chunk, Scores]] = []
    for chunk, scores in detector.score_source(source, explain=True):
        mine = np.arange(len(chunk)) if group is None else np.flatnonzero(chunk.groups == group)
        pieces.append((chunk.take(mine), scores.take(mine)))
    chunk, scores = Chunk.join(c for c, _ in pieces), _joined([s for _, s in pieces])
    same = chunk.ids == at.ids[0] if at.places is None else chunk.places == at.places[0]
    place = int(np.flatnonzero(same)[0])
    here = np.arange(max(0, place - AROUND), min(len(chunk), place + AROUND + 1))
    return chunk.take(here), scores.take(here), place - int(here[0])


def _joined(pieces: Sequence[Scores]) -> Scores:
    parts = {name: np.concatenate([piece.parts[name] for piece in pieces]) for name in pieces[0].parts}
    elements = np.concatenate([piece.elements for piece in pieces if piece.elements is not None])
    return Scores(np.concatenate([piece.ids for piece in pieces]), parts, elements)
