"""The choice of the device and of its floating-point type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError


def pick_device(wanted: str) -> torch.device:
    """The device of the setting `device`: auto, cpu or cuda. Raises ConfigError for cuda without a CUDA device."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device was found; device=auto or cpu would work")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions on a CUDA device in float32 as on a CPU, not in TF32 with its 10 bits of mantissa, and each time by
    the same algorithm; elsewhere it does nothing. Also a decorator."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def autocast(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 autocast if `training.bf16` is set and the hardware supports it; else a context that does nothing."""
    return torch.autocast(device.type, torch.bfloat16) if config.training.bf16 and has_bf16(device) else nullcontext()


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
