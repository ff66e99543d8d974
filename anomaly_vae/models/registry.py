"""The family: one registry line a kind. The tests are parametrised over it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE, Output
from anomaly_vae.models.conditional import ConditionalVAE
from anomaly_vae.models.conv import ConvVAE
from anomaly_vae.models.dense import DenseVAE
from anomaly_vae.models.features import FeatureVAE
from anomaly_vae.models.flow import FlowVAE
from anomaly_vae.models.hierarchical import HierarchicalVAE
from anomaly_vae.models.kl_autoencoder import KLAutoencoder
from anomaly_vae.models.vq import VectorQuantisedVAE

# kind -> what builds it of a configuration and a shape, and the numbers of axes that its samples may have. Who reads
# the rows of a table, of one axis, also takes their categories.
MODELS: dict[str, tuple[Callable[..., VAE], tuple[int, ...]]] = {
    "dense": (DenseVAE, (1, 2, 3)),
    "conv1d": (ConvVAE, (2,)),
    "conv2d": (ConvVAE, (3,)),
    "conditional": (ConditionalVAE, (1, 2, 3)),
    "features": (FeatureVAE, (1,)),
    "flow": (FlowVAE, (1, 2, 3)),
    "hierarchical": (HierarchicalVAE, (2, 3)),
    "kl_autoencoder": (KLAutoencoder, (3,)),
    "vq": (VectorQuantisedVAE, (2, 3)),
}


def build(config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = (), given: int = 0) -> VAE:
    """The model of a resolved configuration for samples of `shape`; `categories` as in Rows.

    given: how many of the last on the first axis of a sample are a condition, which model.kind=conditional reads.

    Raises ConfigError where this kind of model cannot read samples of that shape.
    """
    assert config.kind
    model, axes = MODELS[config.kind]
    if len(shape) not in axes:
        fits = [kind for kind, (_, a) in MODELS.items() if len(shape) in a]
        raise ConfigError(f"model.kind={config.kind} cannot read samples of shape {shape}; use {' or '.join(fits)}")
    if given:
        built: VAE = ConditionalVAE(config, shape, categories, given)
    else:
        built = model(config, shape, categories) if any(categories) else model(config, shape)
    # in the order of the pictures: a convolution of one channel cannot tell it from the pictures alone
    return built.to(memory_format=torch.channels_last) if len(shape) == 3 else built


__all__ = ["MODELS", "VAE", "Output", "build"]
