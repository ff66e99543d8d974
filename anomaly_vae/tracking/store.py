"""The store of runs: its address, its folder, checking and making it, and MLflow's UI on it.

The store is a folder with a sqlite database, or the server that MLFLOW_TRACKING_URI names. Nothing here imports mlflow:
a caller that needs a store passes in the function that makes its schema. Every failure is a RunError of one line.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.core.files import scratch_folder
from anomaly_vae.tracking.run import DETECTOR

Schema = Callable[[Path, Path], None]  # makes a new database of runs, with the folder of their artifacts


def server_uri() -> str:
    """The server, or another store, that MLFLOW_TRACKING_URI names; "": the runs are in the local folder."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def store_uri(config: Config) -> str:
    """Address of the tracking store."""
    return server_uri() or f"sqlite:///{store_folder(config) / 'mlflow.db'}"


def store_folder(config: Config) -> Path:
    """The folder of the local store."""
    return Path(config.tracking.folder).expanduser().absolute()


def checkpoint_folder(run_id: str, config: Config) -> Path:
    """The folder of a run's checkpoints; always local, beside the local store. Nothing is created."""
    return store_folder(config) / "checkpoints" / file_name(run_id)


def detector_folder(run_id: str, config: Config) -> Path:
    """The folder of a run's detector in the local store; not as recorded, which is stale where the store was moved."""
    return store_folder(config) / "artifacts" / run_id / "artifacts" / DETECTOR


def unsent(config: Config) -> Path:
    """The folder of the runs that wait to be sent."""
    return store_folder(config) / "unsent"


def check_store(config: Config, schema: Schema | None = None) -> None:
    """Checks that the store exists and answers. schema: a local store is made if there is none, and checked to be
    writable. Raises RunError.
    """
    remote = server_uri()
    if remote:
        try:
            knock(remote)
        except RunError as error:
            raise RunError(
                f"{error}; start it, or unset MLFLOW_TRACKING_URI to use the local store, or turn tracking off with"
                " --set tracking.enabled=false"
            ) from error
    else:
        _local_store(store_folder(config), schema)


def knock(uri: str) -> None:
    """Raises RunError where no server listens; MLflow's own retries would take minutes to report it."""
    address = urlsplit(uri)
    proxied = any(os.environ.get(name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"))
    if address.scheme not in ("http", "https") or proxied or not address.hostname:
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=10).close()
    except OSError as error:
        raise RunError(f"no MLflow server answers at {uri} ({error.strerror or error})") from error


def _local_store(folder: Path, schema: Schema | None) -> None:
    """Checks the sqlite store in `folder`; see `check_store`. Raises RunError.

    MLflow would report the same faults, but only after retrying for 100 s with a traceback each time.
    """
    if {"%", "?"} & set(str(folder)):
        raise RunError(
            f"{folder}: MLflow cannot keep its store in a folder whose path has '%' or '?'; set"
            " tracking.folder to another"
        )
    database = folder / "mlflow.db"
    instead = "set tracking.folder to a folder that can be written, or tracking.enabled to false"
    if not database.exists():
        if schema is None:
            raise RunError(f"no runs in {folder} yet; `anomaly-vae fit` makes one, -m FOLDER names a saved detector")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _create_store(database, schema)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"{folder}: cannot keep runs here ({_reason(error)}); {instead}") from error
    elif not database.stat().st_size:
        raise RunError(f"{database} is empty; delete it, and it is made anew")
    try:
        address = f"{database.as_uri()}?mode={'rw' if schema else 'ro'}"
        with sqlite3.connect(address, uri=True, timeout=20) as connection:
            if schema:
                # a write that changes nothing
                connection.execute("UPDATE alembic_version SET version_num = version_num")
                connection.rollback()
            else:
                connection.execute("SELECT count(*) FROM sqlite_master")
        connection.close()
    except sqlite3.Error as error:
        raise RunError(f"{database}: cannot use this store of runs ({_reason(error)}); {instead}") from error


def _create_store(database: Path, schema: Schema) -> None:
    """Makes a new store in a scratch folder, then links the complete file into place.

    Two fits may do this at once: the first link wins. A killed one leaves no incomplete store.
    """
    with scratch_folder(database.parent) as scratch:
        new = scratch / database.name
        with store_errors(f"creating {database}"):
            schema(new, database.parent / "artifacts")
        with suppress(FileExistsError):
            try:
                os.link(new, database)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                if not database.exists():
                    os.rename(new, database)


def serve_ui(
    config: Config, page: Callable[[Config], str], ready: Callable[[str], None], host: str = "127.0.0.1",
    port: int = 5000,
) -> None:  # fmt: skip
    """MLflow's UI on the store, in the foreground until Ctrl-C; of a store that is a server, its address alone.

    page: the page to open; it also reports the errors of the store before a server starts. ready: called with its
    address once it answers. Raises RunError.
    """
    remote, first = server_uri(), page(config)
    if remote.startswith(("http://", "https://")):
        ready(f"{remote.rstrip('/')}/{first}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RunError(f"cannot listen on {host}:{port} ({error.strerror}); try --port {port + 1}") from error
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(config)]
    command += ["--default-artifact-root", (store_folder(config) / "artifacts").as_uri(), "--workers", "1"]
    command += ["--host", host, "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    # PYTHONSAFEPATH: a types.py or random.py in the user's folder must not shadow the standard library.
    # MLflow's job runners evaluate language models; they would double the time to start.
    settings = {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    settings |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**settings, **os.environ, "PYTHONSAFEPATH": "1"}
    # A session of its own: Ctrl-C reaches only this process, which then ends the server and its workers.
    sys.stderr.write(f"MLflow's UI on {store_uri(config)}, until Ctrl-C\n")
    sys.stderr.flush()
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the server would outlive this process
    try:
        while server.poll() is None and not _listens(host, port):
            time.sleep(0.1)
        if server.poll() is None:
            ready(f"http://{host}:{port}/{first}")
        code = server.wait()
    except KeyboardInterrupt:
        code = 0
    finally:
        _stop(server)
        signal.signal(signal.SIGTERM, previous)
    if code:
        raise RunError(f"the MLflow server ended with code {code}; what it printed is above")


def _listens(host: str, port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port), timeout=1).close()
        return True
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server and its workers, which are one session."""
    for sent_signal, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if server.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(server.pid, sent_signal)
        with suppress(subprocess.TimeoutExpired):
            server.wait(seconds)


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Raises every error of the store as a RunError of one line."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # MlflowException, SQLAlchemy's, requests', OSError: MLflow lets them all through
        raise RunError(f"{doing}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The message of an error as one line of at most 500 characters."""
    text = getattr(error, "strerror", None) or str(error).split("\n(Background on this error")[0]
    return cut(clean(text) or type(error).__name__, 500)


def clean(text: str) -> str:
    """The text without line ends, control characters and doubled spaces; slashes, quotes and all letters stay."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def cut(value: Any, length: int) -> str:
    """The value as text of at most `length` characters; the last is an ellipsis if some were left out."""
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def file_name(name: str) -> str:
    """The name with the characters replaced that some system does not allow in file names."""
    return re.sub(r"[^\w.\-]+", "_", name).strip(".") or "_"
