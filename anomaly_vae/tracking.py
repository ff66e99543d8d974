"""Runs on MLflow: one run a fit, in a local sqlite store or on the server that MLFLOW_TRACKING_URI names.

The only importer of mlflow, which takes about 2 s to import: import this module late. Everything goes through one
`MlflowClient` bound to one address; MLflow's global state (active run, tracking address) is never touched, so a
program that uses MLflow itself is not disturbed. Every failure of the store is a RunError of one line.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from anomaly_vae.config import Config
from anomaly_vae.errors import RunError
from anomaly_vae.store import check_store, clean, cut, file_name, server_uri, store_errors, store_folder, store_uri

# A run is its owner's business: MLflow's usage reports stay off unless the environment says otherwise.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.entities import Run as RunRecord
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

if "MLFLOW_LOGGING_LEVEL" not in os.environ:
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # This one logs a traceback of what it also raises; the RunError made of it says it once.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

DETECTOR = "detector"  # artifact folder of the detector, and the tag of the runs that have one
CURVE = "loss"  # a metric of every epoch
NAME_LENGTH = 250  # of a run, an experiment or a key: what MLflow's columns hold
PARAM_LENGTH, TAG_LENGTH = 6000, 5000
PARAMS_A_BATCH = 25  # a request is at most 1 MB: 25 values of 6000 characters, each up to 6 bytes in JSON
METRICS_A_BATCH = 1000
SECONDS_BETWEEN = 1.0  # of two sendings of epochs
RUNS_HINT = "`anomaly-vae runs` lists the runs there are"


Columns = int | Sequence[str] | Mapping[str, str]  # how many, their names, or name -> MLflow's type


class Run(Protocol):
    """Where a fit writes what it finds. `run_id` is "" where tracking is off."""

    run_id: str

    def params(self, params: Mapping[str, Any]) -> None: ...
    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None: ...
    def metrics(self, metrics: Mapping[str, float | None]) -> None: ...
    def tags(self, tags: Mapping[str, Any]) -> None: ...
    def figure(self, figure: Any, name: str) -> None: ...
    def dataset(self, *, name: str, source: str, digest: str, rows: int, columns: Columns, context: str) -> None: ...
    def detector(self, folder: Path) -> None: ...
    def text(self, text: str, name: str) -> None: ...


class NoRun:
    """Tracking is off: everything is accepted and nothing is kept."""

    run_id = ""

    def _nothing(self, *_: Any, **__: Any) -> None: ...

    params = epoch = metrics = tags = figure = dataset = detector = text = _nothing


class MlflowRun:
    """One MLflow run. Each method raises RunError where the store refuses or cannot be reached."""

    def __init__(self, client: MlflowClient, run_id: str, logged: Mapping[str, str] | None = None):
        """`logged`: the parameters that a continued run already has; MLflow never changes one."""
        self._client = client
        self._logged = dict(logged or {})
        self._steps: dict[str, int] = {}  # of the metrics with a curve, the latest
        self._had: frozenset[int] = frozenset()  # epochs that a continued run was sent already
        self._waiting: list[Metric] = []
        self._clock = 0
        self._sent = -math.inf  # seconds; when metrics were last sent
        self.run_id = run_id

    def params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run; over-long values are cut. What a continued run has otherwise becomes a tag."""
        texts = {_key(key): cut(value, PARAM_LENGTH) for key, value in params.items()}
        new = [Param(key, text) for key, text in texts.items() if key not in self._logged]
        changed = {f"resumed.{key}": text for key, text in texts.items() if self._logged.get(key, text) != text}
        with store_errors("logging parameters"):
            for start in range(0, len(new), PARAMS_A_BATCH):
                self._client.log_batch(self.run_id, params=new[start : start + PARAMS_A_BATCH])
        self._logged = {**texts, **self._logged}
        self.tags(changed)

    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One point of each curve. None is left out; an infinity is kept as NaN, a gap in the curve, because MLflow
        would draw it as 1.8e308 and flatten everything else.

        Sent at once where the last was sent a second ago, else with the next: the store waits for the disk at each
        call, which would cost more than a short epoch takes. A killed run has thus lost its last second of points;
        its continuation brings all epochs, and those that the store has are passed over.
        """
        if step in self._had:
            return
        self._steps.update(dict.fromkeys(metrics, step))
        self._wait(metrics)
        if time.monotonic() - self._sent >= SECONDS_BETWEEN:
            self._send()

    def metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Final numbers, such as AUROC. One that has a curve ends it: MLflow shows the value of the latest step."""
        self._wait(metrics)
        self._send()

    def _wait(self, metrics: Mapping[str, float | None]) -> None:
        # Milliseconds since 1970, later at each call: of values at the same step and time MLflow shows the largest.
        self._clock = max(int(time.time() * 1000), self._clock + 1)
        for key, value in metrics.items():
            if value is not None:
                finite = float(value) if math.isfinite(value) else math.nan
                self._waiting.append(Metric(_key(key), finite, self._clock, self._steps.get(key, 0)))

    def _send(self) -> None:
        points, self._waiting, self._sent = self._waiting, [], time.monotonic()
        with store_errors("logging metrics"):
            for start in range(0, len(points), METRICS_A_BATCH):
                self._client.log_batch(self.run_id, metrics=points[start : start + METRICS_A_BATCH])

    def tags(self, tags: Mapping[str, Any]) -> None:
        with store_errors("logging tags"):
            items = [RunTag(_key(key), cut(value, TAG_LENGTH)) for key, value in tags.items()]
            for start in range(0, len(items), PARAMS_A_BATCH):
                self._client.log_batch(self.run_id, tags=items[start : start + PARAMS_A_BATCH])

    def figure(self, figure: Any, name: str) -> None:
        """A matplotlib Figure as figures/NAME.png; the figure is emptied, for its memory."""
        with store_errors(f"logging figure {name}"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{file_name(name)}.png"
            figure.savefig(path)
            figure.clear()
            self._client.log_artifact(self.run_id, str(path), "figures")

    def dataset(self, *, name: str, source: str, digest: str, rows: int, columns: Columns, context: str) -> None:
        """A dataset under Inputs: where it came from (path or URL), its digest and size; never the data itself.

        `context` says what it was for, e.g. "training"; `columns` with names becomes the schema. The record is the one
        that mlflow.data writes, so `mlflow.data.get_source` reads it.
        """
        web = source.startswith(("http://", "https://"))
        width = columns if isinstance(columns, int) else len(columns)
        record = Dataset(
            name=cut(clean(name) or "data", 500),
            digest=digest[:36],  # MLflow's limit
            source_type="http" if web else "local",
            source=json.dumps({"url" if web else "uri": source}),
            schema=_schema(columns),
            profile=json.dumps({"num_rows": rows, "num_columns": width, "num_elements": rows * width}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        with store_errors("logging the dataset"):
            self._client.log_inputs(self.run_id, [DatasetInput(record, tags)])

    def detector(self, folder: Path) -> None:
        """The saved detector as the artifact folder detector/; what was there before is replaced file by file."""
        with store_errors("logging the detector"):
            self._client.log_artifacts(self.run_id, str(folder), DETECTOR)
        self.tags({DETECTOR: DETECTOR})

    def text(self, text: str, name: str) -> None:
        """A text file among the artifacts; `name` may hold folders, e.g. "report/summary.md"."""
        path = "/".join(file_name(part) for part in name.split("/") if part not in ("", ".", ".."))
        with store_errors(f"logging {name}"):
            self._client.log_text(self.run_id, text, path)

    def _end(self, status: str, error: BaseException | None = None) -> None:
        if error is not None:
            with suppress(RunError):  # a store that fails now must not hide what ended the run
                self.tags({"error": f"{type(error).__name__}: {error}"})
                self._end(status)
            return
        self._send()
        with store_errors("ending the run"):
            self._client.set_terminated(self.run_id, status)


@contextmanager
def start(
    config: Config, *, data_name: str, run_name: str, resume: str | None = None, parent: str | None = None
) -> Iterator[Run]:
    """A new run, or with `resume` the continuation of that one; nested under the run `parent` where given.

    It ends FINISHED, FAILED on an Exception or KILLED on KeyboardInterrupt and SystemExit, both with the tag `error`
    = "Type: message"; what was raised goes on. Raises RunError where the store cannot be written or reached.
    """
    if not config.tracking.enabled:
        yield NoRun()
        return
    client = _client(config, write=True)
    if resume is not None:
        run = _reopen(client, _find(client, config, resume))
    else:
        run = _create(client, config, data_name, run_name, parent)
    try:
        yield run
    except Exception as error:
        run._end("FAILED", error)
        raise
    except BaseException as error:
        run._end("KILLED", error)
        raise
    run._end("FINISHED")


@contextmanager
def parent_run(config: Config, *, data_name: str, run_name: str) -> Iterator[Run]:
    """The run that a study's runs are nested under: pass its `run_id` to `start` as `parent`."""
    with start(config, data_name=data_name, run_name=run_name) as run:
        run.tags({"kind": "study"})
        yield run


@contextmanager
def update(run_id: str, config: Config) -> Iterator[Run]:
    """An ended run, to log further things on it; its status and times stay as they are. Raises RunError."""
    if not config.tracking.enabled:
        yield NoRun()
        return
    client = _client(config, write=True)
    record = _find(client, config, run_id)
    run = MlflowRun(client, record.info.run_id, record.data.params)
    try:
        yield run
    finally:
        run._send()


def require_store(config: Config) -> None:
    """The store exists and takes runs; a local one is made where there is none. Raises RunError."""
    _client(config, write=True)


def run_params(run_id: str, config: Config) -> dict[str, str]:
    """The parameters of a run, as logged. Raises RunError for an unknown run."""
    return dict(_find(_client(config), config, run_id).data.params)


def full_run_id(run: str, config: Config) -> str:
    """The whole id of a run given by the first 6 or more characters of it. Raises RunError."""
    return str(_find(_client(config), config, run).info.run_id)


def detector_folder(run: str | None, config: Config) -> Path:
    """Local folder of the detector of a run; see `find_detector`."""
    return find_detector(run, config)[1]


def find_detector(run: str | None, config: Config) -> tuple[str, Path]:
    """Id of a run and local folder of its detector; None: of the last run to finish, over all experiments.

    `run` is a run id or the first 6 or more characters of one. From a server, the detector is downloaded into a
    temporary folder. Raises RunError for a run that is unknown, not finished or without a detector.
    """
    client = _client(config)
    if run is None:
        with store_errors("looking for the latest run"):
            found = client.search_runs(
                _experiments(client),
                filter_string=f"attributes.status = 'FINISHED' and tags.{DETECTOR} = '{DETECTOR}'",
                order_by=["attributes.end_time DESC"],
                max_results=1,
            )
        if not found:
            raise RunError(f"no finished run with a detector in {store_uri(config)}; `anomaly-vae fit` makes one")
        record = found[0]
    else:
        record = _find(client, config, run)
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
    client = _client(config)
    with store_errors("listing the runs"):
        names = {experiment.experiment_id: experiment.name for experiment in _all_experiments(client)}
        records = client.search_runs(list(names), order_by=["attributes.start_time DESC"], max_results=limit)
    return [_row(record, names) for record in records]


def _client(config: Config, *, write: bool = False) -> MlflowClient:
    """A client of the store, which exists and answers; with `write` a local one is created. Raises RunError."""
    check_store(config, _create_schema if write else None)
    with store_errors(f"opening {store_uri(config)}"):
        return MlflowClient(store_uri(config))


def _create_schema(database: Path, artifacts: Path) -> None:
    """A new sqlite store. MLflow builds its schema by 70 migrations, each waiting for the disk; a file that is not in
    place yet needs no such care, so the waiting is switched off while it is made."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def unsynced(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", unsynced)
    try:
        SqlAlchemyStore(f"sqlite:///{database}", artifacts.as_uri()).engine.dispose()
    finally:
        event.remove(Engine, "connect", unsynced)


def _create(client: MlflowClient, config: Config, data_name: str, run_name: str, parent: str | None) -> MlflowRun:
    location = None if server_uri() else (store_folder(config) / "artifacts").as_uri()
    name = cut(clean(config.tracking.experiment or data_name) or "anomaly-vae", NAME_LENGTH - 5)
    tags = {"mlflow.source.name": "anomaly-vae", "mlflow.source.type": "LOCAL"}
    with suppress(Exception):  # no name for this user id, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    if parent:
        tags["mlflow.parentRunId"] = _find(client, config, parent).info.run_id
    with store_errors("starting a run"):
        experiment = _experiment(client, name, location)
        record = client.create_run(experiment, tags=tags, run_name=cut(clean(run_name), NAME_LENGTH) or None)
    return MlflowRun(client, record.info.run_id)


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    """Id of the experiment `name`, made where there is none. A deleted one keeps its name: then "name (2)"."""
    for number in range(1, 100):
        title = name if number == 1 else f"{name} ({number})"
        found = client.get_experiment_by_name(title)
        if found is None:
            try:
                return str(client.create_experiment(title, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(title)  # another fit made it in this moment
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
    raise RunError(f"experiment {name!r} was deleted 99 times; name another with tracking.experiment")


def _reopen(client: MlflowClient, record: RunRecord) -> MlflowRun:
    run = MlflowRun(client, record.info.run_id, record.data.params)
    with store_errors("continuing the run"):
        client.update_run(run.run_id, status="RUNNING")
        if "error" in record.data.tags:
            client.delete_tag(run.run_id, "error")
        run._had = frozenset(point.step for point in client.get_metric_history(run.run_id, CURVE))
    run.tags({"resumed": int(record.data.tags.get("resumed", 0)) + 1})
    return run


def _find(client: MlflowClient, config: Config, run: str) -> RunRecord:
    """The run with this id or unique beginning of an id, of at least 6 characters. Raises RunError."""
    if not re.fullmatch(r"[0-9A-Za-z][\w-]{5,255}", run):
        raise RunError(f"{run!r} is no run id (6 to 32 letters and digits); {RUNS_HINT}")
    with store_errors(f"looking for run {run}"):
        if len(run) >= 32:
            try:
                found = [client.get_run(run)]
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                found = []
        else:
            pattern = f"attributes.run_id LIKE '{run}%'"
            found = list(client.search_runs(_experiments(client), filter_string=pattern, max_results=3))
    found = [record for record in found if record.info.lifecycle_stage == "active"]
    if not found:
        raise RunError(f"no run {run} in {store_uri(config)}; {RUNS_HINT}")
    if len(found) > 1:
        raise RunError(f"{run} is the beginning of several runs ({', '.join(r.info.run_id for r in found)}); say more")
    return found[0]


def _all_experiments(client: MlflowClient) -> list[Any]:
    experiments: list[Any] = []
    token = None
    while True:
        page = client.search_experiments(view_type=ViewType.ACTIVE_ONLY, page_token=token)
        experiments += page
        token = page.token
        if not token:
            return experiments


def _experiments(client: MlflowClient) -> list[str]:
    return [experiment.experiment_id for experiment in _all_experiments(client)]


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


def _schema(columns: Columns) -> str | None:
    """MLflow's column schema; None where there are no names, or more than its limit of 1,048,575 characters holds."""
    if isinstance(columns, int):
        return None
    kinds = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "any")
    colspec = [{"type": kind, "name": key, "required": True} for key, kind in kinds.items()]
    spec = json.dumps({"mlflow_colspec": colspec})
    return spec if len(spec) <= 1_048_575 else None


def _key(name: str) -> str:
    """A name that MLflow takes for a parameter, metric or tag."""
    key = re.sub(r"[^\w.\- /]", "_", name).strip("/. ") or "_"
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:NAME_LENGTH] or "_"
