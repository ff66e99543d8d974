"""KL of the posterior to the prior that the model was trained with."""

from __future__ import annotations

from torch import Tensor

from anomaly_vae.scoring.parts.base import Batch, Part


class ModelPrior(Part):
    """KL to N(0, I), or to the prior of the codes, summed over latent groups."""

    column = "kl"

    def nats(self, batch: Batch) -> Tensor:
        return batch.out.kl.sum(1)
