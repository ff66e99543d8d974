"""Weights of a Stable-Diffusion AutoencoderKL from a local folder; the only importer of diffusers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.models.kl_autoencoder import GROUPS, KLAutoencoder

PLAIN = {"act_fn": "silu", "mid_block_add_attention": True}  # what our network is, where the folder says otherwise


def adapted(config: ModelConfig) -> ModelConfig:
    """The configuration with the sizes of the network in the folder `model.pretrained`, if it names one.

    Raises ConfigError where there is none, or one of another build.
    """
    if config.pretrained is None:
        return config
    if config.kind != "kl_autoencoder":
        raise ConfigError(f"model.pretrained is for model.kind=kl_autoencoder, not {config.kind}")
    said = _said(Path(config.pretrained))
    channels = tuple(said["block_out_channels"])
    groups = said.get("norm_num_groups", GROUPS)
    other = [f"{key}={said[key]}" for key, value in PLAIN.items() if said.get(key, value) != value]
    if any(math.gcd(GROUPS, c) != groups for c in channels):
        other.append(f"norm_num_groups={groups}")
    if other:
        raise ConfigError(f"{config.pretrained}: an AutoencoderKL with {', '.join(other)}, which is not supported")
    sizes = {"channels": channels, "blocks": said["layers_per_block"], "latent": said["latent_channels"]}
    return config.model_copy(update=sizes)


def load_into(model: VAE, folder: str) -> None:
    """The weights of the folder into a model built of `adapted`. Raises ConfigError where they do not fit."""
    assert isinstance(model, KLAutoencoder)
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ConfigError("model.pretrained needs diffusers; pip install 'anomaly-vae[diffusion]'") from error
    try:
        weights = AutoencoderKL.from_pretrained(folder, local_files_only=True).state_dict()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: diffusers cannot read this AutoencoderKL ({error})") from error
    for name in ("quant_conv", "post_quant_conv"):  # newer ones are without
        conv = getattr(model, name)
        size = conv.weight.shape[0]
        weights.setdefault(f"{name}.weight", torch.eye(size)[:, :, None, None])
        weights.setdefault(f"{name}.bias", torch.zeros(size))
    own = model.state_dict()
    wrong = [name for name, value in weights.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise ConfigError(
            f"{folder}: its weight {wrong[0]} does not fit pictures of this shape; it reads"
            f" {weights['encoder.conv_in.weight'].shape[1]} channels (data.channels), and model.sigma=predicted cannot"
            " be had of it"
        )
    model.load_state_dict(own | weights)


def _said(folder: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no AutoencoderKL of diffusers, which has a config.json") from error
    if said.get("_class_name") != "AutoencoderKL":
        raise ConfigError(f"{folder}: a {said.get('_class_name')} of diffusers; an AutoencoderKL would work")
    return said
