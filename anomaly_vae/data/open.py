"""Opens a file, folder, pipe or array as a source of its kind of data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_vae.core.advice import setting
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.images.listing import is_picture
from anomaly_vae.data.kinds import KINDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from anomaly_vae.data.readers.base import Reader
    from anomaly_vae.data.readers.containers import DataFile
    from anomaly_vae.data.source import Source


def open_source(path: str | Path, config: DataConfig) -> Source:
    """A file, folder or pipe (`-`: stdin) as a source of the kind `config.kind`; None: of the kind that it fits best.

    A picture alone is opened as a folder of one. Raises DataError if it cannot be read as that kind.
    """
    from anomaly_vae.data.readers.containers import open_file

    if Path(path).is_dir():
        return _open_folder(Path(path), config)
    if is_picture(Path(path)) and Path(path).is_file():
        return _open(Path(path), config)
    file = open_file(path)
    if file.format in ("numpy", "npz"):
        return _open_arrays(file, config)
    return _open(_reader(file, config), config)


def _open(data: Path | Reader, config: DataConfig, labels: NDArray[np.str_] | None = None) -> Source:
    if not isinstance(data, Path):
        import pandas  # noqa: F401  (pyarrow would import it in C++ later, where an interrupt is lost: Ctrl-C did nothing)
    if config.kind is not None:
        return KINDS[config.kind].open(data, config, labels)
    fits = {name: KINDS[name].recognises(data, config) for name in reversed(list(KINDS))}
    best, second = sorted(fits, key=lambda name: -fits[name])[:2]  # a stable sort
    source = KINDS[best].open(data, config, labels)
    if fits[second] > 0 and fits[best] < 1:
        source.otherwise = f"--kind {second} {KINDS[second].reads}"
    return source


def _open_folder(folder: Path, config: DataConfig) -> Source:
    """A folder of pictures, or of the parts of a table."""
    from anomaly_vae.data.images.listing import has_images
    from anomaly_vae.data.readers import parts

    if KINDS[config.kind].folders if config.kind else has_images(folder):
        return _open(folder, config)
    reader = parts.open_parts(folder, lambda path: open_reader(path, config))
    return _open(folder if reader is None else reader, config)


def _open_arrays(file: DataFile, config: DataConfig) -> Source:
    """A NumPy file: pictures, or a table. An array y beside X holds the labels, unless the configuration says more."""
    from anomaly_vae.data.readers import tables

    values, labels = tables.arrays(file)
    note = ""
    if labels is not None and config.label is None and "y" not in config.drop:
        note = f"the array y was taken as the labels; {setting('data.drop', ['y'])} leaves it out"
    if values.ndim in (3, 4):
        source = open_memory(values, config, labels if note else None)
        source.path, source.name = file.path, file.name
    else:
        reader = tables.from_numpy(file, values, labels)
        source = _open(reader, config.model_copy(update={"label": "y"}) if note else config)
    if note:
        source.notes = (*source.notes, note)
    return source


def open_memory(X: Any, config: DataConfig, labels: Any = None) -> Source:
    """An array (N, F), (N, H, W), (N, C, H, W) or (N, H, W, C), or a DataFrame, as a source; `labels` (N,) of any type.

    A DataFrame, or a table of Arrow's kin such as polars, is of the kind that it fits best, as a file is; an index that
    holds times is a column. An array of two axes is a table unless `config.kind` names another kind; an array of three
    or four axes holds pictures.
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
    if hasattr(X, "__arrow_c_stream__") and not hasattr(X, "index"):  # a table of pyarrow or polars
        return _open(memory.from_arrow(X), config, texts)
    if hasattr(X, "columns"):
        return _open(memory.from_frame(X), config, texts)
    values = np.ma.filled(X.astype(np.float64), np.nan) if isinstance(X, np.ma.MaskedArray) else np.asarray(X)
    if values.ndim in (3, 4):
        return ArraySource(values, texts)
    if values.ndim != 2 or 0 in values.shape:
        what = "an array" if isinstance(X, np.ndarray) else f"a {type(X).__name__}"
        raise DataError(
            f"memory: {what} of shape {values.shape}; expected a DataFrame, or (N, F), (N, H, W) or (N, C, H, W)"
        )
    return KINDS[config.kind or "table"].open(memory.from_array(values), config, texts)


def open_reader(path: str | Path, config: DataConfig | None = None) -> Reader:
    """The reader of a file or pipe that holds a table. Raises DataError if it holds none."""
    from anomaly_vae.data.readers.containers import open_file

    return _reader(open_file(path), config or DataConfig())


def _reader(file: DataFile, config: DataConfig) -> Reader:
    """The reader of a table, by the format of its content."""
    from anomaly_vae.data.readers import tables
    from anomaly_vae.data.readers.csv import CsvReader
    from anomaly_vae.data.readers.parquet import ParquetReader

    if file.format == "parquet":
        return ParquetReader(file)
    if file.format == "arrow":
        return tables.from_arrow(file)
    if file.format == "json":
        return tables.from_json(file)
    if file.format == "excel":
        return tables.from_excel(file, config)
    if file.format in ("numpy", "npz"):
        return tables.from_numpy(file, *tables.arrays(file))
    return CsvReader(file, config)
