"""The networks that a member of the family may be built around."""

from __future__ import annotations

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.conv import ConvVAE
from anomaly_vae.models.dense import DenseVAE
from anomaly_vae.models.gaussian import GaussianVAE

BY_AXES = {1: "dense", 2: "conv1d", 3: "conv2d"}  # of a sample, where the configuration names no network


def network(
    config: ModelConfig,
    shape: tuple[int, ...],
    categories: tuple[int, ...] = (),
    extra: int = 0,
    condition_size: int = 0,
) -> GaussianVAE:
    """The VAE that model.network names, else the one for the number of axes of the shape; `categories` as in RowInputs.

    extra: further elements or channels that the encoder reads. condition_size: numbers that the decoder reads beside z.
    """
    if (config.network or BY_AXES[len(shape)]) == "dense":
        return DenseVAE(config, shape, categories, extra, condition_size)
    return ConvVAE(config, shape, extra, condition_size)
