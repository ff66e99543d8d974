"""The kind of image files: folders of images, tables that list images, and one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.frames import picture_chunks, picture_example, picture_fields
from anomaly_vae.data.images.listing import is_manifest
from anomaly_vae.data.images.source import ImageSource
from anomaly_vae.data.kinds.kind import Kind
from anomaly_vae.data.pictures import DEFAULTS, light, light_names, no_elements, picture_dataset
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.memory import MemoryReader


def _recognises(data: Path | Reader, config: DataConfig) -> float:
    del config
    return float(isinstance(data, Path) or is_manifest(data))


def _open(data: Path | Reader, config: DataConfig, labels: NDArray[np.str_] | None) -> ImageSource:
    if isinstance(data, MemoryReader):
        raise DataError(f"{data.path}: an array for kind images; expected a folder of images or a manifest")
    assert labels is None, "labels of image files are in their folders or their list"
    return ImageSource(data, config) if isinstance(data, Path) else ImageSource(data.path, config, data)


IMAGES = Kind(
    name="images",
    noun="pictures",
    view="pictures",
    nearest="gradients",
    defaults=DEFAULTS | {"model": DEFAULTS["model"] | {"kind": "features"}},
    recognises=_recognises,
    open=_open,
    elements=no_elements,
    limit=1.0,
    dataset=picture_dataset,
    monitored=light_names,
    quantities=light,
    frame_fields=picture_fields,
    frame_chunks=picture_chunks,
    frame_example=picture_example,
    folders=True,
    keeps_channels=False,
)
