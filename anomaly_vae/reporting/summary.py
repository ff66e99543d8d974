"""The summary of a fit, or of scored data, from which the console's table, the note and the report are made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.worries import Worry, worries
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Source
from anomaly_vae.detector.auroc import Auroc
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import Finding
from anomaly_vae.detector.fit import Fit
from anomaly_vae.detector.thresholds import Threshold
from anomaly_vae.reporting.scored_rows import ScoredRows
from anomaly_vae.reporting.worries import worries_of_test

LABELLED = ("youden", "f1", "fpr=0.01", "fpr=0.05", "recall=0.95")  # policies shown beside the chosen one
UNLABELLED = ("fpr=0.01", "fpr=0.05", "fpr=0.1")
SHOWN = 10  # rows that are listed

RATES = {  # field of a Choice -> head of its column
    "recall": "recall",
    "precision": "precision",
    "false_alarm_rate": "false-alarm rate",
    "alarm_rate": "alarms of all rows",
}
DRIFT_HEADS = ("quantity", "test", "p", "stability", "was", "now", "")

Facts = list[tuple[str, str]]  # name, value


@dataclass(frozen=True)
class Choice:
    """The threshold (nats) that a policy chooses, and its rates on some rows (None: not known)."""

    policy: str
    threshold: float
    chosen: bool
    alarm_rate: float
    recall: float | None
    false_alarm_rate: float | None
    precision: float | None = None
    per_day: float | None = None  # normal steps a day, where there is a clock


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def choice_table(choices: Sequence[Choice]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a table of choices, without the rates that no choice has."""

    def rate(choice: Choice, name: str) -> str:
        value = getattr(choice, name)
        if value is None:
            return "not known"
        per_day = choice.per_day if name == "false_alarm_rate" else None
        return f"{value:.2%}" + (f", {_count(value * per_day)} steps a day" if per_day is not None else "")

    rates = [name for name in RATES if any(getattr(choice, name) is not None for choice in choices)]
    cells = [
        [
            f"{choice.policy} (chosen)" if choice.chosen else choice.policy,
            f"{choice.threshold:.6g}",
            *(rate(choice, name) for name in rates),
        ]
        for choice in choices
    ]
    return ["policy", "threshold (nats)", *(RATES[name] for name in rates)], cells


@dataclass(frozen=True)
class Summary:
    """The result of a fit, of an evaluation or of scoring.

    data_is: how the data was recognised. rows: number in each part of the split; those that train, and calibrate by
    folds, count as train; of an evaluation test alone, of scored data none. metrics: of the test or scored rows, see
    `metrics.metrics`, and of the latent space, see `Fit.latent_metrics`. pixels: the pixel threshold of pictures.
    choices: the thresholds of the chosen policy and of others. changed: settings of a fit that differ from the
    defaults; None of others.
    seconds: from opening the data to the end of scoring. notes: what the user should know, a sentence each. highest:
    where nothing can be tested, the ids and scores of the highest rows. detector: what scored the data; empty of a fit.
    """

    kind: str
    data: str
    data_is: str
    rows: Mapping[str, int]
    metrics: Mapping[str, float]
    threshold: Threshold
    pixels: Threshold | None
    choices: tuple[Choice, ...]
    changed: Mapping[str, Any] | None
    seconds: float
    notes: tuple[str, ...]
    highest: tuple[str, ...] = ()
    detector: str = ""

    @property
    def tested(self) -> bool:
        """Whether the metrics are of rows that a test was made of."""
        return bool(self.rows.get("test"))

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
        scored = f"{self.rows['test'] if self.tested else metrics['rows']:.0f} {self.noun}"
        if "anomalies" in metrics:
            scored += f", {metrics['anomalies']:.0f} of them anomalies"
        facts = []
        if "train" in self.rows:
            facts.append(("trained on", f"{self.rows['train']} normal {self.noun} of {self.data} ({self.kind})"))
            scored += "" if self.tested else ", each by models that never saw it: nothing can be tested"
        facts += [("tested on" if self.tested else "scored", scored), *metric_facts(metrics)]
        facts += [] if self.tested else [("alarms", self.odd())]
        facts += [("threshold", f"{self.threshold.value:.6g} nats ({self.chosen_by()})"), *pixel_facts(self.pixels)]
        if "active_units" in metrics:
            kl = f"{metrics['kl_total']:.3g} nats, {metrics['kl_dimensions']:.0f} dimensions above 0.1"
            facts += [("active units", f"{metrics['active_units']:.0f}"), ("latent KL", kl)]
        facts += [("detector", self.detector)] if self.detector else []
        return [*facts, ("time", f"{self.seconds:.1f} s")]

    def chosen_by(self) -> str:
        """How the threshold was chosen, and from how many rows."""
        policy, normals = self.threshold.policy, self.threshold.normals
        if self.threshold.labelled:
            how = f"{policy} on the ROC curve of {normals} normal and {self.threshold.anomalies} anomalous"
        elif policy.startswith(("tail", "events")):
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
        if "train" not in self.rows:
            return (
                f"Raises an alarm for {metrics['alarm_rate']:.1%} of the {metrics['rows']:.0f} {self.noun}, where"
                f" {100 * self.threshold.false_alarm_rate:.2g}% of normal ones were"
                f" {'seen to have one' if self.threshold.labelled else 'promised'}."
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
        choices=choices(detector, test.total, anomalous),
        changed=config.changed(),
        seconds=seconds,
        notes=tuple(dict.fromkeys(notes)),
        highest=() if len(fit.split.test) else _highest(fit, test.total),
    )


def summarise_scores(
    source: Source,
    detector: Detector,
    scored: ScoredRows,
    metrics: Mapping[str, float],
    notes: Iterable[str],
    seconds: float,
    name: str,
) -> Summary:
    """The summary of a source that a fitted detector scored. metrics: of the rows that count. name: of the detector."""
    total, _, _, flags = scored.drawn.T
    assert scored.worst.rows is not None
    worst = scored.worst.rows.scores
    return Summary(
        kind=source.kind,
        data=source.path,
        data_is=source.why,
        rows={"test": scored.count} if scored.labelled else {},
        metrics=metrics,
        threshold=detector.threshold,
        pixels=detector.pixels,
        choices=choices(detector, total, flags > 0 if scored.labelled else None),
        changed=None,
        seconds=seconds,
        notes=tuple(dict.fromkeys(notes)),
        highest=() if scored.labelled else _named(worst.ids[:SHOWN], worst.total[:SHOWN]),
        detector=name,
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
    return _named(ids, scores[order])


def _named(ids: NDArray[Any], scores: NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(f"id {name} ({score:.1f})" for name, score in zip(ids, scores, strict=True))


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
    facts = [(name, f"{metrics[key]:.4f}{interval(metrics, key)}") for name, key in shown if key in metrics]
    if "pixel_false_alarm_rate" in metrics:
        rate = f"{metrics['pixel_false_alarm_rate']:.4f} of the normal pictures have a pixel at the pixel threshold"
        facts.append(("pixel false alarms", f"{rate} or above"))
    if "events" in metrics:
        facts.append(("events", _events(metrics)))
    if "false_alarm_rate" not in metrics:
        facts.append(("alarm rate", f"{metrics['alarm_rate']:.4f} (nothing is labelled)"))
    return facts


def interval(metrics: Mapping[str, float], name: str) -> str:
    """The 95 % interval of a metric, in brackets; empty where it has none."""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f" (95 %: {low:.3f} to {high:.3f})"


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


def choices(
    detector: Detector,
    scores: NDArray[np.float64],
    is_anomaly: NDArray[np.bool_] | None,
    policies: Sequence[str] | None = None,
) -> tuple[Choice, ...]:
    """The thresholds of the chosen policy and of others, the largest first; policies that this detector's scores do not
    allow are left out. scores, is_anomaly: (N,) of the rows that the rates are of. policies: None: a few."""
    thresholds = [detector.threshold]
    for policy in policies or (LABELLED if len(detector.anomalous) else UNLABELLED):
        try:
            threshold = detector.threshold_by(policy)
        except DataError:
            continue
        shown = {(t.policy if t.labelled else t.value) for t in thresholds}  # few rows make several rates the same
        if (threshold.policy if threshold.labelled else threshold.value) not in shown:
            thresholds.append(threshold)
    found = []
    for threshold in thresholds:
        alarm = scores >= threshold.value
        found.append(
            Choice(
                policy=threshold.policy,
                threshold=threshold.value,
                chosen=threshold is detector.threshold,
                alarm_rate=float(alarm.mean()),
                recall=None if is_anomaly is None else _share(alarm[is_anomaly]),
                false_alarm_rate=None if is_anomaly is None else _share(alarm[~is_anomaly]),
                precision=None if is_anomaly is None or not is_anomaly.any() else _share(is_anomaly[alarm]),
                per_day=detector.layout.per_day,
            )
        )
    return tuple(sorted(found, key=lambda choice: -choice.threshold))


def drift_cells(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The cells of a table of drift, under DRIFT_HEADS."""
    return [
        (f.name, f.test, f"{f.p:.2g}", f"{f.index:.3f}", f"{f.was:.4g}", f"{f.now:.4g}", "drifted" if f.drifted else "")
        for f in findings
    ]


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
    area: Auroc | None = field(default=None, repr=False)  # of an evaluation

    def to_json(self) -> str:
        """All fields but pixels, summary and area as one JSON object."""
        tree = asdict(replace(self, summary=None, area=None))
        del tree["summary"], tree["pixels"], tree["area"]
        return json.dumps(tree, ensure_ascii=False)
