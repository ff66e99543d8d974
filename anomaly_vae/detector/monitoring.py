"""New data against the reference of the training data, and its rate of alarms against what the threshold promises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch

from anomaly_vae.core.errors import DataError, DetectorError
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.data.tabular import TabularSource
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import DriftTest, Finding, MonitoredValues, judge
from anomaly_vae.scoring.scores import Scores

LEVEL = 0.01  # probability of a false verdict on data like that of training, for the alarms and for all drifts together
NAMED = 5  # largest number of new categories that are named for a column


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


class Monitoring:
    """Counts of scored data while it passes, in constant memory, to be compared with training."""

    def __init__(self, detector: Detector) -> None:
        """Raises DetectorError if the detector has no reference of its training data."""
        if not detector.references:
            raise DetectorError("this detector has no reference of its training data; fit again to monitor it")
        self.detector, self.monitored = detector, MonitoredValues(detector.layout, detector.scaler)
        weights = detector.score_model.weights or dict.fromkeys(detector.score_model.part_names, 1.0)
        factors = [*[1.0] * (len(detector.references) - len(weights)), *weights.values()]  # the last are of the parts
        references = zip(detector.references, factors, strict=True)
        self.tests = [DriftTest(reference.times(weight)) for reference, weight in references]
        self.rows = self.alarms = 0
        self.moved = np.zeros(len(detector.layout.watched), np.intp)

    def watch(self, stream: Iterable[tuple[Chunk, Scores]]) -> Iterator[tuple[Chunk, Scores]]:
        """The stream as it is, counted while it passes."""
        constant, threshold = self.detector.score_model.constant, self.detector.threshold.value
        for chunk, scores in stream:
            self.rows, self.alarms = self.rows + len(scores), self.alarms + int((scores.total >= threshold).sum())
            quantities = (*self.monitored.of(chunk).T, *scores.parts.values())
            for test, values in zip(self.tests, quantities, strict=True):
                test.add(values)
            if constant is not None:
                values = torch.from_numpy(chunk.values).to(constant.alarm.device)
                self.moved += constant.departed(values).sum(0).cpu().numpy()
            yield chunk, scores

    def check(self, source: Source) -> Check:
        """The comparison of the source, all of which has passed. Raises DataError if it has no rows."""
        if not self.rows:
            raise DataError(f"{source.path}: holds no rows to compare")
        low, high = self.detector.alarm_interval(self.rows, 1 - LEVEL)
        return Check(
            data=source.path,
            rows=self.rows,
            alarms=self.alarms,
            promised=self.detector.threshold.false_alarm_rate,
            low=low,
            high=high,
            findings=tuple(judge(self.tests, LEVEL)),
            new=_new_categories(source, self.tests) if isinstance(source, TabularSource) else {},
            lost={test.reference.name: lost for test in self.tests if (lost := test.lost())},
            moved={c.name: n for c, n in zip(self.detector.layout.watched, self.moved.tolist(), strict=True) if n},
            notes=source.notes,
        )


def _new_categories(source: TabularSource, tests: list[DriftTest]) -> dict[str, list[str]]:
    """The categories that training did not have, by column; only if there are any, the data is read again."""
    known = {t.reference.name: t.reference.categories for t in tests if len(t.counts) and t.counts[-1]}
    values = source.other_values(known, NAMED) if known else {}
    return {name: list(counts) for name, counts in values.items()}
