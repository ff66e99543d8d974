"""Looking runs up: the detector of one, the latest of all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Run as RunRecord

from anomaly_vae.config import Config
from anomaly_vae.errors import RunError
from anomaly_vae.store import clean, cut, server_uri, store_errors, store_folder, store_uri
from anomaly_vae.tracking.client import RUNS_HINT, connect, experiment_ids, experiments, find_run
from anomaly_vae.tracking.recording import DETECTOR


def full_run_id(run: str, config: Config) -> str:
    """The whole id of a run given by the first 6 or more characters of it. Raises RunError."""
    return str(find_run(connect(config), run).info.run_id)


def data_of(run: str, config: Config) -> str | None:
    """The path of the data that a run was fitted on, as it was given; None where the run has none."""
    path: str | None = find_run(connect(config), run).data.tags.get("data")
    return path


def find_detector(run: str | None, config: Config) -> tuple[str, Path]:
    """Id of a run and local folder of its detector; None: of the last run to finish, over all experiments.

    `run` is a run id or the first 6 or more characters of one. From a server, the detector is downloaded into a
    temporary folder. Raises RunError for a run that is unknown, not finished or without a detector.
    """
    client = connect(config)
    if run is None:
        with store_errors("looking for the latest run"):
            found = client.search_runs(
                experiment_ids(client),
                filter_string=f"attributes.status = 'FINISHED' and tags.{DETECTOR} = '{DETECTOR}'",
                order_by=["attributes.end_time DESC"],
                max_results=1,
            )
        if not found:
            raise RunError(f"no finished run with a detector in {store_uri(config)}; `anomaly-vae fit` makes one")
        record = found[0]
    else:
        record = find_run(client, run)
    run_id, status = record.info.run_id, record.info.status
    if status != "FINISHED":
        error = record.data.tags.get("error")
        why = f" ({cut(clean(error), 200)})" if error else ""
        raise RunError(f"run {run_id} is {status}, not finished{why}; `anomaly-vae fit --resume {run_id}` continues it")
    local = store_folder(config) / "artifacts" / run_id / "artifacts" / DETECTOR
    if not server_uri() and local.is_dir():
        return run_id, local  # also after the folder of the store was moved, when the recorded address is stale
    with store_errors(f"reading the detector of run {run_id}"):
        if not client.list_artifacts(run_id, DETECTOR):
            raise RunError(f"run {run_id} has no detector; {RUNS_HINT}")
        return run_id, Path(client.download_artifacts(run_id, DETECTOR))


def list_runs(config: Config, limit: int = 20) -> list[dict[str, Any]]:
    """The latest runs, newest first: run_id, name, experiment, status, started (ISO 8601), kind, model, auroc, auprc,
    f1, seconds, detector (whether it has one) and parent. What a run has not logged is None."""
    if not server_uri() and not (store_folder(config) / "mlflow.db").exists():
        return []
    client = connect(config)
    with store_errors("listing the runs"):
        names = {experiment.experiment_id: experiment.name for experiment in experiments(client)}
        records = client.search_runs(list(names), order_by=["attributes.start_time DESC"], max_results=limit)
    return [_row(record, names) for record in records]


def _row(record: RunRecord, experiments: Mapping[str, str]) -> dict[str, Any]:
    info, params, metrics, tags = record.info, record.data.params, record.data.metrics, record.data.tags
    ended = info.end_time if info.status != "RUNNING" else None
    seconds = _metric(metrics, "seconds")
    if seconds is None and ended:
        seconds = (ended - info.start_time) / 1000
    return {
        "run_id": info.run_id,
        "name": info.run_name,
        "experiment": experiments.get(info.experiment_id, info.experiment_id),
        "status": info.status,
        "started": datetime.fromtimestamp(info.start_time / 1000).astimezone().isoformat(timespec="seconds"),
        "kind": params.get("kind") or tags.get("kind"),
        "model": params.get("model.kind"),
        **{name: _metric(metrics, name) for name in ("auroc", "auprc", "f1")},
        "seconds": seconds,
        DETECTOR: DETECTOR in tags,
        "parent": tags.get("mlflow.parentRunId"),
    }


def _metric(metrics: Mapping[str, float], name: str) -> float | None:
    """The metric `name`, or the one of the test split where it carries a prefix."""
    for key in (name, f"test/{name}", f"test.{name}", f"test_{name}"):
        if key in metrics:
            return metrics[key]
    return None
