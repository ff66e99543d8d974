"""A fit is one MLflow run that holds everything; a failed one says why; a killed one goes on as if it had not been."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from safetensors.numpy import load_file

from anomaly_vae import tracking
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import AnomalyVAEError, DataError, RunError
from anomaly_vae.detector import configuration as configs
from anomaly_vae.detector.detector import Detector
from anomaly_vae.tracking.store import store_uri
from anomaly_vae.workflows import fit, opening
from tests.commands import ok

EPOCHS = 3
NAMES = ("partly", "labelled")
Fits = dict[str, dict[str, Any]]


def client() -> MlflowClient:
    return MlflowClient(store_uri(Config()))


def record(run_id: str) -> Run:
    return client().get_run(run_id)


ALL = {
    "training",
    "kl_per_dimension",
    "kl_by_epoch",
    "score_histogram",
    "roc",
    "precision_recall",
    "parts",
    "calibration",
}
FIGURES = {  # an error that did not happen has no picture
    "digits": ALL | {"reconstructions", "false_alarms", "misses"},
    "table": ALL | {"columns"},
    "series": ALL | {"series"},
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_fit_is_one_finished_run(name: str, fits: Fits) -> None:
    said = fits[name]
    run = record(said["run_id"])
    assert run.info.status == "FINISHED"
    # every setting with the value used, those that were left to the kind of data too
    used = Detector.load(f"det-{name}").config.flat()
    logged = {key: str(value) for key, value in used.items() if value is not None}
    assert {key: run.data.params.get(key) for key in used} == dict.fromkeys(used) | logged | {
        "data.path": f"{name}.csv"
    }
    assert run.data.params["changed.training.epochs"] == str(EPOCHS)
    assert run.data.params["kind"] == said["kind"] == {"digits": "pixels"}.get(name, name)
    # the name, the test metrics (counts as tags), and a curve of each figure of the training
    label = {"digits": "label", "table": "diagnosis", "series": "anomaly"}[name]
    assert run.info.run_name == f"{name}-{said['kind']}-{label}-youden"
    counts = {key.partition("/")[2]: float(value) for key, value in run.data.tags.items() if key.startswith("test/")}
    grouped = {key: value for key, value in run.data.metrics.items() if not key.startswith("system/")}
    groups = {key.partition("/")[0] for key in grouped}
    assert groups - {"evaluate"} == {"train", "valid", "test", "model"}  # another test may have evaluated it
    tested = {key.partition("/")[2]: value for key, value in grouped.items() if key.startswith("test/")}
    latent = {key: run.data.metrics[f"model/{key}"] for key in ("active_units", "kl_total")}
    assert {"rows", "anomalies"} <= set(counts)
    assert {**tested, **counts, **latent, "kl_dimensions": float(run.data.tags["model/kl_dimensions"])} == said[
        "metrics"
    ]
    assert run.data.metrics["model/threshold"] == said["threshold"]
    for curve in ("train/loss", "train/recon", "train/kl", "train/beta", "valid/loss", "train/samples_per_second"):
        assert [point.step for point in client().get_metric_history(said["run_id"], curve)] == list(range(EPOCHS))
    # the figures, the data and the detector
    files = {Path(file.path).stem for file in client().list_artifacts(said["run_id"], "figures")}
    assert FIGURES[name] - files <= {"false_alarms", "misses"}
    assert files <= FIGURES[name]
    parts = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert {part: json.loads(data.profile)["num_rows"] for part, data in parts.items()} == {
        "training": said["rows"]["train"], "validation": said["rows"]["valid"], "testing": said["rows"]["test"]
    }  # fmt: skip
    assert {(data.name, data.source) for data in parts.values()} == {(name, f'{{"uri": "{name}.csv"}}')}
    columns = json.loads(parts["training"].schema)["mlflow_colspec"]
    assert {column["type"] for column in columns} == {"integer" if name == "digits" else "double"}
    found, folder = tracking.find_detector(said["run_id"], Config())
    assert found == said["run_id"]
    for file in Path(f"det-{name}").iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_the_digest_of_the_data_follows_its_content(fits: Fits) -> None:
    inputs = [entry for said in fits.values() for entry in record(said["run_id"]).inputs.dataset_inputs]
    assert len({entry.dataset.digest for entry in inputs}) == 9, "three files, three parts"


@pytest.mark.parametrize("name", ["det-table", "./det-table", "run", "runs:/run/detector", "short"])
def test_a_detector_is_found_by_folder_and_by_run(name: str, fits: Fits) -> None:
    run_id = fits["table"]["run_id"]
    place = {"run": run_id, "runs:/run/detector": f"runs:/{run_id}/detector", "short": run_id[:8]}.get(name, name)
    found = opening.find(place, Config())
    assert found.run_id == ("" if "det-table" in name else run_id)
    assert found.detector.threshold.value == fits["table"]["threshold"]


def test_the_embedded_data_needs_no_file(workplace: Path) -> None:
    config = configs.load(base=configs.EMBEDDED, overrides=["tracking.enabled=false", "training.epochs=2"])
    result = fit.fit(None, config)
    assert (result.data, result.kind, result.run_id) == ("scikit-learn's digits", "pixels", "")
    assert sum(result.rows.values()) + result.metrics["anomalies"] >= 1797
    assert list(workplace.iterdir()) == []


def test_a_failed_fit_is_a_failed_run_with_its_error(fits: Fits) -> None:
    config = configs.load(base={"data": {"label": "absent"}, "tracking": {"folder": "failing"}})
    with pytest.raises(DataError, match="label column 'absent' not found"):
        fit.fit("table.csv", config, output="never")
    (row,) = tracking.list_runs(config)
    assert row["status"] == "FAILED"
    run = MlflowClient(store_uri(config)).get_run(row["run_id"])
    assert run.data.tags["error"].startswith("DataError: table.csv: label column 'absent' not found")
    assert not Path("never").exists()
    with pytest.raises(RunError, match=r"is FAILED, not finished .*'absent' not found"):
        opening.find(run.info.run_id, config)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_folder_that_appeared_meanwhile_does_not_cost_the_detector(tracked: bool, fits: Fits, tmp_path: Path) -> None:
    def progress(what: str, done: int, of: int | None) -> None:
        (tmp_path / "det").mkdir(exist_ok=True)
        (tmp_path / "det" / "of another").touch()

    tree = {"tracking": {"folder": str(tmp_path / "runs"), "enabled": tracked}, "training": {"epochs": 1}}
    tree |= {"split": {"folds": 0}}
    config = configs.load(base=tree | {"data": {"label": "diagnosis"}})
    with pytest.raises(AnomalyVAEError, match=r"nothing is overwritten.*\. The fit is finished, and its detector") as e:
        fit.fit("table.csv", config, output=str(tmp_path / "det"), progress=progress)
    place = str(e.value).rpartition(" ")[2]
    assert Path(opening.find(place, config).name).name == Path(place).name
    assert [path.name for path in (tmp_path / "det").iterdir()] == ["of another"]
    if tracked:
        assert tracking.list_runs(config)[0]["status"] == "FINISHED"


KILLED = """
    import os, signal, sys
    from anomaly_vae.detector import configuration
    from anomaly_vae.training import loop
    from anomaly_vae.workflows.fit import fit
    loop.CHECKPOINT_SECONDS = 0

    def progress(what, done, of):
        assert not {"torchvision", "matplotlib"} & set(sys.modules)  # seconds of imports that training needs not
        if done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    overrides = ["data.label=diagnosis", "training.epochs=3", "split.folds=2", "tracking.folder=killed"]
    settings = configuration.load(overrides=overrides)
    fit("table.csv", settings, progress=progress)
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(fits: Fits) -> None:
    store = configs.load(base={"tracking": {"folder": "killed"}})
    tracking.require_store(store)  # from the copied schema: the process makes no migrations
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    (row,) = tracking.list_runs(store)
    assert (row["status"], list(Path("killed/running").iterdir())) == ("KILLED", [])  # by the command that lists it
    with pytest.raises(RunError, match=rf"is KILLED, not finished .*fit --resume {row['run_id']}"):
        opening.find(row["run_id"], store)
    with pytest.raises(RunError, match="no run 0123456"):
        fit.fit(None, store, resume="01234567")
    result = fit.fit(None, store, resume=row["run_id"][:8], output="det-resumed")
    assert result.run_id == row["run_id"]
    (row,) = tracking.list_runs(store)
    assert row["status"] == "FINISHED"
    resumed = MlflowClient(store_uri(store))
    assert resumed.get_run(result.run_id).data.tags["resumed"] == "1"
    assert {point.step for point in resumed.get_metric_history(result.run_id, "train/loss")} == set(range(EPOCHS))
    for file in ("weights.safetensors", "validation.safetensors"):
        unbroken, continued = load_file(f"det-table/{file}"), load_file(f"det-resumed/{file}")
        assert unbroken.keys() == continued.keys()
        for name, tensor in unbroken.items():
            np.testing.assert_array_equal(continued[name], tensor, err_msg=name)
    assert result.metrics == fits["table"]["metrics"]
    with pytest.raises(RunError, match="nothing to resume"):
        fit.fit(None, store, resume=result.run_id)


def test_an_evaluation_is_of_the_labelled_rows_and_says_how_many_are_not(fits: Fits) -> None:
    frame = pd.read_csv("table.csv")
    frame[frame.index % 3 > 0].to_csv("labelled.csv", index=False)
    frame.loc[frame.index % 3 == 0, "diagnosis"] = None
    frame.to_csv("partly.csv", index=False)
    partly, labelled = (json.loads(ok("evaluate", f"{name}.csv", "-m", "det-table", "--json")) for name in NAMES)
    assert partly["metrics"] == labelled["metrics"]
    assert partly["rows"] == labelled["rows"] == {"test": 379}
    assert partly["trained_on"] == labelled["trained_on"] > 100
    missing = "190 of 569 rows have no label in 'diagnosis' and were left out"
    assert [missing in " ".join(said["notes"]) for said in (partly, labelled)] == [True, False]
    command = ("evaluate", "partly.csv", "-m", "det-table", "--json", "--set", "data.unlabelled=normal")
    assert json.loads(ok(*command))["rows"] == {"test": 569}
