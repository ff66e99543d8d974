"""A store that goes away in the middle of a fit loses nothing; two processes at one store do not disturb each other."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from anomaly_vae import tracking
from anomaly_vae.cli import main
from anomaly_vae.core.config import Config, TrackingConfig
from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking import outbox, store
from anomaly_vae.tracking.run import Run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Config(tracking=TrackingConfig(folder=str(tmp_path_factory.mktemp("runs"))))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder that stands for a saved detector and for a model."""
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    return folder


def gone(_: str) -> None:
    raise RunError("no MLflow server answers at http://here (Connection refused)")


def log_everything(run: Run, files: Path, epoch: int) -> None:
    run.params({"größe=1/2": 'it\'s "new"', f"p{epoch}": 1})
    run.epoch(epoch, {"train/loss": 2.0 - epoch, "nan": float("inf")})
    run.metrics({"auroc": 0.75})
    run.tags({"data": "名前 = 'x'/y"})
    run.note("# Read me\n\n| a | b |")
    run.text("hello", "notes/first.txt")
    run.content(b"\x89PNG", "figures/curve.png")
    run.table(pd.DataFrame({"id": ["é"], "score": [1.5]}), "rows")
    run.dataset(name="d", source="d.csv", digest="ab", rows=2, columns=["a"], context="training")
    run.detector(files)
    run.model(files, "m")


def status(config: Config, run_id: str) -> str:
    return str(MlflowClient(store.store_uri(config)).get_run(run_id).info.status)


def shown(config: Config, run_id: str) -> dict[str, object]:
    """What a person sees of a run, without its times."""
    client = MlflowClient(store.store_uri(config))
    run = client.get_run(run_id)
    folder = Path(config.tracking.folder) / "artifacts" / run_id / "artifacts"
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    points = {key: [(p.step, str(p.value)) for p in client.get_metric_history(run_id, key)] for key in run.data.metrics}
    return {
        "status": run.info.status,
        "params": run.data.params,
        "points": {key: values for key, values in points.items() if not key.startswith("system/")},
        "tags": {
            key: run.data.tags[key] for key in ("data", "detector", "mlflow.note.content", "mlflow.loggedArtifacts")
        },
        "files": {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()},
        "inputs": [d.dataset.to_dictionary() for d in run.inputs.dataset_inputs],
        "model": (model.name, model.status, sorted({metric.key for metric in model.metrics})),
        "model files": [
            p.name for p in Path(config.tracking.folder).glob(f"artifacts/models/{model.model_id}/**/MLmodel")
        ],
    }


def test_a_run_whose_store_goes_away_arrives_whole_later(
    config: Config, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.start(config, data_name="d", run_name="whole", model="m") as whole:
        for epoch in (0, 1):
            log_everything(whole, files, epoch)
    assert whole.lost is None
    with tracking.start(config, data_name="d", run_name="broken", model="m") as broken:
        log_everything(broken, files, 0)
        monkeypatch.setattr(outbox, "knock", gone)
        log_everything(broken, files, 1)
    assert broken.lost is not None
    folder, why = broken.lost
    assert "Connection refused" in why
    assert (folder / "artifacts" / "detector" / "MLmodel").is_file(), "a detector to work with meanwhile"
    assert tracking.list_runs(config, 1)[0]["status"] == "RUNNING"

    settings = ["--set", f"tracking.folder={config.tracking.folder}"]
    refused = CliRunner().invoke(main, ["runs", "--sync", *settings])
    assert refused.exit_code == 1
    assert "1 of 1 runs still wait in" in refused.stderr
    listed = CliRunner().invoke(main, ["runs", *settings])
    assert "note: 1 more in" in listed.stderr

    monkeypatch.undo()
    real, calls = outbox.Sender.write, []

    def cut_short(self: outbox.Sender, entry: object) -> None:
        calls.append(entry)
        if len(calls) == 4:
            raise RunError("gone again")
        real(self, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(outbox.Sender, "write", cut_short)
    assert [result.why for result in tracking.sync(config)] == ["gone again"]
    monkeypatch.undo()
    sent = CliRunner().invoke(main, ["runs", "--sync", *settings])
    assert (sent.exit_code, sent.stdout) == (0, f"{broken.run_id}  sent\n")
    assert shown(config, broken.run_id) == shown(config, whole.run_id)
    assert not folder.exists()
    assert CliRunner().invoke(main, ["runs", "--sync", *settings]).stdout == "nothing waits to be sent\n"


def test_a_store_that_comes_back_before_the_end_gets_the_run_at_once(
    config: Config, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.start(config, data_name="d", run_name="back", model="m") as run:
        monkeypatch.setattr(outbox, "knock", gone)
        log_everything(run, files, 0)
        monkeypatch.undo()
        assert run.lost
    assert run.lost is None
    assert shown(config, run.run_id)["status"] == "FINISHED"
    assert tracking.waiting(config) == []


def test_a_run_killed_without_its_store_is_continued_with_what_waits(
    config: Config, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tracking.start(config, data_name="d", run_name="killed", model="m")
    run = context.__enter__()
    monkeypatch.setattr(outbox, "knock", gone)
    run.epoch(0, {"train/loss": 2.0})
    monkeypatch.undo()
    (left,) = tracking.sync(config)
    assert left.why.startswith("has not ended; if it was killed")
    with pytest.raises(RunError, match="has a process that goes on with it"):
        tracking.start(config, data_name="d", run_name="killed", resume=run.run_id).__enter__()
    release(context)
    with tracking.start(config, data_name="d", run_name="killed", resume=run.run_id) as again:
        again.epoch(0, {"train/loss": 3.0})
        log_everything(again, files, 1)
    assert shown(config, run.run_id)["points"]["train/loss"] == [(0, "2.0"), (1, "1.0")]  # type: ignore[index]
    assert tracking.waiting(config) == []
    context.gen.close()  # type: ignore[attr-defined]  # the killed one, in this process


def release(context: Any) -> None:
    """Takes the lock from a run of this process, as the system does when a process is killed."""
    held = context.gen.gi_frame.f_locals["alive"]
    os.close(held._lock)
    held._lock = None


def test_a_run_killed_without_its_store_is_sent_as_killed(
    config: Config, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tracking.start(config, data_name="d", run_name="killed", model="m")
    run = context.__enter__()
    monkeypatch.setattr(outbox, "knock", gone)
    run.epoch(0, {"train/loss": 2.0})
    monkeypatch.undo()
    release(context)
    assert tracking.sync(config) == [outbox.SyncResult(run.run_id, outbox.spool_folder(run.run_id, config))]
    assert status(config, run.run_id) == "KILLED"
    assert (tracking.waiting(config), list((store.store_folder(config) / "running").iterdir())) == ([], [])
    context.gen.close()  # type: ignore[attr-defined]


def test_a_full_disk_ends_the_run_as_failed_and_leaves_nothing_to_send(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunError("logging to the run: database or disk is full")

    def fail() -> Run:
        with tracking.start(config, data_name="d", run_name="full") as run:
            runs.append(run)
            monkeypatch.setattr(outbox.Sender, "_write", full)
            monkeypatch.setattr(outbox.Spool, "write", full)
            run.params({"a": 1})
        return run

    runs: list[Run] = []
    with pytest.raises(RunError, match="disk is full"):
        fail()
    assert status(config, runs[0].run_id) == "RUNNING"  # what the store could not be told
    assert not (store.store_folder(config) / "unsent" / runs[0].run_id).exists()
    monkeypatch.undo()
    (row,) = tracking.list_runs(config, limit=1)  # any next command
    assert (row["run_id"], row["status"]) == (runs[0].run_id, "FAILED")


def test_what_is_added_to_an_ended_run_is_refused_at_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.start(config, data_name="d", run_name="done") as run:
        pass
    with tracking.update(run.run_id, config) as later:
        monkeypatch.setattr(outbox, "knock", gone)
        with pytest.raises(RunError, match="Connection refused"):
            later.tags({"a": 1})


FIT = """
    import sys
    from pathlib import Path
    from anomaly_vae import tracking
    from anomaly_vae.tracking import recording
    from anomaly_vae.core.config import Config, TrackingConfig
    recording.SECONDS_BETWEEN = 0.0
    config = Config(tracking=TrackingConfig(folder=sys.argv[1]))
    with tracking.start(config, data_name="d", run_name="d", model="d") as run:
        for epoch in range(30):
            run.epoch(epoch, {"train/loss": float(epoch), "kl": 1.0})
        run.detector(Path(sys.argv[2]))
        assert run.lost is None
"""


def test_two_fits_at_once_both_finish(files: Path, tmp_path: Path) -> None:
    """They make the store at the same time, too; no network is trained, every epoch is sent."""
    command = [sys.executable, "-c", textwrap.dedent(FIT), str(tmp_path / "runs"), str(files)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    fits = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    assert [fit.communicate(timeout=120)[0] for fit in fits] == ["", ""], "and both are silent"
    config = Config(tracking=TrackingConfig(folder=str(tmp_path / "runs")))
    rows = tracking.list_runs(config)
    assert [(row["status"], row["detector"]) for row in rows] == [("FINISHED", True)] * 2
    assert len({row["experiment"] for row in rows}) == 1
    for row in rows:
        history = MlflowClient(store.store_uri(config)).get_metric_history(row["run_id"], "train/loss")
        assert [point.step for point in history] == list(range(30))
