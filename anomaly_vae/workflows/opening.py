"""Opens the data and the detector of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anomaly_vae.core.config import Config
from anomaly_vae.core.files import scratch_folder
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.source import Source
from anomaly_vae.detector.configuration import EMBEDDED_DATA, opening
from anomaly_vae.detector.detector import Detector


@dataclass(frozen=True)
class Model:
    """A detector and its location.

    name: its folder, the id of its run, or the address of a registered or logged model (models:/...). run_id: the run
    that logged it; empty for a folder.
    """

    detector: Detector
    name: str
    run_id: str


def find(name: str | None, config: Config) -> Model:
    """Load a detector.

    Only the detector's own files are read, and they hold no code.

    Parameters
    ----------
    name : str or None
        A folder, a run's name, its id or the first characters of it, runs:/RUN_ID/..., or the address of a registered
        or logged model (models:/...); None: the latest finished run.
    config : Config
        The settings, of which the device, the tracking store and `data.missing` are used.

    Raises
    ------
    RunError
        If the run or model is unknown.
    DetectorError
        If the folder is not a detector, or was modified.
    """
    if name and name.startswith("runs:/"):  # as MLflow writes it, and `fit --json`
        name = name.removeprefix("runs:/").split("/")[0]
    elif name and not name.startswith("models:/") and (Path(name).is_dir() or "/" in name or name.startswith(".")):
        return Model(_loaded(name, config), name, "")
    from anomaly_vae import tracking

    with scratch_folder() as scratch:
        run_id, folder = tracking.find_detector(name, config, str(scratch))
        return Model(_loaded(folder, config), name if name and ":/" in name else run_id, run_id)


def _loaded(folder: str | Path, config: Config) -> Detector:
    """The detector of a folder; further marks of missing cells are those of new data too."""
    detector = Detector.load(folder, config.device)
    data = detector.config.data
    marks = tuple(dict.fromkeys((*data.missing, *config.data.missing)))
    changed = detector.config.model_copy(update={"data": data.model_copy(update={"missing": marks})})
    return replace(detector, config=changed)


def open_data(path: str | None, config: Config) -> Source:
    """Opens a file or folder as a source; None: the embedded digits. Raises DataError if it cannot be read."""
    if path is not None:
        return open_source(path, opening(config))
    from anomaly_vae.data.examples import digits

    source = open_memory(digits(), config.data)
    source.name, source.path = "digits", EMBEDDED_DATA
    return source


def reopen(
    path: str,
    detector: Detector,
    id_column: str | None = None,
    skip_broken: bool = False,
    written: Mapping[str, Any] | None = None,
    max_pixels: int = 0,
) -> Source:
    """Opens new data as the kind of data that the detector was fitted on. Raises DataError if it cannot be read.

    id_column: the column of the ids; None: that of the detector. skip_broken: leave out pictures that cannot be
    decoded. written: settings of how the file is written, instead of those of the fit. max_pixels: of an image file,
    where that is more than the detector's own setting.
    """
    changes = {
        "kind": detector.layout.kind,
        "id": id_column or detector.config.data.id,
        "skip_broken": skip_broken,
        **(written or {}),
        "max_pixels": max(max_pixels, detector.config.data.max_pixels),
    }
    return open_source(path, detector.config.data.model_copy(update=changes))
