"""Two processes train as one does, whatever the model; one that fails ends the job with its reason, and it resumes.

Run as a script, this file is one process of a job: `python test_distributed.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from anomaly_vae.core import distributed
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.registry import MODELS, build
from anomaly_vae.tracking import store
from anomaly_vae.training import checkpoint, loop

ROOT = Path(__file__).parents[2]
SHAPES = {1: (5,), 2: (2, 8), 3: (1, 8, 8)}  # of a sample, by the number of axes
KINDS = {1: "table", 2: "series", 3: "pixels"}
GIVEN = {"conditional": ("load",)}  # columns that a kind of model is told: the last elements of a sample
BATCH_WIDE = ("model.sigma=optimal", "objective.free_bits=0.4", "objective.schedule=constant")
BINARY = ("model.likelihood=bernoulli", "training.binarise=true", "training.noise=0")
OPPOSED = ("objective.adversarial=0.1", "objective.schedule=constant")
CASES: list[tuple[str, tuple[str, ...]]] = [(kind, ()) for kind in MODELS]
CASES += [("dense", BATCH_WIDE), ("conv2d", BATCH_WIDE), ("conv2d", BINARY), ("conv2d", OPPOSED)]


def settings(kind: str, overrides: tuple[str, ...]) -> tuple[Config, tuple[int, ...]]:
    """Of a small job, and the shape of a sample. Noise and jitter are those of the defaults."""
    axes = MODELS[kind].axes[0]
    small = ["model.hidden=[8]", "model.channels=[8]", "training.bf16=false"]
    small += ["training.epochs=2", "training.batch_size=16"]
    small += [f"data.condition=[{name}]" for name in GIVEN.get(kind, ())]
    return resolve(load(overrides=[*small, f"model.kind={kind}", *overrides]), KINDS[axes]), SHAPES[axes]  # type: ignore[arg-type]


def part(shape: tuple[int, ...], n: int) -> RowDataset:
    return RowDataset(np.random.default_rng(n).random((n, *shape)).astype(np.float32), torch.device("cpu"))


Found = tuple[list[dict[str, float]], dict[str, Any]]  # figures of each epoch, weights


def trained(kind: str, overrides: tuple[str, ...], folder: Path | None = None, last: int = 9) -> Found:
    """Two epochs, of which each ends in a batch, and the held-out rows in a block, of one row: fewer than processes.

    folder: of a checkpoint. last: the epoch after whose checkpoint the training is killed.
    """
    config, shape = settings(kind, overrides)
    torch.manual_seed(0)
    model = build(config.model, shape, n_condition=len(GIVEN.get(kind, ())))

    def watch(epoch: int, *_: Any) -> None:
        if epoch > last:
            raise KeyboardInterrupt

    history = loop.train(model, part(shape, 49), part(shape, 257), config, watch, folder)
    figures = [{k: v for k, v in epoch.items() if k != "samples_per_second"} for epoch in history.epochs]
    return figures, {name: value.tolist() for name, value in model.state_dict().items()}


def broken_and_resumed(folder: Path) -> Found:
    """Killed after the first of its two epochs; only the lead has the folder of the checkpoint."""
    own = folder if distributed.is_lead() else None
    with pytest.raises(KeyboardInterrupt):
        trained(*CASES[-1], own, last=0)
    return trained(*CASES[-1], own)


def everything(folder: Path) -> list[Found]:
    loop.STEPS, loop.CHECKPOINT_SECONDS = 3, 0.0
    return [*(trained(*case) for case in CASES), broken_and_resumed(folder)]


def start(command: list[str], folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    """One of the two processes of a job, started as torchrun would."""
    job = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = own_environment() | {name: str(value) for name, value in job.items()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def own_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def together(command: list[str], folder: Path) -> None:
    """Two processes that end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(command, folder, rank, port) for rank in (0, 1)]
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said


def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS", 3)
    together([str(Path(__file__)), str(tmp_path)], tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second  # figures and weights, to the bit
    *found, resumed = first
    for case, (shared, _) in zip(CASES, found, strict=True):
        alone, _ = trained(*case)
        assert len(alone) == 2
        for one, two in zip(alone, shared, strict=True):
            assert two == pytest.approx(one, rel=1e-5), case
    assert resumed == found[-1]


DYING = """
import os, sys
from anomaly_vae.cli import main
from anomaly_vae.core.errors import TrainingError
from anomaly_vae.training import loop

loop.CHECKPOINT_SECONDS = 0.0
epoch = loop.one_epoch

def failing(*arguments):
    if arguments[4] == 2 and os.environ["RANK"] == "1":
        assert not {"mlflow", "matplotlib", "torchvision"} & set(sys.modules)  # what trains without a record needs none
        raise TrainingError("the second process has lost its disk")
    return epoch(*arguments)

loop.one_epoch = failing
main()
"""


def test_a_process_that_fails_ends_the_job_with_its_reason(workplace: Path) -> None:
    from anomaly_vae import tracking  # the processes of the other job need no mlflow

    (workplace / "dying.py").write_text(DYING)
    tracking.require_store(load())  # from the copied schema: the job makes no migrations
    np.savetxt("rows.csv", np.random.default_rng(0).normal(size=(60, 3)), delimiter=",", header="a,b,c", comments="")
    small = ["training.epochs=4", "model.members=1", "model.hidden=[8]", "scoring.neighbours=0", "data.memory=0"]
    small.append("split.folds=0")
    fit = ["dying.py", "fit", "rows.csv", *(word for setting in small for word in ("--set", setting))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *fit]
    done = subprocess.run(torchrun, env=own_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if line.startswith("anomaly-vae:")]
    assert ours == ["anomaly-vae: the second process has lost its disk"]

    runs = tracking.list_runs(load(), 9)
    assert [run["status"] for run in runs] == ["FAILED"]  # one: the lead's alone
    folder = store.checkpoint_folder(runs[0]["run_id"], load())
    assert any(checkpoint.exists(place) for place in (folder, *folder.iterdir()))
    assert len(list(workplace.glob("mlruns/cache/tables/*.arrow"))) == 1  # which one process wrote for both


def test_only_fit_is_for_torchrun(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomaly_vae.cli import main

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    result = CliRunner().invoke(main, ["runs"])
    assert result.exit_code == 2
    assert result.stderr == (
        "anomaly-vae: torchrun starts several processes, and `runs` is for one; `fit` is for several\n"
    )


def test_more_processes_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"3 processes .* and 2 CUDA devices; --nproc-per-node 2 or device=cpu"):
        distributed._own_device()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.job("cpu"):
        Path(sys.argv[1], f"{os.environ['RANK']}.json").write_text(json.dumps(everything(Path(sys.argv[1]))))
