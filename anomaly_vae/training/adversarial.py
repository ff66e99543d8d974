"""A discriminator of patches, used in training only: the decoder learns to pass it (Larsen 2016, Isola 2017).

Under a likelihood of independent pixels, a sharp edge in the wrong place costs more than a blurred one, so decoders
blur. The discriminator adds a loss for patches of reconstructions that it can tell from patches of data. It is not part
of the model: scores do not use it, and a detector does not keep it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.core import distributed
from anomaly_vae.training import checkpoint
from anomaly_vae.training.optimizer import AdamW

WIDTH, STAGES = 32, 3  # channels of the first stage, and how many halve the sides: a patch is 46 pixels wide
FOLDER = "adversary"  # of its checkpoint, in that of the training


class Discriminator:
    """A discriminator of pictures (B, C, H, W) with an optimiser of its own, under the hinge loss (Lim & Ye 2017)."""

    def __init__(self, channels: int, device: torch.device, lr: float, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = _discriminator(channels).to(device)
        self.shared = distributed.parallel(self.net)
        self.optimizer = AdamW(self.net.parameters(), lr, betas=(0.5, 0.9), weight_decay=0.0)

    def objection(self, reconstruction: Tensor) -> Tensor:
        """The loss of a reconstruction under the discriminator, mean over patches; no gradient for its own weights."""
        frozen = {name: value.detach() for name, value in self.net.named_parameters()}
        judged: Tensor = torch.func.functional_call(self.net, frozen, (reconstruction,))
        return -distributed.mean(judged)

    def learn(self, data: Tensor, reconstruction: Tensor) -> Tensor:
        """One step towards telling data from reconstructions; its loss, 0 where it tells them apart by the margin."""
        made = reconstruction.detach().nan_to_num()  # a step that failed in the model must not spoil the discriminator
        real, made = self.shared(torch.cat([data, made])).chunk(2)
        loss = distributed.mean(F.relu(1 - real)) + distributed.mean(F.relu(1 + made))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def save(self, folder: Path) -> None:
        """Beside the checkpoint of the training in `folder`."""
        checkpoint.save(folder / FOLDER, self.net, {}, self.optimizer, {})

    def restore(self, folder: Path) -> None:
        """Restores what was saved. Raises RunError where nothing was, or another network."""
        kept: Any = distributed.from_lead(lambda: checkpoint.read(folder / FOLDER))
        kept.restore(self.net, self.optimizer)


def _discriminator(channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = channels
    for stage in range(STAGES):
        after = WIDTH * 2**stage
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        before = after
    layers += [nn.Conv2d(before, before, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(before, 1, 3, padding=1)]
    return nn.Sequential(*layers)  # (B, 1, H/8, W/8)
