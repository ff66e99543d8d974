"""The kind of series: one row is one time step, one column one sensor, one group one machine."""

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
from anomaly_vae.data.datasets import RowDataset, WindowDataset, by_run, scaled_rows, window_starts
from anomaly_vae.data.frames import column_chunks, column_example, column_fields
from anomaly_vae.data.kinds.kind import Kind
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.readers.cells import is_number
from anomaly_vae.data.scaling import Element, Scaler
from anomaly_vae.data.source import Chunk, Column, Layout
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.tabular import TabularSource, column_names, column_values, reader_of
from anomaly_vae.data.units import RESOLUTION, moments, smallest_step, unit_of

BLOCKS, SLOW = 8, 0.4  # number of blocks of `_slow_share`, and the share above which a sensor is read as differences
LONGEST, SHORTEST = 32, 8  # steps of a window
SIDE_BY_SIDE = 20  # number of windows without overlap that the training rows should hold


class SeriesSource(TabularSource):
    """Time steps in order of time. Without a time column the order of the file counts as the order of time.

    Raises DataError if the configured time column does not exist or does not hold times.
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
        self.load(self._special, store)

    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """The sensors: columns of numbers and of truth values (0, 1). Constant ones are watched, text is left out.

        Raises DataError for fewer than two rows, infinite values or text in a column of numbers, and if no sensor is
        left.
        """
        columns, watched, left_out = self.inputs(rows, self._special, held)
        sensors: list[Column] = []
        for column in columns:
            if column.categories in (None, BOOLEAN):
                sensors.append(Column(column.name))
            else:
                left_out[column.name] = "text; a series is made of numbers"
        self.need_columns(sensors, watched, left_out)
        return Layout(
            kind=self.kind,
            shape=(len(sensors) + len(watched),),
            columns=(*sensors, *watched),
            conditions=self.conditions(rows),
            label=self.config.label,
            id=self.config.id,
            time=self.time,
            group=self.config.group,
            left_out=left_out,
            per_day=None if self.time is None else timestamps.per_day(self.reader.peek[self.time]),
        )

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        return self.cells(self.id_of(layout) or self.time, rows)

    @property
    def _special(self) -> dict[str, str]:
        """Columns that are never a sensor, each with the reason."""
        return self.special | ({self.time: "the time column"} if self.time else {})

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Time steps (N, C). Raises DataError if time runs backwards within a group."""
        last_times: dict[str, float] = {}
        time_columns = () if self.time is None else (self.time,)
        for first, table, chunk in self.matrices(layout, rows, self.id_of(layout) or self.time, time_columns):
            if self.time is not None:
                self._check_order(table[self.time], chunk.groups, first, last_times)
            yield chunk

    def _check_order(
        self, cells: pa.ChunkedArray, groups: NDArray[np.str_] | None, first: int, last_times: dict[str, float]
    ) -> None:
        """Raises DataError for a time that cannot be read or is before the previous one of its group.

        cells: (N,) times as text. first: the index of the first of these rows. last_times: the time of each group's
        last step in earlier rows; it is updated.
        """
        assert self._parse is not None
        times = self._parse(cells)
        if np.isnan(times).any():
            # pyarrow rejects all cells if one is not a time, so the cells are tried singly to find that one
            row = next((i for i in range(len(cells)) if np.isnan(self._parse(cells.slice(i, 1)))[0]), 0)
            raise self._bad_time(
                first + row,
                cells[row],
                "is no time in the format of the rows above; correct it, or name another time column with data.time",
            )
        names = np.zeros(len(times), dtype="U1") if groups is None else groups
        for name in np.unique(names):
            rows = np.flatnonzero(names == name)
            goes_back = np.diff(times[rows], prepend=last_times.get(str(name), -np.inf)) < 0
            if goes_back.any():
                row = int(rows[np.argmax(goes_back)])
                raise self._bad_time(
                    first + row,
                    cells[row],
                    f"is before the step above; sort the file by '{self.time}', or name the column that tells machines"
                    " apart with data.group",
                )
            last_times[str(name)] = float(times[rows[-1]])

    def _bad_time(self, row: int, cell: pa.Scalar, problem: str) -> DataError:
        return DataError(
            f"{self.path}: {self.reader.place(row)}, column '{self.time}': {str(cell.as_py() or '')!r} {problem}"
        )


def _recognises(data: Path | Reader, config: DataConfig) -> bool:
    if not isinstance(data, Reader):
        return False
    return config.time is not None or config.group is not None or timestamps.in_order(data)


def _open(data: Path | Reader, config: DataConfig, labels: NDArray[np.str_] | None) -> SeriesSource:
    return SeriesSource(reader_of(data, "series"), config, labels)


def _dataset(
    data: Chunk | LoadedData,
    rows: NDArray[np.intp],
    scaler: Scaler,
    layout: Layout,
    device: torch.device,
    window: int | None,
    store: ArrayStore,
) -> RowDataset:
    """Every window whose steps are all among the rows; see `datasets.make_dataset`."""
    assert window is not None
    order, starts = window_starts(rows, data.groups, len(data), window)
    scaled = scaled_rows(data, by_run(order, data.groups, rows), scaler, layout, store)
    return WindowDataset(scaled, device, starts, window)


def _window(train_rows: int) -> int:
    """The default length of a window: LONGEST, halved until the training rows hold SIDE_BY_SIDE windows."""
    window = LONGEST
    while window > SHORTEST and window > train_rows / SIDE_BY_SIDE:
        window //= 2
    return window


def _elements(columns: Iterable[NDArray[Any]], layout: Layout) -> list[Element]:
    read = zip(layout.columns, columns, strict=True)
    return [_sensor(x, index) for index, (column, x) in enumerate(read) if column.constant is None]


def _sensor(x: NDArray[np.float64], index: int) -> Element:
    """The element of sensor number `index` with training values x (N,): linear, or differences if it drifts."""
    present = x[~np.isnan(x)]
    mean, deviation = moments(present)
    # a sensor that is almost always the same and sometimes a step off: a later step is no more than one unit
    scale = max(deviation, smallest_step(present))
    if _slow_share(present / unit_of(present)) <= SLOW:
        return Element(index, "linear", mean, scale)
    differences = np.diff(present, prepend=present[0]) / scale
    centre, spread = moments(differences)
    return Element(index, "difference", mean, scale, centre, max(spread, 1e-3))


def _slow_share(x: NDArray[np.float64]) -> float:
    """The share of a sensor's variance that is between the means of BLOCKS consecutive blocks of the training rows.

    It is near 0 for a stationary sensor and near 1 for one that drifts, whose later values leave the training range.
    """
    length, variance = len(x) // BLOCKS, float(x.var())
    if length == 0 or variance <= RESOLUTION**2:
        return 0.0
    return float(x[len(x) - BLOCKS * length :].reshape(BLOCKS, length).mean(1).var()) / variance


SERIES = Kind(
    name="series",
    noun="time steps",
    view="curves",
    defaults={
        "split": {"train": 0.4, "valid": 0.3},
        "model": {
            "kind": "conv1d",
            "latent": 8,
            "channels": (32, 32),
            "hidden": (),
            "blocks": 0,
            "likelihood": "gaussian",
            "sigma": "element",
            "sigma_min": 0.08,
            "sigma_value": 1.0,
            "members": 1,
        },
        "training": {"steps": 1500, "batch_size": 64, "lr": 2e-3, "bf16": False, "noise": 0.0, "jitter": 0.0},
        "scoring": {"combine": "sum", "recon": "level", "prior": "normal", "neighbours": 0, "parts": ("missing",)},
        "threshold": {"unlabelled": "tail=0.001"},
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
)
