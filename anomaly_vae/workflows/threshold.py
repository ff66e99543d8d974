"""Chooses another threshold for a fitted detector, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from anomaly_vae.core.errors import UsageError
from anomaly_vae.core.files import replacing_folder
from anomaly_vae.detector.detector import Detector
from anomaly_vae.tracking.run import MODEL
from anomaly_vae.workflows.opening import Model


def rethreshold(model: Model, policy: str) -> Detector:
    """Choose the threshold of a detector by another policy, and save the detector in its folder or log it to its run.

    Parameters
    ----------
    model : Model
        The detector and its location; see `opening.find`.
    policy : str
        The policy as `threshold.policy` takes it, e.g. `fpr=0.01`.

    Returns
    -------
    Detector
        The detector with the new threshold.

    Raises
    ------
    UsageError
        If the model is a version in the registry, which cannot change, or the policy is unknown.
    """
    require_changeable(model)
    chosen = model.detector.with_threshold(policy)
    replace_detector(model, chosen, {"threshold_policy": chosen.threshold.policy})
    return chosen


def require_changeable(model: Model) -> None:
    """Raises UsageError for a version in the registry, which cannot change."""
    if model.name.startswith("models:/"):
        raise UsageError(
            f"{model.name} never changes; choose the threshold of its run (-m {model.run_id or 'RUN_ID'}) and promote"
            " that"
        )


def replace_detector(
    model: Model, chosen: Detector, tags: Mapping[str, str], record: Mapping[str, Any] | None = None
) -> None:
    """Saves another detector in the folder of a model, or logs it to its run, with tags and a record of why."""
    if not model.run_id:
        with replacing_folder(model.name) as folder:
            chosen.save(folder)
        return
    from anomaly_vae import tracking
    from anomaly_vae.tracking.model import log_model

    with tracking.update(model.run_id, chosen.config, model=MODEL) as run:
        log_model(run, chosen)
        run.metrics({"threshold": chosen.threshold.value}, "model")
        run.tags(tags)
        policy = f"-{model.detector.threshold.policy}"
        if run.title.endswith(policy):  # the name that `fit` gave it
            run.name(f"{run.title.removesuffix(policy)}-{chosen.threshold.policy}")
        if record is not None:
            number = tracking.times_logged(model.run_id, ("model/feedback", "feedback"), chosen.config)
            weights = chosen.score_model.weights or dict.fromkeys(chosen.score_model.part_names, 1.0)
            curves = {f"model/weight_{name}": weight for name, weight in weights.items()}
            run.epoch(number, {"model/feedback": float(len(chosen.verdicts)), **curves})
            run.text(json.dumps(record, ensure_ascii=False), f"feedback/{number:04d}.json")
