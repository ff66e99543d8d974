"""Runs on MLflow: one run a fit, in a local sqlite store or on the server that MLFLOW_TRACKING_URI names.

Its modules are the only importers of mlflow, which takes about 2 s to import: import this package late. Everything
goes through one `MlflowClient` bound to one address; MLflow's global state (active run, tracking address) is never
touched, so a program that uses MLflow itself is not disturbed. Every failure of the store is a RunError of one line.

`tracking.model`, which makes a model out of a detector, needs torch, and is imported by its own name.
"""

from anomaly_vae.tracking.client import require_store
from anomaly_vae.tracking.finding import (
    children,
    data_of,
    find_detector,
    full_run_id,
    list_runs,
    run_facts,
    times_logged,
)
from anomaly_vae.tracking.registry import Version, champion, crown
from anomaly_vae.tracking.runs import parent_run, start, update
from anomaly_vae.tracking.spool import sync, waiting

__all__ = [
    "Version",
    "champion",
    "crown",
    "data_of",
    "children",
    "find_detector",
    "full_run_id",
    "list_runs",
    "parent_run",
    "require_store",
    "run_facts",
    "start",
    "sync",
    "times_logged",
    "update",
    "waiting",
]
