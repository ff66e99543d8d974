"""The client of a store of runs, and finding a run in it by its id or the beginning of its id."""

from __future__ import annotations

import logging
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking.alive import mark_killed
from anomaly_vae.tracking.store import check_store, knock, store_errors, store_uri, unsent

# MLflow's usage reports stay off unless the environment says otherwise.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# stdout is for data: `fit --json` prints one object
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# a detector is seven small files
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Run as RunRecord
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

if "MLFLOW_LOGGING_LEVEL" not in os.environ:
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # This logger writes a traceback of each error that is also raised, and reported as a RunError.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

NAMED = 6  # runs that a message lists
RUNS_HINT = "`anomaly-vae runs` lists the runs there are"


def connect(config: Config, *, write: bool = False) -> MlflowClient:
    """A client of the store, after checking that it exists and answers. write: a local store is made if there is none,
    and checked to be writable. Raises RunError."""
    check_store(config, create_schema if write else None)
    with store_errors(f"opening {store_uri(config)}"):
        client = MlflowClient(store_uri(config))
    mark_killed(client, config, unsent(config))
    return client


def open_client(uri: str) -> MlflowClient:
    """A client of the server at `uri`, after checking that it listens. Raises RunError."""
    knock(uri)
    with store_errors(f"opening {uri}"):
        return MlflowClient(uri)


def create_schema(database: Path, artifacts: Path) -> None:
    """Makes a new sqlite store. MLflow builds its schema by 70 migrations, each of which waits for the disk; a file
    that is not in place yet can be made again, so sqlite does not wait here."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def do_not_wait(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", do_not_wait)
    try:
        SqlAlchemyStore(f"sqlite:///{database}", artifacts.as_uri()).engine.dispose()
    finally:
        event.remove(Engine, "connect", do_not_wait)


def require_store(config: Config) -> None:
    """Checks that the store exists and takes runs; a local one is made if there is none. Raises RunError."""
    connect(config, write=True)


def find_run(client: MlflowClient, run: str) -> RunRecord:
    """The run with this id, with this beginning of an id, at least 6 characters, or else with this name, if only one
    has it. Raises RunError."""
    with store_errors(f"looking for run {run}"):
        records = _with_id(client, run) if re.fullmatch(r"[0-9A-Za-z][\w-]{5,255}", run) else []
        quote = '"' if "'" in run else "'"
        if not records and quote not in run:
            named = f"attributes.run_name = {quote}{run}{quote}"
            records = list(client.search_runs(experiment_ids(client), filter_string=named, max_results=NAMED))
    records = [record for record in records if record.info.lifecycle_stage == "active"]
    if not records:
        raise RunError(f"no run {run} in {client.tracking_uri}: neither an id, of 6 characters or more, nor a name;"
                       f" {RUNS_HINT}")  # fmt: skip
    if len(records) > 1:
        shown = ", ".join(f"{record.info.run_id} ({_started(record)})" for record in records)
        more = ", ..." if len(records) == NAMED else ""
        raise RunError(f"{run} is the name, or the beginning of the id, of several runs: {shown}{more}; take an id")
    return records[0]


def _with_id(client: MlflowClient, run: str) -> list[RunRecord]:
    if len(run) < 32:
        pattern = f"attributes.run_id LIKE '{run}%'"
        return list(client.search_runs(experiment_ids(client), filter_string=pattern, max_results=NAMED))
    try:
        return [client.get_run(run)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []


def _started(record: RunRecord) -> str:
    return datetime.fromtimestamp(record.info.start_time / 1000).isoformat(" ", "seconds")


def model_of(record: RunRecord) -> str | None:
    """Id of the logged model of a run, of the latest if there are several; None if there is none."""
    outputs = record.outputs.model_outputs if record.outputs else []
    return str(max(outputs, key=lambda output: output.step).model_id) if outputs else None


def experiments(client: MlflowClient) -> list[Any]:
    """All experiments of the store that are not deleted."""
    experiments: list[Any] = []
    token = None
    while True:
        page = client.search_experiments(view_type=ViewType.ACTIVE_ONLY, page_token=token)
        experiments += page
        token = page.token
        if not token:
            return experiments


def experiment_ids(client: MlflowClient) -> list[str]:
    """The ids of `experiments`."""
    return [experiment.experiment_id for experiment in experiments(client)]
