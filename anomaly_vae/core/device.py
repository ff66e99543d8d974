"""Where tensors live, and what the hardware there computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError


def pick_device(wanted: str) -> torch.device:
    """The device of a setting. Raises ConfigError where CUDA is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device was found; device=auto or cpu would work")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 autocast where the setting asks for it and the hardware computes in it, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if config.training.bf16 and has_bf16(device) else nullcontext()


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulation would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
