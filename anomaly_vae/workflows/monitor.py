"""Compares new data with the training data, and the rate of alarms with the one that the threshold was chosen for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from anomaly_vae.core.errors import DataError, DetectorError
from anomaly_vae.data.tabular import TabularSource
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import DriftTest, Finding, MonitoredValues, judge
from anomaly_vae.workflows.opening import reopen

LEVEL = 0.01  # probability of a false verdict on data like that of training, for the alarms and for all drifts together
NAMED = 5  # largest number of new categories that are named for a column
CURVES = 50  # largest number of quantities that get a curve each in the run


@dataclass(frozen=True)
class Check:
    """The result of a comparison.

    data: the path of the data. rows, alarms: the numbers of rows and of alarms. promised: the false-alarm rate of the
    threshold. low, high: the 99 % interval of the share of alarms among normal rows. findings: one for each quantity,
    the largest drift first. new: column -> categories that training did not have. lost: column -> categories of
    training that the data does not have. moved: watched column -> rows in which it has another value than in training.
    notes: what the user should know about how the data was read.
    """

    data: str
    rows: int
    alarms: int
    promised: float
    low: float
    high: float
    findings: tuple[Finding, ...]
    new: dict[str, list[str]]
    lost: dict[str, list[str]]
    moved: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of rows that are alarms."""
        return self.alarms / self.rows

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons why the detector should be fitted again; empty if there are none."""
        drifts = tuple(f"{finding.name} drifted" for finding in self.findings if finding.drifted)
        alarms = (f"{100 * self.share:.3g} % of the rows are alarms, {100 * self.high:.3g} % at most were promised",)
        moved = tuple(
            f"{name}, which never varied in training, has another value in {n} rows" for name, n in self.moved.items()
        )
        return (alarms if self.share > self.high else ()) + moved + drifts

    def to_json(self) -> str:
        """The fields, `share`, `retrain` and `reasons` as JSON."""
        tree = asdict(self) | {"share": self.share, "retrain": bool(self.reasons), "reasons": self.reasons}
        return json.dumps(tree, ensure_ascii=False)


def monitor(
    path: str,
    detector: Detector,
    *,
    run_id: str = "",
    skip_broken: bool = False,
    written: Mapping[str, Any] | None = None,
) -> Check:
    """Compare new data with the reference of the training data, in constant memory.

    Parameters
    ----------
    path : str
        File or folder of new data.
    detector : Detector
        The detector that scores it.
    run_id : str, optional
        Run to which the result is logged, as a point of the `monitor/*` curves and as monitor/NUMBER.json.
    skip_broken : bool, default False
        Leave out pictures that cannot be decoded.
    written : mapping, optional
        Settings of how the file is written, instead of those of the fit.

    Raises
    ------
    DetectorError
        If the detector has no reference of its training data.
    DataError
        If the data cannot be read or has no rows.
    """
    if not detector.references:
        raise DetectorError("this detector has no reference of its training data; fit again to monitor it")
    source = reopen(path, detector, skip_broken=skip_broken, written=written)
    monitored = MonitoredValues(detector.layout, detector.scaler)
    weights = detector.score_model.weights or dict.fromkeys(detector.score_model.part_names, 1.0)
    factors = [*[1.0] * (len(detector.references) - len(weights)), *weights.values()]  # the last are of the parts
    tests = [DriftTest(reference.times(w)) for reference, w in zip(detector.references, factors, strict=True)]
    watched, constant = detector.layout.watched, detector.score_model.constant
    rows = alarms = 0
    moved = np.zeros(len(watched), np.intp)
    for chunk, scores in detector.score_source(source):
        rows, alarms = rows + len(scores), alarms + int((scores.total >= detector.threshold.value).sum())
        quantities = (*monitored.of(chunk).T, *scores.parts.values())
        for test, values in zip(tests, quantities, strict=True):
            test.add(values)
        if constant is not None:
            values = torch.from_numpy(chunk.values).to(constant.alarm.device)
            moved += constant.departed(values).sum(0).cpu().numpy()
    if not rows:
        raise DataError(f"{path}: holds no rows to compare")
    low, high = detector.alarm_interval(rows, 1 - LEVEL)
    check = Check(
        data=path,
        rows=rows,
        alarms=alarms,
        promised=detector.threshold.false_alarm_rate,
        low=low,
        high=high,
        findings=tuple(judge(tests, LEVEL)),
        new=_new_categories(source, tests) if isinstance(source, TabularSource) else {},
        lost={test.reference.name: lost for test in tests if (lost := test.lost())},
        moved={column.name: n for column, n in zip(watched, moved.tolist(), strict=True) if n},
        notes=source.notes,
    )
    if run_id:
        _log(check, run_id, detector)
    return check


def _new_categories(source: TabularSource, tests: list[DriftTest]) -> dict[str, list[str]]:
    """The categories that training did not have, by column; only if there are any, the data is read again."""
    known = {t.reference.name: t.reference.categories for t in tests if len(t.counts) and t.counts[-1]}
    values = source.other_values(known, NAMED) if known else {}
    return {name: list(counts) for name, counts in values.items()}


def _log(check: Check, run_id: str, detector: Detector) -> None:
    """Logs a comparison to a run."""
    from anomaly_vae import tracking

    number = tracking.times_logged(run_id, ("monitor/alarm_share", "monitor.alarm_share"), detector.config)
    curves = {
        "monitor/alarm_share": check.share,
        "monitor/promised": check.promised,
        "monitor/promised_high": check.high,
        "monitor/drifted": float(sum(finding.drifted for finding in check.findings)),
        "monitor/retrain": float(bool(check.reasons)),
    }
    if len(check.findings) <= CURVES:
        curves |= {f"monitor/stability/{finding.name}": finding.index for finding in check.findings}
    with tracking.update(run_id, detector.config) as run:
        run.epoch(number, curves)
        run.text(check.to_json(), f"monitor/{number:04d}.json")
