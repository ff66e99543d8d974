"""Looking up runs: a run's id, data and detector, and the list of the latest runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run as RunRecord
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking.client import RUNS_HINT, connect, experiment_ids, experiments, find_run
from anomaly_vae.tracking.metadata import experiment_page
from anomaly_vae.tracking.registry import MODELS, resolve
from anomaly_vae.tracking.run import DETECTOR
from anomaly_vae.tracking.store import (
    checkpoint_folder,
    clean,
    cut,
    detector_folder,
    server_uri,
    store_errors,
    store_folder,
    store_uri,
)


def full_run_id(run: str, config: Config) -> str:
    """The full id of the run whose id begins with these 6 or more characters. Raises RunError."""
    return str(find_run(connect(config), run).info.run_id)


def data_of(run: str, config: Config) -> str | None:
    """The path of the data that a run was fitted on, as the user wrote it; None if the run logged none."""
    path: str | None = find_run(connect(config), run).data.tags.get("data")
    return path


def run_facts(run: str, config: Config) -> tuple[str, str, str | None]:
    """The full id of a run, the name of its experiment, and the data that it was last evaluated on (None: none)."""
    client = connect(config)
    record = find_run(client, run)
    with store_errors(f"reading the experiment of run {run}"):
        experiment = client.get_experiment(record.info.experiment_id)
    return record.info.run_id, experiment.name, record.data.tags.get("evaluated_on")


def times_logged(run: str, names: Sequence[str], config: Config) -> int:
    """The number of values that a run logged of a metric, whose names of earlier versions follow the first."""
    client = connect(config)
    with store_errors(f"reading {names[0]} of run {run}"):
        return sum(len(client.get_metric_history(run, name)) for name in names)


def find_detector(name: str | None, config: Config, scratch: str | None = None) -> tuple[str, Path]:
    """The id of a run and the local folder of its detector.

    name: a run id or its first 6 or more characters, or `models:/` with a registered name and alias or version
    (`NAME@champion`, `NAME/3`) or with the id of a logged model, of which only the detector's folder is read, never its
    code; None: the run that finished last, of all experiments. scratch: folder to download a server's files to; None: a
    temporary folder that is not deleted.
    Raises RunError for a run that is unknown, not finished or without a detector, and for an unknown model.
    """
    client = connect(config)
    if name is not None and name.startswith(MODELS):
        return _find_detector_of_model(client, config, name, scratch)
    record = _latest(client, config) if name is None else find_run(client, name)
    run_id, status = record.info.run_id, record.info.status
    if status != "FINISHED":
        error = record.data.tags.get("error")
        why = f" ({cut(clean(error), 200)})" if error else ""
        can_resume = checkpoint_folder(run_id, config).is_dir()
        advice = f"`anomaly-vae fit --resume {run_id}` continues it" if can_resume else RUNS_HINT
        raise RunError(f"run {run_id} is {status}, not finished{why}; {advice}")
    if not server_uri() and (local := detector_folder(run_id, config)).is_dir():
        return run_id, local
    with store_errors(f"reading the detector of run {run_id}"):
        if not client.list_artifacts(run_id, DETECTOR):
            raise RunError(f"run {run_id} has no detector; {RUNS_HINT}")
        return run_id, Path(client.download_artifacts(run_id, DETECTOR, scratch))


def _find_detector_of_model(client: MlflowClient, config: Config, uri: str, scratch: str | None) -> tuple[str, Path]:
    model = resolve(client, config, uri)
    folder = f"artifacts/{DETECTOR}"
    local = store_folder(config) / "artifacts" / "models" / model.model_id / "artifacts" / folder
    if not server_uri() and local.is_dir():
        return str(model.source_run_id or ""), local
    with store_errors(f"reading the detector of {uri}"):
        if not client.list_logged_model_artifacts(model.model_id, folder):
            raise RunError(f"{uri} holds no detector of anomaly-vae (no {folder} in it)")
        address = f"{model.artifact_location}/{folder}"
        downloaded = download_artifacts(address, dst_path=scratch, tracking_uri=store_uri(config))
    return str(model.source_run_id or ""), Path(downloaded)


def _latest(client: MlflowClient, config: Config) -> RunRecord:
    """The run with a detector that finished last."""
    with store_errors("looking for the latest run"):
        records = client.search_runs(
            experiment_ids(client),
            filter_string=f"attributes.status = 'FINISHED' and tags.{DETECTOR} = '{DETECTOR}'",
            order_by=["attributes.end_time DESC"],
            max_results=1,
        )
    if not records:
        raise RunError(f"no finished run with a detector in {store_uri(config)}; `anomaly-vae fit` makes one")
    return records[0]


def review_page(config: Config) -> str:
    """The address, on a server of MLflow, of the runs beside the one that started last; empty without a run. A local
    store is made if there is none."""
    client = connect(config, write=True)
    with store_errors("looking for the latest run"):
        latest = client.search_runs(experiment_ids(client), order_by=["attributes.start_time DESC"], max_results=1)
    return experiment_page(latest[0].info.experiment_id) if latest else ""


def children(run_id: str, config: Config) -> dict[str, str]:
    """Names and ids of the runs nested under a run. Raises RunError."""
    client = connect(config)
    with store_errors(f"looking for the runs under {run_id}"):
        experiment_id = client.get_run(run_id).info.experiment_id
        records = client.search_runs([experiment_id], filter_string=f"tags.mlflow.parentRunId = '{run_id}'")
        return {record.info.run_name: record.info.run_id for record in records}


def list_runs(config: Config, limit: int = 20) -> list[dict[str, Any]]:
    """The latest runs, newest first: run_id, name, experiment, status, started (ISO 8601), kind, model, auroc, auprc,
    f1, seconds, detector (whether the run has one) and parent. A value that a run has not logged is None."""
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
    seconds = _metric(metrics, "train/seconds")
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
        **{name: _metric(metrics, f"test/{name}") for name in ("auroc", "auprc", "f1")},
        "seconds": seconds,
        DETECTOR: DETECTOR in tags,
        "parent": tags.get("mlflow.parentRunId"),
    }


def _metric(metrics: Mapping[str, float], name: str) -> float | None:
    """The metric `name`, which runs of version 0.1 have without its group."""
    return metrics.get(name, metrics.get(name.rpartition("/")[2]))
