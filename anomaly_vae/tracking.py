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
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from anomaly_vae.config import Config
from anomaly_vae.errors import RunError

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

    def params(self, params: Mapping[str, Any]) -> None: ...
    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None: ...
    def metrics(self, metrics: Mapping[str, float | None]) -> None: ...
    def tags(self, tags: Mapping[str, Any]) -> None: ...
    def figure(self, figure: Any, name: str) -> None: ...
    def dataset(self, *, name: str, source: str, digest: str, rows: int, columns: Columns, context: str) -> None: ...
    def detector(self, folder: Path) -> None: ...
    def text(self, text: str, name: str) -> None: ...


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
        texts = {_key(key): _cut(value, PARAM_LENGTH) for key, value in params.items()}
        new = [Param(key, text) for key, text in texts.items() if key not in self._logged]
        changed = {f"resumed.{key}": text for key, text in texts.items() if self._logged.get(key, text) != text}
        with _store_errors("logging parameters"):
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
        with _store_errors("logging metrics"):
            for start in range(0, len(points), METRICS_A_BATCH):
                self._client.log_batch(self.run_id, metrics=points[start : start + METRICS_A_BATCH])

    def tags(self, tags: Mapping[str, Any]) -> None:
        with _store_errors("logging tags"):
            items = [RunTag(_key(key), _cut(value, TAG_LENGTH)) for key, value in tags.items()]
            for start in range(0, len(items), PARAMS_A_BATCH):
                self._client.log_batch(self.run_id, tags=items[start : start + PARAMS_A_BATCH])

    def figure(self, figure: Any, name: str) -> None:
        """A matplotlib Figure as figures/NAME.png; the figure is emptied, for its memory."""
        with _store_errors(f"logging figure {name}"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{_file(name)}.png"
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
            name=_cut(_clean(name) or "data", 500),
            digest=digest[:36],  # MLflow's limit
            source_type="http" if web else "local",
            source=json.dumps({"url" if web else "uri": source}),
            schema=_schema(columns),
            profile=json.dumps({"num_rows": rows, "num_columns": width, "num_elements": rows * width}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        with _store_errors("logging the dataset"):
            self._client.log_inputs(self.run_id, [DatasetInput(record, tags)])

    def detector(self, folder: Path) -> None:
        """The saved detector as the artifact folder detector/; what was there before is replaced file by file."""
        with _store_errors("logging the detector"):
            self._client.log_artifacts(self.run_id, str(folder), DETECTOR)
        self.tags({DETECTOR: DETECTOR})

    def text(self, text: str, name: str) -> None:
        """A text file among the artifacts; `name` may hold folders, e.g. "report/summary.md"."""
        path = "/".join(_file(part) for part in name.split("/") if part not in ("", ".", ".."))
        with _store_errors(f"logging {name}"):
            self._client.log_text(self.run_id, text, path)

    def _end(self, status: str, error: BaseException | None = None) -> None:
        if error is not None:
            with suppress(RunError):  # a store that fails now must not hide what ended the run
                self.tags({"error": f"{type(error).__name__}: {error}"})
                self._end(status)
            return
        self._send()
        with _store_errors("ending the run"):
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


def store_uri(config: Config) -> str:
    """Address of the tracking store."""
    remote = os.environ.get("MLFLOW_TRACKING_URI")
    return remote if remote else f"sqlite:///{_folder(config) / 'mlflow.db'}"


def checkpoint_folder(run_id: str, config: Config) -> Path:
    """Where the checkpoints of a run are; always local, beside the local store. Nothing is created."""
    return _folder(config) / "checkpoints" / _file(run_id)


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
        with _store_errors("looking for the latest run"):
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
        why = f" ({_cut(_clean(error), 200)})" if error else ""
        raise RunError(f"run {run_id} is {status}, not finished{why}; `anomaly-vae fit --resume {run_id}` continues it")
    local = _folder(config) / "artifacts" / run_id / "artifacts" / DETECTOR
    if not os.environ.get("MLFLOW_TRACKING_URI") and local.is_dir():
        return run_id, local  # also after the folder of the store was moved, when the recorded address is stale
    with _store_errors(f"reading the detector of run {run_id}"):
        if not client.list_artifacts(run_id, DETECTOR):
            raise RunError(f"run {run_id} has no detector; {RUNS_HINT}")
        return run_id, Path(client.download_artifacts(run_id, DETECTOR))


def list_runs(config: Config, limit: int = 20) -> list[dict[str, Any]]:
    """The latest runs, newest first: run_id, name, experiment, status, started (ISO 8601), kind, model, auroc, auprc,
    f1, seconds, detector (whether it has one) and parent. What a run has not logged is None."""
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (_folder(config) / "mlflow.db").exists():
        return []
    client = _client(config)
    with _store_errors("listing the runs"):
        names = {experiment.experiment_id: experiment.name for experiment in _all_experiments(client)}
        records = client.search_runs(list(names), order_by=["attributes.start_time DESC"], max_results=limit)
    return [_row(record, names) for record in records]


def serve_ui(config: Config, host: str = "127.0.0.1", port: int = 5000) -> None:
    """MLflow's UI on the store, in the foreground until Ctrl-C. The address goes to stderr. Raises RunError."""
    remote = os.environ.get("MLFLOW_TRACKING_URI", "")
    if remote.startswith(("http://", "https://")):
        raise RunError(f"the runs are on the server at {remote} (MLFLOW_TRACKING_URI): open that address")
    _client(config, write=True)  # the store exists, and its errors are told before a server starts
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(f"cannot listen on {host}:{port} ({error.strerror}); try --port {port + 1}") from error
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(config)]
    command += ["--default-artifact-root", (_folder(config) / "artifacts").as_uri(), "--workers", "1"]
    command += ["--host", host, "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    sys.stderr.write(f"MLflow UI on {store_uri(config)}: http://{host}:{port}  (Ctrl-C ends it)\n")
    sys.stderr.flush()
    # PYTHONSAFEPATH: a types.py or random.py in the user's folder must not shadow the standard library.
    # MLflow's job runners evaluate language models; they would double the time to start.
    quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    quiet |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**quiet, **os.environ, "PYTHONSAFEPATH": "1"}
    # In a session of its own, so that Ctrl-C reaches this process alone and the server is ended in order.
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the server would outlive this process
    try:
        code = server.wait()
    except KeyboardInterrupt:
        code = 0
    finally:
        _stop(server)
        signal.signal(signal.SIGTERM, previous)
    if code:
        raise RunError(f"the MLflow server ended with code {code}; what it printed is above")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, which are one session."""
    for sign, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if server.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(server.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            server.wait(seconds)


def _folder(config: Config) -> Path:
    return Path(config.tracking.folder).expanduser().absolute()


def _client(config: Config, *, write: bool = False) -> MlflowClient:
    """A client of the store, which exists and answers; with `write` a local one is created. Raises RunError."""
    remote = os.environ.get("MLFLOW_TRACKING_URI")
    if remote:
        _knock(remote)
    else:
        _local_store(_folder(config), write)
    with _store_errors(f"opening {store_uri(config)}"):
        return MlflowClient(store_uri(config))


def _knock(uri: str) -> None:
    """Whether a server listens: MLflow's own retries would take minutes to say that it does not."""
    address = urlsplit(uri)
    proxied = any(os.environ.get(name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"))
    if address.scheme not in ("http", "https") or proxied or not address.hostname:
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=10).close()
    except OSError as error:
        raise RunError(
            f"no MLflow server answers at {uri} (MLFLOW_TRACKING_URI; {error.strerror or error}); start it, or unset"
            " the variable to use the local store, or turn tracking off with --set tracking.enabled=false"
        ) from error


def _local_store(folder: Path, write: bool) -> None:
    """Check the sqlite store in `folder`, and create it for a writer. Raises RunError.

    MLflow would find the same faults, after retrying for 100 s with a traceback each time.
    """
    if {"%", "?"} & set(str(folder)):
        raise RunError(f"{folder}: MLflow cannot keep its store in a folder whose path has '%' or '?'; set"
                       " tracking.folder to another")  # fmt: skip
    database = folder / "mlflow.db"
    instead = "set tracking.folder to a folder that can be written, or tracking.enabled to false"
    if not database.exists():
        if not write:
            raise RunError(f"no runs in {folder} yet; `anomaly-vae fit` makes one, -m FOLDER names a saved detector")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _create_store(database)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"{folder}: cannot keep runs here ({_reason(error)}); {instead}") from error
    elif not database.stat().st_size:
        raise RunError(f"{database} is empty; delete it, and it is made anew")
    try:
        with sqlite3.connect(f"{database.as_uri()}?mode={'rw' if write else 'ro'}", uri=True, timeout=20) as connection:
            if write:
                # A write that changes nothing.
                connection.execute("UPDATE alembic_version SET version_num = version_num")
                connection.rollback()
            else:
                connection.execute("SELECT count(*) FROM sqlite_master")
        connection.close()
    except sqlite3.Error as error:
        raise RunError(f"{database}: cannot use this store of runs ({_reason(error)}); {instead}") from error


def _create_store(database: Path) -> None:
    """A fresh store, made beside its place and linked in whole.

    Two fits may do this at once, and a killed one leaves no half-made store: the first link wins. MLflow builds the
    schema by 70 migrations, each waiting for the disk; a file that is not in place yet needs no such care, so the
    waiting is switched off while it is made.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def unsynced(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    with tempfile.TemporaryDirectory(prefix=".new-store-", dir=database.parent) as scratch:
        fresh = Path(scratch) / database.name
        event.listen(Engine, "connect", unsynced)
        try:
            with _store_errors(f"creating {database}"):
                SqlAlchemyStore(f"sqlite:///{fresh}", (database.parent / "artifacts").as_uri()).engine.dispose()
        finally:
            event.remove(Engine, "connect", unsynced)
        with suppress(FileExistsError):
            try:
                os.link(fresh, database)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                if not database.exists():
                    os.rename(fresh, database)


def _create(client: MlflowClient, config: Config, data_name: str, run_name: str, parent: str | None) -> MlflowRun:
    remote = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    location = None if remote else (_folder(config) / "artifacts").as_uri()
    name = _cut(_clean(config.tracking.experiment or data_name) or "anomaly-vae", NAME_LENGTH - 5)
    tags = {"mlflow.source.name": "anomaly-vae", "mlflow.source.type": "LOCAL"}
    with suppress(Exception):  # no name for this user id, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    if parent:
        tags["mlflow.parentRunId"] = _find(client, config, parent).info.run_id
    with _store_errors("starting a run"):
        experiment = _experiment(client, name, location)
        record = client.create_run(experiment, tags=tags, run_name=_cut(_clean(run_name), NAME_LENGTH) or None)
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
    with _store_errors("continuing the run"):
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
    with _store_errors(f"looking for run {run}"):
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


@contextmanager
def _store_errors(doing: str) -> Iterator[None]:
    """What the store raises, as one line."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # MlflowException, SQLAlchemy's, requests', OSError: MLflow lets them all through
        raise RunError(f"{doing}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error).split("\n(Background on this error")[0]
    return _cut(_clean(text) or type(error).__name__, 500)


def _clean(text: str) -> str:
    """Without line ends, control characters and doubled spaces; slashes, quotes and letters of any script stay."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def _key(name: str) -> str:
    """A name that MLflow takes for a parameter, metric or tag."""
    key = re.sub(r"[^\w.\- /]", "_", name).strip("/. ") or "_"
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:NAME_LENGTH] or "_"


def _file(name: str) -> str:
    """A file name on every system."""
    return re.sub(r"[^\w.\-]+", "_", name).strip(".") or "_"
