"""Chooses another threshold for a fitted detector, without training."""

from __future__ import annotations

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
    if model.name.startswith("models:/"):
        raise UsageError(
            f"{model.name} never changes; choose the threshold of its run (-m {model.run_id or 'RUN_ID'}) and promote"
            " that"
        )
    chosen = model.detector.with_threshold(policy)
    if not model.run_id:
        with replacing_folder(model.name) as folder:
            chosen.save(folder)
        return chosen
    from anomaly_vae import tracking
    from anomaly_vae.tracking.model import log_model

    with tracking.update(model.run_id, chosen.config, model=MODEL) as run:
        log_model(run, chosen)
        run.metrics({"threshold": chosen.threshold.value})
        run.tags({"threshold_policy": chosen.threshold.policy})
    return chosen
