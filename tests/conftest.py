"""One thread, small data that scikit-learn carries, and the commands as a user types them."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.commands import ok

# Tests run in processes side by side, and with a second thread networks of 8 pixels take twice as long. Threads that
# spin while they wait are 40 times slower on a busy machine.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import numpy as np
import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

from anomaly_vae.reporting import plots
from anomaly_vae.tracking import client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file comes first: last, it would keep one of the workers busy after the other has ended."""
    items.sort(key=lambda item: item.path.name != "test_sklearn.py")


def pytest_collection_finish() -> None:
    """What was imported stays: no collection looks through its million objects again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow's 70 migrations run once a session, not for each of some thirty stores: the schema is copied."""
    template, migrate = tmp_path_factory.mktemp("schema") / "mlflow.db", client.create_schema

    def copied(database: Path, artifacts: Path) -> None:
        if not template.exists():
            migrate(template, artifacts)
        shutil.copyfile(template, database)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE experiments SET artifact_location = ?", [f"{artifacts.as_uri()}/0"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "create_schema", copied)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_drawing() -> Iterator[None]:
    """Of all fits of a session, the first draws a figure of certain axes; the next ones make it and log those bytes.
    The tests of plots draw each figure that they make."""
    draw: Callable[[Figure], bytes] = plots.png
    drawn: dict[tuple[tuple[str, str], ...], bytes] = {}

    def once(figure: Figure) -> bytes:
        labels = tuple((axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes)
        if labels not in drawn:
            drawn[labels] = draw(figure)
        return drawn[labels]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "png", once)
        yield


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """160 pictures (N, 8, 8) of 0-255, and which of them are anomalous: 100 threes, then 60 of the other classes."""
    bunch = load_digits()
    pictures = (bunch.images * 255 / 16).astype(np.uint8)
    three = bunch.target == 3
    chosen = np.r_[np.flatnonzero(three)[:100], np.flatnonzero(~three)[:60]]
    return pictures[chosen], ~three[chosen]


@pytest.fixture(scope="session")
def cancer() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """260 rows (N, 10) of measurements, and which of them are anomalous: 200 benign, then 60 malignant."""
    bunch = load_breast_cancer()
    benign = bunch.target == 1
    chosen = np.r_[np.flatnonzero(benign)[:200], np.flatnonzero(~benign)[:60]]
    return bunch.data[chosen, :10], ~benign[chosen]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with its own mlruns, whatever the environment says."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ADDRESSES = [("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")]
LABELS = {"digits": ["label", "--normal", "3"], "table": ["diagnosis", "--set", "split.folds=2"], "series": ["anomaly"]}


@pytest.fixture(scope="session")
def sample_fits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A folder with NAME.csv of each sample, a short run on it in mlruns and its detector in det-NAME; and what
    `fit --json` said of each. The first worker of several fits; the others copy what it made. It goes on where it
    fitted, for MLflow keeps in each process where the artifacts of a run are."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make_fits(tmp_path_factory.mktemp("fits"))
    shared = tmp_path_factory.getbasetemp().parent / "fits"  # of all workers
    folder = tmp_path_factory.mktemp("own") / "fits"
    with FileLock(f"{shared}.lock"):
        if not (shared / "said.json").exists():
            said = make_fits(folder)[1]
            shutil.copytree(folder, shared)
            (shared / "said.json").write_text(json.dumps([str(folder), said]))
            return folder, said
    shutil.copytree(shared, folder)
    made, said = json.loads((folder / "said.json").read_text())
    (folder / "said.json").unlink()
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as connection, connection:
        for table, column in ADDRESSES:
            there, here = (place.as_uri() for place in (Path(made), folder))
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", [there, here])
    return folder, json.loads(json.dumps(said).replace(made, str(folder)))


def make_fits(folder: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """See `sample_fits`."""
    said = {}
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        for name, label in LABELS.items():
            ok("sample-data", name, "-o", f"{name}.csv")
            options = ["--label", *label, "--set", "training.epochs=3", "-o", f"det-{name}", "--json"]
            said[name] = json.loads(ok("fit", f"{name}.csv", *options))
    return folder, said


@pytest.fixture
def fits(
    sample_fits: tuple[Path, dict[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    """What `fit --json` said, with the folder of `sample_fits` as the current one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(sample_fits[0])
    return sample_fits[1]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Ray cluster of two workers on this machine, which `--engine ray` finds."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()
