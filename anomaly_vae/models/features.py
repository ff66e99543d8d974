"""VAE over the features that a frozen backbone gives for one position of a picture."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.base import Head, Member
from anomaly_vae.models.gaussian import GaussianVAE, posterior_head
from anomaly_vae.models.likelihoods import Likelihood


class FeatureVAE(GaussianVAE):
    """C standardised features -> hidden -> (mu, log_var), and its mirror image.

    A 1x1 convolution over feature maps is this network at every position. The features of a position already describe
    its surroundings, because the backbone's receptive field covers them. `sigma: element` gives each channel a scale
    of its own.
    """

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        assert config.latent and config.hidden is not None
        (channels,) = shape
        self.latent = self.groups = config.latent
        down = (channels, *config.hidden)
        self.down = nn.Sequential(*(m for a, b in pairwise(down) for m in (nn.Linear(a, b), nn.GELU())))
        self.posterior = nn.Linear(down[-1], 2 * self.latent)
        self.head = Head(config, shape)
        up = (self.latent, *reversed(config.hidden))
        self.up = nn.Sequential(*(m for a, b in pairwise(up) for m in (nn.Linear(a, b), nn.GELU())))
        self.out = nn.Linear(up[-1], channels * self.head.outputs)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return posterior_head(self.posterior(self.down(torch.nan_to_num(x))))

    def decode(self, z: Tensor) -> Likelihood:
        px: Likelihood = self.head(*self.out(self.up(z)).chunk(self.head.outputs, dim=1))
        return px


FEATURES = Member(
    FeatureVAE,
    axes=(1,),
    defaults={
        "data": {"size": 256},
        "model": {
            "backbone": "efficientnet_lite0",
            "latent": 32,
            "hidden": (128,),
            "sigma": "element",
            "sigma_min": 0.05,
            "sigma_value": 1.0,
        },
        "training": {"steps": 400, "batch_size": 1024, "lr": 3e-3, "bf16": False, "noise": 0.0, "jitter": 0.0},
        "scoring": {"recon": "covariance", "prior": "mixture", "neighbours": 30_000},
    },
)
