"""Requests of many clients at once to a served model, a fifth of them bad: are the answers right, and does memory grow?

    python -m pipelines.load --requests 10000 --clients 16

The server is `mlflow models serve` on this machine. A good request holds one to eight rows as JSON or CSV; its answer
must be what `score_frame` says of them, bit for bit. A bad one must be answered with 400 and its reason, without a
traceback or a path of the server. Memory is that of the server's processes. The latency is of one row through one
client, against a bare call in Python, measured before the load.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from anomaly_vae.data.examples import table
from anomaly_vae.detector.dataframe import score_frame
from anomaly_vae.detector.detector import Detector
from pipelines.latency import STARTING, ask, served, timed

BAD, WARM = 0.2, 1000  # share of bad requests; answers after which memory should not grow
JSON, CSV = "application/json", "text/csv"
SECRETS = ("Traceback", "stack_trace", "site-packages", str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Request:
    """A request, and what a right answer holds: its predictions (a list) or the reason of a refusal (text)."""

    name: str
    body: str
    kind: str
    expected: list[dict[str, Any]] | str


def good(detector: Detector, frame: pd.DataFrame, rng: np.random.Generator) -> Request:
    """A request for some rows of a frame."""
    rows = frame.iloc[rng.choice(len(frame), rng.integers(1, 9), replace=False)].reset_index(drop=True)
    rows = rows.assign(id=[f"row {n}" for n in rng.integers(0, 1000, len(rows))])
    expected = score_frame(detector, rows).to_dict("records")
    if rng.random() < 0.3:
        return Request("csv", rows.to_csv(index=False), CSV, expected)
    orient = "split" if rng.random() < 0.5 else "records"
    tree: Any = rows.to_dict(orient)
    return Request(orient, json.dumps({f"dataframe_{orient}": tree}), JSON, expected)


def bad(frame: pd.DataFrame, rng: np.random.Generator) -> Request:
    """A request that cannot be answered."""
    row = frame.iloc[int(rng.integers(len(frame)))].to_dict()
    column = str(rng.choice(list(row)))
    others = {name: cell for name, cell in row.items() if name != column}

    def cell(text: str) -> str:
        return json.dumps({"dataframe_records": [others | {column: "HERE"}]}).replace('"HERE"', text)

    made = {
        "column": (json.dumps({"dataframe_records": [others]}), JSON, f"missing inputs ['{column}']"),
        "text": (cell('"many"'), JSON, f"column '{column}': 'many' is not a number"),
        "infinite": (cell("1e999"), JSON, f"column '{column}': an infinite value"),
        "list": (cell("[1, 2]"), JSON, f"column '{column}' holds list"),
        "deep": (cell("[" * 20_000 + "]" * 20_000), JSON, "recursion"),
        "broken": (cell("{"), JSON, "valid JSON"),
        "threshold": (f'{cell("1")[:-1]}, "params": {{"threshold": NaN}}}}', JSON, "not a finite number"),
        "ragged": (",".join(row) + "\n1\n", CSV, f"row 1 has 1 cells, the header {len(row)}"),
    }
    name = str(rng.choice(list(made)))
    return Request(name, *made[name])


def fault(request: Request, status: int, content: bytes) -> str:
    """What is wrong with an answer; "": nothing."""
    text = content.decode(errors="replace")
    if isinstance(request.expected, list):
        if status != 200:
            return f"{request.name}: answered {status}"
        return "" if json.loads(text)["predictions"] == request.expected else f"{request.name}: other numbers"
    if status != 400:
        return f"{request.name}: answered {status}"
    if any(secret in text for secret in SECRETS):
        return f"{request.name}: the answer tells of the server"
    return "" if request.expected in json.loads(text)["message"] else f"{request.name}: without its reason"


def send(address: tuple[str, int], requests: list[Request], clients: int, seen: Callable[[int], None]) -> Counter[str]:
    """The faults of the answers. Each client sends its next request when it has its answer; seen: told of every
    thousandth answer."""
    faults: Counter[str] = Counter()
    waiting, lock, answered = iter(requests), threading.Lock(), 0

    def client() -> None:
        nonlocal answered
        with closing(HTTPConnection(*address, timeout=STARTING)) as connection:
            while True:
                with lock:
                    request = next(waiting, None)
                if request is None:
                    return
                connection.request("POST", "/invocations", request.body, {"Content-Type": request.kind})
                answer = connection.getresponse()
                found = fault(request, answer.status, answer.read())
                with lock:
                    answered += 1
                    faults[found] += 1
                    if answered % 1000 == 0 or answered == len(requests):
                        seen(answered)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faults["no answer"] = len(requests) - answered  # a client that ended with an exception
    return faults


def memory() -> int:
    """Bytes that the processes started from here hold."""
    return sum(int(process.memory_info().rss) for process in psutil.Process().children(recursive=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = table()
    normal = data.pop("diagnosis") == "benign"
    detector, new = Detector.fit(data[normal][:250]), data[250:].reset_index(drop=True)
    rng = np.random.default_rng(options.seed)
    requests = [bad(new, rng) if is_bad else good(detector, new, rng) for is_bad in rng.random(options.requests) < BAD]
    with served(detector) as address:
        rows = [new.iloc[[i]] for i in range(120)]
        bodies = [json.dumps({"dataframe_split": row.to_dict(orient="split", index=False)}) for row in rows]
        bare = timed(lambda row: score_frame(detector, row), rows).median
        with closing(HTTPConnection(*address, timeout=STARTING)) as connection:
            through = timed(lambda body: ask(connection, body), bodies).median
        print(f"one row: {bare:.2f} ms in Python, {through:.2f} ms through the server, {through / bare:.1f} times")
        held: list[tuple[int, int]] = []
        start = time.monotonic()
        faults = send(address, requests, options.clients, lambda n: held.append((n, memory())))
        seconds = time.monotonic() - start
    right = faults.pop("")
    print(f"{len(requests)} requests of {options.clients} clients, {sum(isinstance(r.expected, str) for r in requests)}"
          f" of them bad: {right} right answers, {len(requests) / seconds:.0f} a second")  # fmt: skip
    for found, count in faults.items():
        if count:
            print(f"{count:6} {found}")
    since = [size for n, size in held if n >= min(WARM, len(requests))]
    print("MB held after each 1000: " + " ".join(f"{size / 1e6:.0f}" for _, size in held))
    print(f"memory after all / after the first {WARM}: {since[-1] / since[0]:.3f}")


if __name__ == "__main__":
    main()
