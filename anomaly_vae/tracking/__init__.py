"""A run from start to end on MLflow, in a local sqlite store or on the server that MLFLOW_TRACKING_URI names.

This room is the only importer of mlflow, whose import takes about 2 s, so the names below are loaded on first use.
One `MlflowClient` with an explicit address does everything; MLflow's global state (active run, tracking address) is
never touched, so programs that use MLflow themselves are not disturbed. Every failure of the store is a RunError of
one line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_vae.tracking.client import require_store as require_store
    from anomaly_vae.tracking.local import find_detector as find_detector
    from anomaly_vae.tracking.outbox import sync as sync
    from anomaly_vae.tracking.outbox import waiting as waiting
    from anomaly_vae.tracking.queries import children as children
    from anomaly_vae.tracking.queries import data_of as data_of
    from anomaly_vae.tracking.queries import full_run_id as full_run_id
    from anomaly_vae.tracking.queries import list_runs as list_runs
    from anomaly_vae.tracking.queries import review_page as review_page
    from anomaly_vae.tracking.queries import run_facts as run_facts
    from anomaly_vae.tracking.queries import times_logged as times_logged
    from anomaly_vae.tracking.registry import Version as Version
    from anomaly_vae.tracking.registry import champion as champion
    from anomaly_vae.tracking.registry import crown as crown
    from anomaly_vae.tracking.runs import start as start
    from anomaly_vae.tracking.runs import update as update

MODULES = {  # module -> the names that it provides here
    "client": ("require_store",),
    "local": ("find_detector",),
    "outbox": ("sync", "waiting"),
    "queries": ("children", "data_of", "full_run_id", "list_runs", "review_page", "run_facts", "times_logged"),
    "registry": ("Version", "champion", "crown"),
    "runs": ("start", "update"),
}
MODULE_OF = {name: module for module, names in MODULES.items() for name in names}
__all__ = list(MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"anomaly_vae.tracking.{MODULE_OF[name]}"), name)
