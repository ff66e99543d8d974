"""The adapters, and how data is recognised as one of their kinds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_vae.core.config import DataConfig, DataKind
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.arrays import ArraySource
from anomaly_vae.data.images.listing import is_manifest
from anomaly_vae.data.images.source import ImageSource
from anomaly_vae.data.kinds.pixels import PixelSource, looks_like_pixels
from anomaly_vae.data.kinds.series import SeriesSource
from anomaly_vae.data.kinds.table import TableSource
from anomaly_vae.data.timestamps import in_order

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from anomaly_vae.data.readers.base import Reader
    from anomaly_vae.data.source import Source

# Kind of data -> its adapter. The first three are opened over a table of named columns, the last over files.
ADAPTERS: dict[str, type] = {"table": TableSource, "series": SeriesSource, "pixels": PixelSource, "images": ImageSource}


def open_source(path: str | Path, config: DataConfig) -> Source:
    """A file or folder as the kind of data that it is, or that `config.kind` says it is.

    Raises DataError where it cannot be read, or is none of them.
    """
    path = Path(path)
    if path.is_dir():
        if config.kind not in (None, "images"):
            raise DataError(f"{path}: a folder, expected a CSV or Parquet file for kind {config.kind}")
        return ImageSource(path, config)
    reader = open_reader(path)
    if config.kind == "images" or (config.kind is None and is_manifest(reader)):
        return ImageSource(path, config, reader)
    return _over(reader, config)


def open_memory(X: Any, config: DataConfig, labels: Any = None) -> Source:
    """An array (N, F), (N, H, W) or (N, C, H, W), or a DataFrame; `labels` (N,) of any type.

    Two axes make a table, or what `config.kind` says; three and four make pictures.

    Raises DataError for another shape, and where labels and rows differ in number.
    """
    import numpy as np
    import pyarrow as pa

    from anomaly_vae.data.readers import base

    texts: NDArray[np.str_] | None = None
    if labels is not None:
        texts = base.as_labels(pa.chunked_array([pa.array(np.asarray(labels), from_pandas=True)]))
        if len(texts) != len(X):
            raise DataError(f"memory: {len(texts)} labels for {len(X)} rows; give one label a row")
    if hasattr(X, "columns"):
        return _over(base.from_frame(X), config, texts, recognise=False)
    values = np.asarray(X)
    if values.ndim in (3, 4):
        return ArraySource(values, texts)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"memory: an array of shape {values.shape}; expected (N, F), (N, H, W) or (N, C, H, W)")
    return _over(base.from_array(values), config, texts, recognise=False)


def open_reader(path: Path) -> Reader:
    """A CSV or Parquet file by its content, whatever its ending. Raises DataError where it is neither."""
    from anomaly_vae.data.readers.csv import CsvReader
    from anomaly_vae.data.readers.parquet import ParquetReader

    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return ParquetReader(path) if magic == b"PAR1" else CsvReader(path)


def _over(
    reader: Reader, config: DataConfig, labels: NDArray[np.str_] | None = None, recognise: bool = True
) -> TableSource | SeriesSource | PixelSource:
    """The adapter over named columns."""
    kind = config.kind
    if kind is None and recognise:
        kind = _recognise(reader, config)
    if kind == "series":
        return SeriesSource(reader, config, labels)
    if kind == "pixels":
        return PixelSource(reader, config, labels)
    if kind == "images":
        raise DataError(f"{reader.path}: an array for kind images; expected a folder of images or a manifest")
    return TableSource(reader, config, labels)


def _recognise(reader: Reader, config: DataConfig) -> DataKind:
    """The kind, from the names of the columns and the first rows."""
    if config.shape is not None or looks_like_pixels(reader, config):
        return "pixels"
    if config.time is not None or config.group is not None or in_order(reader):
        return "series"
    return "table"
