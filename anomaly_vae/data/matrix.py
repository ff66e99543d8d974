"""The cells of a table as numbers: what each column is read as, and the array that the model is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import (
    NULLS,
    NumberFormat,
    canonical,
    distinct,
    is_number,
    is_text,
    is_truth_pair,
    parse_number,
    truth_of,
)
from anomaly_vae.data.source import Column


def types_of(reader: Reader, columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """The type that each column is read as: text for categories, truth values and numbers in a format of their own,
    float64 for numbers."""

    def is_read_as_text(column: Column) -> bool:
        type_ = reader.peek[column.name].type
        if column.categories is not None or pa.types.is_boolean(type_):
            return True
        return column.format is not None and not (reader.decimal is None and is_number(type_))

    return {c.name: pa.string() if is_read_as_text(c) else pa.float64() for c in columns}


def matrix(reader: Reader, table: pa.Table, columns: Sequence[Column], first: int) -> NDArray[np.float64]:
    """The values of a table as `Chunk.values` defines them, (N, F).

    first: the index of the table's first row in the file. Raises DataError with the row and the column of an infinite
    value.
    """
    values = np.empty((table.num_rows, len(columns)))
    for i, column in enumerate(columns):
        cells = table[column.name]
        if column.categories is not None:
            values[:, i] = _codes(cells, column.categories, reader.missing)
        elif is_text(cells.type):
            format_ = column.format or NumberFormat(truths=True)
            values[:, i] = without(reader.numbers(cells, column.name, first, format_).to_numpy(), reader.missing)
        else:
            values[:, i] = without(cells.to_numpy(), reader.missing)  # a missing cell becomes NaN
    is_infinite = np.isinf(values)
    if is_infinite.any():
        row, i = np.argwhere(is_infinite)[0]
        raise infinity(reader, first + int(row), columns[i].name)
    return values


def infinity(reader: Reader, row: int, name: str) -> DataError:
    """The error for an infinite number in column `name`; it is returned, not raised."""
    return DataError(
        f"{reader.path}: {reader.place(row)}, column '{name}': an infinite value; write a finite number, or leave the"
        " cell empty if it is missing"
    )


def without(values: NDArray[np.float64], missing: Sequence[str]) -> NDArray[np.float64]:
    """Numbers (N,) with NaN for those that are marks of a missing cell."""
    marks = [number for number in map(parse_number, missing) if number is not None and number == number]
    return np.where(np.isin(values, marks), np.nan, values) if marks else values


def _codes(cells: pa.ChunkedArray, categories: tuple[str, ...], missing: Sequence[str]) -> NDArray[np.float64]:
    codes: dict[str, float] = {category: code for code, category in enumerate(categories)}
    no_value = codes.pop("", np.nan)  # of a missing cell
    states: dict[float | None, float] = {}
    if is_truth_pair(codes):  # also written as another pair, and as 0 and 1
        states = {truth_of(category): code for category, code in codes.items()}
        codes |= {"0": states[0.0], "1": states[1.0]}
    unseen = float(len(categories))

    def code(value: str) -> float:
        if value in NULLS or value in missing:
            return no_value
        return codes.get(value, states.get(truth_of(value), unseen))

    return _mapped(cells, code, no_value)


def _mapped(cells: pa.ChunkedArray, code: Callable[[str], float], missing: float) -> NDArray[np.float64]:
    """code(value) of every cell, (N,), `missing` for a missing cell; `code` is called once for each distinct value."""
    values, indices = distinct(cells)
    return np.array([code(canonical(value)) for value in values] + [missing])[indices]
