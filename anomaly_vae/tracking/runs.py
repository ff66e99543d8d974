"""Starting and ending a run: a new one, the continuation of a killed one, or more entries for an ended one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking import metadata, outbox
from anomaly_vae.tracking.alive import Alive, has_process
from anomaly_vae.tracking.client import connect, find_run, model_of
from anomaly_vae.tracking.outbox import Sender
from anomaly_vae.tracking.recording import NAME_LENGTH, TrackedRun, model_title, run_title
from anomaly_vae.tracking.run import NoRun, Run
from anomaly_vae.tracking.store import clean, cut, server_uri, store_errors, store_folder

EPOCH_METRIC = "train/loss"  # every epoch logs it


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
    """A new run, or the continuation of the run `resume`.

    parent: id of the run that a new one is nested under. model: name of the run's logged model, whose files come
    later; all metrics of the run are linked to it.

    The run ends FINISHED; FAILED on an Exception or KILLED on KeyboardInterrupt and SystemExit, both with the tag
    `error` = "Type: message", and the exception is raised again. Raises RunError where the store cannot be written or
    reached at the start. A store that fails later does not end the run, which is then kept on disk (`Run.lost`) for
    `sync`.
    """
    if not config.tracking.enabled:
        yield NoRun()
        return
    client = connect(config, write=True)
    if resume is not None:
        run = _reopen(client, config, resume)
    else:
        run = _create(client, config, data_name, run_name, parent, model)
    alive = Alive(run.run_id, config)
    try:
        yield run
        run.end("FINISHED")
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        alive.end("" if run.end(status, error) else status)
        raise
    alive.end()
    if run.lost:
        with suppress(RunError):  # the store may be back
            outbox.send(run.lost[0], config)
            run.lost = None


@contextmanager
def update(run_id: str, config: Config, *, model: str | None = None) -> Iterator[Run]:
    """An ended run, to log more to; its status and times stay as they are. Raises RunError.

    model: name of a new logged model, beside the one that the run has and that may be in use.
    """
    if not config.tracking.enabled:
        yield NoRun()
        return
    client = connect(config, write=True)
    record = find_run(client, run_id)
    sender = Sender(client, record.info.run_id, model_of(record))
    if model:
        sender.new_model(model_title(model))
    run = TrackedRun(sender, record.info.run_id, title=record.info.run_name, logged_params=record.data.params)
    try:
        yield run
    finally:
        run.flush()


def _create(
    client: MlflowClient, config: Config, data_name: str, run_name: str, parent: str | None, model: str | None
) -> TrackedRun:
    """A new run in its experiment."""
    location = None if server_uri() else (store_folder(config) / "artifacts").as_uri()
    name = cut(clean(config.tracking.experiment or data_name) or "anomaly-vae", NAME_LENGTH - 5)
    tags = metadata.run_tags()
    if parent:
        tags["mlflow.parentRunId"] = find_run(client, parent).info.run_id
    with store_errors("starting a run"):
        experiment_id = _experiment_id(client, name, location)
        record = client.create_run(experiment_id, tags=tags, run_name=run_title(run_name) or None)
    run_id = record.info.run_id
    sender = Sender(client, run_id)
    if model:
        sender.new_model(model_title(model))
    return TrackedRun(sender, run_id, spool_folder=outbox.spool_folder(run_id, config))


def _reopen(client: MlflowClient, config: Config, run: str) -> TrackedRun:
    """A killed run, running again, with the tag `resumed` that counts its continuations."""
    record = find_run(client, run)
    run_id = record.info.run_id
    if has_process(run_id, config):
        raise RunError(f"run {run_id} has a process that goes on with it; wait for it, or stop it")
    spool_folder = outbox.spool_folder(run_id, config)
    if spool_folder.is_dir():  # entries from between the loss of the store and the end of the process
        outbox.send(spool_folder, config)
    with store_errors("continuing the run"):
        client.update_run(run_id, status="RUNNING")
        if "error" in record.data.tags:
            client.delete_tag(run_id, "error")
        logged_epochs = frozenset(point.step for point in client.get_metric_history(run_id, EPOCH_METRIC))
    reopened = TrackedRun(
        Sender(client, run_id, model_of(record)),
        run_id,
        logged_params=record.data.params,
        logged_epochs=logged_epochs,
        spool_folder=spool_folder,
    )
    reopened.tags({"resumed": int(record.data.tags.get("resumed", 0)) + 1})
    return reopened


def _experiment_id(client: MlflowClient, name: str, location: str | None) -> str:
    """Id of the experiment `name`, which is made if there is none. A deleted one keeps its name: then "name (2)"."""
    for number in range(1, 100):
        title = name if number == 1 else f"{name} ({number})"
        experiment = client.get_experiment_by_name(title)
        if experiment is None:
            try:
                tags = metadata.experiment_tags()
                return str(client.create_experiment(title, artifact_location=location, tags=tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(title)  # another fit made it in this moment
        if experiment is not None and experiment.lifecycle_stage == "active":
            for key, value in metadata.experiment_tags(experiment.tags).items():
                client.set_experiment_tag(experiment.experiment_id, key, value)
            return str(experiment.experiment_id)
    raise RunError(f"experiment {name!r} was deleted 99 times; name another with tracking.experiment")
