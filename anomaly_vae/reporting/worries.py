"""Reasons to doubt a detector, from how it scores a test, and its scores, from how new data differs from training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.worries import Gravity, Worry
from anomaly_vae.data.conditions import unseen_classes
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.data.tabular import TabularSource
from anomaly_vae.detector.auroc import share_interval
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import LARGE, MonitoredValues, missing_test
from anomaly_vae.detector.thresholds import Threshold
from anomaly_vae.scoring.scores import Scores

SURE = 0.001  # p-value of a test below which its result is reported as a worry
FEW = 100  # normal test rows below which a false-alarm rate is reported with its interval
POOR = 0.6  # AUROC below which scores hardly tell anomalies from normals; below its complement they do, upside down
MANY, TIMES = 0.2, 5  # share of alarms, and times the promised one, above which new data is of another kind
NAMED = 3  # columns named in one line
COUNTED = 1000  # unseen values of a column of which the most frequent is named


def worries_of_test(detector: Detector, normal: NDArray[np.float64], metrics: Mapping[str, float]) -> list[Worry]:
    """Reasons to doubt a detector by a test. normal: scores (M,) of its normal rows. metrics: of all its rows."""
    chosen, series = detector.threshold, KINDS[detector.layout.kind].ordered
    found: list[Worry] = []
    if metrics.get("auroc", 1) < 1 - POOR:
        text = f"AUROC is {metrics['auroc']:.3f}: normals score above anomalies; is the normal label right?"
        found.append(Worry(text, Gravity.USELESS))
    elif metrics.get("auroc", 1) < POOR:
        text = f"AUROC is {metrics['auroc']:.3f}: the scores hardly tell anomalies from normals"
        found.append(Worry(text, Gravity.USELESS))
    found += alarm_worries(int((normal >= chosen.value).sum()), len(normal), chosen, series)
    if len(normal) and not series:
        from scipy.stats import ks_2samp

        test = ks_2samp(detector.normal, normal)
        if test.pvalue < SURE:
            text = (
                "normal test rows do not score like the normal validation rows (Kolmogorov-Smirnov"
                f" {test.statistic:.2f}, p = {test.pvalue:.1g}), so p-values promise too much; were both drawn alike?"
            )
            found.append(Worry(text, Gravity.BROKEN))
    return found


def alarm_worries(alarms: int, normals: int, chosen: Threshold, series: bool) -> list[Worry]:
    """Worries about a false-alarm rate on test that is above the rate on validation. The steps of a series are not
    independent, so a test of their counts would always reject: there, a rate that is far above it."""
    if not normals:
        return []
    from scipy.stats import fisher_exact

    rate, promised = alarms / normals, chosen.false_alarm_rate
    worries = []
    held = round(promised * chosen.normals)
    if series:
        broken = rate > max(5 * promised, 0.05)
    else:
        table = [[alarms, normals - alarms], [held, chosen.normals - held]]
        broken = rate > promised and fisher_exact(table, alternative="greater").pvalue < SURE
    if broken:
        text = f"false alarms on test are {rate:.2%} where validation let {promised:.2%} expect; do normals drift?"
        worries.append(Worry(text, Gravity.BROKEN))
    if normals < FEW and not series:
        low, high = share_interval(alarms, normals)
        text = (
            f"{alarms} of only {normals} normal test rows are false alarms: the rate lies between {low:.1%} and"
            f" {high:.1%} (95 %, Clopper-Pearson)"
        )
        worries.append(Worry(text, Gravity.UNSURE))
    return worries


class NewData:
    """Counts of data while it is scored, in constant memory: what training did not have, missing cells, alarms."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.layout = detector, detector.layout
        self.monitored = MonitoredValues(self.layout, detector.scaler) if self.layout.columns else None
        self.rows = self.alarms = 0
        self.missing = np.zeros(len(self.layout.columns), np.intp)
        self.unseen: Counter[str] = Counter()

    def watch(self, stream: Iterable[tuple[Chunk, Scores]]) -> Iterator[tuple[Chunk, Scores]]:
        """The stream as it is, counted while it passes."""
        for chunk, scores in stream:
            self.rows += len(scores)
            self.alarms += int((scores.total >= self.detector.threshold.value).sum())
            self.unseen.update(unseen_classes(chunk, self.layout))
            if self.monitored is not None:
                values = self.monitored.of(chunk)  # (N, F)
                self.missing += np.isnan(values).sum(axis=0)
                for column, cells in zip(self.layout.columns, values.T, strict=True):
                    if column.categories is not None:
                        self.unseen[column.name] += int((cells == len(column.categories)).sum())
            yield chunk, scores

    def worries(self, source: Source) -> list[Worry]:
        """How the data, all of which has passed, differs from that of training."""
        return [*self._unseen(source), *self._missing()]

    def alarm_worry(self) -> list[Worry]:
        """A worry where far more rows are alarms than the threshold promises of normal ones."""
        share, promised = self.alarms / max(1, self.rows), self.detector.threshold.false_alarm_rate
        if share <= max(MANY, TIMES * promised) or share <= self.detector.alarm_interval(self.rows, 1 - SURE)[1]:
            return []
        noun = KINDS[self.layout.kind].noun
        text = (
            f"{self.alarms} of {self.rows} {noun} are alarms where {100 * promised:.2g} % of normal ones were promised:"
            " is this the same kind of data? `anomaly-vae monitor` tells what moved"
        )
        return [Worry(text, Gravity.BROKEN)]

    def _unseen(self, source: Source) -> list[Worry]:
        counts = Counter({name: count for name, count in self.unseen.items() if count})
        if not counts:
            return []
        columns = (*self.layout.columns, *self.layout.conditions)
        known = {column.name: column.categories or () for column in columns if column.name in counts}
        values = source.other_values(known, COUNTED) if isinstance(source, TabularSource) else {}
        told = []
        for name, count in counts.most_common(NAMED):
            ranked = sorted(values.get(name, {}).items(), key=lambda item: -item[1])
            listed = ", ".join(f"{value!r} {number}" for value, number in ranked[:NAMED])
            more = ", ..." if len(ranked) > NAMED else ""
            told.append(f"'{name}' in {count} of {self.rows}{f' ({listed}{more})' if listed else ''}")
        text = f"values that training has not seen, judged as none of those it has: {_listed(told, len(counts))}"
        return [Worry(text, Gravity.UNLIKE)]

    def _missing(self) -> list[Worry]:
        told = []
        for reference, missing in zip(self.detector.references, self.missing.tolist(), strict=False):
            if not missing and not reference.missing:
                continue
            test = missing_test(reference, self.rows, missing)  # which imports scipy
            if test.index <= LARGE:
                continue
            from scipy.stats import fisher_exact

            cells = [[missing, self.rows - missing], [reference.missing, reference.rows - reference.missing]]
            if fisher_exact(cells).pvalue < SURE / len(self.missing):
                text = f"'{reference.name}' {test.now:.0%} (training {test.was:.0%})"
                told.append((abs(test.now - test.was), text))
        told.sort(key=lambda pair: -pair[0])
        if not told:
            return []
        named = _listed([text for _, text in told[:NAMED]], len(told))
        return [Worry(f"missing cells: {named}", Gravity.UNLIKE)]


def _listed(told: list[str], of: int) -> str:
    return ", ".join(told) + (f" and {of - len(told)} more columns" if of > len(told) else "")
