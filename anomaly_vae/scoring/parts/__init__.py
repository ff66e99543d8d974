"""The parts of a score, by name: one line a part. Light to import: settings are checked against the names."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

from anomaly_vae.core.errors import ConfigError
from anomaly_vae.core.registry import expected

if TYPE_CHECKING:
    from anomaly_vae.scoring.parts.base import AnyPart

# name of the part: (its column among the scores, where its class is). scoring.recon is a name of the column recon,
# scoring.prior one of the column kl; scoring.parts are names of further columns.
PARTS: dict[str, tuple[str, str]] = {
    "likelihood": ("recon", "anomaly_vae.scoring.parts.likelihood:Likelihood"),
    "energy": ("recon", "anomaly_vae.scoring.parts.residual_energy:ResidualEnergy"),
    "level": ("recon", "anomaly_vae.scoring.parts.sensor_level:SensorLevel"),
    "covariance": ("recon", "anomaly_vae.scoring.parts.mahalanobis:Mahalanobis"),
    "normal": ("kl", "anomaly_vae.scoring.parts.model_prior:ModelPrior"),
    "mixture": ("kl", "anomaly_vae.scoring.parts.mixture_prior:MixturePrior"),
    "neighbours": ("neighbours", "anomaly_vae.scoring.parts.knn_density:KNNDensity"),
    "lof": ("lof", "anomaly_vae.scoring.parts.local_outlier:LocalOutlierFactor"),
    "marginals": ("marginals", "anomaly_vae.scoring.parts.marginals:Marginals"),
    "tails": ("marginals", "anomaly_vae.scoring.parts.tails:Tails"),
    "missing": ("missing", "anomaly_vae.scoring.parts.missing:Missing"),
    "constant": ("constant", "anomaly_vae.scoring.parts.constant:Constant"),
    "windows": ("neighbours", "anomaly_vae.scoring.parts.nearest_windows:NearestWindows"),
    "variation": ("variation", "anomaly_vae.scoring.parts.variation:Variation"),
    "memory": ("neighbours", "anomaly_vae.scoring.parts.memory_bank:MemoryBank"),
    "gradients": ("neighbours", "anomaly_vae.scoring.parts.gradients:GradientNeighbours"),
}


DISTANCES = ("neighbours", "lof", "windows", "memory", "gradients")  # those that scoring.neighbours is about


def names_of(column: str) -> tuple[str, ...]:
    """The names of the parts that a column of scores can be made by."""
    return tuple(name for name, (of, _) in PARTS.items() if of == column)


def part_class(name: str) -> type[AnyPart]:
    """The class of a part. Raises ConfigError, listing the names, for an unknown one."""
    if name not in PARTS:
        raise ConfigError(f"setting 'scoring.parts' = {name!r}: {expected(PARTS)}")
    return cast("type[AnyPart]", resolve_name(PARTS[name][1]))
