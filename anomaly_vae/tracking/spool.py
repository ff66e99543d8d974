"""Runs whose store went away in the middle: what they would have logged waits in a folder, and is sent later.

`unsent/RUN_ID/` under the tracking folder holds `run.json` (where it belongs), `entries.jsonl` (one entry a line),
`artifacts/` as they will lie in the run, the detector among them, and `model/`. Sending it twice changes nothing, so
a sending that was cut short is simply done again; the folder goes when all has arrived.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anomaly_vae.config import Config
from anomaly_vae.errors import RunError
from anomaly_vae.store import cut, file_name, server_uri, store_folder
from anomaly_vae.tracking.client import connect, find_run, model_of, open_client
from anomaly_vae.tracking.entries import End, Entry, Files, ModelFiles, from_json, to_json
from anomaly_vae.tracking.sending import Sender

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
