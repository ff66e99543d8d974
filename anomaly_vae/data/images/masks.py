"""Pictures and masks at their original size, for drawing and measuring maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.images import decoding


class ImageFiles:
    """The image files of the rows of a source; each is read at the call.

    masked: whether the data has masks. An anomalous picture without one is in no pixel metric.
    """

    def __init__(self, path: str, files: list[Path], masks: list[Path | None] | None) -> None:
        """path: the path of the data, for messages. masks: the mask of each file, None for a file without; None: the
        data has no masks at all."""
        self._path, self._files, self._masks, self.masked = path, files, masks, masks is not None

    def size(self, row: int) -> tuple[int, int]:
        """The size (H, W) of the upright picture with index `row`, in pixels."""
        return decoding.size(self._files[row])

    def picture(self, row: int, white: float = 255.0) -> NDArray[np.uint8]:
        """The picture with index `row`, (H, W, 3) in 0-255; white: see `decoding.decode`."""
        return decoding.picture(self._files[row], white)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """The mask of the picture with index `row`, (H, W), true where it is anomalous; all false without a mask.

        Raises DataError for a mask whose size is not that of the picture.
        """
        size, file = self.size(row), None if self._masks is None else self._masks[row]
        if file is None:
            return np.zeros(size, bool)
        is_marked = decoding.mask(file)
        self._require_size(row, is_marked.shape)
        return is_marked

    def measured(self, row: int, is_anomaly: bool) -> bool:
        """Whether the anomalous pixels of the picture with index `row` are known: it is normal, or has a mask."""
        return not is_anomaly or (self._masks is not None and self._masks[row] is not None)

    def require(self, anomalous: NDArray[np.bool_]) -> str:
        """Says how many of the anomalous pictures have a mask, where some have none; else, or without masks, empty.

        anomalous: (N,). Raises DataError for a mask of another size than its picture; reads no pixel. Check this before
        training, which may take hours.
        """
        if self._masks is None:
            return ""
        rows = np.flatnonzero(anomalous)
        masks = [(int(row), mask) for row in rows if (mask := self._masks[row]) is not None]
        for row, mask in masks:
            self._require_size(row, decoding.size(mask))
        if len(masks) == len(rows):
            return ""
        over = "over those and the normal ones" if masks else "left out"
        return f"masks for {len(masks)} of {len(rows)} anomalous pictures: pixel metrics are {over}"

    def _require_size(self, row: int, mask_size: tuple[int, ...]) -> None:
        height, width = self.size(row)
        if mask_size != (height, width):
            assert self._masks is not None
            raise DataError(
                f"{self._masks[row]}: a mask of {mask_size[1]}x{mask_size[0]} pixels for a picture of {width}x{height};"
                " a mask has the size of its picture"
            )
