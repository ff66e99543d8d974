"""A dear step makes a default training shorter, and a long training is announced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.open import open_memory
from anomaly_vae.detector import configuration, cost, cross_fit
from anomaly_vae.detector import fit as fits
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.registry import build
from anomaly_vae.training.threads import step_seconds

SMALL = ["device=cpu", "model.hidden=[4]", "model.members=1", "scoring.neighbours=0", "scoring.parts=[]"]
ROWS = np.random.default_rng(0).normal(size=(60, 3))


def fit_rows(rows: NDArray[np.float64], *overrides: str, every_row: bool = False) -> tuple[Config, list[str]]:
    config, said = load(overrides=[*SMALL, "data.kind=table", "tracking.enabled=false", *overrides]), []
    detector, _ = fits.fit(open_memory(rows, config.data, None), config, every_row=every_row, say=said.append)
    return detector.config, said


@pytest.mark.parametrize(
    ("step_flops", "overrides", "steps"),
    [(1e9, [], 5), (1e12, [], 2), (1e9, ["training.steps=7"], 7), (1e9, ["training.epochs=1"], None), (1.0, [], 9)],
)
def test_default_steps_go_by_their_cost(
    step_flops: float, overrides: list[str], steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "step_flops", lambda *_: step_flops)
    monkeypatch.setattr(configuration, "MOST_WORK", 5e9)
    monkeypatch.setattr(configuration, "FEWEST_STEPS", 2)
    table = configuration.KINDS["table"].defaults["training"]
    default = table["steps"]
    monkeypatch.setitem(table, "steps", 9)  # type: ignore[attr-defined]
    config, said = fit_rows(ROWS, "split.folds=0", *overrides)
    assert config.training.steps == (steps or 9)
    usual = "--set training.steps=9 takes the usual number"
    assert [line.endswith(f": {steps} of them; {usual}") for line in said] == [True] * (steps in (2, 5))
    assert default >= configuration.FEWEST_STEPS


@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("length", ["steps", "epochs"])
def test_a_long_training_is_announced_with_what_halves_it(
    every_row: bool, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def counted(*args: Any, **others: Any) -> Any:
        trained.append(args[3].training.steps if length == "steps" else 32 * args[3].training.epochs)
        return train(*args, **others)

    train = fits.train
    for module in (fits, cross_fit):
        monkeypatch.setattr(module, "train", counted)
    monkeypatch.setattr(cost, "step_seconds", lambda *_: 60.0)
    _, said = fit_rows(ROWS, f"training.{length}=4", "split.folds=2", every_row=every_row)
    (line,) = said
    assert line.startswith(f"training will take about {sum(trained)} min")
    assert line.endswith(f"; --set training.{length}=2 takes half as long")
    assert f", {sum(trained) / trained[-1]:.3g} times over" in line


def test_the_seconds_of_a_step_are_measured_on_the_batch_it_will_have() -> None:
    config = resolve(load(overrides=[*SMALL, "training.batch_size=240"]), "table")
    rows = RowDataset(torch.from_numpy(ROWS).float(), torch.device("cpu"))
    model = build(config.model, (3,))
    forward, sizes = model.forward, []
    model.forward = lambda x, *rest: (sizes.append(len(x)), forward(x, *rest))[1]  # type: ignore[method-assign]
    assert 0 < step_seconds(model, rows, config) < 60
    assert sizes == [2, 60, 60]  # the operations are counted on two rows
