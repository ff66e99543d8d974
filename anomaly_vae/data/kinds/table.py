"""The kind of tables: one row is one sample of numbers, truth values and categories, independent of other rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data import time_column
from anomaly_vae.data.datasets import RowDataset, scaled_rows
from anomaly_vae.data.frames import column_chunks, column_example, column_fields
from anomaly_vae.data.kinds.kind import Kind
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.scaling import Element, Scaler
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.tabular import TabularSource, column_names, column_values, reader_of
from anomaly_vae.data.units import moments


class TableSource(TabularSource):
    """A table of independent rows."""

    kind: str = "table"

    @cached_property
    def why(self) -> str:
        columns = plural(len(self.reader.columns), "column")
        why = time_column.evidence(self.reader, self.config).why
        return f"a table: {plural(self.count(), 'row')} of {columns}, {why}"

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        return self.cells(self.id_of(layout), rows)

    def preload(self, store: ArrayStore) -> None:
        self.load(self.special, store)

    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """The input columns. Truth values, and text of few distinct values, become categories.

        Constant and empty columns are watched; identifiers, free text and timestamps are left out.
        Raises DataError for fewer than two rows, infinite values or text in a column of numbers, and if no column is
        left.
        """
        columns, watched, left_out = self.inputs(rows, self.special, held)
        self.need_columns(columns, watched, left_out)
        return Layout(
            kind=self.kind,
            shape=(len(columns) + len(watched),),
            columns=(*columns, *watched),
            conditions=self.conditions(rows),
            label=self.config.label,
            id=self.row_id(left_out),
            left_out=left_out,
        )

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        for _, _, chunk in self.matrices(layout, rows, self.id_of(layout)):
            yield chunk


def _open(data: Path | Reader, config: DataConfig, labels: NDArray[np.str_] | None) -> TableSource:
    return TableSource(reader_of(data, "table"), config, labels)


def _dataset(
    data: Chunk | LoadedData,
    rows: NDArray[np.intp],
    scaler: Scaler,
    layout: Layout,
    device: torch.device,
    window: int | None,
    store: ArrayStore,
) -> RowDataset:
    """The rows; see `datasets.make_dataset`."""
    del window
    return RowDataset(scaled_rows(data, [rows], scaler, layout, store), device)


def _elements(columns: Iterable[NDArray[Any]], layout: Layout, after_gap: NDArray[np.bool_] | None) -> list[Element]:
    """A linear element for each number and one for each category's code, then an asinh element for each number."""
    plain: list[Element] = []
    tails: list[Element] = []
    for index, (column, cells) in enumerate(zip(layout.columns, columns, strict=True)):
        if column.constant is not None:
            continue
        if column.categories is not None:
            plain.append(Element(index, "code"))
            continue
        x = cells[~np.isnan(cells)]
        mean, deviation = moments(x)
        plain.append(Element(index, "linear", mean, deviation))
        low, median, high = np.percentile(x, [25, 50, 75])
        spread = float(high - low) / 1.349 if high > low else deviation  # the IQR of a Gaussian is 1.349 deviations
        centre_and_spread = moments(np.arcsinh((x - median) / spread))
        tails.append(Element(index, "asinh", float(median), spread, *centre_and_spread))
    return plain + tails


TABLE = Kind(
    name="table",
    noun="rows",
    view="rows",
    defaults={
        "split": {"train": 0.6, "valid": 0.2, "folds": 4},
        "model": {
            "kind": "dense",
            "hidden": (64, 64),
            "blocks": 0,
            "likelihood": "gaussian",
            "sigma": "predicted",
            "sigma_min": 0.3,
            "sigma_value": 1.0,
            "members": 2,
        },
        "training": {"steps": 400, "batch_size": 128, "lr": 1.2e-2, "bf16": False, "noise": 0.2, "jitter": 0.0},
        "scoring": {
            "combine": "surprise",
            "recon": "likelihood",
            "prior": "mixture",
            "neighbours": 2048,
            "parts": ("lof", "tails", "missing"),
            "weights": "auto",
        },
        "threshold": {"unlabelled": "fpr=0.01"},
    },
    reads="reads rows as independent of each other",
    recognises=lambda data, config: 0.5 * isinstance(data, Reader),
    open=_open,
    elements=_elements,
    limit=1e6,
    dataset=_dataset,
    monitored=column_names,
    quantities=column_values,
    frame_fields=column_fields,
    frame_chunks=column_chunks,
    frame_example=column_example,
)
