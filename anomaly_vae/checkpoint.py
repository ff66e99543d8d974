"""The state of a training run between two epochs, in one safetensors file: tensors, and JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from anomaly_vae.errors import RunError
from anomaly_vae.output import replacing

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


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restores model and optimizer in place; returns the best weights and the state.

    Raises RunError where the file is missing or does not fit the model.
    """
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
    try:
        model.load_state_dict(parts["model"])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    except (RuntimeError, ValueError) as error:
        raise RunError(f"{folder}: its checkpoint is of another model; fit again instead") from error
    device = next(model.parameters()).device
    return {k: v.to(device) for k, v in parts["best"].items()}, state


def exists(folder: Path) -> bool:
    return (folder / FILE).is_file()
