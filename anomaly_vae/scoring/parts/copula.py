"""How much farther a row lies from its nearest training row than that one from its own neighbours, by ranks that were
made uncorrelated."""

from __future__ import annotations

from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts.local_outlier import LocalOutlierFactor
from anomaly_vae.scoring.parts.spaces import NormalScores, Whitened


class CopulaOutlierFactor(LocalOutlierFactor):
    """The local outlier factor in whitened normal scores: how the columns depend on each other, whatever each has for a
    distribution (the copula)."""

    column = "copula"

    @staticmethod
    def space_of(rows: RowInputs) -> Whitened:
        return Whitened(NormalScores(rows))
