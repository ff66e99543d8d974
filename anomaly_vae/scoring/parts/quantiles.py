"""How much farther a row lies from its nearest training row than that one from its own neighbours, by ranks."""

from __future__ import annotations

from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts.local_outlier import LocalOutlierFactor
from anomaly_vae.scoring.parts.spaces import NormalScores


class QuantileOutlierFactor(LocalOutlierFactor):
    """The local outlier factor in the columns' normal scores: it looks as closely where a column is dense as where it
    has its long tail."""

    column = "quantiles"

    @staticmethod
    def space_of(rows: RowInputs) -> NormalScores:
        return NormalScores(rows)
