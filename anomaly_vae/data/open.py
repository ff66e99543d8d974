"""Opens a file, folder or array as a source of its kind of data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.files import require_regular
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.kinds import KINDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from anomaly_vae.data.readers.base import Reader
    from anomaly_vae.data.source import Source


def open_source(path: str | Path, config: DataConfig) -> Source:
    """A file or folder as a source of the kind `config.kind`; None: of the kind that recognises it.

    Raises DataError if it cannot be read as that kind.
    """
    path = Path(path)
    data = path if path.is_dir() else open_reader(path)
    name = config.kind or next(name for name in reversed(list(KINDS)) if KINDS[name].recognises(data, config))
    return KINDS[name].open(data, config, None)


def open_memory(X: Any, config: DataConfig, labels: Any = None) -> Source:
    """An array (N, F), (N, H, W) or (N, C, H, W), or a DataFrame, as a source; `labels` (N,) of any type.

    A DataFrame or an array of two axes is a table unless `config.kind` names another kind; an array of three or four
    axes holds pictures.
    Raises DataError for another shape, and if the numbers of labels and rows differ.
    """
    import numpy as np
    import pyarrow as pa

    from anomaly_vae.data.arrays import ArraySource
    from anomaly_vae.data.readers import memory
    from anomaly_vae.data.readers.cells import as_labels

    texts: NDArray[np.str_] | None = None
    if labels is not None:
        texts = as_labels(pa.chunked_array([pa.array(np.asarray(labels), from_pandas=True)]))
        if len(texts) != len(X):
            raise DataError(f"memory: {len(texts)} labels for {len(X)} rows; give one label a row")
    kind = KINDS[config.kind or "table"]
    if hasattr(X, "columns"):
        return kind.open(memory.from_frame(X), config, texts)
    values = np.asarray(X)
    if values.ndim in (3, 4):
        return ArraySource(values, texts)
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"memory: an array of shape {values.shape}; expected (N, F), (N, H, W) or (N, C, H, W)")
    return kind.open(memory.from_array(values), config, texts)


def open_reader(path: Path) -> Reader:
    """The reader of a CSV or Parquet file, chosen by the file's content. Raises DataError if it is neither."""
    from anomaly_vae.data.readers.csv import CsvReader
    from anomaly_vae.data.readers.parquet import ParquetReader

    require_regular(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return ParquetReader(path) if magic == b"PAR1" else CsvReader(path)
