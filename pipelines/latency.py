"""How long a single row takes that someone waits for: through the Python API, and through a served model.

    python -m pipelines.latency                    about a minute; a table of 30 columns
    python -m pipelines.latency --calls 1000

Prints for each door the median and the 95 % quantile over so many calls, in milliseconds, of rows that were not trained
on, one a call, after some that are not counted. The server is `mlflow models serve` on this machine, asked over one
connection that stays open. On a machine that is busy with something else the quantiles mean little.

Measured on two shared cores: medians of 1.7 ms through `Detector.score`, 2.0 ms through `serving.score_frame` and
6.9 ms through the server; 95 % within 4.4, 3.4 and 10.9 ms.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from anomaly_vae.data.examples import table
from anomaly_vae.detector.dataframe import score_frame
from anomaly_vae.detector.detector import Detector

T = TypeVar("T")
CALLS, UNCOUNTED = 200, 20
STARTING = 120.0  # seconds that a server may take to answer at all


@dataclass(frozen=True)
class Latency:
    """Of so many calls, in milliseconds."""

    median: float
    high: float  # the 95 % quantile
    calls: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS, help=f"default: {CALLS}")
    options = parser.parse_args()
    data = table()
    normal = data.pop("diagnosis") == "benign"
    trained, new = data[normal][:250], data[normal][250:].reset_index(drop=True)
    for door, found in latencies(Detector.fit(trained), new, options.calls).items():
        print(f"{door:24}median{found.median:8.2f} ms   95 % of {found.calls} calls within{found.high:8.2f} ms")


def latencies(detector: Detector, frame: pd.DataFrame, calls: int = CALLS) -> dict[str, Latency]:
    """Of one row of `frame` through each door: `Detector.score`, `serving.score_frame` and HTTP."""
    rows = [frame.iloc[[i % len(frame)]] for i in range(calls + UNCOUNTED)]
    found = {"Detector.score": timed(detector.score, rows)}
    found["serving.score_frame"] = timed(lambda row: score_frame(detector, row), rows)
    bodies = [json.dumps({"dataframe_split": row.to_dict(orient="split", index=False)}) for row in rows]
    with served(detector) as address, closing(http.client.HTTPConnection(*address, timeout=STARTING)) as connection:
        found["mlflow models serve"] = timed(lambda body: ask(connection, body), bodies)
    return found


def timed(call: Callable[[T], object], given: list[T]) -> Latency:
    """Of one call after the other; the first UNCOUNTED only warm up."""
    for each in given[:UNCOUNTED]:
        call(each)
    seconds = []
    for each in given[UNCOUNTED:]:
        began = time.perf_counter()
        call(each)
        seconds.append(time.perf_counter() - began)
    median, high = 1000 * np.quantile(seconds, [0.5, 0.95])
    return Latency(float(median), float(high), len(seconds))


def ask(connection: http.client.HTTPConnection, body: str) -> None:
    """Sends one row and reads the answer."""
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise SystemExit(f"the server answers {answer.status}: {said[:300].decode(errors='replace')}")


@contextmanager
def served(detector: Detector) -> Iterator[tuple[str, int]]:
    """Host and port of a server of the detector's MLflow model, for as long as the context lasts."""
    from anomaly_vae.tracking.model import saved_model

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", host]
    before = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PATH": str(Path(sys.executable).parent),
    }  # uvicorn is there
    paths = {name: os.pathsep.join([first, os.environ.get(name, "")]) for name, first in before.items()}
    with saved_model(detector) as folder, tempfile.TemporaryFile() as said:
        server = subprocess.Popen(
            [*command, "--port", str(port), "-m", str(folder)], stdout=said, stderr=said, start_new_session=True,
            env={**os.environ, **paths},
        )  # fmt: skip
        try:
            if not _answers(server, host, port):
                said.seek(0)
                raise SystemExit(f"mlflow models serve does not answer: {said.read()[-2000:].decode(errors='replace')}")
            yield host, port
        finally:
            with suppress(ProcessLookupError):  # it has ended itself
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def _answers(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Waits until the server answers; False where it ends instead or takes too long."""
    began = time.monotonic()
    while server.poll() is None and time.monotonic() - began < STARTING:
        with suppress(OSError), closing(http.client.HTTPConnection(host, port, timeout=5)) as connection:
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.2)
    return False


if __name__ == "__main__":
    main()
