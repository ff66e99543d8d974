"""What a command starts from: its data and its detector."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from anomaly_vae.core.config import Config
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.source import Source
from anomaly_vae.detector.configuration import EMBEDDED_DATA, opening
from anomaly_vae.detector.detector import Detector


@dataclass(frozen=True)
class Model:
    """A detector and where it was found: name is its folder, the id of the run that logged it (run_id, else empty) or
    the address of a registered model."""

    detector: Detector
    name: str
    run_id: str


def find(name: str | None, config: Config) -> Model:
    """The detector of a folder, of a run id, of runs:/RUN_ID/..., or of a registered or logged model (models:/...);
    None: of the latest finished run.

    Only the detector's own files are read, and they hold no code. Raises RunError for an unknown run or model,
    DetectorError for a folder that is no detector or was altered.
    """
    if name and name.startswith("runs:/"):  # as MLflow writes it, and `fit --json`
        name = name.removeprefix("runs:/").split("/")[0]
    elif name and not name.startswith("models:/") and (Path(name).is_dir() or "/" in name or name.startswith(".")):
        return Model(Detector.load(name, config.device), name, "")
    from anomaly_vae import tracking

    with tempfile.TemporaryDirectory() as scratch:
        run_id, folder = tracking.find_detector(name, config, scratch)
        return Model(Detector.load(folder, config.device), name if name and ":/" in name else run_id, run_id)


def open_data(path: str | None, config: Config) -> Source:
    """A file or folder as a source; None: the embedded digits."""
    if path is not None:
        return open_source(path, opening(config))
    from anomaly_vae.data.examples import digits

    source = open_memory(digits(), config.data)
    source.name, source.path = "digits", EMBEDDED_DATA
    return source


def reopen(path: str, detector: Detector, id_column: str | None = None, skip_broken: bool = False) -> Source:
    """New data as the detector's own kind, whatever it would be recognised as."""
    changes = {
        "kind": detector.layout.kind,
        "id": id_column or detector.config.data.id,
        "skip_broken": skip_broken,
    }
    return open_source(path, detector.config.data.model_copy(update=changes))
