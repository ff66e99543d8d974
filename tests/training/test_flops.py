"""How many operations the hot paths dispatch, and how often they wait for the device: on a GPU an operation is a kernel
launch, and on a CPU a pass over memory. Counted, so that a regression is told from noise; the limits leave a tenth for
what other versions of torch do differently."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from anomaly_vae.core.config import Config
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models import registry
from anomaly_vae.scoring.compose import parts_of
from anomaly_vae.scoring.score_model import ScoreModel
from anomaly_vae.training import flops
from anomaly_vae.training.loop import History, Schedule, adamw, one_epoch

CPU, BATCH = torch.device("cpu"), 16
# kind, shape of a sample -> operations of a training step, of a scored block
KINDS: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    "pictures": ("pixels", (1, 28, 28), 240, 48),
    "windows": ("series", (8, 32), 160, 30),
    "rows": ("table", (60,), 186, 165),
    "features": ("images", (64,), 154, 42),
}
WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")  # what the host reads of the device


class Counted(TorchDispatchMode):
    """The operations that are dispatched, by name; views, which launch nothing, are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.names.values())

    @property
    def waiting(self) -> int:
        return sum(self.names[name] for name in WAITING)


def resolved(kind: str) -> Config:
    return resolve(load(overrides=[f"training.batch_size={BATCH}"]), kind)


def epoch(kind: str, shape: tuple[int, ...], steps: int) -> Counted:
    """Everything that an epoch of so many steps dispatches."""
    config = resolved(kind)
    torch.manual_seed(0)
    model = registry.build(config.model, shape)
    samples = RowDataset(torch.rand(BATCH * steps, *shape).numpy(), CPU)
    optimizer = adamw(model, config)
    with Counted() as counted:
        one_epoch(model, samples, optimizer, config, Schedule(1, len(samples)), 0, History(batch_size=BATCH))
    return counted


@pytest.mark.parametrize("name", KINDS)
def test_a_training_step_dispatches_few_operations_and_never_waits(name: str) -> None:
    kind, shape, most, _ = KINDS[name]
    two, four = epoch(kind, shape, 2), epoch(kind, shape, 4)
    a_step = (four.total - two.total) // 2
    assert most / 2 < a_step <= most, (four.names - two.names).most_common(12)
    assert four.waiting == two.waiting <= 5, four.names  # at the end of the epoch alone


@pytest.mark.parametrize("name", KINDS)
def test_a_scored_block_dispatches_few_operations_and_never_waits(name: str) -> None:
    kind, shape, _, most = KINDS[name]
    config = resolved(kind)
    recon = "likelihood" if name == "features" else config.scoring.recon  # the maps' parts need a backbone
    neighbours = 64 if name == "rows" else 0
    scoring = config.scoring.model_copy(update={"neighbours": neighbours, "recon": recon})
    model = registry.build(config.model, shape)
    net = ScoreModel(model, parts_of(model, scoring, shape, "neighbours")).eval()
    with torch.inference_mode(), Counted() as counted:
        net(torch.rand(BATCH, *shape))
    assert most / 2 < counted.total <= most, counted.names.most_common(12)
    assert counted.waiting == 0


def test_a_row_costs_the_products_of_its_layers_and_no_more() -> None:
    config = resolved("table")
    model = registry.build(config.model, (60,))
    net = ScoreModel(model, parts_of(model, config.scoring, (60,), "neighbours")).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        net(torch.rand(BATCH, 60))
    one_member = 60 * 64 + 64 * 64 + 64 * 32 + 16 * 64 + 64 * 64 + 64 * 120
    joined, references = 60 + 4 * 16 + 4 * 60, 2048  # inputs, latent means and residuals of the members
    near = joined * 32 + (33 + 2) * references  # onto the axes, and to every reference
    outlying = 60 * 32 + (33 + 2) * references  # the same in the inputs
    latents = 4 * 16
    prior = config.scoring.components * latents * latents  # each component whitens them
    assert counted.get_total_flops() == 2 * BATCH * (4 * one_member + near + outlying + prior)


def test_distances_are_computed_a_tile_and_a_bag_at_a_time() -> None:
    config = resolved("table")
    model = registry.build(config.model, (6,))
    net = ScoreModel(model, parts_of(model, config.scoring, (6,), "neighbours")).eval()
    with torch.inference_mode(), Counted() as counted:
        net(torch.rand(1024, 6))
    assert counted.names["mm"] == (4 + 8) * 1024 // 256  # bags of neighbours and of lof; six columns need no axes


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_operations_are_counted_in_every_mode_as_torch_counts_them(mode: Any) -> None:
    layers = (torch.nn.Conv2d(3, 8, 4, 2, 1), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 5))
    net, x = torch.nn.Sequential(*layers), torch.rand(2, 3, 8, 8)
    with mode(), flops.OperationCounter() as ours:
        net(x)
    with mode(), FlopCounterMode(display=False) as theirs:
        net(x)
    assert ours.flops == theirs.get_total_flops() == 2 * 2 * (16 * 8 * 48 + 128 * 5)
