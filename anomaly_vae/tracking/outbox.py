"""The outbox: what a run logs, as plain data, on its way to the store.

`TrackedRun` makes an entry of everything it logs. A `Sender` writes entries to the store at once. Where the store
stops answering, a `Spool` keeps them in a local folder instead, so that no fit ends because of its store; `sync` sends
these folders later. Writing an entry twice has the effect of writing it once, so an interrupted `sync` is repeated.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.models.model import MLMODEL_FILE_NAME, Model
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.core.files import scratch_folder
from anomaly_vae.tracking import alive
from anomaly_vae.tracking.client import connect, find_run, model_of, open_client
from anomaly_vae.tracking.store import cut, file_name, knock, server_uri, store_errors, unsent

# --- entries: what is logged ---------------------------------------------------------------------------------------
# The names of these classes and fields are the format of a waiting run's entries.jsonl.


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
    """A dataset under Inputs: the fields of MLflow's entity Dataset, and the context, e.g. "training"."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str
    context: str


@dataclass(frozen=True)
class Files:
    """The files of a local folder, as artifacts in the folder `place` ("": at the top)."""

    folder: Path
    place: str


@dataclass(frozen=True)
class ModelFiles:
    """The files of the run's logged model, which they complete. name: what the list of models shows."""

    folder: Path
    name: str


@dataclass(frozen=True)
class End:
    """The end of the run. when: milliseconds since 1970."""

    status: str
    when: int


Entry = Batch | Data | Files | ModelFiles | End


class EntryWriter(Protocol):
    """Writes the entries of one run, in order: a Sender or a Spool."""

    def write(self, entry: Entry) -> None: ...


# --- to the store --------------------------------------------------------------------------------------------------


class Sender:
    """Writes the entries of one run to its store. Metrics are linked to the run's logged model, if it has one.

    Every failure is a RunError of one line, and is raised within seconds once no server listens any more.
    """

    def __init__(self, client: MlflowClient, run_id: str, model_id: str | None = None) -> None:
        self.client, self.run_id, self.model_id = client, run_id, model_id

    def write(self, entry: Entry) -> None:
        """Raises RunError."""
        with store_errors("logging to the run"):
            knock(self.client.tracking_uri)  # MLflow's own retries would hold a fit up for minutes
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        client, run_id = self.client, self.run_id
        match entry:
            case Batch():
                points = [
                    Metric(
                        key=point.key, value=point.value, timestamp=point.when, step=point.step, model_id=self.model_id
                    )
                    for point in entry.points
                ]
                params = [Param(key, value) for key, value in entry.params.items()]
                tags = [RunTag(key, value) for key, value in entry.tags.items()]
                client.log_batch(run_id, metrics=points, params=params, tags=tags)
            case Data():
                dataset = Dataset(
                    name=entry.name,
                    digest=entry.digest,
                    source_type=entry.source_type,
                    source=entry.source,
                    schema=entry.schema,
                    profile=entry.profile,
                )
                client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", entry.context)])])
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
        """Makes a logged model of the run, whose files may come later; metrics logged from now on are linked to it."""
        with store_errors("making the logged model"):
            record = self.client.get_run(self.run_id)
            model = self.client.create_logged_model(record.info.experiment_id, name, self.run_id)
            step = len(record.outputs.model_outputs) if record.outputs else 0  # the latest has the largest
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
        self.model_id = str(model.model_id)

    def _sign(self, description: Path) -> None:
        """Logs a copy of the model's description (MLmodel) with the ids of run and model; the file itself stays."""
        with scratch_folder() as folder:
            model = Model.load(str(description))
            model.model_id, model.model_uuid, model.run_id = self.model_id, self.model_id, self.run_id
            model.save(str(folder / description.name))
            self.client.log_model_artifacts(self.model_id, folder)


# --- into a local folder -------------------------------------------------------------------------------------------

# In the folder of a waiting run: its id and server; the entries without files; the files.
HEADER, ENTRIES, ARTIFACTS, MODEL = "run.json", "entries.jsonl", "artifacts", "model"


class Spool:
    """Writes the entries of one run into a local folder, which `send` reads."""

    def __init__(self, folder: Path, run_id: str, server: str) -> None:
        header = json.dumps({"run_id": run_id, "server": server}) + "\n"
        with _disk_errors(folder):
            (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
            (folder / HEADER).write_text(header, encoding="utf-8")
        self.folder = folder

    def write(self, entry: Entry) -> None:
        """Raises RunError."""
        with _disk_errors(self.folder):
            match entry:
                case Files():
                    shutil.copytree(entry.folder, self.folder / ARTIFACTS / entry.place, dirs_exist_ok=True)
                case ModelFiles():
                    shutil.copytree(entry.folder, self.folder / MODEL / entry.name, dirs_exist_ok=True)
                case _:
                    with open(self.folder / ENTRIES, "a", encoding="utf-8") as file:
                        file.write(json.dumps({type(entry).__name__: asdict(entry)}) + "\n")


def _read_header(folder: Path) -> dict[str, str]:
    header: dict[str, str] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    return header


def _read_entries(folder: Path) -> Iterator[Batch | Data | End]:
    """The entries without files, in the order in which they were logged."""
    path = folder / ENTRIES
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        ((kind, fields),) = json.loads(line).items()
        if kind == "Batch":
            points = [Point(**point) for point in fields["points"]]
            yield Batch(points=points, params=fields["params"], tags=fields["tags"])
        else:
            yield Data(**fields) if kind == "Data" else End(**fields)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Raises OSError as a RunError of one line."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot keep the run here ({cut(error.strerror or error, 200)})") from error


# --- from the folder to the store ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyncResult:
    """What became of one waiting run. why: why it was not sent, empty where it was."""

    run_id: str
    folder: Path
    why: str = ""


def spool_folder(run_id: str, config: Config) -> Path:
    """The folder that a run waits in, if it does. Nothing is created."""
    return unsent(config) / file_name(run_id)


def waiting(config: Config) -> list[Path]:
    """The folders of all runs that wait to be sent."""
    return sorted(path.parent for path in unsent(config).glob(f"*/{HEADER}"))


def sync(config: Config) -> list[SyncResult]:
    """Sends every waiting run that has ended; one that has not may still be written to."""
    return [_send_if_ended(folder, config) for folder in waiting(config)]


def _send_if_ended(folder: Path, config: Config) -> SyncResult:
    run_id = _read_header(folder)["run_id"]
    try:
        if not any(isinstance(entry, End) for entry in _read_entries(folder)):
            if not alive.left_alone(run_id, config):
                why = f"has not ended; if it was killed, `anomaly-vae fit --resume {run_id}` continues it"
                return SyncResult(run_id, folder, why)
            Spool(folder, run_id, _read_header(folder)["server"]).write(End("KILLED", int(time.time() * 1000)))
        send(folder, config)
        alive.forget(run_id, config)
    except RunError as error:
        return SyncResult(run_id, folder, str(error))
    return SyncResult(run_id, folder)


def send(folder: Path, config: Config) -> None:
    """Sends one waiting run to MLFLOW_TRACKING_URI, or else to the store where it was started. Raises RunError."""
    header = _read_header(folder)
    uri = server_uri() or header["server"]
    client = open_client(uri) if uri else connect(config)
    sender = Sender(client, header["run_id"], model_of(find_run(client, header["run_id"])))
    with _disk_errors(folder):
        for entry in _all_entries(folder):
            sender.write(entry)
        shutil.rmtree(folder)


def _all_entries(folder: Path) -> Iterator[Entry]:
    """The entries without files, then the files, then the end."""
    entries = list(_read_entries(folder))
    yield from (entry for entry in entries if not isinstance(entry, End))
    if any((folder / ARTIFACTS).iterdir()):
        yield Files(folder / ARTIFACTS, "")
    for model in (folder / MODEL).glob("*"):
        yield ModelFiles(model, model.name)
    yield from (entry for entry in entries if isinstance(entry, End))
