"""The beginning and the end of a run: a new one, the continuation of a killed one, an ended one to add to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow.entities import Run as RunRecord
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking import metadata, outbox, view
from anomaly_vae.tracking.client import connect, find_run, model_of
from anomaly_vae.tracking.outbox import Sender
from anomaly_vae.tracking.recording import NAME_LENGTH, TrackedRun, model_title
from anomaly_vae.tracking.run import NoRun, Run
from anomaly_vae.tracking.store import clean, cut, server_uri, store_errors, store_folder

CURVE = "loss"  # a metric of every epoch
EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages for models, not for agents


@contextmanager
def start(
    config: Config,
    *,
    data_name: str,
    run_name: str,
    resume: str | None = None,
    parent: str | None = None,
    model: str | None = None,
) -> Iterator[Run]:
    """A new run, or with `resume` the continuation of that one; nested under the run `parent` where given.

    model: name of the logged model that the run will fill; every metric from its first epoch on is linked to it.

    It ends FINISHED, FAILED on an Exception or KILLED on KeyboardInterrupt and SystemExit, both with the tag `error`
    = "Type: message"; what was raised goes on. Raises RunError where the store cannot be written or reached at the
    start; one that is lost later does not end the run, which is then kept on disk (`Run.lost`) for `sync`.
    """
    if not config.tracking.enabled:
        yield NoRun()
        return
    client = connect(config, write=True)
    if resume is not None:
        run = _reopen(client, config, resume)
    else:
        run = _create(client, config, data_name, run_name, parent, model)
    try:
        yield run
    except Exception as error:
        run.end("FAILED", error)
        raise
    except BaseException as error:
        run.end("KILLED", error)
        raise
    run.end("FINISHED")
    if run.lost:
        with suppress(RunError):  # the store may be back
            outbox.send(run.lost[0], config)
            run.lost = None


@contextmanager
def parent_run(config: Config, *, data_name: str, run_name: str) -> Iterator[Run]:
    """The run that a study's runs are nested under: pass its `run_id` to `start` as `parent`."""
    with start(config, data_name=data_name, run_name=run_name) as run:
        run.tags({"kind": "study"})
        yield run


@contextmanager
def update(run_id: str, config: Config, *, model: str | None = None) -> Iterator[Run]:
    """An ended run, to log further things on it; its status and times stay as they are. Raises RunError.

    model: name of a further logged model, beside the one that the run has and that may be in use.
    """
    if not config.tracking.enabled:
        yield NoRun()
        return
    client = connect(config, write=True)
    record = find_run(client, run_id)
    sender = _sender(client, record)
    if model:
        sender.new_model(model_title(model))
    run = TrackedRun(sender, record.info.run_id, record.data.params)
    try:
        yield run
    finally:
        run.flush()


def _create(
    client: MlflowClient, config: Config, data_name: str, run_name: str, parent: str | None, model: str | None
) -> TrackedRun:
    location = None if server_uri() else (store_folder(config) / "artifacts").as_uri()
    name = cut(clean(config.tracking.experiment or data_name) or "anomaly-vae", NAME_LENGTH - 5)
    tags = metadata.tags()
    if parent:
        tags["mlflow.parentRunId"] = find_run(client, parent).info.run_id
    with store_errors("starting a run"):
        experiment = _experiment(client, name, location)
        record = client.create_run(experiment, tags=tags, run_name=cut(clean(run_name), NAME_LENGTH) or None)
    sender = Sender(client, record.info.run_id)
    if model:
        sender.new_model(model_title(model))
    return TrackedRun(sender, record.info.run_id, spool=outbox.folder_of(record.info.run_id, config))


def _reopen(client: MlflowClient, config: Config, run: str) -> TrackedRun:
    record = find_run(client, run)
    run_id, waits = record.info.run_id, outbox.folder_of(record.info.run_id, config)
    if waits.is_dir():  # what it logged after its store was lost and before it was killed
        outbox.send(waits, config)
    with store_errors("continuing the run"):
        client.update_run(run_id, status="RUNNING")
        if "error" in record.data.tags:
            client.delete_tag(run_id, "error")
        had = frozenset(point.step for point in client.get_metric_history(run_id, CURVE))
    reopened = TrackedRun(_sender(client, record), run_id, record.data.params, waits, had)
    reopened.tags({"resumed": int(record.data.tags.get("resumed", 0)) + 1})
    return reopened


def _sender(client: MlflowClient, record: RunRecord) -> Sender:
    return Sender(client, record.info.run_id, model_of(record))


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    """Id of the experiment `name`, made where there is none. A deleted one keeps its name: then "name (2)"."""
    for number in range(1, 100):
        title = name if number == 1 else f"{name} ({number})"
        found = client.get_experiment_by_name(title)
        if found is None:
            try:
                return str(client.create_experiment(title, artifact_location=location, tags=EXPERIMENT | view.tags()))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(title)  # another fit made it in this moment
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
    raise RunError(f"experiment {name!r} was deleted 99 times; name another with tracking.experiment")
