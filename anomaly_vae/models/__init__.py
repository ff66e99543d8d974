"""The family: one registry line a kind. The tests are parametrised over it."""

from __future__ import annotations

from anomaly_vae.config import ModelConfig
from anomaly_vae.errors import ConfigError
from anomaly_vae.models.base import VAE, Output
from anomaly_vae.models.conv import ConvVAE
from anomaly_vae.models.dense import DenseVAE

MODELS: dict[str, tuple[type[VAE], tuple[int, ...]]] = {  # kind -> class, and the numbers of axes its samples may have
    "dense": (DenseVAE, (1, 2, 3)),
    "conv1d": (ConvVAE, (2,)),
    "conv2d": (ConvVAE, (3,)),
}


def build(config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = ()) -> VAE:
    """The model of a resolved configuration for samples of `shape`; `categories` as in DenseVAE.

    Raises ConfigError where this kind of model cannot read samples of that shape.
    """
    assert config.kind
    model, axes = MODELS[config.kind]
    if len(shape) not in axes or (any(categories) and model is not DenseVAE):
        fits = [kind for kind, (_, a) in MODELS.items() if len(shape) in a]
        raise ConfigError(f"model.kind={config.kind} cannot read samples of shape {shape}; use {' or '.join(fits)}")
    return model(config, shape, categories) if model is DenseVAE else model(config, shape)


__all__ = ["MODELS", "VAE", "Output", "build"]
