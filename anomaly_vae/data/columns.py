"""Which columns of a table are inputs, of what type, and their values as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers.base import NULLS, Reader, canonical, distinct, is_number, is_text, parse_numbers
from anomaly_vae.data.source import Column

LABELS = frozenset({"label", "labels", "anomaly", "is_anomaly", "outlier", "is_outlier"})
MAYBE_LABELS = frozenset(  # that are inputs, and said to be
    {"attack", "attack_cat", "attack_type", "class", "classes", "fault", "fraud", "ground_truth", "is_attack"}
    | {"is_fault", "is_fraud", "is_malware", "target", "y"}
)
IDENTIFIERS = frozenset({"id", "uuid", "guid", "index", "row", "row_id"})
BOOLEAN = ("false", "true")
FEWEST = 5  # rows from which on a column that counts them is no coincidence


def profile(
    reader: Reader, name: str, column: pa.ChunkedArray, rows: NDArray[np.intp], most: int
) -> tuple[Column | None, str]:
    """What a column is, from the training rows `column[rows]`: an input, or None and why it is left out.

    most: distinct texts of a categorical column. Raises DataError for an infinite number, and for text in a column
    that mostly holds numbers.
    """
    chosen = column.take(pa.array(rows))
    if pa.types.is_dictionary(chosen.type):  # told to be a category by the program that wrote it
        chosen = pc.cast(chosen, chosen.type.value_type)
        if not is_text(chosen.type):
            chosen = pc.cast(chosen, pa.string())
        return _category(name, chosen, most)
    if pa.types.is_boolean(chosen.type):
        return _category(name, pc.cast(chosen, pa.string()), most)
    if is_text(chosen.type):
        numbers, bad = parse_numbers(chosen)
        if bad is not None:
            present = pc.sum(pc.invert(pc.is_in(pc.fill_null(chosen, ""), pa.array(NULLS)))).as_py()
            if (~np.isnan(numbers.to_numpy())).sum() > present / 2:
                row, cell = bad
                raise reader.not_a_number(int(rows[row]), name, cell)
            return _category(name, chosen, most)
        chosen = numbers
    elif pa.types.is_null(chosen.type):
        return None, "no value in the training rows"
    elif pa.types.is_temporal(chosen.type):
        return None, "a timestamp"
    elif not is_number(chosen.type):
        return None, f"of type {chosen.type}"
    return _number(reader, name, chosen, rows)


def _number(reader: Reader, name: str, column: pa.ChunkedArray, rows: NDArray[np.intp]) -> tuple[Column | None, str]:
    values = pc.cast(column, pa.float64(), safe=False).to_numpy()
    infinite = np.isinf(values)
    if infinite.any():
        raise infinity(reader, int(rows[np.argmax(infinite)]), name)
    present = values[~np.isnan(values)]
    if not len(present):
        return None, "no value in the training rows"
    if (present == present[0]).all():
        return None, f"constant ({present[0]:g}) in the training rows"
    if len(present) == len(values) and (present == np.floor(present)).all():
        # The training rows are a choice of all rows, so a row number is told by its distance from the row it is in.
        if len(values) >= FEWEST and (values - rows == values[0] - rows[0]).all():
            return None, "an identifier: it counts the rows"
        if is_identifier(name) and len(np.unique(values)) == len(values):
            return None, "an identifier: named like one, and different in every row"
    return Column(name), ""


def _category(name: str, column: pa.ChunkedArray, most: int) -> tuple[Column | None, str]:
    counts = pc.value_counts(column)
    found: dict[str, int] = {}
    for cell, count in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True):
        value = "" if cell is None else canonical(cell)
        if value not in NULLS:
            found[value] = found.get(value, 0) + count
    rows = sum(found.values())
    if not found:
        return None, "no value in the training rows"
    if len(found) == 1:
        return None, f"constant ({next(iter(found))!r}) in the training rows"
    if len(found) == rows:
        return None, "text that is different in every row"
    if len(found) > most:
        return None, f"free text: {len(found)} distinct values, data.max_categories allows {most}"
    if len(found) > 0.9 * rows:
        return None, f"free text: {len(found)} distinct values in {rows} rows"
    return Column(name, tuple(sorted(found))), ""


def is_identifier(name: str) -> bool:
    lower = name.strip().lower()
    return lower in IDENTIFIERS or lower.startswith("unnamed: ")


def infinity(reader: Reader, row: int, name: str) -> DataError:
    return DataError(
        f"{reader.path}: {reader.place(row)}, column '{name}': an infinite value; write a finite number, or leave the"
        " cell empty if it is missing"
    )


def types_of(reader: Reader, columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """How the reader is to read the columns: as numbers, or as text where there are categories or truth values."""
    text = {c.name for c in columns if c.categories is not None or pa.types.is_boolean(reader.peek[c.name].type)}
    return {c.name: pa.string() if c.name in text else pa.float64() for c in columns}


def matrix(reader: Reader, table: pa.Table, columns: Sequence[Column], first: int) -> NDArray[np.float64]:
    """(N, F) values of rows that start at row `first`, as `Chunk.values` describes them.

    Raises DataError naming the row and the column of an infinite value.
    """
    values = np.empty((table.num_rows, len(columns)))
    for i, column in enumerate(columns):
        cells = table[column.name]
        if column.categories is not None:
            values[:, i] = _codes(cells, column.categories)
        elif is_text(cells.type):  # truth values of a sensor
            values[:, i] = _truths(reader, column.name, cells, first)
        else:
            values[:, i] = cells.to_numpy()  # a missing cell becomes NaN
    infinite = np.isinf(values)
    if infinite.any():
        row, i = np.argwhere(infinite)[0]
        raise infinity(reader, first + int(row), columns[i].name)
    return values


def _codes(cells: pa.ChunkedArray, categories: tuple[str, ...]) -> NDArray[np.float64]:
    codes: dict[str, float] = {category: code for code, category in enumerate(categories)}
    if categories == BOOLEAN:  # 0 and 1 are another way to write them
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
    """(N,) code(value) of every cell, NaN where it is missing; each distinct value is looked at once."""
    values, places = distinct(cells)
    spelled = [canonical(value) for value in values]
    return np.array([np.nan if value in NULLS else code(value) for value in spelled] + [np.nan])[places]
