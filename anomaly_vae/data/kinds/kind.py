"""The interface of a kind of data: everything that differs between kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from anomaly_vae.core.settings import DataConfig
    from anomaly_vae.data.datasets import RowDataset
    from anomaly_vae.data.frames import Field
    from anomaly_vae.data.loaded import LoadedData
    from anomaly_vae.data.readers.base import Reader
    from anomaly_vae.data.scaling import Element, Scaler
    from anomaly_vae.data.source import Chunk, Layout, Source
    from anomaly_vae.data.spill import ArrayStore


@dataclass(frozen=True)
class Kind:
    """One kind of data.

    name: its name in the setting `data.kind`. noun: what its samples are called, in the plural. view: how samples are
    shown to a person. defaults: section -> setting -> value, for settings whose best value depends on the kind.
    """

    name: str
    noun: str
    view: Literal["rows", "curves", "pictures"]
    defaults: Mapping[str, Mapping[str, Any]]

    # --- opening
    recognises: Callable[[Path | Reader, DataConfig], float]
    """How well a folder, or the file of a reader, fits this kind: 0 not at all, 1 beyond doubt; a table, as which every
    file can be read, says 0.5."""
    open: Callable[[Path | Reader, DataConfig, NDArray[np.str_] | None], Source]
    """Opens a folder, or the file of a reader, as a source. The third argument holds labels (N,) that are not a column
    of the data. Raises DataError if the data is not of this kind."""

    # --- inputs of the network
    elements: Callable[[Iterable[NDArray[Any]], Layout, NDArray[np.bool_] | None], list[Element]]
    """The elements of the scaler, learned from the training columns (N,), read one after the other; pictures: none. The
    third argument says which of the N steps of a series follow a gap in time."""
    limit: float
    """Scaled values are clipped to this absolute value, so that their squares stay finite in float32."""
    dataset: Callable[
        [Chunk | LoadedData, NDArray[np.intp], Scaler, Layout, torch.device, int | None, ArrayStore], RowDataset
    ]
    """The training samples; see `datasets.make_dataset`."""

    # --- quantities that `monitor` compares
    monitored: Callable[[Layout], list[str]]
    """The names of the Q quantities whose distribution is compared with training."""
    quantities: Callable[[Chunk], NDArray[np.float64]]
    """The quantities of the samples of a chunk, (N, Q)."""

    # --- DataFrames that a served model receives
    frame_fields: Callable[[Layout], tuple[Field, ...]]
    """The columns of a DataFrame of samples."""
    frame_chunks: Callable[[pd.DataFrame, Layout, DataConfig, int], Iterator[Chunk]]
    """A DataFrame in chunks of at most so many samples, the last argument. Raises DataError with the cell that cannot
    be read."""
    frame_example: Callable[[Layout], dict[str, Any]]
    """Example cells of a sample for what is not in the layout's columns: a group, a black picture."""

    reads: str = ""
    """What it does with the rows of a file, for the user who may choose another kind: "reads rows as independent"."""
    ordered: bool = False
    """Whether samples are consecutive time steps: they are split in order of time, read in windows, and dependent."""
    by_rows: Callable[[int, int | None], Mapping[str, Mapping[str, Any]]] | None = None
    """Defaults, as `defaults`, that depend on the number of training rows, and on data.window where that is chosen."""
    nearest: str = "neighbours"
    """The part of the score that `scoring.neighbours` is about, if there is a model that asks for no other."""
    folders: bool = False
    """Whether a folder of files is one data set."""
    keeps_channels: bool = True
    """Whether nats are kept for each channel of a picture, or summed to one map, which takes a third of the memory."""

    @property
    def pictures(self) -> bool:
        """Whether samples are pictures (C, H, W), whose scores are explained by maps."""
        return self.view == "pictures"
