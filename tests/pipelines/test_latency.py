"""How one row's latency is measured: what is counted, over a real connection, and a server that does not come up."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_vae.detector.detector import Detector
from pipelines import latency


def test_the_first_calls_warm_up_and_the_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], []

    def call(seconds: float) -> None:
        asked.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = latency.timed(call, [9.0] * latency.UNCOUNTED + [i / 1000 for i in range(1, 102)])
    assert len(asked) == latency.UNCOUNTED + 101
    assert (found.median, found.high, found.calls) == (pytest.approx(51), pytest.approx(96), 101)  # milliseconds


class Server(BaseHTTPRequestHandler):
    """Takes "good" and refuses what else it is sent; keeps the connection open."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if body == b"good" and self.path == "/invocations" else 400)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"said")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def connection() -> Iterator[HTTPConnection]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        with closing(HTTPConnection("127.0.0.1", server.server_port, timeout=5)) as connection:
            yield connection
        server.shutdown()
        thread.join()


def test_an_answer_is_read_and_a_refusal_ends_the_measurement(connection: HTTPConnection) -> None:
    latency.ask(connection, "good")
    latency.ask(connection, "good")  # over the same connection: the first answer was read to its end
    with pytest.raises(SystemExit, match="the server answers 400: said"):
        latency.ask(connection, "bad")


def test_a_server_that_ends_is_told_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["a", "b"])
    detector = Detector.fit(frame, training__steps=2, model__members=1, model__hidden=[8], scoring__neighbours=0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of luck\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SystemExit, match="mlflow models serve does not answer: out of luck"), latency.served(detector):
        pass
