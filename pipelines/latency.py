"""Measures the latency of a single row: through the Python API, and through a served model.

    python -m pipelines.latency                    about a minute; a table of 30 columns
    python -m pipelines.latency --calls 1000

Prints for each interface the median and the 95 % quantile over the calls, in milliseconds. Each call scores one row
that was not trained on; the first calls are not counted. The server is `mlflow models serve` on this machine, with one
connection that stays open. On a busy machine the quantiles mean little.

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
STARTING = 120.0  # seconds in which a server must answer for the first time


@dataclass(frozen=True)
class Latency:
    """The latency of `calls` calls, in milliseconds."""

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
    for interface, latency in latencies(Detector.fit(trained), new, options.calls).items():
        quantile = f"95 % of {latency.calls} calls within{latency.high:8.2f} ms"
        print(f"{interface:24}median{latency.median:8.2f} ms   {quantile}")


def latencies(detector: Detector, frame: pd.DataFrame, calls: int = CALLS) -> dict[str, Latency]:
    """The latency of one row of `frame` through each interface: `Detector.score`, `score_frame` and HTTP."""
    rows = [frame.iloc[[i % len(frame)]] for i in range(calls + UNCOUNTED)]
    measured = {"Detector.score": timed(detector.score, rows)}
    measured["serving.score_frame"] = timed(lambda row: score_frame(detector, row), rows)
    bodies = [json.dumps({"dataframe_split": row.to_dict(orient="split", index=False)}) for row in rows]
    with served(detector) as address, closing(http.client.HTTPConnection(*address, timeout=STARTING)) as connection:
        measured["mlflow models serve"] = timed(lambda body: ask(connection, body), bodies)
    return measured


def timed(call: Callable[[T], object], inputs: list[T]) -> Latency:
    """The latency of one call for each input, one after the other; the first UNCOUNTED only warm up."""
    for argument in inputs[:UNCOUNTED]:
        call(argument)
    seconds = []
    for argument in inputs[UNCOUNTED:]:
        start = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - start)
    median, high = 1000 * np.quantile(seconds, [0.5, 0.95])
    return Latency(float(median), float(high), len(seconds))


def ask(connection: http.client.HTTPConnection, body: str) -> None:
    """Sends one row and reads the answer."""
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"the server answers {answer.status}: {content[:300].decode(errors='replace')}")


@contextmanager
def served(detector: Detector) -> Iterator[tuple[str, int]]:
    """Runs a server of the detector's MLflow model within the context; gives its host and port."""
    from anomaly_vae.tracking.model import saved_model

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", host]
    first_paths = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PATH": str(Path(sys.executable).parent),
    }  # uvicorn is there
    variables = {name: os.pathsep.join([path, os.environ.get(name, "")]) for name, path in first_paths.items()}
    with saved_model(detector) as folder, tempfile.TemporaryFile() as output:
        server = subprocess.Popen(
            [*command, "--port", str(port), "-m", str(folder)],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **variables},
        )
        try:
            if not _answers(server, host, port):
                output.seek(0)
                log = output.read()[-2000:].decode(errors="replace")
                raise SystemExit(f"mlflow models serve does not answer: {log}")
            yield host, port
        finally:
            with suppress(ProcessLookupError):  # raised if it has already ended
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def _answers(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Waits until the server answers. Returns False if it ends or takes longer than STARTING."""
    start = time.monotonic()
    while server.poll() is None and time.monotonic() - start < STARTING:
        with suppress(OSError), closing(http.client.HTTPConnection(host, port, timeout=5)) as connection:
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.2)
    return False


if __name__ == "__main__":
    main()
