"""What tracking writes is read back through MLflow's own client."""

from __future__ import annotations

import math
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from anomaly_vae import tracking
from anomaly_vae.core.config import Config, TrackingConfig
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking import local, queries, recording, store
from anomaly_vae.tracking.client import create_schema


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """One store for the whole file: making one takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield at(tmp_path_factory.mktemp("runs") / "a folder, ä #1")


def at(folder: Path, **settings: Any) -> Config:
    return Config(tracking=TrackingConfig(folder=str(folder), **settings))


def client(config: Config) -> MlflowClient:
    return MlflowClient(store.store_uri(config))


def finished(config: Config, tmp_path: Path, name: str = "fit") -> str:
    """Id of a finished run with a detector."""
    folder = tmp_path / "saved"
    folder.mkdir(exist_ok=True)
    (folder / "threshold.json").write_text('{"value": 1.5}')
    with tracking.start(config, data_name="data", run_name=name) as run:
        run.detector(folder)
    return run.run_id


def test_metric_history_and_final_values(config: Config) -> None:
    with tracking.start(config, data_name="digits", run_name="one") as run:
        for step, recon in enumerate([30.0, 20.0, math.inf]):
            run.epoch(step, {"recon": recon, "active_units": 3.0 + step, "unknown": None})
        run.metrics({"auroc": 0.75, "active_units": 4.0})
    history = client(config).get_metric_history(run.run_id, "recon")
    assert [point.step for point in history] == [0, 1, 2]
    assert [point.value for point in history[:2]] == [30.0, 20.0]
    assert math.isnan(history[2].value)
    record = client(config).get_run(run.run_id)
    assert record.info.status == "FINISHED"
    assert record.data.metrics["auroc"] == 0.75
    assert record.data.metrics["active_units"] == 4.0, "the final value, not that of the last epoch"
    assert "unknown" not in record.data.metrics


def test_short_epochs_share_a_call(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, **what: Any) -> Any:
        calls.append(len(what.get("metrics", ())))
        return real(self, run_id, **what)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    monkeypatch.setattr(recording, "SECONDS_BETWEEN", 3600.0)
    with tracking.start(config, data_name="x", run_name="x") as run:
        for step in range(50):
            run.epoch(step, {"train/loss": 1.0 / (step + 1), "kl": 2.0})
    assert calls == [2, 98], "the first at once, the rest at the end"
    assert len(client(config).get_metric_history(run.run_id, "train/loss")) == 50


def test_long_values_and_odd_names_survive(config: Config) -> None:
    with tracking.start(config, data_name="x", run_name="x") as run:
        run.params({f"p{i}": i for i in range(120)} | {"columns": "é" * 10_000, "a=b/../c": [1, 2]})
        run.tags({"note": "n" * 9_000})
    record = client(config).get_run(run.run_id)
    assert len(record.data.params) == 122
    assert record.data.params["p119"] == "119"
    assert record.data.params["columns"] == "é" * 5_999 + "…"
    assert record.data.params["a_b/c"] == "[1, 2]"
    assert len(record.data.tags["note"]) == 5_000


@pytest.mark.parametrize("name", ["plant/line 4", 'it\'s "new"', "größe=1 %?#", "名前"])
def test_experiment_names_survive(config: Config, name: str) -> None:
    for _ in range(2):  # made, then found again
        with tracking.start(config, data_name=name, run_name=name) as run:
            run.text("hello", "notes/first.txt")
        record = client(config).get_run(run.run_id)
        assert client(config).get_experiment(record.info.experiment_id).name == name
        assert record.info.run_name == name
        local = client(config).download_artifacts(run.run_id, "notes/first.txt")
        assert Path(local).read_text() == "hello"


def test_a_deleted_experiment_does_not_stop_a_fit(config: Config) -> None:
    with tracking.start(config, data_name="gone", run_name="a") as run:
        pass
    client(config).delete_experiment(client(config).get_run(run.run_id).info.experiment_id)
    with tracking.start(config, data_name="gone", run_name="b") as run:
        pass
    assert tracking.list_runs(config, limit=1)[0]["experiment"] == "gone (2)"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("column 3 is 'bad'\nline two"), "FAILED", "ValueError: column 3 is 'bad'\nline two"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt: "),
        (SystemExit(143), "KILLED", "SystemExit: 143"),
        (RuntimeError("x" * 9_000), "FAILED", "RuntimeError: " + "x" * (5_000 - 15) + "…"),
    ],
)
def test_a_failure_is_recorded_and_goes_on(config: Config, error: BaseException, status: str, text: str) -> None:
    with pytest.raises(type(error)) as caught, tracking.start(config, data_name="x", run_name="x") as run:
        raise error
    assert caught.value is error
    record = client(config).get_run(run.run_id)
    assert record.info.status == status
    assert record.data.tags["error"] == text


def test_resume_continues_the_same_run(config: Config) -> None:
    def killed() -> str:
        with suppress(KeyboardInterrupt), tracking.start(config, data_name="x", run_name="x") as run:
            run.params({"training.epochs": 5, "seed": 0})
            run.epoch(0, {"train/loss": 2.0})
            raise KeyboardInterrupt
        return run.run_id

    run_id = killed()
    assert client(config).get_run(run_id).info.status == "KILLED"
    with tracking.start(config, data_name="x", run_name="x", resume=run_id) as again:
        assert client(config).get_run(run_id).info.status == "RUNNING"
        again.params({"training.epochs": 9, "seed": 0, "device": "cpu"})
        again.epoch(1, {"train/loss": 1.0})
    record = client(config).get_run(run_id)
    assert again.run_id == run_id
    assert record.info.status == "FINISHED"
    assert "error" not in record.data.tags
    assert record.data.tags["resumed"] == "1"
    assert record.data.params == {"training.epochs": "5", "seed": "0", "device": "cpu"}
    assert record.data.tags["resumed.training.epochs"] == "9"
    assert [point.value for point in client(config).get_metric_history(run_id, "train/loss")] == [2.0, 1.0]


def test_children_are_nested_under_their_study(config: Config) -> None:
    with tracking.start(config, data_name="study", run_name="five seeds") as parent:
        with tracking.start(config, data_name="study", run_name="seed 0", parent=parent.run_id) as child:
            pass
        parent.metrics({"auroc_mean": 0.9})
    assert client(config).get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert client(config).get_parent_run(child.run_id).data.metrics == {"auroc_mean": 0.9}
    assert next(row for row in tracking.list_runs(config) if row["run_id"] == child.run_id)["parent"] == parent.run_id


def test_the_dataset_stands_under_inputs(config: Config) -> None:
    with tracking.start(config, data_name="d", run_name="d") as run:
        run.dataset(name="d", source="/data/d.csv", digest="ab12", rows=7, columns=["a", "b"], context="training")
    (entry,) = client(config).get_run(run.run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest, entry.dataset.source_type) == ("d", "ab12", "local")
    assert entry.dataset.source == '{"uri": "/data/d.csv"}'
    assert entry.dataset.profile == '{"num_rows": 7, "num_columns": 2, "num_elements": 14}'
    assert '"name": "b"' in entry.dataset.schema
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]


def test_content_and_files_are_artifacts(config: Config, tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_text("z\n1\n")
    with tracking.start(config, data_name="d", run_name="d") as run:
        run.content(b"\x89PNG", "figures/my curve.png")
        run.file(tmp_path / "codes.csv", "latent")
    curve, codes = (
        Path(client(config).download_artifacts(run.run_id, name))
        for name in ("figures/my_curve.png", "latent/codes.csv")
    )
    assert curve.read_bytes() == b"\x89PNG"
    assert codes.read_text() == "z\n1\n"


def test_every_metric_is_linked_to_the_logged_model(config: Config, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    with tracking.start(config, data_name="d", run_name="d", model="größe=1/2: 'new'") as run:
        run.epoch(0, {"train/loss": 2.0})
        run.model(tmp_path / "model", "not needed")
        run.metrics({"auroc": 0.9})
    record = client(config).get_run(run.run_id)
    (output,) = record.outputs.model_outputs
    model = client(config).get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, model.status) == ("größe=1-2- -new", run.run_id, "READY")
    assert {(metric.key, metric.value, metric.step) for metric in model.metrics} == {
        ("train/loss", 2.0, 0),
        ("auroc", 0.9, 0),
    }
    assert list(Path(config.tracking.folder).glob(f"artifacts/models/{model.model_id}/artifacts/MLmodel"))


def test_the_detector_is_found_by_id_by_prefix_and_as_the_latest(config: Config, tmp_path: Path) -> None:
    first = finished(config, tmp_path, "first")
    second = finished(config, tmp_path, "second")
    with tracking.start(config, data_name="other", run_name="without a detector") as bare:
        pass
    for name in (first, first[:12]):
        run_id, folder = tracking.find_detector(name, config)
        assert run_id == first
        assert (folder / "threshold.json").read_text() == '{"value": 1.5}'
    assert tracking.find_detector(None, config)[0] == second
    assert tracking.full_run_id(second[:12], config) == second
    with pytest.raises(RunError, match=f"run {bare.run_id} has no detector; `anomaly-vae runs`"):
        tracking.find_detector(bare.run_id, config)


def test_the_local_store_is_read_as_mlflow_reads_it(config: Config, tmp_path: Path) -> None:
    config = at(tmp_path / "store")
    with tracking.start(config, data_name="elsewhere", run_name="in another experiment") as run:
        run.detector(Path(__file__).parent)
    runs = [run.run_id, *(finished(config, tmp_path, f"{number}") for number in range(3))]
    server, database = client(config), Path(config.tracking.folder) / "mlflow.db"

    def assert_same() -> None:
        answers = [local._finished(name, config) for name in (None, *runs, "f" * 32)]
        assert answers[0] == queries.find_detector(None, config)
        for name, answer in zip((*runs, "f" * 32), answers[1:], strict=True):
            with suppress(RunError):
                assert queries.find_detector(name, config) == answer != None  # noqa: E711 (both are found)
                continue
            assert answer is None

    assert_same()
    with sqlite3.connect(database) as connection:  # of runs that ended at once, MLflow takes the one that started last
        connection.execute("UPDATE runs SET end_time = 5, start_time = 1")
        connection.execute("UPDATE runs SET start_time = 2 WHERE run_uuid = ?", [runs[2]])
    connection.close()
    assert_same()
    assert local._finished(None, config)[0] == runs[2]  # type: ignore[index]
    server.delete_run(runs[2])
    assert_same()
    server.set_terminated(runs[3], "KILLED", 9)
    assert_same()
    server.delete_experiment(server.get_run(runs[1]).info.experiment_id)
    assert_same()
    assert local._finished(None, config)[0] == runs[0]  # type: ignore[index]
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE tags RENAME COLUMN key TO name")
    connection.close()
    assert local._finished(None, config) is None, "a later schema is MLflow's to read"


def test_mlflow_is_asked_of_a_server_and_where_runs_have_ended_unrecorded(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = finished(config, tmp_path)
    assert tracking.find_detector(None, config)[0] == run_id
    monkeypatch.setattr(queries, "find_detector", lambda *_: ("asked", tmp_path))
    assert tracking.find_detector(None, config)[0] == run_id
    with tracking.start(config, data_name="d", run_name="goes on"):
        assert tracking.find_detector(None, config)[0] == "asked"
    assert tracking.find_detector(run_id[:8], config)[0] == "asked"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking.find_detector(None, config)[0] == "asked"


def test_what_cannot_be_found_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"no run {'f' * 32} in sqlite:///.*`anomaly-vae runs`"):
        tracking.find_detector("f" * 32, config)
    for name in ("abc", "x' or '1'='1", "'\""):
        with pytest.raises(RunError, match="neither an id, of 6 characters or more, nor a name; `anomaly-vae runs`"):
            tracking.full_run_id(name, config)
    runs = [finished(config, tmp_path, "it's 2 = 2") for _ in range(2)]
    with pytest.raises(RunError, match="of several runs") as caught:
        tracking.full_run_id("it's 2 = 2", config)
    assert all(run_id in str(caught.value) for run_id in runs)
    client(config).delete_run(runs[0])
    assert tracking.find_detector("it's 2 = 2", config)[0] == runs[1]
    with pytest.raises(ValueError, match="boom"), tracking.start(config, data_name="x", run_name="x") as failed:
        raise ValueError("boom")
    with pytest.raises(RunError, match=r"is FAILED, not finished \(ValueError: boom\); `anomaly-vae runs` lists"):
        tracking.find_detector(failed.run_id, config)
    with tracking.start(config, data_name="x", run_name="x") as running, pytest.raises(RunError, match="is RUNNING"):
        tracking.find_detector(running.run_id, config)


def test_update_leaves_status_and_times(config: Config, tmp_path: Path) -> None:
    run_id = finished(config, tmp_path)
    before = client(config).get_run(run_id).info
    with tracking.update(run_id, config) as run:
        run.metrics({"auroc": 0.5})
    with pytest.raises(ValueError, match="later"), tracking.update(run_id, config):
        raise ValueError("later")
    after = client(config).get_run(run_id)
    assert (after.info.status, after.info.end_time) == (before.status, before.end_time)
    assert after.data.metrics["auroc"] == 0.5
    assert "error" not in after.data.tags


def test_runs_are_listed_newest_first(config: Config) -> None:
    with tracking.start(config, data_name="plant", run_name="older"):
        pass
    with tracking.start(config, data_name="plant", run_name="newer") as run:
        run.params({"kind": "series", "model.kind": "conv1d", "data.label": None})
        run.metrics({"auroc": 0.8, "f1": 0.5, "rows": 40.0}, "test")
        run.metrics({"auroc": 0.1, "seconds": 12.0})  # as version 0.1 named all
    record = client(config).get_run(run.run_id)
    assert ("data.label" in record.data.params, record.data.tags["test/rows"]) == (False, "40")
    assert "test/rows" not in record.data.metrics
    row, older = tracking.list_runs(config, limit=2)
    assert (row["name"], older["name"]) == ("newer", "older")
    assert row["run_id"] == run.run_id
    wanted = {
        "experiment": "plant",
        "status": "FINISHED",
        "kind": "series",
        "model": "conv1d",
        "auroc": 0.8,
        "auprc": None,
        "f1": 0.5,
        "seconds": 12.0,
        "detector": False,
    }
    assert {key: row[key] for key in wanted} == wanted


def test_a_store_is_read_where_it_was_moved_to(config: Config, tmp_path: Path) -> None:
    made = at(tmp_path / "before")
    run_id = finished(made, tmp_path)
    (tmp_path / "before").rename(tmp_path / "after")
    latest, folder = tracking.find_detector(None, at(tmp_path / "after"))
    assert latest == run_id
    assert folder.is_relative_to(tmp_path / "after")
    assert sorted(path.name for path in (tmp_path / "after").iterdir()) == ["artifacts", "mlflow.db", "running"]
    # A second fit that came too late to make it.
    store._create_store(tmp_path / "after" / "mlflow.db", create_schema)
    assert len(tracking.list_runs(at(tmp_path / "after"))) == 1


def test_bad_folders_are_told_in_one_line(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "mlflow.db").write_text("this is no database, whatever its name may say" * 10)
    for folder, text in [
        (tmp_path / "file", "cannot keep runs here"),
        (tmp_path / "broken", "not a database"),
        (tmp_path / "100%", "'%'"),
    ]:
        with pytest.raises(RunError, match=text) as caught, tracking.start(at(folder), data_name="x", run_name="x"):
            pytest.fail("the body must not run")
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="no runs in"):
        tracking.find_detector(None, at(tmp_path / "nothing"))
    assert tracking.list_runs(at(tmp_path / "nothing")) == []
    assert not (tmp_path / "nothing").exists(), "looking makes nothing"


def test_a_locked_or_read_only_store_is_told(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = sqlite3.connect

    def read_only(address: str, **settings: Any) -> sqlite3.Connection:  # root may write anywhere, so modes cannot tell
        return opened(address.replace("mode=rw", "mode=ro"), **settings)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with (
        pytest.raises(RunError, match=r"readonly database.*tracking\.folder"),
        tracking.start(config, data_name="x", run_name="x"),
    ):
        pytest.fail("the body must not run")
    assert tracking.list_runs(config), "reading needs no permission to write"


def test_an_unreachable_server_is_told_at_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    began = time.perf_counter()
    with pytest.raises(RunError, match=f"no MLflow server answers at http://127.0.0.1:{port}"):
        tracking.list_runs(config)
    assert time.perf_counter() - began < 5  # seconds; MLflow's own retries take minutes


def test_no_tracking_writes_nothing(tmp_path: Path) -> None:
    off = at(tmp_path / "runs", enabled=False)
    with tracking.start(off, data_name="x", run_name="x") as run, tracking.update("", off) as later:
        for untracked in (run, later):
            untracked.params({"a": 1})
            untracked.epoch(0, {"a": 1.0})
            untracked.metrics({"a": 1.0})
            untracked.tags({"a": 1})
            untracked.text("a", "b")
            untracked.note("a")
            untracked.table(pd.DataFrame({"a": [1]}), "a")
            untracked.model(tmp_path, "a")
            untracked.detector(tmp_path)
            untracked.content(b"a", "figures/a.png")
            untracked.file(tmp_path / "a", "b")
            untracked.dataset(name="x", source="x", digest="x", rows=1, columns=1, context="x")
            assert untracked.run_id == ""
    assert list(tmp_path.iterdir()) == []


def test_the_ui_serves_the_store_and_ends_with_ctrl_c(config: Config, tmp_path: Path) -> None:
    run_id = finished(config, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "import sys; from anomaly_vae import tracking; from anomaly_vae.tracking import store;"
        "from anomaly_vae.core.config import Config, TrackingConfig;"
        "config = Config(tracking=TrackingConfig(folder=sys.argv[1]));"
        "store.serve_ui(config, tracking.review_page, print, port=int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, config.tracking.folder, str(port)]
    # a shell's background job, as this suite may be one, ignores SIGINT, and so would its children
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(120):
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        assert page == b"OK"
        server.send_signal(signal.SIGINT)
        printed, _ = server.communicate(timeout=30)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    experiment = client(config).get_run(run_id).info.experiment_id
    page = f"#/experiments/{experiment}/runs?viewStateShareKey=anomaly-vae&workflowType=machine_learning"
    assert f"http://127.0.0.1:{port}/{page}\n" in printed
    assert "Traceback" not in printed
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
