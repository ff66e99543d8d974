"""From scores to alarms: ROC analysis where there are labels, else conformal prediction, or the tail of a
series.

Labels say on which side of a cut the validation rows should lie. Where the classes leave a gap, they do not say where
in it the cut belongs: there the tail of the normals decides, so that anomalies that are milder than the labelled ones
are found too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, TypeAdapter

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import STRICT, EventsConfig, Policy
from anomaly_vae.detector.auroc import share_interval
from anomaly_vae.detector.event_rate import HeldOutSteps, event_threshold
from anomaly_vae.detector.metrics import BITS, Curve
from anomaly_vae.detector.tails import smallest_rate, tail_threshold

TAIL_SHARE, TAIL_FEWEST = 0.1, 10  # normals that the tail is fitted to: the upper tenth (DuMouchel 1983), at least ten
GAP_RATE = 1e-3  # share of normals at or above the highest cut that a gap between the classes allows
CANDIDATES = (  # policies that `anomaly-vae threshold` lists
    "youden", "f1", "recall=0.9", "recall=0.95", "recall=0.99", "cost=10", "cost=100", "fpr=0.001", "fpr=0.01",
    "fpr=0.05", "fpr=0.1", "tail=0.001", "tail=0.01", "events=0.1", "events=1",
)  # fmt: skip
UNSURE = 0.2  # width of the interval of the recall on validation from which a note says that it is uncertain


@dataclass(frozen=True)
class Threshold:
    """A sample whose score is at or above `value` (nats, always finite) is an anomaly.

    policy: the rule that chose it. labelled: whether anomalies took part, which they never do in fpr and tail.
    false_alarm_rate: what the rule promises (conformal, tail) or saw on validation (ROC). normals, anomalies: rows of
    validation behind the choice. note: what the user should know of it, else empty. independent: of a series, how many
    independent steps those normals are worth. per_day: of a series with a time column, its steps a day. folds: in how
    many folds those normals were scored, each by models of the others (see `detector.cross_fit`); 0: by a model that
    was fitted without them. events_a_day: what a policy of events promises.
    """

    __pydantic_config__ = STRICT
    value: float
    policy: str
    labelled: bool
    false_alarm_rate: Annotated[float, Field(ge=0, le=1)]
    normals: NonNegativeInt
    anomalies: NonNegativeInt
    note: str = ""
    independent: float | None = None
    per_day: float | None = None
    folds: int = 0
    events_a_day: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Threshold:
        """Raises pydantic's ValidationError for other keys or types."""
        return TypeAdapter(cls).validate_python(tree)

    def frequency(self, noun: str) -> str:
        """The false-alarm rate as events or alarms a day, or of 1,000 normals where no clock is known. noun: of the
        samples."""
        if self.events_a_day is not None and self.per_day is not None:
            days = self.normals / self.per_day
            events = "event" if self.events_a_day == 1 else "events"
            return f"at most {self.events_a_day:.3g} {events} a day on average, by {days:.3g} held-out days"
        if self.per_day is not None:
            return f"{self.false_alarm_rate * self.per_day:.3g} of {self.per_day:.6g} normal {noun} a day"
        return f"{self.false_alarm_rate * 1000:.3g} of 1,000 normal {noun}"


def choose(
    policy: str,
    normal: NDArray[np.float64],
    anomalous: NDArray[np.float64],
    unlabelled: str = "fpr=0.01",
    independent: float | None = None,
    per_day: float | None = None,
    steps: HeldOutSteps | None = None,
    rules: EventsConfig | None = None,
) -> Threshold:
    """The threshold that a policy picks from validation scores (nats): by the ROC curve, conformal or of a tail.

    fpr and tail are of the normals alone: with anomalies or without, the threshold is the same. unlabelled: the policy
    of `auto` where there are no anomalies. independent, per_day: of a series, see `Threshold`; None: all normals are
    independent, no clock is known. steps, rules: those normals in order of time and what is an event, for a policy of
    events.

    Raises DataError for a policy that needs anomalies where there are none, or where no normal scores are given.
    """
    if len(normal) == 0:
        raise DataError("no normal rows in validation to choose a threshold by; a larger split.valid would work")
    if policy == "auto":
        rule = Policy("youden") if len(anomalous) else Policy.parse(unlabelled)
    else:
        rule = Policy.parse(policy)
    if rule.name == "events":
        assert rule.value is not None
        value, rate, note = event_threshold(rule.value, steps, per_day, rules or EventsConfig())
        assert steps is not None
        share, n = float((steps.scores >= value).mean()), len(steps.scores)
        found = Threshold(value, str(rule), False, share, n, 0, note, events_a_day=rate)
    else:
        found = _by_rule(rule, normal, anomalous, independent)
    return replace(found, independent=independent, per_day=per_day)


def _by_rule(
    rule: Policy, normal: NDArray[np.float64], anomalous: NDArray[np.float64], independent: float | None
) -> Threshold:
    if rule.name == "tail":
        return _tail(rule, normal, independent or float(len(normal)))
    if rule.name == "fpr":
        return _conformal(rule, normal, independent)
    if len(anomalous) == 0:
        raise DataError(
            f"threshold policy {rule} needs labelled anomalies in validation and there are none; use fpr=RATE,"
            " which needs normal rows only"
        )
    return _roc(rule, normal, anomalous)


def choose_pixels(
    policy: str, peaks: NDArray[np.float64], curve: Curve | None, unlabelled: str = "fpr=0.01"
) -> Threshold:
    """The pixel threshold (nats) of maps: a pixel at or above it is anomalous.

    peaks: (n,) the highest value of the map of each held-out normal picture. curve: ROC of validation's pixels; None
    without masks. unlabelled: the policy of `auto` without masks; with them it is f1, since anomalous pixels are few:
    Youden's J, which weighs a normal pixel by their small share, draws contours far around the anomalies.
    fpr and tail speak of normal *pictures* with any pixel at or above the threshold, and need no masks: neighbouring
    pixels are not exchangeable, pictures are, and the conformal promise is about exchangeable things. The other
    policies count pixels.

    Raises DataError for a policy that needs masks where there are none, or where there is no normal picture.
    """
    rule = Policy.parse(policy if policy != "auto" else "f1" if curve is not None else unlabelled)
    if rule.name in ("fpr", "tail"):
        return choose(str(rule), peaks, peaks[:0])
    if curve is None:
        raise DataError(
            f"pixel threshold policy {rule} needs masks in validation and there are none; use fpr=RATE, the share of"
            " normal pictures with a pixel at or above the threshold"
        )
    best = _best(rule, curve)
    rate, cut, below = float(curve.fpr[best]), float(curve.cuts[best]), curve.cuts[curve.fpr > curve.fpr[best]]
    value, note = cut, ""
    if len(below) and len(peaks):  # a cut is the lower end of its bin, so what is below it ends where the next begins
        highest = float(below[0] + max(abs(below[0]) * 2.0 ** (9 - BITS), np.finfo(np.float32).tiny))
        bound = tail_bound(peaks, GAP_RATE)
        if bound < cut and highest < cut:
            value = max(bound, highest)
            note = _gap_note(value, highest, cut, "pixel", "pictures")
    return Threshold(value, str(rule), True, rate, curve.normals, curve.anomalies, note)


def p_values(scores: NDArray[np.float64], calibration: NDArray[np.float64]) -> NDArray[np.float64]:
    """Conformal p-values (1 + #{calibration >= s}) / (n + 1) of scores (N,) against sorted held-out normals (n,).

    For an exchangeable normal sample P(p <= a) <= a (Vovk et al. 2005; Bates et al. 2023).
    """
    above = len(calibration) - np.searchsorted(calibration, scores, side="left")
    result: NDArray[np.float64] = (1 + above) / (len(calibration) + 1)
    return result


def alarm_interval(k: int, n: int, m: int, level: float = 0.95) -> tuple[float, float]:
    """Central interval of the share of alarms among m unseen normals, where the threshold is the k-th largest of the
    scores of n held-out normals and an unseen one: their true rate is Beta(k, n + 1 - k) distributed (Vovk 2012), their
    number beta-binomial. Counts are whole, so it covers at least `level`."""
    j, of = np.arange(m, dtype=np.float64), n + 1 - k
    ratios = np.log((m - j) * (j + k)) - np.log((j + 1) * (m - j - 1 + of))  # of the chances of j + 1 and of j alarms
    chances = np.r_[0.0, np.cumsum(ratios)]
    shares = np.cumsum(np.exp(chances - chances.max()))
    low, high = np.searchsorted(shares, shares[-1] * np.array([(1 - level) / 2, (1 + level) / 2]))
    return float(low / m), float(high / m)


def tail_bound(normal: NDArray[np.float64], rate: float) -> float:
    """The score (nats) that an unseen normal exceeds with probability `rate`, below a tenth, were the tail of the
    normals (n,), at least one, exponential: infinite for a single one.

    The excesses of the upper k normals over the next one have the mean m; that of an unseen one over it, divided by m,
    is F(2, 2k) distributed, so with k / n of all above, P(excess > e) = k / n * (1 + e / (k m)) ** -k (Hahn & Meeker
    1991, prediction intervals). Few normals give a high bound: the error of the estimate is in it.
    """
    n, ordered = len(normal), np.sort(normal)
    k = min(n - 1, max(TAIL_FEWEST, math.ceil(TAIL_SHARE * n)))
    if k < 1:
        return math.inf
    start = ordered[n - k - 1]
    together = float((ordered[n - k :] - start).sum())
    with np.errstate(over="ignore"):
        return float(start + together * ((rate * n / k) ** (-1 / k) - 1))


def _conformal(rule: Policy, normal: NDArray[np.float64], independent: float | None) -> Threshold:
    """The smallest threshold whose alarms all have p-values of at most the rule's rate. independent: None where all
    are."""
    assert rule.value is not None
    n, rate = len(normal), rule.value
    allowed = allowed_ranks(n, rate)
    note = ""
    if allowed == 0:
        smallest = 1 / (n + 1)
        note = (
            f"{n} held-out normals support no false-alarm rate below {smallest:.2g}; asked for {rate:g}, the threshold"
            f" stands just above their largest score, a rate of {smallest:.2g}"
        )
        allowed, rate = 1, smallest
    elif independent is not None and rate < smallest_rate(independent):
        note = f"{_support(n, independent)}; {rate:g} is their share, which consecutive steps may exceed"
    return Threshold(float(conformal_edges(np.sort(normal), np.array(allowed))), str(rule), False, rate, n, 0, note)


def conformal_edges(normal: NDArray[np.float64], allowed: NDArray[np.intp]) -> NDArray[np.float64]:
    """The smallest thresholds whose alarms have at most the ranks `allowed` (K,), 1 to n, among sorted normals (n,) and
    themselves."""
    edges: NDArray[np.float64] = np.nextafter(normal[len(normal) - allowed], np.inf)
    return edges


def conformal_policies(n: int, allowed: NDArray[np.intp]) -> list[str]:
    """The shortest `fpr=RATE` that allows so many ranks (K,) of n + 1, each below n + 1."""

    def shortest(rank: int) -> str:
        rates = (f"{rank / (n + 1):.{digits}g}" for digits in range(1, 18))
        return next(rate for rate in rates if 0 < float(rate) < 1 and allowed_ranks(n, float(rate)) == rank)

    return [f"fpr={shortest(rank)}" for rank in allowed.tolist()]


def allowed_ranks(n: int, rate: float) -> int:
    """The largest rank among n normals and itself at which a sample may be an alarm, for a false-alarm rate."""
    return math.floor(rate * (n + 1) + 1e-9)


def _tail(rule: Policy, normal: NDArray[np.float64], independent: float) -> Threshold:
    """The score that normals exceed with the rule's probability, by the tail of held-out ones.

    Consecutive steps of a series are so alike that a hundred of them say little about a rate of 1 %: conformal
    prediction would need independent ones. A tail extrapolates, with the error of its estimate; `detector.tails`.
    """
    assert rule.value is not None
    if len(normal) < 2 or normal.min() <= 0:
        raise DataError(
            "threshold policy tail=RATE needs at least two positive validation scores, as those of a series are; use"
            " fpr=RATE"
        )
    value, note = tail_threshold(normal, rule.value, independent), ""
    if rule.value < smallest_rate(independent):
        note = (
            f"{_support(len(normal), independent)}; the threshold for {rule.value:g} is extrapolated, and normals may"
            " exceed it several times more often"
        )
    return Threshold(value, str(rule), False, rule.value, len(normal), 0, note)


def _support(n: int, independent: float) -> str:
    """What n normals, which are worth so many independent ones, cannot promise."""
    worth = "" if independent >= n else f"are worth about {independent:.0f} independent ones, which "
    smallest = smallest_rate(independent)
    below = "" if smallest >= 0.5 else f" below {smallest:.2g}"
    return f"{n} held-out normals {worth}promise no false-alarm rate{below} within a factor of 2"


def _roc(rule: Policy, normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> Threshold:
    """The point of the ROC curve that the rule prefers; between the classes, half-way or, where that is lower, where
    the normals' own tail ends."""
    from sklearn.metrics import roc_curve

    labels = np.r_[np.zeros(len(normal)), np.ones(len(anomalous))]
    scores = np.r_[normal, anomalous]
    fpr, tpr, cuts = roc_curve(labels, scores, drop_intermediate=False)
    curve = Curve(fpr[1:], tpr[1:], cuts[1:], len(normal), len(anomalous))  # the first cut is infinite: no alarm at all
    best = _best(rule, curve)
    cut, below = float(curve.cuts[best]), normal[normal < curve.cuts[best]]
    value, notes = cut, []
    if len(below):
        lowest = float(np.nextafter(below.max(), np.inf))
        value = 0.5 * (below.max() + cut)
        value = float(value if lowest <= value <= cut else cut)
        bound = tail_bound(normal, GAP_RATE)
        if bound < value and lowest < value:
            value = max(bound, lowest)
            notes.append(_gap_note(value, float(below.max()), cut, "sample", "samples"))
    hits = int((anomalous >= value).sum())
    low, high = share_interval(hits, len(anomalous))
    if high - low > UNSURE:
        notes.append(
            f"recall is uncertain: {hits} of {len(anomalous)} anomalies in validation are found, so it lies between"
            f" {low:.0%} and {high:.0%} (95 %, Clopper-Pearson)"
        )
    rate = float(curve.fpr[best])
    return Threshold(value, str(rule), True, rate, len(normal), len(anomalous), "; ".join(notes))


def _gap_note(value: float, low: float, high: float, what: str, normals: str) -> str:
    return (
        f"labels leave the threshold open between {low:.6g} and {high:.6g} nats, where no normal {what} of validation"
        f" lies: it stands at {value:.6g}, which by their own tail at most {GAP_RATE:g} of the normal {normals} reach"
    )


def _best(rule: Policy, curve: Curve) -> int:
    """Which point of a ROC curve the rule prefers."""
    fpr, tpr = curve.fpr, curve.tpr
    false, hits = fpr * curve.normals, tpr * curve.anomalies
    if rule.name == "youden":
        return int(np.argmax(tpr - fpr))
    if rule.name == "f1":
        return int(np.argmax(2 * hits / (hits + false + curve.anomalies)))
    assert rule.value is not None
    if rule.name == "cost":
        return int(np.argmin(false + rule.value * (curve.anomalies - hits)))
    return int(np.argmax(tpr >= rule.value))  # recall: tpr rises to 1, so there is a first
