"""A run from start to end on MLflow, in a local sqlite store or on the server that MLFLOW_TRACKING_URI names.

The only importer of mlflow, which takes about 2 s to import; so the names below load when they are first used.
Everything goes through one `MlflowClient` bound to one address; MLflow's global state (active run, tracking address) is
never touched, so a program that uses MLflow itself is not disturbed. Every failure of the store is a RunError of one
line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_vae.tracking.client import require_store as require_store
    from anomaly_vae.tracking.outbox import sync as sync
    from anomaly_vae.tracking.outbox import waiting as waiting
    from anomaly_vae.tracking.queries import children as children
    from anomaly_vae.tracking.queries import data_of as data_of
    from anomaly_vae.tracking.queries import find_detector as find_detector
    from anomaly_vae.tracking.queries import full_run_id as full_run_id
    from anomaly_vae.tracking.queries import list_runs as list_runs
    from anomaly_vae.tracking.queries import run_facts as run_facts
    from anomaly_vae.tracking.queries import times_logged as times_logged
    from anomaly_vae.tracking.registry import Version as Version
    from anomaly_vae.tracking.registry import champion as champion
    from anomaly_vae.tracking.registry import crown as crown
    from anomaly_vae.tracking.runs import parent_run as parent_run
    from anomaly_vae.tracking.runs import start as start
    from anomaly_vae.tracking.runs import update as update

HOME = {  # name -> the module that has it
    "require_store": "client",
    **dict.fromkeys(("sync", "waiting"), "outbox"),
    **dict.fromkeys(
        ("children", "data_of", "find_detector", "full_run_id", "list_runs", "run_facts", "times_logged"), "queries"
    ),
    **dict.fromkeys(("Version", "champion", "crown"), "registry"),
    **dict.fromkeys(("parent_run", "start", "update"), "runs"),
}
__all__ = list(HOME)


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"anomaly_vae.tracking.{HOME[name]}"), name)
