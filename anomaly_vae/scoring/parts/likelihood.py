"""Reconstruction nats of the likelihood that the model was trained with."""

from __future__ import annotations

from torch import Tensor

from anomaly_vae.models.base import elements
from anomaly_vae.scoring.parts.base import Batch, ElementPart


class Likelihood(ElementPart):
    """-log p(x|z) at the posterior mean; a missing element has 0 nats."""

    column = "recon"

    def elements(self, batch: Batch) -> Tensor:
        return elements(batch.x, batch.out)
