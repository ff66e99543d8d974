"""The files behind pictures, at their own size: what maps are drawn over, and the masks that they are measured by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.images import decoding


class ImageFiles:
    """Row by row, read when asked for. masked: whether the data has masks; then every anomalous picture needs one."""

    def __init__(self, path: str, files: list[Path], masks: list[Path | None] | None) -> None:
        """path: of the data, for messages; masks: None where the data has none at all."""
        self._path, self._files, self._masks, self.masked = path, files, masks, masks is not None

    def size(self, row: int) -> tuple[int, int]:
        """(H, W) of the upright picture, in pixels."""
        return decoding.size(self._files[row])

    def picture(self, row: int, white: float = 255.0) -> NDArray[np.uint8]:
        """(H, W, 3), 0-255; white: see `decoding.decode`."""
        return decoding.picture(self._files[row], white)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """(H, W) where the picture is anomalous; nowhere, if it has no mask. Raises DataError for one of another size
        than its picture."""
        size, file = self.size(row), None if self._masks is None else self._masks[row]
        if file is None:
            return np.zeros(size, bool)
        marked = decoding.mask(file)
        self._require_size(row, marked.shape)
        return marked

    def require(self, anomalous: NDArray[np.bool_]) -> None:
        """Raises DataError where an anomalous picture (N,) has no mask or one of another size; reads no pixel.

        Asked before training, so that hours of it do not end in this error.
        """
        if self._masks is None:
            return
        for row in np.flatnonzero(anomalous):
            mask = self._masks[row]
            if mask is None:
                raise DataError(
                    f"{self._path}: the anomalous picture {self._files[row].name} ({self._files[row].parent.name}) has"
                    " no mask while others have; add it, or take all masks away to go without"
                )
            self._require_size(int(row), decoding.size(mask))

    def _require_size(self, row: int, found: tuple[int, ...]) -> None:
        wanted = self.size(row)
        if found != wanted:
            assert self._masks is not None
            raise DataError(
                f"{self._masks[row]}: a mask of {found[1]}x{found[0]} pixels for a picture of {wanted[1]}x{wanted[0]};"
                " a mask has the size of its picture"
            )
