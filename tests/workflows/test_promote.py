"""A detector becomes the champion by being no worse on the same rows; what is in use never changes under its users."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from anomaly_vae.data.examples import table
from anomaly_vae.workflows.promote import registered_name
from tests.commands import ok, run

CHAMPION = "models:/anomaly-vae-plant-7-é@champion"


def test_promotion(workplace: Path) -> None:
    frame = table()
    frame.to_csv("table.csv", index=False)
    weak = [name for name in frame if name not in ("smoothness_error", "diagnosis")]
    settings = [
        "--label",
        "diagnosis",
        "--set",
        "training.epochs=1",
        "--set",
        "tracking.experiment=plant 7/é",
        "--json",
    ]
    worse = json.loads(ok("fit", "table.csv", *settings, "--set", f"data.drop={json.dumps(weak)}"))["run_id"]
    better = json.loads(ok("fit", "table.csv", *settings))["run_id"]

    refused = run("promote", worse)
    assert (refused.exit_code, "was not evaluated yet" in refused.stderr) == (2, True)
    first = json.loads(ok("promote", worse[:8], "table.csv", "--json"))
    assert (first["was"], first["champion"]) == (None, "models:/anomaly-vae-plant-7-é/1")
    assert ok("score", "table.csv", "-m", CHAMPION) == ok("score", "table.csv", "-m", worse)

    shown = ok("promote", better, "table.csv").splitlines()
    theirs = ok("evaluate", "table.csv", "-m", worse).splitlines()
    mine = ok("evaluate", "table.csv", "-m", better).splitlines()
    auroc = [next(line.split()[1] for line in lines if line.startswith("AUROC")) for lines in (mine, theirs)]
    assert next(line.split()[1:] for line in shown if line.startswith("AUROC")) == auroc
    assert f"score DATA -m {CHAMPION}" in shown[-1]
    refused = run("promote", worse)  # on what it was evaluated on
    assert refused.exit_code == 1
    assert f"not promoted: AUROC {auroc[1]} is below {auroc[0]} of models:/anomaly-vae-plant-7-é/2" in refused.stderr
    assert auroc[0] in refused.stdout and auroc[1] in refused.stdout

    # another threshold of the run is another model: the champion stays as it is until that is promoted
    before = ok("score", "table.csv", "-m", CHAMPION)
    assert before == ok("score", "table.csv", "-m", "models:/anomaly-vae-plant-7-é/latest")
    ok("threshold", "-m", better, "--policy", "fpr=0.3")
    assert ok("score", "table.csv", "-m", CHAMPION) == before
    again = json.loads(ok("promote", better, "--json"))
    assert (again["was"], again["champion"]) == tuple(f"models:/anomaly-vae-plant-7-é/{v}" for v in (2, 3))
    assert ok("score", "table.csv", "-m", CHAMPION) == ok("score", "table.csv", "-m", better) != before
    assert json.loads(ok("promote", better, "--json"))["champion"].endswith("/3"), "the same model again"
    assert "never changes" in run("threshold", "-m", CHAMPION, "--policy", "f1").stderr
    assert json.loads(ok("promote", worse, "--force", "--json"))["champion"].endswith("/1")

    frame[frame["diagnosis"] == "benign"].to_csv("normal.csv", index=False)
    undecided = run("promote", better, "normal.csv")
    assert (undecided.exit_code, "separates nothing" in undecided.stderr) == (1, True)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("models:/absent@champion", "absent"),
        ("models:/absent/1", "absent"),
        ("models:/absent/latest", "not registered by `anomaly-vae promote`"),
        ("models:/m-00000000000000000000000000000000", "m-0000"),
        ("models:/a/b/c", "no address of a model"),
    ],
)
def test_an_unknown_model_is_one_line(address: str, why: str, fits: dict[str, dict[str, object]]) -> None:
    result = run("score", "table.csv", "-m", address)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert why in result.stderr


def test_the_model_of_a_run_is_served_as_its_detector(fits: dict[str, dict[str, object]]) -> None:
    import warnings

    from anomaly_vae.core.config import Config
    from anomaly_vae.tracking.client import connect, find_run, model_of

    client = connect(Config())
    model = model_of(find_run(client, str(fits["table"]["run_id"])))
    assert model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        served = mlflow.pyfunc.load_model(client.get_logged_model(model).artifact_location)
    assert served.metadata.model_id == model
    assert served.metadata.run_id == fits["table"]["run_id"]
    frame = pd.read_csv("table.csv")
    written = ok("score", "table.csv", "-m", f"models:/{model}", "--explain", "1")
    given = served.predict(frame, params={"explain": 1})
    assert given.to_csv(index=False).splitlines()[0] == written.splitlines()[0]
    assert given["score"].tolist() == [float(line.split(",")[1]) for line in written.splitlines()[1:]]


@pytest.mark.parametrize(
    ("given", "registered"),
    [
        ("digits", "anomaly-vae-digits"),
        ("a/b:c 'd' = 100 %.csv", "anomaly-vae-a-b-c-d-100-csv"),
        ("名前", "anomaly-vae-名前"),
        ("//", "anomaly-vae-detector"),
        ("anomaly-vae-digits", "anomaly-vae-digits"),
    ],
)
def test_registered_names_are_fit_for_addresses(given: str, registered: str) -> None:
    assert registered_name(given) == registered
