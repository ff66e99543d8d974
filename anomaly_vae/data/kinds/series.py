"""Series: one row is one time step, one column a sensor, one group a machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data import timestamps
from anomaly_vae.data.columns import BOOLEAN
from anomaly_vae.data.datasets import RowDataset, WindowDataset, by_group, scaled_rows, window_starts
from anomaly_vae.data.frames import column_chunks, column_example, column_fields
from anomaly_vae.data.kinds.kind import Kind
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.readers.base import Reader, is_number, plural
from anomaly_vae.data.scaling import Element, Scaler, moments
from anomaly_vae.data.source import Chunk, Column, Layout
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.tabular import TabularSource, column_names, column_values, columns_of

BLOCKS, SLOW = 8, 0.4  # of a series: see `_slow_share`
LONGEST, SHORTEST, SIDE_BY_SIDE = 32, 8, 20  # steps of a window; windows that training rows should hold


class SeriesSource(TabularSource):
    """Time steps in order. Without a time column the order of the file is taken for the order of time.

    Raises DataError where the time column does not exist or does not hold times.
    """

    kind: str = "series"

    def __init__(self, reader: Reader, config: DataConfig, labels: NDArray[np.str_] | None = None) -> None:
        super().__init__(reader, config, labels)
        if config.time is not None:
            reader.require([config.time], "time column")
        self.time = config.time or timestamps.find(reader) or timestamps.find_number(reader)
        if self.time in (config.label, config.id, config.group):
            self.time = config.time
        self._parse = None if self.time is None else timestamps.parse_of(reader.peek[self.time])
        if self.time is not None and self._parse is None:
            if config.time is not None:
                cell = reader.peek[self.time][0].as_py()
                raise DataError(
                    f"{self.path}: column '{self.time}' holds no times (row 1: {cell!r}); name another with data.time"
                )
            self.time = None

    @cached_property
    def why(self) -> str:
        schema = self.reader.peek.schema
        other = {*self.special, self.time}
        sensors = [c for c in self.reader.columns if c not in other and is_number(schema.field(c).type)]
        clock = f"time column '{self.time}'" if self.time else "no time column, in the order of the file"
        machines = f", group column '{self.config.group}'" if self.config.group else ""
        return f"a series: {plural(self.count(), 'time step')} of {plural(len(sensors), 'sensor')}, {clock}{machines}"

    def preload(self, store: ArrayStore) -> None:
        self.load(self._no_sensors, store)

    def learn(self, rows: NDArray[np.intp]) -> Layout:
        """Numbers and truth values (0, 1) become sensors; text and constant columns are left out.

        Raises DataError for fewer than two rows, infinite values, text in a column of numbers, or where no sensor is
        left.
        """
        found, left_out = self.inputs(rows, self._no_sensors)
        columns: list[Column] = []
        for column in found:
            if column.categories in (None, BOOLEAN):
                columns.append(Column(column.name))
            else:
                left_out[column.name] = "text; a series is made of numbers"
        self.need_columns(columns, left_out)
        config = self.config
        return Layout(
            "series", (len(columns),), tuple(columns), label=config.label, id=config.id, time=self.time,
            group=config.group, left_out=left_out, conditions=self.conditions(rows),
        )  # fmt: skip

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        return self.cells(self.id_of(layout) or self.time, rows)

    @property
    def _no_sensors(self) -> dict[str, str]:
        return self.special | ({self.time: "the time column"} if self.time else {})

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Time steps (N, C). Raises DataError where time runs backwards within a group."""
        last: dict[str, float] = {}
        times_ = () if self.time is None else (self.time,)
        for first, table, chunk in self.matrices(layout, rows, self.id_of(layout) or self.time, times_):
            if self.time is not None:
                self._check_order(table[self.time], chunk.groups, first, last)
            yield chunk

    def _check_order(
        self, cells: pa.ChunkedArray, groups: NDArray[np.str_] | None, first: int, last: dict[str, float]
    ) -> None:
        """last: time of the last step of each group so far; it is brought forward."""
        assert self._parse is not None
        clock = self._parse(cells)
        unread = np.isnan(clock)
        if unread.any():
            # One cell that is no time makes pyarrow refuse all, so they are tried one by one.
            at = next((i for i in range(len(cells)) if np.isnan(self._parse(cells.slice(i, 1)))[0]), 0)
            raise self._wrong(
                first + at, cells[at], "is no time in the format of the rows above; correct it, or name another time"
                " column with data.time",
            )  # fmt: skip
        names = np.zeros(len(clock), dtype="U1") if groups is None else groups
        for name in np.unique(names):
            rows = np.flatnonzero(names == name)
            steps = np.diff(clock[rows], prepend=last.get(str(name), -np.inf))
            if (steps < 0).any():
                at = int(rows[np.argmax(steps < 0)])
                raise self._wrong(
                    first + at, cells[at], f"is before the step above; sort the file by '{self.time}', or name the"
                    " column that tells machines apart with data.group",
                )  # fmt: skip
            last[str(name)] = float(clock[rows[-1]])

    def _wrong(self, row: int, cell: pa.Scalar, what: str) -> DataError:
        return DataError(
            f"{self.path}: {self.reader.place(row)}, column '{self.time}': {str(cell.as_py() or '')!r} {what}"
        )


def _recognises(given: Path | Reader, config: DataConfig) -> bool:
    if not isinstance(given, Reader):
        return False
    return config.time is not None or config.group is not None or timestamps.in_order(given)


def _open(given: Path | Reader, config: DataConfig, labels: NDArray[np.str_] | None) -> SeriesSource:
    return SeriesSource(columns_of(given, "series"), config, labels)


def _dataset(
    data: Chunk | LoadedData, rows: NDArray[np.intp], scaler: Scaler, layout: Layout, device: torch.device,
    window: int | None, store: ArrayStore,
) -> RowDataset:  # fmt: skip
    """Every window that lies wholly within the rows."""
    assert window is not None
    order, starts = window_starts(rows, data.groups, len(data), window)
    return WindowDataset(scaled_rows(data, by_group(order, data.groups), scaler, layout, store), device, starts, window)


def _window(train_rows: int) -> int:
    """LONGEST steps, or a half of it, ..., until the training rows hold twenty windows side by side."""
    window = LONGEST
    while window > SHORTEST and window > train_rows / SIDE_BY_SIDE:
        window //= 2
    return window


def _elements(columns: Iterable[NDArray[Any]], layout: Layout) -> list[Element]:
    del layout
    return [_sensor(x, index) for index, x in enumerate(columns)]


def _sensor(x: NDArray[np.float64], index: int) -> Element:
    known = x[~np.isnan(x)]
    mean, deviation = float(known.mean()), float(known.std())
    # a sensor that hardly moved in training may move a little later: its scale has a floor
    scale = max(deviation, 1e-3 * max(1e-2, abs(mean))) if deviation > 1e-9 else 1e-2
    if _slow_share(known) <= SLOW:
        return Element(index, "linear", mean, scale)
    steps = np.diff(known, prepend=known[0]) / scale
    centre, spread = moments(steps)
    return Element(index, "difference", mean, scale, centre, max(spread, 1e-3))


def _slow_share(x: NDArray[np.float64]) -> float:
    """Share of a sensor's variance that lies between the means of 8 consecutive blocks of the training rows.

    Near 0 for a stationary sensor, near 1 for one that drifts: what it reads later will lie where it never was.
    """
    length, variance = len(x) // BLOCKS, float(x.var())
    if length == 0 or variance < 1e-12:
        return 0.0
    return float(x[len(x) - BLOCKS * length :].reshape(BLOCKS, length).mean(1).var()) / variance


SERIES = Kind(
    name="series",
    noun="time steps",
    view="curves",
    defaults={
        "split": {"train": 0.4, "valid": 0.3},
        "model": {"kind": "conv1d", "latent": 8, "channels": (32, 32), "hidden": (), "blocks": 0,
                  "likelihood": "gaussian", "sigma": "element", "sigma_min": 0.08, "sigma_value": 1.0, "members": 1},
        "training": {"steps": 1500, "batch_size": 64, "lr": 2e-3, "bf16": False, "noise": 0.0,
                     "jitter": 0.0},
        "scoring": {"combine": "sum", "recon": "level", "prior": "normal", "neighbours": 0, "parts": ()},
        "threshold": {"unlabelled": "tail=0.0001"},
    },
    recognises=_recognises,
    open=_open,
    elements=_elements,
    limit=30.0,
    dataset=_dataset,
    monitored=column_names,
    quantities=column_values,
    frame_fields=column_fields,
    frame_chunks=column_chunks,
    frame_example=column_example,
    ordered=True,
    window=_window,
)  # fmt: skip
