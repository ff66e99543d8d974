"""The summary of a fit, from which the console's table, the run's note and the report are made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.core.worries import Worry, worries
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Source
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import Fit
from anomaly_vae.detector.thresholds import Threshold, choose
from anomaly_vae.reporting.worries import worries_of_test

LABELLED = ("youden", "f1", "fpr=0.01", "fpr=0.05", "recall=0.95")  # policies shown beside the chosen one
UNLABELLED = ("fpr=0.01", "fpr=0.05", "fpr=0.1")
SHOWN = 10  # rows that are listed

Facts = list[tuple[str, str]]  # name, value


@dataclass(frozen=True)
class Choice:
    """The threshold (nats) that a policy chooses, and its rates on the test rows (None: not known)."""

    policy: str
    threshold: float
    chosen: bool
    alarm_rate: float
    recall: float | None
    false_alarm_rate: float | None


@dataclass(frozen=True)
class Summary:
    """The result of a fit.

    data_is: how the data was recognised. rows: number in each part of the split; those that train, and calibrate by
    folds, count as train. metrics: of the test rows, see `metrics.metrics`, and of the latent space, see
    `Fit.latent_metrics`. pixels: the pixel threshold of pictures. choices: the thresholds of the chosen policy and of
    others. changed: settings that differ from the defaults.
    seconds: from opening the data to the end of scoring. notes: what the user should know, a sentence each. highest:
    where nothing can be tested, the ids and scores of the highest rows.
    """

    kind: str
    data: str
    data_is: str
    rows: Mapping[str, int]
    metrics: Mapping[str, float]
    threshold: Threshold
    pixels: Threshold | None
    choices: tuple[Choice, ...]
    changed: Mapping[str, Any]
    seconds: float
    notes: tuple[str, ...]
    highest: tuple[str, ...] = ()

    @property
    def worries(self) -> tuple[Worry, ...]:
        """The notes that are reasons to doubt the detector, the gravest first."""
        return worries(self.notes)

    @property
    def information(self) -> tuple[str, ...]:
        """The other notes."""
        return tuple(note for note in self.notes if not isinstance(note, Worry))

    @property
    def noun(self) -> str:
        """What a row of the data is called."""
        return KINDS[self.kind].noun

    def facts(self) -> Facts:
        """Names and values, the most important first."""
        metrics = self.metrics
        tested = f"{self.rows['test']} {self.noun}"
        if "anomalies" in metrics:
            tested += f", {metrics['anomalies']:.0f} of them anomalies"
        if not self.rows["test"]:
            tested = f"{metrics['rows']:.0f} {self.noun}, each by models that never saw it: nothing can be tested"
        return [
            ("trained on", f"{self.rows['train']} normal {self.noun} of {self.data} ({self.kind})"),
            ("tested on" if self.rows["test"] else "scored", tested),
            *metric_facts(metrics),
            *([("alarms", self.odd())] if not self.rows["test"] else []),
            ("threshold", f"{self.threshold.value:.6g} nats ({self.chosen_by()})"),
            *pixel_facts(self.pixels),
            ("active units", f"{metrics['active_units']:.0f}"),
            ("latent KL", f"{metrics['kl_total']:.3g} nats, {metrics['kl_dimensions']:.0f} dimensions above 0.1"),
            ("time", f"{self.seconds:.1f} s"),
        ]

    def chosen_by(self) -> str:
        """How the threshold was chosen, and from how many rows."""
        policy, normals = self.threshold.policy, self.threshold.normals
        if self.threshold.labelled:
            how = f"{policy} on the ROC curve of {normals} normal and {self.threshold.anomalies} anomalous"
        elif policy.startswith("tail"):
            how = f"{policy}, {self.threshold.frequency(self.noun)}, from {normals} held-out normal"
        else:
            rate = f"{self.threshold.false_alarm_rate:.3g}"
            if self.threshold.folds:
                return f"cross-conformal, about {rate} false alarms, from {normals} normal {self.noun} out of fold"
            how = f"conformal, at most {rate} false alarms, from {normals} held-out normal"
        return f"{how} {self.noun}"

    def odd(self) -> str:
        """How many rows are at or above the threshold, and which are the highest."""
        count = round(self.metrics["alarm_rate"] * self.metrics["rows"])
        listed = f"; the highest: {', '.join(self.highest)}" if self.highest else ""
        return f"{count} {self.noun} at or above the threshold{listed}"

    def verdict(self) -> str:
        """How good the detector is, in a sentence."""
        metrics = self.metrics
        if "recall" in metrics and "false_alarm_rate" in metrics:
            return (
                f"Finds {metrics['recall']:.1%} of the anomalies in the test {self.noun} and raises an alarm for"
                f" {metrics['false_alarm_rate']:.1%} of the normal ones."
            )
        return (
            f"Raises an alarm for {metrics['alarm_rate']:.1%} of the test {self.noun}. Nothing there is known to be"
            " anomalous, so how much it finds is not known."
        )


def summarise(
    source: Source, detector: Detector, fit: Fit, config: Config, metrics: Mapping[str, float], seconds: float
) -> Summary:
    """The summary of a detector that was just fitted on `source`.

    config: the user's settings, before those that depend on the data were resolved. metrics: of the test rows.
    """
    test, anomalous = fit.part(fit.split.reported)
    normal = test.total if anomalous is None else test.total[~anomalous]
    tested = worries_of_test(detector, normal, metrics) if len(fit.split.test) else []
    notes = (*fit.notes, *_notes(detector, metrics), *tested)
    return Summary(
        kind=source.kind,
        data=source.path,
        data_is=source.why,
        rows={part: len(rows) for part, rows in fit.split.parts.items()},
        metrics=metrics,
        threshold=detector.threshold,
        pixels=detector.pixels,
        choices=_choices(detector, test.total, anomalous),
        changed=config.changed(),
        seconds=seconds,
        notes=tuple(dict.fromkeys(notes)),
        highest=() if len(fit.split.test) else _highest(fit, test.total),
    )


def _notes(detector: Detector, metrics: Mapping[str, float]) -> list[str]:
    """What the threshold's choice leaves open."""
    notes: list[str] = [Worry(detector.threshold.note)] if detector.threshold.note else []
    if "auroc" not in metrics:
        what = "no anomaly in the test" if "anomalies" in metrics else "nothing"
        notes.append(f"{what} is labelled: how many anomalies it finds is not known; `anomaly-vae evaluate` tells")
    return notes


def _highest(fit: Fit, scores: NDArray[np.float64]) -> tuple[str, ...]:
    order = np.argsort(-scores, kind="stable")[:SHOWN]
    ids = fit.data.ids(fit.split.reported[order])
    return tuple(f"id {name} ({score:.1f})" for name, score in zip(ids, scores[order], strict=True))


def metric_facts(metrics: Mapping[str, float]) -> Facts:
    """Names and values of the metrics that are present."""
    shown = [
        ("AUROC", "auroc"),
        ("AUPRC", "auprc"),
        ("FPR at 95 % TPR", "fpr_at_95_tpr"),
        ("F1", "f1"),
        ("precision", "precision"),
        ("recall", "recall"),
        ("false-alarm rate", "false_alarm_rate"),
        ("pixel AUROC", "pixel_auroc"),
        ("AUPRO at 30 %", "aupro"),
        ("pixel F1", "pixel_f1"),
    ]
    facts = [(name, f"{metrics[key]:.4f}") for name, key in shown if key in metrics]
    if "pixel_false_alarm_rate" in metrics:
        rate = f"{metrics['pixel_false_alarm_rate']:.4f} of the normal pictures have a pixel at the pixel threshold"
        facts.append(("pixel false alarms", f"{rate} or above"))
    if "events" in metrics:
        facts.append(("events", _events(metrics)))
    if "false_alarm_rate" not in metrics:
        facts.append(("alarm rate", f"{metrics['alarm_rate']:.4f} (nothing is labelled)"))
    return facts


def _events(metrics: Mapping[str, float]) -> str:
    """The events of a series, in words."""
    text, a_day = f"{metrics['events']:.0f}", "false_events_a_day"
    if "event_recall" in metrics:
        text += f", which meet {metrics['event_recall']:.0%} of the labelled stretches"
    if "false_events" in metrics:
        text += f"; {metrics['false_events']:.0f} false"
    if "events_a_day" in metrics:
        a_day = "events_a_day"
    return text + (f", {metrics[a_day]:.2g} a day" if a_day in metrics else "")


def pixel_facts(threshold: Threshold | None) -> Facts:
    """The pixel threshold of pictures and how it was chosen; empty for other data."""
    if threshold is None:
        return []
    if threshold.labelled:
        how = f"{threshold.policy} on the pixels' ROC curve, {threshold.false_alarm_rate:.2g} of the normal ones above"
    else:
        rate = f"at most {threshold.false_alarm_rate:.3g} of normal pictures reach it"
        how = f"{threshold.policy}, {rate}, from the peaks of {threshold.normals} held-out ones"
    return [("pixel threshold", f"{threshold.value:.4g} nats above the usual ({how})")]


def _choices(
    detector: Detector, scores: NDArray[np.float64], is_anomaly: NDArray[np.bool_] | None
) -> tuple[Choice, ...]:
    """The thresholds of the chosen policy and of others, the largest first. scores, is_anomaly: (N,) of the test."""
    thresholds = [detector.threshold]
    for policy in LABELLED if len(detector.anomalous) else UNLABELLED:
        threshold = choose(policy, detector.normal, detector.anomalous)
        shown = {(t.policy if t.labelled else t.value) for t in thresholds}  # few rows make several rates the same
        if (threshold.policy if threshold.labelled else threshold.value) not in shown:
            thresholds.append(threshold)
    choices = []
    for threshold in thresholds:
        alarm = scores >= threshold.value
        choices.append(
            Choice(
                policy=threshold.policy,
                threshold=threshold.value,
                chosen=threshold is detector.threshold,
                alarm_rate=float(alarm.mean()),
                recall=None if is_anomaly is None else _share(alarm[is_anomaly]),
                false_alarm_rate=None if is_anomaly is None else _share(alarm[~is_anomaly]),
            )
        )
    return tuple(sorted(choices, key=lambda choice: -choice.threshold))


def _share(alarm: NDArray[np.bool_]) -> float | None:
    """The share of alarms; None of no rows."""
    return float(alarm.mean()) if len(alarm) else None


@dataclass(frozen=True)
class Result:
    """The result of a fit or an evaluation. metrics: of the test rows; see `metrics.metrics`. trained_on: of an
    evaluation, how many of its rows the detector was trained on; None where that is not known."""

    run_id: str
    detector: str
    kind: str
    data: str
    threshold: float
    policy: str
    metrics: dict[str, float]
    seconds: float
    rows: dict[str, int]
    notes: tuple[str, ...] = ()
    pixels: Threshold | None = field(default=None, repr=False)
    summary: Summary | None = field(default=None, repr=False)  # of a fit
    trained_on: int | None = None

    def to_json(self) -> str:
        """All fields but pixels and summary as one JSON object."""
        tree = asdict(replace(self, summary=None))
        del tree["summary"], tree["pixels"]
        return json.dumps(tree, ensure_ascii=False)
