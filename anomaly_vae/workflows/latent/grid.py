"""Grids of samples of any kind of data, as a figure and as the numbers of a CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Layout

DIGITS = 6  # significant digits of a number in a CSV
CURVES = 4  # largest number of rows of panels in a figure of windows
UNSEEN = "(not seen in training)"  # name of a category's last class


@dataclass(frozen=True)
class Grid:
    """R x C samples in the units of the data: (R, C, F), (R, C, channels, H, W) in 0-255 or (R, C, T, sensors).

    rows, columns: the names of the grid's rows and columns in the figure. about: name -> one value for each sample, row
    by row, for the CSV; it may be shorter than R * C, and the cells beyond it are empty. turned: whether the figure
    swaps rows and columns.
    """

    values: NDArray[np.float64]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    about: Mapping[str, Sequence[Any]]
    turned: bool = False

    @classmethod
    def of(cls, values: NDArray[Any], rows: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[str]]) -> Grid:
        """The grid of values (R, C, ...). rows, columns: {what varies: one name for each row or column}."""
        (row, row_names), (column, column_names) = *rows.items(), *columns.items()
        about = {
            row: [name for name in row_names for _ in column_names],
            column: list(column_names) * len(row_names),
        }
        return cls(np.asarray(values, np.float64), tuple(row_names), tuple(column_names), about)

    @classmethod
    def of_many(cls, values: NDArray[np.float64], view: str, about: Mapping[str, Iterable[Any]]) -> Grid:
        """The grid of values (N, ...): a square of pictures, one block of rows, or curves in a few rows of panels."""
        n = len(values)
        n_rows = {"rows": 1, "curves": min(CURVES, n)}.get(view, math.ceil(n / math.ceil(math.sqrt(n))))
        n_columns = math.ceil(n / n_rows)
        empty = np.full((n_rows * n_columns - n, *values.shape[1:]), np.nan if view == "curves" else 255.0)
        grid = np.concatenate([values, empty]).reshape(n_rows, n_columns, *values.shape[1:])
        ranges = [f"{row * n_columns} to {min(n, (row + 1) * n_columns) - 1}" for row in range(n_rows)]
        numbers = [str(number) for number in range(n_columns)]
        names = {"rows": ([""], numbers), "curves": (ranges, [""] * n_columns)}
        row_names, column_names = names.get(view, ([""] * n_rows, [""] * n_columns))
        return cls(grid, tuple(row_names), tuple(column_names), {name: list(column) for name, column in about.items()})

    def turn(self) -> Grid:
        """The same grid, whose figure swaps rows and columns."""
        return replace(self, turned=not self.turned)


def numbers_of(grid: Grid, layout: Layout) -> dict[str, Any]:
    """The columns (N,) of the CSV by name: `about`, then the columns, the sensors step by step, or the pixels."""
    flat = grid.values.reshape(-1, *grid.values.shape[2:])
    flat = flat[: len(next(iter(grid.about.values())))]
    if KINDS[layout.kind].view == "curves":
        steps = flat.shape[1]
        about = {name: np.repeat(np.asarray(what), steps) for name, what in grid.about.items()}
        about["step"] = np.tile(np.arange(steps), len(flat))
        sensors = {c.name: _significant(flat[:, :, i].ravel()) for i, c in enumerate(layout.read)}
        return about | sensors
    if KINDS[layout.kind].view == "rows":
        return dict(grid.about) | {
            c.name: _significant(flat[:, i]) if c.categories is None else _names(flat[:, i], c.categories)
            for i, c in enumerate(layout.read)
        }
    pixels = np.rint(flat.reshape(len(flat), -1)).astype(np.int64)
    return dict(grid.about) | dict(zip(_pixel_names(layout), pixels.T, strict=True))


def draw_grid(grid: Grid, layout: Layout, scaler: Scaler, title: str, reference: bool) -> Any:
    """The figure of a grid. reference: whether the other columns are compared with the first one."""
    from anomaly_vae.reporting.plots import latent as plots

    values, rows, columns = grid.values, grid.rows, grid.columns
    if grid.turned:
        values, rows, columns = values.swapaxes(0, 1), columns, rows
    names = [column.name for column in layout.read]
    view = KINDS[layout.kind].view
    if view == "curves":
        return plots.curve_grid(values, rows, columns, names, title, reference)
    if view == "rows":
        flat = values.reshape(-1, len(names))
        texts = [[_text(v, c.categories) for v, c in zip(line, layout.read, strict=True)] for line in flat]
        return plots.row_grid(_shades(flat, layout, scaler).reshape(values.shape), texts, rows, columns, names, title)
    return plots.picture_grid(values, rows, columns, title)


def _shades(flat: NDArray[np.float64], layout: Layout, scaler: Scaler) -> NDArray[np.float64]:
    """Rows (N, F) in standard deviations from the training mean, (N, F); NaN for a category."""
    scaled = scaler.transform(flat)
    shades = np.full(flat.shape, np.nan)
    for element in reversed(range(len(scaler.elements))):  # reversed: a column's first element, the linear one, remains
        if layout.columns[scaler.elements[element].column].categories is None:
            shades[:, scaler.elements[element].column] = scaled[:, element]
    return shades


def _text(value: float, categories: tuple[str, ...] | None) -> str:
    return f"{value:.3g}" if categories is None else str(_names(np.array([value]), categories)[0])


def _names(codes: NDArray[np.float64], categories: tuple[str, ...]) -> NDArray[np.str_]:
    """The values that codes (N,) stand for, (N,); a missing one is empty text."""
    values = np.array([*categories, UNSEEN, ""])
    indices = np.where(np.isnan(codes), len(categories) + 1, codes).astype(np.intp)
    return np.asarray(values[indices])


def _significant(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values rounded to DIGITS significant digits; further digits are noise of float32."""
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
    power = 10.0 ** np.clip(np.nan_to_num(digits, nan=0.0, posinf=0.0, neginf=0.0), -300, 300)
    return np.asarray(np.round(values * power) / power)


def _pixel_names(layout: Layout) -> list[str]:
    channels, height, width = layout.sample
    if layout.pixels:
        return list(layout.pixels)
    places = [f"{row}_{column}" for row in range(height) for column in range(width)]
    return [f"pixel_{c}_{p}" if channels > 1 else f"pixel_{p}" for c in range(channels) for p in places]
