"""A served model answers a client's mistake with 400 and the reason, and nothing of the server; CSV, ids and types."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from anomaly_vae import Detector
from anomaly_vae.tracking.model import saved_model

FITTED = Path(__file__).parents[1] / "detector" / "format5"
ROW = {"a": 0.5, "b": 1, "c": "x"}
CSV = "text/csv"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of MLflow's own server, which loads the model of a small table from its folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own type hints
        import mlflow.pyfunc
        from mlflow.pyfunc.scoring_server import init
        from starlette.testclient import TestClient

        folder = tmp_path_factory.mktemp("served") / "model"
        with saved_model(Detector.load(FITTED / "table", "cpu")) as model:
            model.rename(folder)
        yield TestClient(init(mlflow.pyfunc.load_model(str(folder))), raise_server_exceptions=False)


def post(client: Any, body: Any, kind: str = "application/json") -> Any:
    content = body if isinstance(body, str | bytes) else json.dumps({"dataframe_records": body})
    return client.post("/invocations", content=content, headers={"Content-Type": kind})


def records(a: str, params: str = "{}") -> str:
    return f'{{"dataframe_records": [{{"a": {a}, "b": 1, "c": "x"}}], "params": {params}}}'


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ([{"a": 1}], "", "missing inputs ['b', 'c']"),
        ([ROW | {"a": "abc"}], "", "row 1, column 'a': 'abc' is not a number"),
        ([ROW | {"a": [1, 2]}], "", "column 'a' holds list<item: int64>, expected numbers"),
        (records("1e999"), "", "row 1, column 'a': an infinite value"),
        (records("9" * 400), "", "row 1, column 'a': an infinite value"),
        (records("9" * 5000), "", "digits"),
        (records("[" * 300 + "]" * 300), "", "column 'a' holds list"),
        (records("[" * 9000 + "]" * 9000), "", "recursion"),
        ("[" * 100_000, "", "recursion"),
        ('{"dataframe_split": {"columns": ["a", "b", "c"], "data": []}}', "", "no row"),
        (records("0", '{"threshold": NaN}'), "", "threshold nan: not a finite number"),
        (records("0", '{"explain": -1}'), "", "explain -1"),
        ("a,b,c\n1,abc,x\n", CSV, "row 1, column 'b': 'abc' is not a number"),
        ("a,b,c\n1,2,x\n1,2,x,4\n", CSV, "row 2 has 4 cells, the header 3"),
        ('a,b,c\n1,2,"x\n', CSV, "cannot be read as CSV"),
        ("", CSV, "cannot be read as CSV"),
        (b"PAR1 and no more", "application/vnd.apache.parquet", "Parquet"),
    ],
)
def test_a_clients_mistake_is_answered_with_400_and_the_reason(client: Any, body: Any, kind: str, reason: str) -> None:
    answer = post(client, body, kind or "application/json")
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["message"]
    assert not [word for word in ("stack_trace", "Traceback", "site-packages", "/home", "/tmp") if word in answer.text]


def test_a_fault_of_the_server_is_answered_with_500_and_told_to_its_log_alone(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("/srv/secret cannot be opened")

    monkeypatch.setattr(Detector, "score_frame", broken)
    answer = post(client, [ROW])
    assert answer.status_code == 500
    assert "internal error" in answer.json()["message"] and "secret" not in answer.text
    assert "/srv/secret" in caplog.text


def test_csv_json_and_parquet_have_the_same_scores_and_an_id_comes_back(client: Any) -> None:
    frame = pd.DataFrame([ROW, ROW | {"a": None}, {"a": -2.5, "b": 30, "c": "new"}]).assign(id=["007", "NA", "x,y"])
    file = io.BytesIO()
    frame.to_parquet(file)
    answers = [
        post(client, frame.to_json(orient="records").join(['{"dataframe_records": ', "}"])),
        post(client, "\ufeff" + frame.to_csv(index=False), CSV),
        post(client, file.getvalue(), "application/vnd.apache.parquet"),
    ]
    expected = Detector.load(FITTED / "table", "cpu").score_frame(frame)
    for answer in answers:
        assert answer.status_code == 200, answer.text
        pd.testing.assert_frame_equal(pd.DataFrame(answer.json()["predictions"]), expected, check_dtype=False)
    assert expected["id"].tolist() == ["007", "NA", "x,y"]
    assert post(client, [ROW]).json()["predictions"][0]["id"] == 0
    assert post(client, [ROW | {"id": 7}]).json()["predictions"][0]["id"] == 7
