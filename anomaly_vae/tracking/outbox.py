"""What is logged, as plain data: the same entry is sent to a store, or kept on disk until a store answers again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.models.model import MLMODEL_FILE_NAME, Model
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking.client import connect, find_run, model_of, open_client
from anomaly_vae.tracking.store import cut, file_name, knock, server_uri, store_errors, store_folder


@dataclass(frozen=True)
class Point:
    """One value of a metric. when: milliseconds since 1970."""

    key: str
    value: float
    when: int
    step: int


@dataclass(frozen=True)
class Batch:
    """Points, parameters and tags, few enough for one request."""

    points: Sequence[Point] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """A dataset under Inputs; what MLflow's entity of that name takes, in its own words."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str
    context: str


@dataclass(frozen=True)
class Files:
    """The files of a local folder as artifacts in the folder `place` ("": at the top)."""

    folder: Path
    place: str


@dataclass(frozen=True)
class ModelFiles:
    """The files of the run's logged model, which is whole with them. name: what the list of models shows."""

    folder: Path
    name: str


@dataclass(frozen=True)
class End:
    """The end of the run. when: milliseconds since 1970."""

    status: str
    when: int


Entry = Batch | Data | Files | ModelFiles | End


class Sink(Protocol):
    """Where entries go, in order. Taking one twice is the same as taking it once."""

    def take(self, entry: Entry) -> None: ...


def to_json(entry: Batch | Data | End) -> dict[str, Any]:
    """An entry without files as one JSON object."""
    return {type(entry).__name__: asdict(entry)}


def from_json(tree: Mapping[str, Any]) -> Batch | Data | End:
    """The entry that `to_json` made an object of."""
    ((kind, values),) = tree.items()
    if kind == "Batch":
        return Batch([Point(**point) for point in values["points"]], values["params"], values["tags"])
    return Data(**values) if kind == "Data" else End(**values)


class Sender:
    """Writes the entries of one run. Metrics are linked to its logged model, where it has one.

    Every failure is a RunError of one line, and comes within seconds where no server listens any more.
    """

    def __init__(self, client: MlflowClient, run_id: str, model_id: str | None = None) -> None:
        self.client, self.run_id, self.model_id = client, run_id, model_id

    def take(self, entry: Entry) -> None:
        with store_errors("logging to the run"):
            knock(self.client.tracking_uri)  # MLflow's own retries would hold a fit up for minutes
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        client, run_id = self.client, self.run_id
        match entry:
            case Batch():
                points = [Metric(p.key, p.value, p.when, p.step, self.model_id) for p in entry.points]
                params = [Param(key, value) for key, value in entry.params.items()]
                tags = [RunTag(key, value) for key, value in entry.tags.items()]
                client.log_batch(run_id, metrics=points, params=params, tags=tags)
            case Data():
                data = Dataset(entry.name, entry.digest, entry.source_type, entry.source, entry.schema, entry.profile)
                client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", entry.context)])])
            case Files():
                client.log_artifacts(run_id, str(entry.folder), entry.place or None)
            case ModelFiles():
                if self.model_id is None:
                    self.new_model(entry.name)
                client.log_model_artifacts(self.model_id, str(entry.folder))
                self._sign(entry.folder / MLMODEL_FILE_NAME)
                client.finalize_logged_model(self.model_id, "READY")
            case End():
                client.set_terminated(run_id, entry.status, entry.when)
                if entry.status == "FAILED" and self.model_id:
                    client.finalize_logged_model(self.model_id, "FAILED")

    def new_model(self, name: str) -> None:
        """A logged model of the run, whose files may come later: what is logged from now on is linked to it."""
        with store_errors("making the logged model"):
            record = self.client.get_run(self.run_id)
            model = self.client.create_logged_model(record.info.experiment_id, name, self.run_id)
            step = len(record.outputs.model_outputs) if record.outputs else 0  # the latest has the largest
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
        self.model_id = str(model.model_id)

    def _sign(self, description: Path) -> None:
        """Writes the run and the id of the model into the model's own description; the file itself stays."""
        with tempfile.TemporaryDirectory() as folder:
            described = Model.load(str(description))
            described.model_id, described.model_uuid, described.run_id = self.model_id, self.model_id, self.run_id
            described.save(str(Path(folder) / description.name))
            self.client.log_model_artifacts(self.model_id, folder)


HEADER, ENTRIES, ARTIFACTS, MODEL = "run.json", "entries.jsonl", "artifacts", "model"


class Spool:
    """Takes the entries of one run onto the disk."""

    def __init__(self, folder: Path, run_id: str) -> None:
        with _disk(folder):
            (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
            (folder / HEADER).write_text(
                json.dumps({"run_id": run_id, "server": server_uri()}) + "\n", encoding="utf-8"
            )
        self.folder = folder

    def take(self, entry: Entry) -> None:
        with _disk(self.folder):
            match entry:
                case Files():
                    shutil.copytree(entry.folder, self.folder / ARTIFACTS / entry.place, dirs_exist_ok=True)
                case ModelFiles():
                    shutil.copytree(entry.folder, self.folder / MODEL / entry.name, dirs_exist_ok=True)
                case _:
                    with open(self.folder / ENTRIES, "a", encoding="utf-8") as file:
                        file.write(json.dumps(to_json(entry)) + "\n")


@dataclass(frozen=True)
class Sent:
    """What became of one waiting run. why: empty where it was sent, else what stood in the way."""

    run_id: str
    folder: Path
    why: str = ""


def folder_of(run_id: str, config: Config) -> Path:
    """Where a run waits, if it does. Nothing is created."""
    return store_folder(config) / "unsent" / file_name(run_id)


def waiting(config: Config) -> list[Path]:
    """The folders of all runs that wait to be sent."""
    return sorted(path.parent for path in (store_folder(config) / "unsent").glob(f"*/{HEADER}"))


def sync(config: Config) -> list[Sent]:
    """Sends every run that waits and has ended; one that has not may still be written to."""
    return [_try(folder, config) for folder in waiting(config)]


def _try(folder: Path, config: Config) -> Sent:
    run_id = _header(folder)["run_id"]
    if not any(isinstance(entry, End) for entry in _entries(folder)):
        return Sent(
            run_id, folder, f"has not ended; if it was killed, `anomaly-vae fit --resume {run_id}` continues it"
        )
    try:
        send(folder, config)
    except RunError as error:
        return Sent(run_id, folder, str(error))
    return Sent(run_id, folder)


def send(folder: Path, config: Config) -> None:
    """Sends one waiting run to MLFLOW_TRACKING_URI, or else to where it was begun. Raises RunError."""
    header = _header(folder)
    uri = server_uri() or header["server"]
    client = open_client(uri) if uri else connect(config)
    sender = Sender(client, header["run_id"], model_of(find_run(client, header["run_id"])))
    with _disk(folder):
        for entry in _in_order(folder):
            sender.take(entry)
        shutil.rmtree(folder)


def _in_order(folder: Path) -> Iterator[Entry]:
    """What was written line by line, then the files, then the end."""
    entries = list(_entries(folder))
    yield from (entry for entry in entries if not isinstance(entry, End))
    if any((folder / ARTIFACTS).iterdir()):
        yield Files(folder / ARTIFACTS, "")
    for model in (folder / MODEL).glob("*"):
        yield ModelFiles(model, model.name)
    yield from (entry for entry in entries if isinstance(entry, End))


def _entries(folder: Path) -> Iterator[Entry]:
    path = folder / ENTRIES
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        yield from_json(json.loads(line))


def _header(folder: Path) -> dict[str, str]:
    header: dict[str, str] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    return header


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """What the disk says, as one line."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot keep the run here ({cut(error.strerror or error, 200)})") from error
