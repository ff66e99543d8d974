"""Verdicts on samples: the threshold, and what each part of the score counts, chosen again by them without training."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from anomaly_vae.core.advice import option
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.core.settings import STRICT
from anomaly_vae.data.readers.cells import NORMAL_WORDS
from anomaly_vae.data.source import Chunk, CodedText, Source
from anomaly_vae.detector.alarms import count_alarms, reach
from anomaly_vae.detector.calibration import Calibration, joined, merged
from anomaly_vae.detector.configuration import unlabelled
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.thresholds import Threshold, choose
from anomaly_vae.detector.training_scores import row_hashes
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scores import DECIMALS, Scores, numbered

# Labels of anomalies; the others are NORMAL_WORDS.
ANOMALOUS_WORDS = ("1", "true", "anomaly", "anomalous", "abnormal", "outlier", "defect", "bad", "yes", "right")


class Before(BaseModel):
    """A detector before verdicts. data: that they are on. policy: `threshold.policy`. weights: what each part counted;
    None: 1. alarms: nats of an alarm of each part of cells."""

    model_config = STRICT

    data: str
    threshold: Threshold
    policy: str
    weights: dict[str, float] | None
    alarms: dict[str, float]


@dataclass(frozen=True)
class Verdicts:
    """Verdicts that were given together, and the detector before them.

    rows: the samples with a verdict, all of them marked. normal, anomalous: sorted scores that the threshold was chosen
    by.
    """

    rows: Calibration
    before: Before
    normal: NDArray[np.float64]
    anomalous: NDArray[np.float64]


def judged(detector: Detector, source: Source, verdicts: NDArray[np.float64]) -> Calibration:
    """The samples of a source that have a verdict (N,): 1 anomaly, 0 normal, NaN none, at least one of which is."""
    plain = replace(detector, score_model=_changed(detector.score_model, None))
    alarm = {name: float(part.alarm) for name, part in plain.score_model.cell_parts.items()}
    pieces = []
    for chunk, scores, numbers in numbered(plain.score_source(source)):
        verdict = verdicts[numbers]
        rows = np.flatnonzero(~np.isnan(verdict))
        if len(rows):
            pieces.append(_piece(plain.score_model, chunk.take(rows), scores.take(rows), alarm, verdict[rows] == 1))
    return joined(pieces)


def _piece(
    score_model: ScoreModule, chunk: Chunk, scores: Scores, alarm: Mapping[str, float], anomalous: NDArray[np.bool_]
) -> Calibration:
    """Samples with their verdicts; scores: not weighted, of which alarms are taken back."""
    counts = count_alarms(score_model, chunk.values)
    parts = {
        name: (nats - alarm[name] * counts[name]).round(DECIMALS) if name in counts else nats
        for name, nats in scores.parts.items()
    }
    alarms: NDArray[np.float64] = np.sum([np.zeros(len(chunk)), *counts.values()], axis=0)
    return Calibration(parts, row_hashes(chunk), alarms, anomalous, np.ones(len(chunk), bool))


def verdicts_of(labels: CodedText, path: str, label: str, normal: Collection[str] = ()) -> NDArray[np.float64]:
    """(N,) 1 anomaly, 0 normal, NaN no verdict. label: their column. normal: labels that are normal, and whose
    opposites are all others. Raises DataError for a label that is no verdict, and where there is none at all."""
    found = np.full(len(labels.values), np.nan)
    for number, value in enumerate(labels.values.tolist()):
        word = value.strip().lower()
        if value in normal or (not normal and word in NORMAL_WORDS):
            found[number] = 0
        elif value and (normal or word in ANOMALOUS_WORDS):
            found[number] = 1
        elif value:
            raise DataError(
                f"{path}: '{value}' in column '{label}' is no verdict; 1 for an anomaly, 0 for a false alarm and"
                f" nothing for neither would work, or {option('--normal', 'VALUE')} to name what is normal"
            )
    if np.isnan(found).all():
        raise DataError(f"{path}: column '{label}' holds no verdict; 1 (anomaly) or 0 (false alarm) would work")
    verdicts: NDArray[np.float64] = found[labels.codes]
    return verdicts


def give(detector: Detector, rows: Calibration, data: str, weights: str | None = None) -> tuple[Detector, str]:
    """The detector that verdicts on samples make of another, and what was decided. data: what the samples are of.
    weights: `scoring.weights` instead of the detector's.

    The policy of the threshold stays. Raises DataError where no normal is left to choose it by.
    """
    how, score_model = weights or detector.config.scoring.weights, detector.score_model
    first = detector.verdicts[0] if detector.verdicts else detector
    base = detector.calibration
    if base is None:
        base = Calibration.of_totals(first.normal, first.anomalous)
    every = merged((base, *(verdict.rows for verdict in detector.verdicts), rows))
    weighing = every.weighed(how)
    normal = np.sort(weighing.totals[~every.anomalous])
    if not len(normal):
        raise DataError(f"{data}: no normal is left to choose the threshold by; fewer anomalies would work")
    alarms = {name: float(part.alarm) for name, part in score_model.cell_parts.items()}
    before = Before(
        data=data, threshold=detector.threshold, policy=detector.config.threshold.policy, weights=score_model.weights,
        alarms=alarms,
    )  # fmt: skip
    further = _reach(detector, normal) - _reach(detector, detector.normal) if any(alarms.values()) else 0.0
    changed = _changed(score_model, weighing.weights, {name: nats + further for name, nats in alarms.items()})
    anomalous = every.anomalous_scores(weighing, changed)
    verdicts = Verdicts(rows, before, detector.normal, detector.anomalous)
    found = replace(
        detector, score_model=changed, normal=normal, anomalous=anomalous, verdicts=(*detector.verdicts, verdicts)
    )
    note = weighing.note
    if not every.known:
        note = "this detector keeps no parts to weigh: the verdicts move the threshold alone"
    elif not note and how == "auto":
        note = "no anomaly is labelled: each part counts 1, and the verdicts move the threshold alone"
    return replace(found, threshold=found.threshold_by(detector.threshold.policy)), note


def undo(detector: Detector) -> Detector:
    """The detector before the latest verdicts. Raises UsageError where there were none."""
    if not detector.verdicts:
        raise UsageError("this detector was given no feedback that could be undone")
    *earlier, last = detector.verdicts
    tree = detector.config.model_dump()
    tree["threshold"]["policy"] = last.before.policy
    return replace(
        detector,
        config=Config.model_validate(tree),
        score_model=_changed(detector.score_model, last.before.weights, last.before.alarms),
        threshold=last.before.threshold,
        normal=last.normal,
        anomalous=last.anomalous,
        verdicts=tuple(earlier),
    )


def _reach(detector: Detector, normal: NDArray[np.float64]) -> float:
    """What a fit gives an alarm by its normals (sorted); see `alarms.set_alarms`."""
    policy, independent = unlabelled(detector.config), detector.threshold.independent
    of_series = (independent, detector.layout.per_day, detector.steps, detector.config.events)
    return reach(normal, choose(policy, normal, normal[:0], policy, *of_series).value)


def _changed(
    score_model: ScoreModule, weights: Mapping[str, float] | None, alarms: Mapping[str, float] | None = None
) -> ScoreModule:
    """A copy of a score whose parts count otherwise and, unless they stay, whose alarms have other nats."""
    changed = copy.deepcopy(score_model)
    changed.set_weights(weights)
    for name, nats in (alarms or {}).items():
        changed.cell_parts[name].alarm.fill_(nats)
    return changed
