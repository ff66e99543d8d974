"""Which runs have a process: a file for each, locked while its process lives. A run whose process is gone is marked as
killed by the next command that opens the store.

The lock is the system's, which releases it however a process ends; process ids would be used again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.files import locked
from anomaly_vae.tracking.store import file_name, server_uri, store_errors, store_folder

GONE = "its process ended without recording why: it was killed, its machine stopped, or its disk was full"


class Alive:
    """The file of a run of this process. Raises RunError where it cannot be written."""

    def __init__(self, run_id: str, config: Config) -> None:
        self.path = _file(run_id, config)
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with store_errors(f"starting run {run_id}"):
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(f"{run_id}\n{server_uri()}\n", encoding="utf-8")
            self._lock = locked(new)
            os.replace(new, self.path)  # locked from the moment it is there

    def end(self, status: str = "") -> None:
        """Gives the run up. status: of an end that its store did not take, for the next command to record."""
        with suppress(OSError):  # a rename needs no space on a full disk
            if status:
                os.replace(self.path, self.path.with_suffix(f".{status}"))
            else:
                self.path.unlink()
        if self._lock is not None:
            os.close(self._lock)


def has_process(run_id: str, config: Config) -> bool:
    """Whether a process of this machine holds the run."""
    path = _file(run_id, config)
    lock = locked(path) if path.is_file() else None
    if lock is not None:
        os.close(lock)
    return path.is_file() and lock is None


def left_alone(run_id: str, config: Config) -> bool:
    """Whether a process held the run, and is gone without having ended it in its store."""
    return any(path.stem == file_name(run_id) and not has_process(run_id, config) for path in _files(config))


def mark_killed(client: MlflowClient, config: Config, unsent: Path) -> None:
    """Ends every run whose process is gone, KILLED or as its process wanted; what the store does not take stays for the
    next command. unsent: the folder of runs that wait to be sent, whose end `sync` sends."""
    for path in _files(config):
        lock = locked(path)
        if lock is None:
            continue
        try:
            run_id, server, *_ = path.read_text(encoding="utf-8").split("\n")
            if server == server_uri() and not (unsent / path.stem).is_dir():
                _end(client, run_id, path.suffix.removeprefix(".") or "KILLED")
                path.unlink()
        except (OSError, ValueError, MlflowException):
            pass  # of another time, or a store that only reads
        finally:
            os.close(lock)


def _end(client: MlflowClient, run_id: str, status: str) -> None:
    try:
        record = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    if record.info.status == "RUNNING":
        client.set_tag(run_id, "error", GONE)
        client.set_terminated(run_id, status)


def forget(run_id: str, config: Config) -> None:
    """Removes the file of a run whose end was recorded."""
    for path in _files(config):
        if path.stem == file_name(run_id):
            path.unlink(missing_ok=True)


def _file(run_id: str, config: Config) -> Path:
    return store_folder(config) / "running" / file_name(run_id)


def _files(config: Config) -> Iterator[Path]:
    folder = store_folder(config) / "running"
    return (path for path in sorted(folder.glob("*")) if not path.name.startswith("."))
