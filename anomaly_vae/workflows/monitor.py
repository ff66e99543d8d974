"""Does new data still look like training, and does the threshold still keep its promise? One page: `monitor`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from anomaly_vae.core.errors import DataError, DetectorError
from anomaly_vae.data.tabular import TabularSource
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import DriftTest, Finding, MonitoredValues, judge
from anomaly_vae.detector.thresholds import alarm_interval
from anomaly_vae.workflows.opening import reopen

LEVEL = 0.01  # chance of a verdict on data that is as in training, of the alarms and of all drifts together
NAMED = 5  # new categories that are named of a column
CURVES = 50  # quantities with a curve of their own in the run, at most


@dataclass(frozen=True)
class Check:
    """What a check found. promised: the false-alarm rate of the threshold; low, high: where the share of alarms among
    rows that are all normal lies with 99 %. new: column -> categories that training had not; lost: that never came."""

    data: str
    rows: int
    alarms: int
    promised: float
    low: float
    high: float
    findings: tuple[Finding, ...]  # the worst first
    new: dict[str, list[str]]
    lost: dict[str, list[str]]

    @property
    def share(self) -> float:
        return self.alarms / self.rows

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the detector should be fitted again; empty where it need not."""
        drifted = tuple(f"{finding.name} drifted" for finding in self.findings if finding.drifted)
        many = (f"{100 * self.share:.3g} % of the rows are alarms, {100 * self.high:.3g} % at most were promised",)
        return (many if self.share > self.high else ()) + drifted

    def to_json(self) -> str:
        tree = asdict(self) | {"share": self.share, "retrain": bool(self.reasons), "reasons": self.reasons}
        return json.dumps(tree, ensure_ascii=False)


def monitor(path: str, detector: Detector, *, run_id: str = "", skip_broken: bool = False) -> Check:
    """Compares new data with the training reference, in constant memory; logged as a point of `monitor.*` curves and as
    monitor/NUMBER.json on the run, if there is one.

    Of a series, whose steps are not independent, alarms are counted as if one window were one observation.
    Raises DetectorError for a detector without a reference, DataError for data without rows.
    """
    if not detector.references:
        raise DetectorError("this detector has no reference of its training data; fit again to monitor it")
    source = reopen(path, detector, skip_broken=skip_broken)
    monitored = MonitoredValues(detector.layout, detector.scaler)
    tests = [DriftTest(reference) for reference in detector.references]
    rows = alarms = 0
    for chunk, scores in detector.score_source(source):
        rows, alarms = rows + len(scores), alarms + int((scores.total >= detector.threshold.value).sum())
        quantities = (*monitored.of(chunk).T, *scores.parts.values())
        for test, values in zip(tests, quantities, strict=True):
            test.add(values)
    if not rows:
        raise DataError(f"{path}: holds no rows to compare")
    low, high = _promise(detector, rows)
    check = Check(
        path, rows, alarms, detector.threshold.false_alarm_rate, low, high, tuple(judge(tests, LEVEL)),
        _new(source, tests) if isinstance(source, TabularSource) else {},
        {test.reference.name: lost for test in tests if (lost := test.lost())},
    )  # fmt: skip
    if run_id:
        _log(check, run_id, detector)
    return check


def _promise(detector: Detector, rows: int) -> tuple[float, float]:
    """The interval of the share of alarms among `rows` normals, from the held-out normals at or above the threshold."""
    together = detector.window or 1
    above = int((detector.normal >= detector.threshold.value).sum())
    n, m = max(1, len(detector.normal) // together), max(1, rows // together)
    return alarm_interval(min(n, 1 + above // together), n, m, 1 - LEVEL)


def _new(source: TabularSource, tests: list[DriftTest]) -> dict[str, list[str]]:
    """The categories that training had not, of the columns where some came: the data is read once more for them."""
    wanted = {w.reference.name: w.reference.categories for w in tests if len(w.counts) and w.counts[-1]}
    return source.other_values(wanted, NAMED) if wanted else {}


def _log(check: Check, run_id: str, detector: Detector) -> None:
    from anomaly_vae import tracking

    number = tracking.times_logged(run_id, "monitor.alarm_share", detector.config)
    curves = {
        "monitor.alarm_share": check.share,
        "monitor.promised": check.promised,
        "monitor.promised_high": check.high,
        "monitor.drifted": float(sum(finding.drifted for finding in check.findings)),
        "monitor.retrain": float(bool(check.reasons)),
    }
    if len(check.findings) <= CURVES:
        curves |= {f"monitor.stability.{finding.name}": finding.index for finding in check.findings}
    with tracking.update(run_id, detector.config) as run:
        run.epoch(number, curves)
        run.text(check.to_json(), f"monitor/{number:04d}.json")
