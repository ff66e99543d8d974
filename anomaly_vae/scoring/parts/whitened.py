"""How much farther a row lies from its nearest training row than that one from its own neighbours, uncorrelated."""

from __future__ import annotations

from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts.local_outlier import LocalOutlierFactor
from anomaly_vae.scoring.parts.spaces import Columns, Whitened


class WhitenedOutlierFactor(LocalOutlierFactor):
    """The local outlier factor in whitened columns: columns that go together in training must go together."""

    column = "whitened"

    @staticmethod
    def space_of(rows: RowInputs) -> Whitened:
        return Whitened(Columns(rows))
