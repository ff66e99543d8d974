"""The state of a training run between two epochs, in one safetensors file: tensors, and JSON in its header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from anomaly_vae.core.errors import RunError
from anomaly_vae.core.files import replacing

FILE = "training.safetensors"


def save(folder: Path, model: nn.Module, best: dict[str, Tensor], optimizer: torch.optim.Optimizer,
         state: dict[str, Any]) -> None:  # fmt: skip
    """Writes weights, best weights, AdamW's moments and `state` (JSON) to the folder, replacing an older file whole."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in best.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FILE) as path:
        contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        path.write_bytes(save_tensors(contiguous, metadata={"state": json.dumps(state)}))


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, on the CPU. optimizer: moments by name for each parameter; state: see `save`."""

    folder: Path
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    state: dict[str, Any]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Restores model and optimizer in place; returns the best weights. Raises RunError for another model."""
        try:
            model.load_state_dict(self.model)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer})
        except (RuntimeError, ValueError) as error:
            raise RunError(f"{self.folder}: its checkpoint is of another model; fit again instead") from error
        device = next(model.parameters()).device
        return {k: v.to(device) for k, v in self.best.items()}


def read(folder: Path) -> Checkpoint:
    """The checkpoint of a folder. Raises RunError where there is none that can be read."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder}: no checkpoint to resume from; fit again instead") from error
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, _, slot = name.partition("/")
        slots.setdefault(int(index), {})[slot] = value
    return Checkpoint(folder, parts["model"], parts["best"], slots, state)


def exists(folder: Path) -> bool:
    return (folder / FILE).is_file()
