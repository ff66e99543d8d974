"""Samples in memory for a detector that knows its layout: several as a fit takes them, or one alone.

One row is a Series, a dict or an array; one picture is an array, a Pillow image or a file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.images.decoding import as_pixels, is_grey, limit_pixels, open_upright, upright
from anomaly_vae.data.images.listing import is_picture
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.pictures import shape_text
from anomaly_vae.data.source import Layout, Source

if TYPE_CHECKING:
    import pandas as pd


def open_samples(X: Any, layout: Layout, config: DataConfig) -> Source:
    """Samples in memory, or the file of a path, as a source of the layout's kind.

    X: what `open_memory` takes; one row as a Series or dict by column names, or (F,); one picture (H, W), (C, H, W) or
    (H, W, C), a Pillow image or the path of one; a list of dicts; the path of any file that a command reads.
    Columns of ids, times and labels may be absent. Raises DataError for anything else.
    """
    config = config.model_copy(update={"kind": layout.kind})
    kind = KINDS[layout.kind]
    if isinstance(X, str | Path):
        if not kind.pictures or kind.folders or not is_picture(Path(X)):
            return open_source(X, config)
        limit_pixels(config.max_pixels)
        X = open_upright(Path(X))
    if kind.pictures and _is_image(X):
        return open_memory(_pixels(upright(X, Path("memory")), layout), config)
    X = as_frame(X, layout)
    if hasattr(X, "columns"):
        present = {name: name if name in X.columns else None for name in (layout.id, layout.time) if name}
        read = {"id": present.get(layout.id or ""), "time": present.get(layout.time or ""), "label": None}
        read["group"] = layout.group if layout.group in X.columns else config.group
        return open_memory(X, config.model_copy(update=read))
    return open_memory(_batch(X if isinstance(X, np.ndarray) else np.asarray(X), layout), config)


def as_frame(X: Any, layout: Layout) -> Any:
    """A dict, a list of dicts or a Series as a DataFrame of rows, and anything else as it is."""
    if isinstance(X, Mapping):
        return _frame([X])
    if isinstance(X, list | tuple) and X and all(isinstance(row, Mapping) for row in X):
        return _frame(list(X))
    return _row(X, layout) if hasattr(X, "to_frame") and not hasattr(X, "columns") else X


def _is_image(X: Any) -> bool:
    image = sys.modules.get("PIL.Image")  # whoever has an image has imported it
    return image is not None and isinstance(X, image.Image)


def _pixels(image: Any, layout: Layout) -> np.ndarray[Any, Any]:
    """A Pillow image as (1, C, H, W). Of files, it is resized as they are; of arrays, its size is that of training."""
    channels, height, width = layout.shape
    if not KINDS[layout.kind].folders:
        found = (1 if is_grey(image) else 3, image.size[1], image.size[0])
        if found[1:] != (height, width) or found[0] > channels:
            raise DataError(f"memory: a picture of {shape_text(found)}, expected {shape_text(layout.shape)}")
    return as_pixels(image, channels, height, width, layout.pixel_max)[None]


def _frame(rows: list[Any]) -> pd.DataFrame:
    """Rows {column: cell} as a DataFrame. Raises DataError for cells that are lists of cells."""
    import pandas as pd

    for row in rows:
        for name, cell in row.items():
            if not np.isscalar(cell) and hasattr(cell, "__len__"):
                raise DataError(
                    f"memory: column '{name}' of a row holds a {type(cell).__name__}; a dict is one row, a cell"
                    " for each column: many rows are a DataFrame"
                )
    return pd.DataFrame(rows)


def _row(series: pd.Series, layout: Layout) -> pd.DataFrame:
    """A Series as one row, as `DataFrame.iterrows` gives it: the time of a step may be its name."""
    names = [column.name for column in layout.columns] or list(layout.pixels)
    cells = {str(name): cell for name, cell in series.items()}
    if names and not cells.keys() & set(names):
        if len(cells) == len(names) and isinstance(series.index[0], int | np.integer):
            cells = dict(zip(names, cells.values(), strict=True))
        else:
            raise DataError(
                f"memory: a Series with the index {', '.join(list(cells)[:3])}, ...; a Series is one row, its index the"
                f" columns ({', '.join(names[:3])}, ...); a column of many rows is X.to_frame()"
            )
    if layout.time is not None and layout.time not in cells and hasattr(series.name, "isoformat"):
        cells[layout.time] = series.name
    return _frame([cells])


def _batch(values: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """An array of one sample as one of many."""
    kind = KINDS[layout.kind]
    if not kind.pictures:
        return values[None] if values.ndim == 1 and len(values) == len(layout.columns) else values
    channels, height, width = layout.shape
    if values.ndim == 2 and not (layout.pixels and values.shape[1] == len(layout.pixels)):
        values = values[None]  # (1, H, W)
    if values.ndim == 3 and (channels > 1 or values.shape[1:] != (height, width)):
        if values.shape[0] == channels and values.shape[2] != channels:
            values = values[None]  # (1, C, H, W)
        elif values.shape[2] == channels:
            values = values.transpose(2, 0, 1)[None]
    if kind.folders and values.ndim == 4 and values.shape[:2] == (1, channels) and values.dtype == np.uint8:
        from PIL import Image

        picture = values[0, 0] if channels == 1 else values[0].transpose(1, 2, 0)
        return _pixels(Image.fromarray(picture), layout)  # of another size it is resized, as a file is
    return values
