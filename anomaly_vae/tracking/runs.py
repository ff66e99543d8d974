"""Writing a run: what a fit logs, and the beginning and the end of it."""

from __future__ import annotations

import getpass
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities import Run as RunRecord
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from anomaly_vae.config import Config
from anomaly_vae.errors import RunError
from anomaly_vae.store import clean, cut, file_name, server_uri, store_errors, store_folder
from anomaly_vae.tracking.client import connect, find_run

DETECTOR = "detector"  # artifact folder of the detector, and the tag of the runs that have one
CURVE = "loss"  # a metric of every epoch
NAME_LENGTH = 250  # of a run, an experiment or a key: what MLflow's columns hold
PARAM_LENGTH, TAG_LENGTH = 6000, 5000
PARAMS_A_BATCH = 25  # a request is at most 1 MB: 25 values of 6000 characters, each up to 6 bytes in JSON
METRICS_A_BATCH = 1000
SECONDS_BETWEEN = 1.0  # of two sendings of epochs

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
    def model(self, folder: Path, name: str) -> str: ...
    def text(self, text: str, name: str) -> None: ...


class NoRun:
    """Tracking is off: everything is accepted and nothing is kept."""

    run_id = ""

    def _nothing(self, *_: Any, **__: Any) -> None: ...

    params = epoch = metrics = tags = figure = dataset = detector = text = _nothing

    def model(self, *_: Any) -> str:
        return ""


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
        self._model_id: str | None = None  # the logged model that metrics are linked to
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
                self._waiting.append(Metric(_key(key), finite, self._clock, self._steps.get(key, 0), self._model_id))

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

    def model(self, folder: Path, name: str) -> str:
        """The saved MLflow model in `folder` (its MLmodel file and what belongs to it) as a model of the run; its id.

        Metrics that are logged later are linked to it. `name` is what the list of models shows.
        """
        with store_errors("logging the model"):
            record = self._client.get_run(self.run_id)
            title = re.sub(r"""[/:.%"']+""", "-", cut(clean(name), NAME_LENGTH)).strip("- ") or "detector"
            model = self._client.create_logged_model(record.info.experiment_id, title, self.run_id)
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, 0)])
            self._client.log_model_artifacts(model.model_id, str(folder))
            self._client.finalize_logged_model(model.model_id, "READY")
        self._model_id = str(model.model_id)
        return self._model_id

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
    client = connect(config, write=True)
    if resume is not None:
        run = _reopen(client, find_run(client, config, resume))
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
    client = connect(config, write=True)
    record = find_run(client, config, run_id)
    run = MlflowRun(client, record.info.run_id, record.data.params)
    try:
        yield run
    finally:
        run._send()


def _create(client: MlflowClient, config: Config, data_name: str, run_name: str, parent: str | None) -> MlflowRun:
    location = None if server_uri() else (store_folder(config) / "artifacts").as_uri()
    name = cut(clean(config.tracking.experiment or data_name) or "anomaly-vae", NAME_LENGTH - 5)
    tags = {"mlflow.source.name": "anomaly-vae", "mlflow.source.type": "LOCAL"}
    with suppress(Exception):  # no name for this user id, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    if parent:
        tags["mlflow.parentRunId"] = find_run(client, config, parent).info.run_id
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
