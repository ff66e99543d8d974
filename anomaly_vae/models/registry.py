"""The models of the family, by name: one line a model. The tests are parametrised over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.core.registry import Registry

if TYPE_CHECKING:  # the names alone are known without importing torch
    from anomaly_vae.models.base import VAE, Member

MODELS: Registry[Member] = Registry(
    "model.kind",
    {
        "dense": "anomaly_vae.models.dense:DENSE",
        "conv1d": "anomaly_vae.models.conv:CONV1D",
        "conv2d": "anomaly_vae.models.conv:CONV2D",
        "conditional": "anomaly_vae.models.conditional:CONDITIONAL",
        "features": "anomaly_vae.models.features:FEATURES",
        "flow": "anomaly_vae.models.flow:FLOW",
        "hierarchical": "anomaly_vae.models.hierarchical:HIERARCHICAL",
        "kl_autoencoder": "anomaly_vae.models.kl_autoencoder:KL_AUTOENCODER",
        "vq": "anomaly_vae.models.vq:VQ",
    },
)


def build(config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = (), n_condition: int = 0) -> VAE:
    """The model of a resolved configuration for samples of `shape`; `categories` as in RowInputs.

    n_condition: number of trailing channels of a sample that hold the condition, which model.kind=conditional reads.

    Raises ConfigError where this kind of model cannot read samples of that shape.
    """
    import torch

    assert config.kind
    member = MODELS[config.kind]
    if len(shape) not in member.axes:
        fits = [kind for kind, other in MODELS.items() if len(shape) in other.axes]
        raise ConfigError(f"model.kind={config.kind} cannot read samples of shape {shape}; use {' or '.join(fits)}")
    if n_condition:
        built = member.build(config, shape, categories, n_condition)
    else:
        built = member.build(config, shape, categories) if any(categories) else member.build(config, shape)
    # in the order of the pictures: a convolution of one channel cannot tell it from the pictures alone
    return built.to(memory_format=torch.channels_last) if len(shape) == 3 else built
