"""The picture of one explained sample: a row among the training values of its columns, a step among its neighbours, or
a picture beside its map; as a PNG file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.detector.anomaly_maps import resized
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.reasons import COMMON, Reasons, Trials, Words, reasons
from anomaly_vae.reporting.plots.row import Panel
from anomaly_vae.scoring.scores import Scores

MOST, SHOWN, SENSORS = 12, 12, 6  # reasons that are sought, and columns and sensors that are drawn

Found = list[dict[str, Any]]  # reasons, the largest first


def drawn_row(detector: Detector, chunk: Chunk, scores: Scores) -> tuple[Found, bytes]:
    """A row: the columns of its reasons first, then by the nats that each alone is worth."""
    from anomaly_vae.reporting import plots

    words, trials = Words(detector), Trials(detector)
    found = reasons(detector, chunk, scores, MOST, np.ones(1, bool))
    alone, suiting = trials.alone(chunk)
    chosen = [int(column) for column in found.columns[0] if column >= 0]
    nats = dict(zip(chosen, found.nats[0], strict=False))
    values, panels = chunk.values[0], []
    for column in (*chosen, *(int(c) for c in np.argsort(-alone[0], kind="stable") if c not in chosen)):
        value, reference = words.value(column, values[column]), words.by_name[words.names[column]]
        suits = found.suiting[0, chosen.index(column)] if column in chosen else suiting[0, column]
        known = max(1, sum(reference.counts))
        panels.append(Panel(
            name=words.names[column],
            value=None if np.isnan(values[column]) or value == "a new category" else value,
            text=words.text(column, values[column], 6),
            usual=words.usual(column, chunk, 0, suits, column in chosen),
            nats=float(nats.get(column, max(0.0, alone[0, column]))),
            is_reason=column in chosen,
            values=reference.values,
            shares={name: count / known for name, count in zip(reference.categories, reference.counts, strict=False)},
            common=COMMON,
        ))  # fmt: skip
    figure = plots.row(panels[:SHOWN], f"Row {_title(detector, scores, 0)}", max(0, len(panels) - SHOWN))
    return _listed(words, chunk, found, 0, True), plots.png(figure)


def drawn_steps(detector: Detector, chunk: Chunk, scores: Scores, place: int) -> tuple[Found, bytes]:
    """A time step, the steps around it, and the sensors with most nats above the usual."""
    from anomaly_vae.reporting import plots

    alarm = scores.total >= detector.threshold.value
    found = reasons(detector, chunk, scores, MOST, alarm | (np.arange(len(chunk)) == place))
    order = detector.contributions(scores.take(np.array([place])), SENSORS)[0][0]
    words = Words(detector)
    figure = plots.series(
        times=scores.ids,
        values=chunk.values[:, order],
        names=[words.names[column] for column in order],
        scores=scores.total,
        threshold=detector.threshold.value,
        labels=alarm if alarm.any() else None,
        shaded="alarm",
        step=place,
        title=f"Step {_title(detector, scores, place)}",
    )
    return _listed(words, chunk, found, place, False), plots.png(figure)


def drawn_picture(detector: Detector, source: Source, chunk: Chunk, scores: Scores, number: int) -> tuple[Found, bytes]:
    """A picture beside its map. number: of the picture in its source."""
    from PIL import Image

    from anomaly_vae.reporting import plots

    assert detector.pixels is not None
    files, mask = source.image_files(), None
    picture = np.moveaxis(chunk.values[0], 0, 2)
    if files is not None:
        picture = files.picture(number, detector.layout.pixel_max)
        mask = files.mask(number) if files.masked else None
    heat = resized(detector.maps(scores)[0], picture.shape[:2])
    file = io.BytesIO()
    Image.fromarray(plots.overlay(picture, heat, detector.pixels.value, mask)).save(file, "PNG")
    return [], file.getvalue()


def _title(detector: Detector, scores: Scores, place: int) -> str:
    total, threshold = scores.total[place], detector.threshold.value
    verdict = "an anomaly" if total >= threshold else "no anomaly"
    return f"{scores.ids[place]}: {total:.1f} nats, {verdict} (threshold {threshold:.4g})"


def _listed(words: Words, chunk: Chunk, found: Reasons, row: int, known: bool) -> Found:
    lines = []
    for column, nats, share, suiting in zip(
        found.columns[row], found.nats[row], found.shares[row], found.suiting[row], strict=True
    ):
        if column >= 0:
            value = float(chunk.values[row, column])
            usual = words.usual(int(column), chunk, row, suiting, known)
            lines.append({"column": words.names[column], "value": words.value(int(column), value), "usual": usual,
                          "nats": round(float(nats), 4), "share": round(float(share), 4)})  # fmt: skip
    return lines
