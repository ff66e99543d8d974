"""A detector becomes the champion by being no worse on the same rows; what is in use never changes under its users."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from anomaly_vae.core.config import Config
from anomaly_vae.data.examples import table
from anomaly_vae.data.open import open_source
from anomaly_vae.data.split import split
from anomaly_vae.detector.detector import Detector
from anomaly_vae.tracking.client import connect
from anomaly_vae.workflows.promote import registered_name
from tests.commands import ok, run

CHAMPION = "models:/anomaly-vae-plant-7-é@champion"


def test_promotion(workplace: Path) -> None:
    frame = table()
    frame[:400].to_csv("table.csv", index=False)
    frame[400:].to_csv("new.csv", index=False)
    weak = [name for name in frame if name not in ("smoothness_error", "diagnosis")]
    settings = [
        "--label",
        "diagnosis",
        "--set",
        "training.epochs=1",
        "--set",
        "split.folds=0",
        "--set",
        "tracking.experiment=plant 7/é",
        "--json",
    ]
    worse = json.loads(ok("fit", "table.csv", *settings, "--set", f"data.drop={json.dumps(weak)}"))["run_id"]
    better = json.loads(ok("fit", "table.csv", *settings))["run_id"]

    refused = run("promote", worse)
    assert (refused.exit_code, "was not evaluated yet" in refused.stderr) == (2, True)
    first = json.loads(ok("promote", worse[:8], "new.csv", "--json"))
    assert (first["was"], first["champion"]) == (None, "models:/anomaly-vae-plant-7-é/1")
    assert first["trained_on"] > 0 and first["was_trained_on"] is None, "one column of four decimals repeats by chance"
    assert ok("score", "table.csv", "-m", CHAMPION) == ok("score", "table.csv", "-m", worse)

    client, name = connect(Config()), "anomaly-vae-plant-7-é"
    experiment = client.get_run(worse).info.experiment_id
    pages = [f"(#/experiments/{experiment}/runs/{worse}{file}?" for file in ("", "/artifacts/report.html")]
    model, version = client.get_registered_model(name), client.get_model_version(name, "1")
    for text in (model.description, version.description):
        assert all(page in text for page in pages)
    assert version.description.startswith("table-table-diagnosis-youden: AUROC 0.")
    assert version.tags["name"] == "table-table-diagnosis-youden"
    shown = ok("promote", better, "new.csv").splitlines()
    assert better in client.get_registered_model(name).description
    client.update_registered_model(name, "mine")
    theirs = ok("evaluate", "new.csv", "-m", worse).splitlines()
    mine = ok("evaluate", "new.csv", "-m", better).splitlines()
    auroc = [next(line.split()[1] for line in lines if line.startswith("AUROC")) for lines in (mine, theirs)]
    assert next(re.findall(r" (0\.\d{4}) ", line) for line in shown if line.startswith("AUROC")) == auroc
    lead = next(line for line in shown if line.startswith("difference"))
    assert f"{float(auroc[0]) - float(auroc[1]):+.3f}"[:5] in lead and "more than chance makes" in lead
    assert f"score DATA -m {shlex.quote(CHAMPION)}" in shown[-1]
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
    assert again["lead"] == [0, 0, 0], "the same scores"
    assert (again["trained_on"], again["was_trained_on"]) == (0, 0)
    assert (again["was"], again["champion"]) == tuple(f"models:/anomaly-vae-plant-7-é/{v}" for v in (2, 3))
    assert ok("score", "table.csv", "-m", CHAMPION) == ok("score", "table.csv", "-m", better) != before
    assert json.loads(ok("promote", better, "--json"))["champion"].endswith("/3"), "the same model again"
    assert "never changes" in run("threshold", "-m", CHAMPION, "--policy", "f1").stderr
    assert json.loads(ok("promote", worse, "--force", "--json"))["champion"].endswith("/1")

    assert client.get_registered_model(name).description == "mine"
    frame[frame["diagnosis"] == "benign"].to_csv("normal.csv", index=False)
    undecided = run("promote", better, "normal.csv")
    assert (undecided.exit_code, "decides nothing" in undecided.stderr) == (1, True)


def test_rows_that_were_trained_on_decide_nothing(workplace: Path) -> None:
    """Of 400 rows, normals and anomalies apart, a share of the normals trained, and no anomaly."""
    frame = table()
    frame[:400].to_csv("table.csv", index=False)
    mixed = pd.concat([frame[100:200], frame[400:]])
    mixed.sample(frac=1, random_state=0).to_csv("mixed.csv", index=False)
    settings = ["--label", "diagnosis", "--set", "training.epochs=1", "--set", "split.folds=0", "--json"]
    run_id = json.loads(ok("fit", "table.csv", *settings, "-o", "detector"))["run_id"]
    detector = Detector.load("detector")
    parts = split(open_source("table.csv", detector.config.data), detector.config)
    seen = int(((parts.train >= 100) & (parts.train < 200)).sum())
    assert seen > 10

    evaluated = run("evaluate", "mixed.csv", "-m", "detector", "--json")
    assert json.loads(evaluated.stdout)["trained_on"] == seen
    assert f"worry: {seen} of {len(mixed)} rows were trained on: the metrics of new rows" in evaluated.stderr
    refused = run("promote", run_id, "mixed.csv")
    assert refused.exit_code == 1
    assert f"run {run_id[:8]} was trained on {seen} of the {len(mixed)} rows of mixed.csv" in refused.stderr
    assert f"trained on        {seen} of {len(mixed)} rows" in refused.stdout
    assert json.loads(ok("promote", run_id, "mixed.csv", "--force", "--json"))["trained_on"] == seen
    frame[400:].to_csv("new.csv", index=False)
    other = json.loads(ok("fit", "new.csv", *settings, "--set", "tracking.experiment=table"))["run_id"]
    refused = run("promote", other, "mixed.csv", "--name", "table")
    assert f"run {other[:8]} was trained on" in refused.stderr, "it was on the rest"
    champion = run("promote", other, "table.csv", "--name", "table")  # which it has not seen, but the champion has
    assert f"models:/anomaly-vae-table/1 was trained on {len(parts.train)} of the 400 rows" in champion.stderr

    Path("detector", "trained_rows.safetensors").unlink()
    manifest = json.loads(Path("detector", "detector.json").read_text())
    del manifest["sha256"]["trained_rows.safetensors"]
    Path("detector", "detector.json").write_text(json.dumps(manifest))
    unknown = run("evaluate", "mixed.csv", "-m", "detector", "--json")  # a folder of an earlier version
    assert json.loads(unknown.stdout)["trained_on"] is None
    assert "whether the detector was trained on these rows cannot be checked" in unknown.stderr


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
