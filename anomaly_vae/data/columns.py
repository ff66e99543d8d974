"""Columns of a table: which are inputs, of what type, and how their cells become numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import NULLS, canonical, distinct, is_number, is_text, parse_numbers
from anomaly_vae.data.source import Column
from anomaly_vae.data.units import RESOLUTION, differs, unit_of

LABELS = frozenset({"label", "labels", "anomaly", "is_anomaly", "outlier", "is_outlier"})
MAYBE_LABELS = frozenset(  # that are inputs, and said to be
    {"attack", "attack_cat", "attack_type", "class", "classes", "fault", "fraud", "ground_truth", "is_attack"}
    | {"is_fault", "is_fraud", "is_malware", "target", "y"}
)
IDENTIFIERS = frozenset({"id", "uuid", "guid", "index", "row", "row_id"})
BOOLEAN = ("false", "true")
SEEN = 20  # values from which a constant column is watched, and another value is not just one that had not come yet
FEWEST = 5  # number of rows from which a column that counts rows is an identifier, not a coincidence


def profile(
    reader: Reader, name: str, column: pa.ChunkedArray, rows: NDArray[np.intp], most: int
) -> tuple[Column | None, str]:
    """Decides from the training rows `column[rows]` whether a column is an input.

    most: the largest number of distinct texts of a categorical column. Returns the column, an input or a watched one,
    and "", or None and the reason why it is left out. Raises DataError for an infinite number, and for text in a column
    that mostly holds numbers.
    """
    cells = column.take(pa.array(rows))
    if pa.types.is_dictionary(cells.type):  # the program that wrote the file declared a category
        cells = pc.cast(cells, cells.type.value_type)
        if not is_text(cells.type):
            cells = pc.cast(cells, pa.string())
        return _category(name, cells, most)
    if pa.types.is_boolean(cells.type):
        return _category(name, pc.cast(cells, pa.string()), most)
    if is_text(cells.type):
        numbers, bad = parse_numbers(cells)
        if bad is not None:
            n_present = pc.sum(pc.invert(pc.is_in(pc.fill_null(cells, ""), pa.array(NULLS)))).as_py()
            if (~np.isnan(numbers.to_numpy())).sum() > n_present / 2:
                row, cell = bad
                raise reader.not_a_number(int(rows[row]), name, cell)
            return _category(name, cells, most)
        cells = numbers
    elif pa.types.is_null(cells.type):
        return _empty(name)
    elif pa.types.is_temporal(cells.type):
        return None, "a timestamp"
    elif not is_number(cells.type):
        return None, f"of type {cells.type}"
    return _number(reader, name, cells, rows)


def _number(reader: Reader, name: str, column: pa.ChunkedArray, rows: NDArray[np.intp]) -> tuple[Column | None, str]:
    values = pc.cast(column, pa.float64(), safe=False).to_numpy()
    is_infinite = np.isinf(values)
    if is_infinite.any():
        raise infinity(reader, int(rows[np.argmax(is_infinite)]), name)
    present = values[~np.isnan(values)]
    if not len(present):
        return _empty(name)
    if np.ptp(present / unit_of(present)) <= RESOLUTION:
        return _watched(Column(name, None, float(present[0])), len(present), len(rows))
    if len(present) == len(values) and (present == np.floor(present)).all():
        # The training rows are a subset of all rows, so values that count rows are recognised by a constant difference
        # from the row index.
        if len(values) >= FEWEST and (values - rows == values[0] - rows[0]).all():
            return None, "an identifier: it counts the rows"
        if is_identifier(name) and len(np.unique(values)) == len(values):
            return None, "an identifier: named like one, and different in every row"
    return Column(name), ""


def _category(name: str, column: pa.ChunkedArray, most: int) -> tuple[Column | None, str]:
    cell_counts = pc.value_counts(column)
    cells, numbers = cell_counts.field("values").to_pylist(), cell_counts.field("counts").to_pylist()
    counts: dict[str, int] = {}
    for cell, number in zip(cells, numbers, strict=True):
        value = "" if cell is None else canonical(cell)
        if value not in NULLS:
            counts[value] = counts.get(value, 0) + number
    n_rows = sum(counts.values())
    if not counts:
        return _empty(name)
    if len(counts) == 1:
        return _watched(Column(name, tuple(counts), 0.0), n_rows, len(column))
    if len(counts) == n_rows:
        return None, "text that is different in every row"
    if len(counts) > most:
        return None, f"free text: {len(counts)} distinct values, data.max_categories allows {most}"
    if len(counts) > 0.9 * n_rows:
        return None, f"free text: {len(counts)} distinct values in {n_rows} rows"
    return Column(name, tuple(sorted(counts))), ""


def _empty(name: str) -> tuple[Column, str]:
    return Column(name, (), -1.0), ""


def _watched(column: Column, seen: int, rows: int) -> tuple[Column | None, str]:
    """A column that has one value in `seen` of the training rows, and none in the others."""
    if seen < min(SEEN, rows):
        return None, f"{constancy(column)} in the {seen} training rows that have a value"
    return column, ""


def moves(column: Column, cells: pa.ChunkedArray, rows: NDArray[np.intp]) -> bool:
    """Whether a watched column has another value in some of the rows."""
    found = cells.take(pa.array(rows))
    if column.categories is None:
        numbers = parse_numbers(found)[0] if is_text(found.type) else pc.cast(found, pa.float64(), safe=False)
        return bool(differs(numbers.to_numpy(), column.constant).any())
    if pa.types.is_dictionary(found.type):
        found = pc.cast(found, found.type.value_type)
    texts = distinct(found if is_text(found.type) else pc.cast(found, pa.string()))[0]
    return not {canonical(text) for text in texts} <= {*NULLS, *column.categories}


def constancy(column: Column) -> str:
    """How a watched column was in training, in words."""
    if not column.categories:
        return "no value" if column.categories is not None else f"constant ({column.constant:g})"
    return f"constant ({column.categories[0]!r})"


def is_identifier(name: str) -> bool:
    """Whether a column is named like an identifier of rows."""
    lower = name.strip().lower()
    return lower in IDENTIFIERS or lower.startswith("unnamed: ")


def infinity(reader: Reader, row: int, name: str) -> DataError:
    """The error for an infinite number in column `name`; it is returned, not raised."""
    return DataError(
        f"{reader.path}: {reader.place(row)}, column '{name}': an infinite value; write a finite number, or leave the"
        " cell empty if it is missing"
    )


def types_of(reader: Reader, columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """The type that each column is read as: text for categories and truth values, float64 for numbers."""
    text = {c.name for c in columns if c.categories is not None or pa.types.is_boolean(reader.peek[c.name].type)}
    return {c.name: pa.string() if c.name in text else pa.float64() for c in columns}


def matrix(reader: Reader, table: pa.Table, columns: Sequence[Column], first: int) -> NDArray[np.float64]:
    """The values of a table as `Chunk.values` defines them, (N, F).

    first: the index of the table's first row in the file. Raises DataError with the row and the column of an infinite
    value.
    """
    values = np.empty((table.num_rows, len(columns)))
    for i, column in enumerate(columns):
        cells = table[column.name]
        if column.categories is not None:
            values[:, i] = _codes(cells, column.categories)
        elif is_text(cells.type):  # a sensor of truth values
            values[:, i] = _truths(reader, column.name, cells, first)
        else:
            values[:, i] = cells.to_numpy()  # a missing cell becomes NaN
    is_infinite = np.isinf(values)
    if is_infinite.any():
        row, i = np.argwhere(is_infinite)[0]
        raise infinity(reader, first + int(row), columns[i].name)
    return values


def _codes(cells: pa.ChunkedArray, categories: tuple[str, ...]) -> NDArray[np.float64]:
    codes: dict[str, float] = {category: code for code, category in enumerate(categories)}
    if categories == BOOLEAN:  # also written as 0 and 1
        codes |= {"0": 0.0, "1": 1.0}
    return _mapped(cells, lambda value: codes.get(value, float(len(categories))))


def _truths(reader: Reader, name: str, cells: pa.ChunkedArray, first: int) -> NDArray[np.float64]:
    numbers, bad = parse_numbers(pa.chunked_array([pa.array(_as_digits(cells), pa.string())]))
    if bad is not None:
        raise reader.not_a_number(first + bad[0], name, bad[1])
    return np.asarray(numbers.to_numpy())


def _as_digits(cells: pa.ChunkedArray) -> list[str | None]:
    digits = {"false": "0", "true": "1"}
    return [cell if cell is None else digits.get(canonical(cell), cell) for cell in cells.to_pylist()]


def _mapped(cells: pa.ChunkedArray, code: Any) -> NDArray[np.float64]:
    """code(value) of every cell, (N,), NaN for a missing cell; `code` is called once for each distinct value."""
    values, indices = distinct(cells)
    texts = [canonical(value) for value in values]
    return np.array([np.nan if text in NULLS else code(text) for text in texts] + [np.nan])[indices]
