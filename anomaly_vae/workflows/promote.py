"""From a fitted detector to one that is in use: promote it over the present champion.

Each function is one page, as in `workflow`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from anomaly_vae import tracking
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import AnomalyVAEError, DataError, UsageError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.reporting.summary import Result
from anomaly_vae.workflows.evaluate import evaluate
from anomaly_vae.workflows.opening import find

DECIDES = "auroc"  # the metric by which a detector must be no worse than the champion: it needs no threshold
SHOWN = (DECIDES, "recall", "false_alarm_rate")  # beside each version of a model; the run has all


@dataclass(frozen=True)
class Promotion:
    """The candidate's and the champion's metrics on the same rows, and the version that is the champion now.

    champion: the version that was; None where there was none. before: its metrics; None without a champion, and where
    it could not be evaluated: `excuse` says why. version: the new champion; None where the candidate was `refused`.
    """

    data: str
    candidate: Result
    champion: tracking.Version | None
    before: Result | None
    version: tracking.Version | None
    refused: str = ""
    excuse: str = ""

    @property
    def lead(self) -> tuple[float, float, float] | None:
        """By how much the candidate's AUROC is above the champion's, and the 95 % interval of that; None if unknown."""
        mine, theirs = self.candidate.area, self.before and self.before.area
        return mine.minus(theirs) if mine and theirs else None

    def to_json(self) -> str:
        return json.dumps(
            {
                "data": self.data,
                "run_id": self.candidate.run_id,
                "metrics": self.candidate.metrics,
                "was": self.champion and self.champion.uri,
                "was_metrics": self.before and self.before.metrics,
                "trained_on": self.candidate.trained_on,
                "was_trained_on": self.before and self.before.trained_on,
                "champion": self.version and self.version.uri,
                "lead": self.lead,
                "refused": self.refused,
            },
            ensure_ascii=False,
        )


def promote(
    run: str,
    path: str | None,
    config: Config,
    *,
    label: str | None = None,
    normal: tuple[str, ...] = (),
    name: str | None = None,
    force: bool = False,
) -> Promotion:
    """Registers the model of a run and makes it the champion, after evaluating both on the same labelled data.

    A candidate with a lower AUROC than the champion's is refused, and so is one on data that either was trained on,
    unless `force`: then a champion that cannot be evaluated is no hindrance either. path: labelled data; None: what the
    run was last evaluated on. label, normal: as for `evaluate`. name: of the registered model, after `anomaly-vae-`;
    None: that of the run's experiment.
    Raises UsageError where there is no data to decide by, DataError for data that decides nothing.
    """
    run_id, experiment, evaluated_on = tracking.run_facts(run, config)
    path = path or evaluated_on
    if path is None:
        raise UsageError(f"run {run_id} was not evaluated yet; name labelled data: anomaly-vae promote {run} DATA")
    title = registered_name(name or experiment)
    candidate = find(run_id, config)
    taken = config.data.unlabelled
    found = evaluate(path, candidate.detector, label=label, normal=normal, unlabelled=taken, run_id=run_id)
    if DECIDES not in found.metrics:
        raise DataError(f"{path}: holds no normal rows, or no anomalies, and decides nothing; name data with both")
    champion, before, excuse = tracking.champion(title, config), None, ""
    trained = _trained_on(f"run {run_id[:8]}", candidate.detector, found)
    try:
        if champion is not None:
            present = find(champion.uri, config).detector
            before = evaluate(path, present, label=label, normal=normal, unlabelled=taken)
            trained = trained or _trained_on(champion.uri, present, before)
    except AnomalyVAEError as error:
        excuse = str(error)
    refused = "" if force else _refusal(found, champion, before, excuse, trained)
    version = None
    if not refused:
        shown = {f"evaluate/{key}": f"{found.metrics[key]:.6g}" for key in SHOWN if key in found.metrics}
        why = f"AUROC {found.metrics[DECIDES]:.4f} on {path}"
        version = tracking.crown(run_id, title, why, {"evaluated_on": path, **shown}, config)
    return Promotion(path, found, champion, before, version, refused, excuse)


def registered_name(name: str) -> str:
    """`anomaly-vae-` and a name fit for an address: letters of any script, digits, - and _."""
    fit = re.sub(r"[^\w-]+", "-", name).strip("-") or "detector"
    return fit if fit.startswith("anomaly-vae-") else f"anomaly-vae-{fit}"


def _trained_on(name: str, detector: Detector, found: Result) -> str:
    """That a detector was trained on the rows it was evaluated on; empty where it was not, or where it is not known."""
    rows, count, of = detector.trained_rows, found.trained_on, found.rows["test"]
    if rows is None or count is None or not rows.more_than_chance(count, of):
        return ""
    return f"{name} was trained on {count} of the {of} rows of {found.data}"


def _refusal(found: Result, champion: tracking.Version | None, before: Result | None, excuse: str, trained: str) -> str:
    """Why the candidate is not promoted; empty where it is. trained: see `_trained_on`."""
    if trained:
        return f"not promoted: {trained}; name data that it has not seen, or --force promotes all the same"
    if champion is None:
        return ""
    if before is None:
        return f"not promoted: the champion {champion.uri} cannot be compared ({excuse}); --force promotes all the same"
    mine, theirs = found.metrics[DECIDES], before.metrics[DECIDES]
    if mine >= theirs:
        return ""
    return f"not promoted: AUROC {mine:.4f} is below {theirs:.4f} of {champion.uri}; --force promotes all the same"
