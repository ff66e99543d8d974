"""What training looked like, and whether new data still does: a reference, and tests against it in constant memory.

Numbers: two-sample Kolmogorov-Smirnov. Categories and missing cells: chi-squared. With many rows either finds trifles,
so a drift must also be large: a population stability index above 0.2, the convention of credit scoring (Siddiqi 2006).
The p-values of all tests together are corrected for their number (Benjamini & Hochberg 1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.data.spill import release
from anomaly_vae.scoring.scores import Scores

KEPT = 2_000  # reference values of a number at most: evenly spaced order statistics
BINS = 10  # of a number's stability index: tenths of the reference
LARGE = 0.2  # stability index from which a change is a drift


@dataclass(frozen=True)
class Reference:
    """One watched quantity in training.

    values: (R,) sorted; of a category empty. counts: rows of each category, the last those of none of them; of a
    number empty. missing: rows without a value, of `rows`. memory: correlation of a step with the one before it, 0
    where rows are independent.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    name: str
    values: NDArray[np.float64]
    rows: NonNegativeInt
    missing: NonNegativeInt
    mean: float = math.nan
    memory: float = 0.0
    counts: tuple[NonNegativeInt, ...] = ()
    categories: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, x: NDArray[np.float64], categories: Sequence[str] = (), ordered: bool = False) -> Reference:
        """From training values x (N,), NaN where missing; a category as its code. ordered: consecutive steps."""
        known = x[~np.isnan(x)]
        missing = len(x) - len(known)
        if categories:
            counts = np.bincount(known.astype(np.intp), minlength=len(categories) + 1)
            return cls(name, np.empty(0), len(x), missing, counts=tuple(counts.tolist()), categories=tuple(categories))
        places = np.linspace(0, len(known) - 1, min(len(known), KEPT)).round().astype(np.intp)
        memory = _memory(known) if ordered else 0.0
        mean = float(known.mean()) if len(known) else math.nan
        return cls(name, np.sort(known)[places], len(x), missing, mean, memory)

    def times(self, factor: float) -> Reference:
        """Of a number `factor` times as large."""
        return self if factor == 1 else replace(self, values=self.values * factor, mean=self.mean * factor)

    def to_json(self) -> dict[str, Any]:
        """Everything but the values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "values"}

    @classmethod
    def from_json(cls, tree: dict[str, Any], values: NDArray[np.float64]) -> Reference:
        """Raises pydantic's ValidationError for other keys or types."""
        reference = TypeAdapter(cls).validate_python({**tree, "values": values})
        if reference.missing > reference.rows:
            raise ValueError(f"'{reference.name}' lacks {reference.missing} of {reference.rows} values")
        return reference


@dataclass
class Finding:
    """One test of one quantity. p: corrected for the number of tests. index: the stability index. was, now: means of a
    number, else the share of missing cells or of new categories."""

    name: str
    test: str
    p: float
    index: float
    was: float
    now: float
    drifted: bool = False


@dataclass
class DriftTest:
    """New values of one quantity, as they come: counts between the reference's values, never the values themselves."""

    reference: Reference
    rows: int = 0
    missing: int = 0
    total: float = 0.0
    edges: NDArray[np.float64] = field(init=False)
    upto: NDArray[np.intp] = field(init=False)  # (E + 1,) new values by the first edge that is at least as large
    below: NDArray[np.intp] = field(init=False)  # (E + 1,) by the first edge that is larger
    counts: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        self.edges = np.unique(self.reference.values)
        self.upto = np.zeros(len(self.edges) + 1, np.intp)
        self.below = self.upto.copy()
        self.counts = np.zeros(len(self.reference.counts), np.intp)

    def add(self, x: NDArray[np.float64]) -> None:
        """Further values (N,), as `Reference.of` takes them."""
        known = x[~np.isnan(x)]
        self.rows += len(x)
        self.missing += len(x) - len(known)
        if self.reference.categories:
            self.counts += np.bincount(known.astype(np.intp), minlength=len(self.counts))
            return
        self.total += float(known.sum())
        self.upto += np.bincount(np.searchsorted(self.edges, known, "left"), minlength=len(self.upto))
        self.below += np.bincount(np.searchsorted(self.edges, known, "right"), minlength=len(self.below))

    def findings(self) -> list[Finding]:
        """The tests of this quantity, uncorrected."""
        known = self.rows - self.missing
        found = []
        if self.reference.categories and known:
            old = np.array(self.reference.counts, float)
            shares = (old[-1] / max(old.sum(), 1), self.counts[-1] / known)
            found.append(Finding(self.reference.name, "chi-squared", _chi2(old, self.counts), _index(old, self.counts),
                                 *shares))  # fmt: skip
        elif known and len(self.edges):
            found.append(Finding(self.reference.name, "Kolmogorov-Smirnov", *self._ks(known), self.reference.mean,
                                 self.total / known))  # fmt: skip
        if self.missing or self.reference.missing:
            found.append(missing_test(self.reference, self.rows, self.missing))
        return found

    def lost(self) -> list[str]:
        """Categories of training that should have come five times by now and never did."""
        old = np.array(self.reference.counts[:-1], float)
        expected = old / max(old.sum(), 1) * self.counts.sum()
        named = zip(self.reference.categories, expected, self.counts, strict=False)
        return [name for name, wanted, count in named if wanted >= 5 and not count]

    def _ks(self, known: int) -> tuple[float, float]:
        """(p, stability index). Both distribution functions are steps, so at the reference's values and just below
        them their largest distance is exact."""
        from scipy.special import kolmogorov

        old, size = self.reference.values, len(self.reference.values)
        distances = [
            np.abs(np.cumsum(self.upto)[:-1] / known - np.searchsorted(old, self.edges, "right") / size),
            np.abs(np.cumsum(self.below)[:-1] / known - np.searchsorted(old, self.edges, "left") / size),
        ]
        # consecutive steps are worth fewer independent ones (Bayley & Hammersley 1946, of a first-order process)
        worth = (1 - self.reference.memory) / (1 + self.reference.memory)
        n, m = known * worth, size * worth
        p = float(kolmogorov(math.sqrt(n * m / (n + m)) * max(d.max() for d in distances)))
        cuts = np.unique(np.searchsorted(self.edges, np.quantile(old, np.arange(1, BINS) / BINS), "left"))
        starts = np.r_[0, cuts + 1]
        places = np.searchsorted(self.edges, old, "left")
        return p, _index(*(np.add.reduceat(np.r_[c, 0], starts) for c in (
            np.bincount(places, minlength=len(self.upto)), self.upto)))  # fmt: skip


def missing_test(reference: Reference, rows: int, missing: int) -> Finding:
    """Compares the share of missing cells of `rows` (at least one) new rows with that of training."""
    old = np.array([reference.rows - reference.missing, reference.missing], float)
    new = np.array([rows - missing, missing])
    shares = (reference.missing / reference.rows, missing / rows)
    return Finding(f"{reference.name} (missing)", "chi-squared", _chi2(old, new), _index(old, new), *shares)


def judge(watches: Sequence[DriftTest], level: float) -> list[Finding]:
    """All tests, the worst first: those that drifted, then by stability index."""
    from scipy.stats import false_discovery_control

    found = [finding for watch in watches for finding in watch.findings()]
    if found:
        for finding, p in zip(found, false_discovery_control([f.p for f in found]), strict=True):
            finding.p, finding.drifted = float(p), bool(p < level and finding.index > LARGE)
    return sorted(found, key=lambda f: (not f.drifted, -f.index))


def _chi2(old: NDArray[np.float64], new: NDArray[Any]) -> float:
    from scipy.stats import chi2_contingency

    cells = np.stack([old, new])
    cells = cells[:, cells.sum(axis=0) > 0]
    return 1.0 if cells.shape[1] < 2 or (cells.sum(axis=1) == 0).any() else float(chi2_contingency(cells).pvalue)


def _index(old: NDArray[Any], new: NDArray[Any]) -> float:
    """sum (q - p) log(q / p) over cells, half a row added to each so that an empty one is not infinite."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (old, new))
    return float(((q - p) * np.log(q / p)).sum())


def _memory(x: NDArray[np.float64]) -> float:
    """Correlation of consecutive values, 0 to 0.999; a negative one would make more of them than there are."""
    if len(x) < 3 or x.std() == 0:
        return 0.0
    return float(np.clip(np.corrcoef(x[1:], x[:-1])[0, 1], 0, 0.999))


class MonitoredValues:
    """Chunks as quantities (N, Q); a sensor that is read as differences is watched as differences too."""

    def __init__(self, layout: Layout, scaler: Scaler) -> None:
        self.layout = layout
        self.kind = KINDS[layout.kind]
        self.names = self.kind.monitored(layout)
        self.differences = np.array([e.column for e in scaler.elements if e.how == "difference"], np.intp)
        self.last: dict[str, NDArray[np.float64]] = {}  # of each group, the latest step

    def of(self, chunk: Chunk) -> NDArray[np.float64]:
        """(N, Q) of consecutive chunks."""
        values = self.kind.quantities(chunk)
        if not len(self.differences):
            return values
        read = values.copy()
        groups = np.full(len(chunk), "") if chunk.groups is None else chunk.groups
        for name in dict.fromkeys(groups.tolist()):
            rows = np.flatnonzero(groups == name)
            steps = values[rows][:, self.differences]
            before = self.last.get(name, steps[0])  # nothing came before: a difference of 0, as the network reads it
            differences = np.diff(steps, axis=0, prepend=before[None])
            if chunk.after_gap is not None:
                differences[chunk.after_gap[rows]] = 0
            read[np.ix_(rows, self.differences)] = differences
            self.last[name] = steps[-1]
        return read


def monitoring_references(
    data: LoadedData, train: NDArray[np.intp], normal: Scores, scaler: Scaler
) -> tuple[Reference, ...]:
    """The quantities of the training rows, in order, and the parts of held-out normals' scores, before weights."""
    layout = data.layout
    readings, ordered = MonitoredValues(layout, scaler), KINDS[layout.kind].ordered
    read = data.store.empty((len(train), len(readings.names)), np.float64, "F")
    for here, chunk in data.pieces(train):
        read[here] = readings.of(chunk)
        release(read)
    categories = [column.categories or () for column in layout.columns] or [()] * len(readings.names)
    columns = []
    for i, name in enumerate(readings.names):
        columns.append(Reference.of(name, read[:, i], categories[i], ordered))
        release(read)
    parts = [Reference.of(f"score: {name}", part, ordered=ordered) for name, part in normal.parts.items()]
    return (*columns, *parts)
