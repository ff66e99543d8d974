"""The fitted artefact: fit, score, explain, choose a threshold, save and load as a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_vae.detector.detector import Detector as Detector

__all__ = ["Detector"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: only who uses the class pays for it
    if name == "Detector":
        from anomaly_vae.detector.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
