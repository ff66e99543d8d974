"""What a kind of data says of itself: whoever needs to know what differs between kinds asks here."""

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

    name: as `data.kind` has it. noun: what its samples are called, in the plural. view: how a person looks at them.
    defaults: section -> setting -> value, where the best value depends on the kind of data.
    """

    name: str
    noun: str
    view: Literal["rows", "curves", "pictures"]
    defaults: Mapping[str, Mapping[str, Any]]

    # --- files
    recognises: Callable[[Path | Reader, DataConfig], bool]
    """Whether a folder, or the columns of a file, are of this kind."""
    open: Callable[[Path | Reader, DataConfig, NDArray[np.str_] | None], Source]
    """A folder, or the columns of a file with labels (N,) that they lack, as a source. Raises DataError where it cannot
    be one."""

    # --- what the network reads
    elements: Callable[[Iterable[NDArray[Any]], Layout], list[Element]]
    """The numbers that are made of training columns (N,), which come one after the other. Pictures: none."""
    limit: float
    """Scaled values are clipped here, so that the float32 square of any cell stays finite."""
    dataset: Callable[
        [Chunk | LoadedData, NDArray[np.intp], Scaler, Layout, torch.device, int | None, ArrayStore], RowDataset
    ]
    """The training samples among some rows of the data; see `datasets.make_dataset`."""

    # --- what `monitor` compares
    monitored: Callable[[Layout], list[str]]
    """The names of the Q quantities that are compared with training."""
    quantities: Callable[[Chunk], NDArray[np.float64]]
    """(N, Q) of the samples of a chunk."""

    # --- from a DataFrame, as a served model gets it
    frame_fields: Callable[[Layout], tuple[Field, ...]]
    """The columns of a DataFrame of such samples."""
    frame_chunks: Callable[[pd.DataFrame, Layout, DataConfig, int], Iterator[Chunk]]
    """A DataFrame in chunks of at most so many samples. Raises DataError naming the cell that cannot be read."""
    frame_example: Callable[[Layout], dict[str, Any]]
    """Cells of a sample that are not made of the layout's columns: a group, a black picture."""

    ordered: bool = False
    """Whether samples are consecutive steps: split in the order of time, read in windows, not independent."""
    window: Callable[[int], int] | None = None
    """The length of a window, in steps, for so many training rows; None: samples are read alone."""
    folders: bool = False
    """Whether a folder of files is one set of samples."""
    keeps_channels: bool = True
    """Whether nats are kept for each channel of a picture, or summed up to one map: a third of the memory."""

    @property
    def pictures(self) -> bool:
        """Whether samples are pictures (C, H, W), which maps explain."""
        return self.view == "pictures"
