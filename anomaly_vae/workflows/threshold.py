"""Choose the threshold of a fitted detector again, without training again."""

from __future__ import annotations

from anomaly_vae.core.errors import UsageError
from anomaly_vae.core.files import replacing_folder
from anomaly_vae.detector.detector import Detector
from anomaly_vae.tracking.run import MODEL
from anomaly_vae.workflows.opening import Model


def rethreshold(model: Model, policy: str) -> Detector:
    """The detector of `model` with its threshold chosen by another policy, in the place where it was found.

    Raises UsageError for a model of the registry: its versions never change.
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
