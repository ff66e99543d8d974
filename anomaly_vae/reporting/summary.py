"""What a fit came to, said once: the console's table, the run's note and the report are all made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.data.source import Source
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.thresholds import Threshold, choose

if TYPE_CHECKING:
    from anomaly_vae.core.config import Config
    from anomaly_vae.data.source import Source
    from anomaly_vae.detector.detector import Detector

NOUNS = {"table": "rows", "series": "time steps", "pixels": "pictures", "images": "pictures"}
LABELLED = ("youden", "f1", "fpr=0.01", "fpr=0.05", "recall=0.95")  # policies shown beside the chosen one
UNLABELLED = ("fpr=0.01", "fpr=0.05", "fpr=0.1")
SURE = 0.001  # p-value of a test at which something is worth a worry
FEW = 100  # normal test rows under which a false-alarm rate is told with its interval

Facts = list[tuple[str, str]]  # name, value


@dataclass(frozen=True)
class Choice:
    """A threshold (nats) that a policy would choose, and what it does on the test rows (None: not known)."""

    policy: str
    threshold: float
    chosen: bool
    alarm_rate: float
    recall: float | None
    false_alarm_rate: float | None


@dataclass(frozen=True)
class Summary:
    """What a fit came to.

    rows: of each part of the split. metrics: of the test rows, see `metrics.metrics`, and active_units. pixels: the
    pixel threshold of pictures. choices: the chosen threshold and others. changed: settings that are not the default.
    seconds: from opening the data to the end of scoring. worries: what the reader should know before trusting the
    detector, a sentence each.
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
    worries: tuple[str, ...]

    @property
    def noun(self) -> str:
        return NOUNS[self.kind]

    def facts(self) -> Facts:
        """Name and value of what a person wants to know first, in that order."""
        found = self.metrics
        tested = f"{self.rows['test']} {self.noun}"
        if "anomalies" in found:
            tested += f", {found['anomalies']:.0f} of them anomalies"
        return [
            ("trained on", f"{self.rows['train']} normal {self.noun} of {self.data} ({self.kind})"),
            ("tested on", tested),
            *metric_facts(found),
            ("threshold", f"{self.threshold.value:.6g} nats ({self.chosen_by()})"),
            *pixel_facts(self.pixels),
            ("active units", f"{found['active_units']:.0f}"),
            ("time", f"{self.seconds:.1f} s"),
        ]

    def chosen_by(self) -> str:
        """How the threshold was chosen, and from how many rows."""
        chosen = self.threshold
        if chosen.labelled:
            how = f"{chosen.policy} on the ROC curve of {chosen.normals} normal and {chosen.anomalies} anomalous"
        elif chosen.policy.startswith("tail"):
            how = f"{chosen.policy} of a log-normal fitted to {chosen.normals} held-out normal"
        else:
            rate = f"{chosen.false_alarm_rate:.3g}"
            how = f"conformal, at most {rate} false alarms, from {chosen.normals} held-out normal"
        return f"{how} {self.noun}"

    def verdict(self) -> str:
        """How good it is, in a sentence."""
        found = self.metrics
        if "recall" in found and "false_alarm_rate" in found:
            return (
                f"Finds {found['recall']:.1%} of the anomalies in the test {self.noun} and raises an alarm for"
                f" {found['false_alarm_rate']:.1%} of the normal ones."
            )
        return (
            f"Raises an alarm for {found['alarm_rate']:.1%} of the test {self.noun}. Nothing there is known to be"
            " anomalous, so how much it finds is not known."
        )


def summarise(
    source: Source, detector: Detector, given: Config, metrics: Mapping[str, float], seconds: float
) -> Summary:
    """The summary of a detector that was just fitted on `source`.

    given: the settings before what depends on the data was filled in. metrics: of the test rows.
    """
    fitted = detector.fitted
    assert fitted
    test, anomalous = fitted.part(fitted.split.test)
    wrong = np.zeros(len(test), bool) if anomalous is None else anomalous
    return Summary(
        kind=source.kind,
        data=source.path,
        data_is=source.why,
        rows={part: len(getattr(fitted.split, part)) for part in ("train", "valid", "test")},
        metrics=metrics,
        threshold=detector.threshold,
        pixels=detector.pixels,
        choices=_choices(detector, test.total, None if anomalous is None else wrong),
        changed=given.changed(),
        seconds=seconds,
        worries=(*fitted.notes, *_worries(detector, test.total[~wrong], metrics)),
    )


def metric_facts(found: Mapping[str, float]) -> Facts:
    """Metrics as names and values, those that are there."""
    shown = [
        ("AUROC", "auroc", ".4f"),
        ("AUPRC", "auprc", ".4f"),
        ("FPR at 95 % TPR", "fpr_at_95_tpr", ".4f"),
        ("F1", "f1", ".4f"),
        ("precision", "precision", ".4f"),
        ("recall", "recall", ".4f"),
        ("false-alarm rate", "false_alarm_rate", ".4f"),
        ("pixel AUROC", "pixel_auroc", ".4f"),
        ("AUPRO at 30 %", "aupro", ".4f"),
        ("pixel F1", "pixel_f1", ".4f"),
        ("pixel false alarms", "pixel_false_alarm_rate", ".4f"),
    ]
    facts = [(name, format(found[key], form)) for name, key, form in shown if key in found]
    if "false_alarm_rate" not in found:
        facts.append(("alarm rate", f"{found['alarm_rate']:.4f} (test rows are taken as normal: nothing is labelled)"))
    return facts


def pixel_facts(chosen: Threshold | None) -> Facts:
    """The pixel threshold of pictures and how it was chosen; nothing for other data."""
    if chosen is None:
        return []
    if chosen.labelled:
        how = f"{chosen.policy} on the pixels' ROC curve, {chosen.false_alarm_rate:.2g} of the normal ones above"
    else:
        how = f"{chosen.policy}, from the peaks of {chosen.normals} held-out normal pictures"
    return [("pixel threshold", f"{chosen.value:.4g} nats above the usual ({how})")]


def _choices(
    detector: Detector, scores: NDArray[np.float64], anomalous: NDArray[np.bool_] | None
) -> tuple[Choice, ...]:
    """The chosen threshold among what other policies would choose, by falling threshold."""
    labelled = bool(len(detector.anomalous))
    others = [choose(name, detector.normal, detector.anomalous) for name in (LABELLED if labelled else UNLABELLED)]
    chosen = detector.threshold
    found = [chosen, *(other for other in others if other.policy != chosen.policy)]
    classes = (None, None) if anomalous is None else (anomalous, ~anomalous)
    rows = []
    for each in {one.policy: one for one in found}.values():
        alarm = scores >= each.value
        rates = [None if of is None or not of.any() else float(alarm[of].mean()) for of in classes]
        rows.append(Choice(each.policy, each.value, each is chosen, float(alarm.mean()), *rates))
    return tuple(sorted(rows, key=lambda row: -row.threshold))


def _worries(detector: Detector, normal: NDArray[np.float64], found: Mapping[str, float]) -> list[str]:
    """What speaks against trusting the detector as it is. normal: scores (M,) of the test's normals."""
    chosen, series = detector.threshold, detector.layout.kind == "series"
    told = [chosen.note] if chosen.note else []
    if "auroc" not in found:
        told.append("nothing is labelled: how many anomalies it finds is not known; `anomaly-vae evaluate` tells")
    elif found["auroc"] < 0.5:
        told.append(f"AUROC is {found['auroc']:.3f}: normals score above anomalies; is the normal label right?")
    elif found["auroc"] < 0.7:
        told.append(f"AUROC is {found['auroc']:.3f}: the scores hardly tell anomalies from normals")
    alarms = int((normal >= chosen.value).sum())
    told += _alarm_worries(alarms, len(normal), chosen, series)
    if len(normal) and not series:
        from scipy.stats import ks_2samp

        test = ks_2samp(detector.normal, normal)
        if test.pvalue < SURE:
            told.append(
                "normal test rows do not score like the normal validation rows (Kolmogorov-Smirnov"
                f" {test.statistic:.2f}, p = {test.pvalue:.1g}), so p-values promise too much"
                "; were both drawn alike?"
            )
    return told


def _alarm_worries(alarms: int, normals: int, chosen: Threshold, series: bool) -> list[str]:
    """Whether false alarms on test keep what validation promised. The steps of a series are not independent, so a
    test of their counts would always alarm: there, a rate that is far off and matters."""
    if not normals:
        return []
    from scipy.stats import beta, fisher_exact

    rate, promised = alarms / normals, chosen.false_alarm_rate
    told = []
    held = round(promised * chosen.normals)
    if series:
        broken = rate > max(5 * promised, 0.05)
    else:
        table = [[alarms, normals - alarms], [held, chosen.normals - held]]
        broken = rate > promised and fisher_exact(table, alternative="greater").pvalue < SURE
    if broken:
        told.append(
            f"false alarms on test are {rate:.2%} where validation let {promised:.2%} expect; do normals drift?"
        )
    if normals < FEW and not series:
        low, high = beta.ppf(0.025, alarms, normals - alarms + 1), beta.ppf(0.975, alarms + 1, normals - alarms)
        low, high = (0.0 if alarms == 0 else low), (1.0 if alarms == normals else high)
        told.append(
            f"{alarms} of only {normals} normal test rows are false alarms: the rate lies between {low:.1%} and"
            f" {high:.1%} (95 %, Clopper-Pearson)"
        )
    return told


@dataclass(frozen=True)
class Result:
    """What a fit or an evaluation came to. metrics: of the test rows; see `metrics.metrics`."""

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

    def to_json(self) -> str:
        tree = asdict(replace(self, summary=None))
        del tree["summary"], tree["pixels"]
        return json.dumps(tree, ensure_ascii=False)
