"""What the load's judge calls right: the same numbers, or 400 with the reason and nothing of the server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from anomaly_vae.detector.detector import Detector
from pipelines.load import bad, fault, good

FITTED = Path(__file__).parents[1] / "detector" / "format5" / "table"
FRAME = pd.DataFrame({"a": np.linspace(-2, 2, 30), "b": np.arange(30.0), "c": ["x", "y", "new"] * 10})


def test_answers_are_held_against_what_python_says() -> None:
    rng, detector = np.random.default_rng(0), Detector.load(FITTED, "cpu")
    requests = [good(detector, FRAME, rng) for _ in range(12)]
    assert {request.name for request in requests} == {"csv", "split", "records"}
    request = requests[0]
    assert isinstance(request.expected, list)
    answer = {"predictions": [dict(row) for row in request.expected]}
    assert fault(request, 200, json.dumps(answer).encode()) == ""
    answer["predictions"][0] = request.expected[0] | {"score": np.nextafter(request.expected[0]["score"], 99)}
    assert fault(request, 200, json.dumps(answer).encode()).endswith("other numbers")
    assert fault(request, 500, b"{}").endswith("answered 500")


def test_a_refusal_needs_its_reason_and_no_path_of_the_server() -> None:
    request = bad(FRAME[["a", "b"]], np.random.default_rng(0))
    assert isinstance(request.expected, str)
    said = {"message": f"Error: {request.expected}; correct it"}
    assert fault(request, 400, json.dumps(said).encode()) == ""
    assert fault(request, 400, json.dumps(said | {"stack_trace": "x"}).encode()).endswith("tells of the server")
    assert fault(request, 400, b'{"message": "no"}').endswith("without its reason")
    assert fault(request, 200, json.dumps(said).encode()).endswith("answered 200")
