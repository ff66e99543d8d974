"""Parts of the steps of a series against numbers worked by hand and an independent implementation."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.base import VAE, Output
from anomaly_vae.scoring.parts.base import Batch, Normals, StepPart
from anomaly_vae.scoring.parts.nearest_windows import NearestWindows
from anomaly_vae.scoring.parts.variation import Variation


def fitted(part: StepPart, train: Tensor, held: Tensor) -> StepPart:
    part.fit(
        Normals(
            cast(VAE, None), 0, torch.Generator(), len(train), len(held),
            lambda: train, lambda: (held, torch.arange(len(held))),
        )
    )  # fmt: skip
    return part


def nats(part: StepPart, x: Tensor) -> Tensor:
    return part.elements(Batch(x, cast(Output, None), x))


def test_the_difference_to_the_nearest_window_in_units_of_held_out_ones() -> None:
    nan = math.nan
    train = torch.tensor([[[0.0, 0, 0, 0]], [[1, 1, 1, 1]], [[4, 4, 4, 4]]])
    part = fitted(NearestWindows(1, 4, 10), train, torch.tensor([[[0.0, 0, 2, 0]], [[1, 1, 1, nan]]]))
    # nearest: the zeros, 4 / 4, and the ones, 0: 4 of 7 steps in all, and 0.001
    unit = 4 / 7 + 1e-3
    found = nats(part, torch.tensor([[[4.0, 4, 5, 7]], [[0, 0, nan, nan]]]))
    second = 0.5 * (1 + 9) / 2 / unit - 0.5
    torch.testing.assert_close(found, torch.tensor([[[0, 0, second, second]], [[0, 0, 0, 0]]]))


def test_so_many_windows_are_kept_evenly_spaced() -> None:
    train = torch.arange(7.0)[:, None, None].expand(7, 2, 3)
    part = cast(NearestWindows, fitted(NearestWindows(2, 3, 3), train, train))
    assert part.references[1, :, 0].tolist() == [0, 3, 6]


def variation_by_loops(normal: np.ndarray, x: np.ndarray, length: int, floor: float) -> float:  # type: ignore[type-arg]
    """Nats of the first block of one window x (T,) after normal windows (n, T)."""

    def logs(window: np.ndarray) -> list[float]:  # type: ignore[type-arg]
        blocks = []
        for first in range(0, len(window), length):
            changes = [window[t] - window[t - 1] for t in range(max(1, first), first + length)]
            blocks.append(math.log(np.mean(np.square(changes)) + floor))
        return blocks

    usual = np.sort(np.concatenate([logs(window) for window in normal]))
    low, middle, high = (usual[round((len(usual) - 1) * share)] for share in (0.01, 0.5, 0.99))
    here = logs(x)[0]
    below = (middle - here) / max(middle - low, 5 / math.sqrt(length - 1))
    above = (here - middle) / max(high - middle, 3.5 / math.sqrt(length - 1))
    excess = max(0.0, 2.33 * max(below, above) - 2.6)
    return excess**2 / 2 if excess < 4 else 4 * excess - 8


@pytest.mark.parametrize("fault", ["usual", "stuck", "noisy", "a little noisy"])
def test_variation_of_blocks_of_both_lengths_by_loops(fault: str) -> None:
    rng = np.random.default_rng(0)
    normal, x = rng.normal(size=(90, 16)), rng.normal(size=16)
    scale = {"usual": 1.0, "stuck": 0.0, "noisy": 20.0, "a little noisy": 2.5}[fault]
    windows = torch.from_numpy(normal)[:, None].float()
    part = cast(Variation, fitted(Variation(1, 16, local=False), windows[:60], windows[60:]))
    found = nats(part, torch.from_numpy(scale * x)[None, None].float())
    squares = (np.diff(normal, axis=1) ** 2)[:, :7].mean(1), (np.diff(normal, axis=1) ** 2)[:, 7:].mean(1)
    floor = 1e-4 * float(np.sort(np.concatenate(squares))[(180 - 1) // 2]) + 1e-6  # the lower median, as torch's
    expected = sum(variation_by_loops(normal, scale * x, length, floor) for length in (8, 16))
    assert (expected == 0) == (fault == "usual")
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-3)
    if fault == "stuck":
        assert expected > 40
    own = fitted(Variation(1, 16), windows[:60], windows[60:])
    by_step = nats(own, torch.from_numpy(scale * x)[None, None].float())[0, 0]
    torch.testing.assert_close(by_step.sum(), found.sum())
    torch.testing.assert_close(by_step[8], found[0, 0, 8]) if fault in ("usual", "stuck") else None


def test_a_spike_has_its_nats_at_the_two_steps_that_change() -> None:
    windows = torch.randn(90, 1, 16, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(1, 1, 16)
    x[..., 5] = 100.0
    changes = fitted(Variation(1, 16), windows, windows)
    found, even = nats(changes, x)[0, 0], nats(fitted(Variation(1, 16, local=False), windows, windows), x)[0, 0]
    assert found[[5, 6]].sum() > 0.8 * found[:8].sum()  # the rest is what is too still in the later blocks
    torch.testing.assert_close(found.sum(), even.sum())


def test_a_block_without_any_difference_has_no_nats() -> None:
    windows = torch.randn(40, 1, 8, generator=torch.Generator().manual_seed(0))
    part = fitted(Variation(1, 8), windows, windows)
    assert not nats(part, torch.full((1, 1, 8), math.nan)).any()
    with_condition = torch.cat([windows, torch.randn(40, 2, 8)], dim=1)  # which is not judged
    assert torch.equal(nats(fitted(Variation(1, 8), with_condition, with_condition), windows), nats(part, windows))
    alone = fitted(Variation(1, 1), windows[:, :, :1], windows[:, :, :1])  # windows of one step
    assert not nats(alone, windows[:, :, :1]).any()


def test_windows_are_known_only_where_training_shows_enough_of_them() -> None:
    by_rows = KINDS["series"].by_rows
    assert by_rows is not None
    few = {"neighbours": 0, "parts": ("missing",), "local": False}
    assert by_rows(999, None) == {"data": {"window": 32}, "scoring": few}
    parts = ("variation", "missing")
    assert by_rows(1000, 8) == {"data": {"window": 8}, "scoring": few | {"parts": parts, "local": True}}
    assert by_rows(3000, None)["scoring"] == {"neighbours": 300, "parts": parts, "local": True}
    assert by_rows(340, None)["data"] == {"window": 16}


@pytest.fixture(scope="module")
def long_series() -> tuple[Detector, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    t = np.arange(1900)[:, None]
    x = np.sin(2 * np.pi * t / 40 + [0, 1, 2]) + 0.1 * rng.normal(size=(1900, 3))
    detector = Detector.fit(x[:1500], kind="series", data__window=8, scoring__neighbours=300, model__channels=[4],
                            training__steps=40, split__train=0.7, split__valid=0.3, device="cpu")  # fmt: skip
    return detector, x[1500:]


@pytest.mark.parametrize("fault", ["stuck", "noisy"])
def test_a_stuck_and_a_noisy_sensor_are_alarms_and_named(
    long_series: tuple[Detector, np.ndarray],  # type: ignore[type-arg]
    fault: str,
) -> None:
    detector, fresh = long_series
    faulty = fresh.copy()
    here = slice(150, 190)
    if fault == "stuck":
        faulty[here, 1] = faulty[149, 1]
    else:
        faulty[here, 1] += 0.8 * np.random.default_rng(1).normal(size=40)
    scores = detector.parts(faulty, explain=True)
    assert list(scores.parts) == ["recon", "kl", "neighbours", "variation", "level", "missing"]
    inside, usual = scores.parts["variation"][155:185], detector.parts(fresh).parts["variation"]
    assert inside.min() > 10 * max(usual.mean(), 0.1)
    assert (scores.total[155:185] >= detector.threshold.value).all()
    assert (detector.contributions(scores, 1)[0][155:185, 0] == 1).all()
    assert scores.elements is not None
    np.testing.assert_allclose(scores.elements.sum(1) + scores.parts["kl"], scores.total, rtol=1e-4, atol=1e-4)
