"""anomaly-vae: finds anomalies with a convolutional VAE, scored by reconstruction error plus KL in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomaly_vae.core.errors import AnomalyVAEError as AnomalyVAEError
from anomaly_vae.core.version import __version__ as __version__

if TYPE_CHECKING:
    from anomaly_vae.core.config import Config as Config
    from anomaly_vae.detector.detector import Detector as Detector

__all__ = ["AnomalyVAEError", "Config", "Detector", "__version__"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: only who uses a name pays for it
    if name == "Detector":
        from anomaly_vae.detector.detector import Detector

        return Detector
    if name == "Config":
        from anomaly_vae.core.config import Config

        return Config
    raise AttributeError(f"module 'anomaly_vae' has no attribute '{name}'")
