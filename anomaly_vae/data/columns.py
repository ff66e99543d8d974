"""Columns of a table: which are inputs, of what type, and how their cells are written; decided from training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.matrix import infinity, without
from anomaly_vae.data.readers.base import SHOWN, Reader, plural
from anomaly_vae.data.readers.cells import (
    NULLS,
    PLAIN,
    NumberFormat,
    NumberText,
    canonical,
    distinct,
    is_number,
    is_text,
    parse_numbers,
)
from anomaly_vae.data.roles import FEWEST, identifier_reason, label_reason
from anomaly_vae.data.source import Column
from anomaly_vae.data.units import RESOLUTION, differs, unit_of

SEEN = 20  # values from which a constant column is watched, and another value is not just one that had not come yet
MOSTLY = 0.9  # share of present cells that are numbers, from which a column of text is one of numbers
UNIQUE = "text that is different in every row"


Notes = dict[str, list[str]]  # what the user should know of columns: items of one kind, which one note lists


@dataclass(frozen=True)
class Reading:
    """How columns are judged.

    most: the largest number of distinct texts of a categorical column. decimal: the decimal mark of the configuration;
    None: the one that a column proves, else `proven`, that of the file's other columns. keep: columns that are inputs
    whatever their name or look. steps: whether rows are time steps, in which whole numbers that grow may be a sensor.
    """

    most: int
    decimal: Literal[".", ","] | None = None
    proven: Literal[".", ","] | None = None
    keep: tuple[str, ...] = ()
    steps: bool = False


def profile(
    reader: Reader, name: str, column: pa.ChunkedArray, rows: NDArray[np.intp], reading: Reading, notes: Notes
) -> tuple[Column | None, str]:
    """Decides from the training rows `column[rows]` whether a column is an input; how its cells are written and whether
    it is a label is decided on all rows.

    Returns the column, an input or a watched one, and "", or None and the reason why it is left out; adds to the notes.
    Raises DataError for an infinite number, for numbers of several units, and for text in a column of which nine tenths
    are numbers.
    """
    if name not in reading.keep and (reason := label_reason(reader, name, column, reading.most)):
        return None, reason
    cells = column.take(pa.array(rows))
    if pa.types.is_dictionary(cells.type):  # the program that wrote the file declared a category
        cells = pc.cast(cells, cells.type.value_type)
        if not is_text(cells.type):
            cells = pc.cast(cells, pa.string())
        return _category(reader, name, cells, reading.most, notes)
    if pa.types.is_boolean(cells.type):
        return _category(reader, name, pc.cast(cells, pa.string()), reading.most, notes)
    if is_text(cells.type):
        written = _written(reader, name, column, rows, reading, notes)
        if isinstance(written, str):
            found, reason = _category(reader, name, cells, reading.most, notes)
            if found is not None and written:
                notes["categories"].append(f"column '{name}' is read as categories: {written}")
            return found, written if found is None and written else reason
        format_, values = written
        found, reason = _number(reader, name, pa.chunked_array([pa.array(values[rows])]), rows, reading)
        return None if found is None else replace(found, format=format_), reason
    if pa.types.is_null(cells.type):
        return _empty(name)
    if pa.types.is_duration(cells.type):
        return None, "a duration; its seconds, as a number, would be read"
    if pa.types.is_temporal(cells.type):
        return None, "a timestamp"
    if not is_number(cells.type):
        return None, f"of type {cells.type}"
    return _number(reader, name, cells, rows, reading)


def _written(
    reader: Reader, name: str, column: pa.ChunkedArray, rows: NDArray[np.intp], reading: Reading, notes: Notes
) -> tuple[NumberFormat | None, NDArray[np.float64]] | str:
    """The format and the numbers (N,) of a column of text, or why it is none of numbers, "" where that is plain."""
    text = NumberText(column, reader.missing)
    n_point, n_comma = text.proofs()
    proven: Literal[".", ","] | None = "," if n_comma > n_point else "." if n_point else None
    open_cell = text.open_cell()
    likely: Literal[".", ","] = "," if reader.decimal == "," and "," in open_cell else "."
    decimal = reading.decimal or proven or reading.proven or likely
    units = text.units(decimal)
    n_bare = units.pop("", 0)
    n_with = sum(units.values())
    unit = next(iter(units), "")
    if n_with < n_bare or units.get(unit, 0) < MOSTLY * n_with:
        unit = ""
    values, is_other, is_limit = text.read(NumberFormat(decimal, unit, limits=True))
    is_present = text.is_present() & ~is_limit
    n_present, n_numbers = int(is_present[rows].sum()), int((is_present & ~is_other)[rows].sum())
    if 1 < len(units) <= SHOWN and n_with >= max(n_bare, MOSTLY * is_present.sum() - n_bare):
        n_distinct = len({text.text(row) for row in rows[is_present[rows]].tolist()})
        if (unit or n_distinct > min(reading.most, MOSTLY * n_present)) and not all(map(_is_code, units)):
            raise _several_units(reader, name, text, decimal, list(units)[:2])
    if not n_numbers or n_numbers < (1 - MOSTLY) * n_present:
        return ""
    others = np.flatnonzero(is_other)
    if n_numbers < MOSTLY * n_present and not (n_present - n_numbers == 1 and n_present >= FEWEST):
        marks = list(dict.fromkeys(text.text(row) for row in others[:10_000].tolist()))
        reason = f"{n_numbers} of {n_present} cells are numbers, the others text such as {marks[0][:40]!r}"
        few = len(marks) <= 2 * SHOWN
        return reason + (f": {setting('data.missing', marks)} reads them as missing" if few else "")
    if len(others):
        (row, cell), *more = [(row, text.text(row)) for row in others.tolist()]
        raise reader.not_a_number(row, name, cell, more)
    if is_limit.any():
        row = int(np.argmax(is_limit))
        notes["limits"].append(
            f"column '{name}': {plural(int(is_limit.sum()), 'cell')} such as {text.text(row)!r} (row {row + 1}) read as"
            " missing: limits of what was measured"
        )
    mark, n_marks = text.marks()
    if n_marks:
        notes["marks"].append(f"column '{name}': {plural(n_marks, 'cell')} such as {mark!r} read as missing")
    unusual = text.first_unusual(values)
    if unusual is not None:
        said = f"column '{name}': {text.text(unusual)!r} is read as {values[unusual]:.15g}"
        if open_cell and not (reading.decimal or proven or reading.proven):
            other = setting("data.decimal", "," if decimal == "." else ".")
            said += f" (no cell proves what the mark in {open_cell!r} means; {other} reads it the other way)"
        notes["numbers"].append(said)
    found = NumberFormat(decimal, unit, limits=bool(is_limit.any()))
    return None if found == PLAIN else found, values


def _is_code(unit: str) -> bool:
    """Whether what stands behind a number may be part of a code, such as 1001A and 1001B."""
    return len(unit) == 1 and unit.isupper()


def _several_units(reader: Reader, name: str, text: NumberText, decimal: str, units: list[str]) -> DataError:
    rows = [text.first_with(unit, decimal) for unit in units]
    first, second = (f"{text.text(row)!r} in row {row + 1}" for row in rows)
    return DataError(
        f"{reader.path}: column '{name}' holds numbers of several units: {first} and {second}; write them in one unit,"
        f" or fit without the column: {setting('data.drop', [name])}"
    )


def _number(
    reader: Reader, name: str, column: pa.ChunkedArray, rows: NDArray[np.intp], reading: Reading
) -> tuple[Column | None, str]:
    values = without(pc.cast(column, pa.float64(), safe=False).to_numpy(), reader.missing)
    is_infinite = np.isinf(values)
    if is_infinite.any():
        raise infinity(reader, int(rows[np.argmax(is_infinite)]), name)
    present = values[~np.isnan(values)]
    if not len(present):
        return _empty(name)
    if np.ptp(present / unit_of(present)) <= RESOLUTION:
        return _watched(Column(name, None, float(present[0])), len(present), len(rows))
    if name not in reading.keep:
        reason = identifier_reason(name, present, rows[~np.isnan(values)], len(present) == len(values), reading.steps)
        if reason:
            return None, f"{reason}; {setting('data.keep', [name])} keeps it as an input"
    return Column(name), ""


def _category(reader: Reader, name: str, column: pa.ChunkedArray, most: int, notes: Notes) -> tuple[Column | None, str]:
    cell_counts = pc.value_counts(column)
    cells, numbers = cell_counts.field("values").to_pylist(), cell_counts.field("counts").to_pylist()
    counts: dict[str, int] = {}
    named: dict[str, int] = {}  # texts of missing cells
    n_missing = 0
    for cell, number in zip(cells, numbers, strict=True):
        value = "" if cell is None else canonical(cell)
        if value not in NULLS and value not in reader.missing:
            counts[value] = counts.get(value, 0) + number
        else:
            n_missing += number
            if value not in ("", "nan", "NaN"):
                named[value] = named.get(value, 0) + number
    n_rows = sum(counts.values())
    if not counts:
        return _empty(name)
    if len(counts) == 1:
        return _watched(Column(name, tuple(counts), 0.0), n_rows, len(column))
    if len(counts) == n_rows:
        return None, UNIQUE
    if len(counts) > most:
        return None, f"free text: {len(counts)} distinct values, data.max_categories allows {most}"
    if len(counts) > 0.9 * n_rows:
        return None, f"free text: {len(counts)} distinct values in {n_rows} rows"
    if named:
        texts = ", ".join(map(repr, list(named)[:SHOWN]))
        notes["missing"].append(
            f"column '{name}': {texts} in {sum(named.values())} of {n_rows + n_missing} training rows is a category of"
            " its own, that of missing cells"
        )
    # A missing cell that training shows is a category, so that the model learns what comes with it.
    return Column(name, (*sorted(counts), *([""] if n_missing else []))), ""


def _empty(name: str) -> tuple[Column | None, str]:
    """An empty column is watched, unless it is made by a separator at the end of each line."""
    return (None, "without a name and a value") if name.startswith("Unnamed: ") else (Column(name, (), -1.0), "")


def _watched(column: Column, seen: int, rows: int) -> tuple[Column | None, str]:
    """A column that has one value in `seen` of the training rows, and none in the others."""
    if seen < min(SEEN, rows):
        return None, f"{constancy(column)} in the {seen} training rows that have a value"
    return column, ""


def moves(reader: Reader, column: Column, cells: pa.ChunkedArray, rows: NDArray[np.intp]) -> bool:
    """Whether a watched column has another value in some of the rows."""
    found = cells.take(pa.array(rows))
    if column.categories is None:
        numbers = found
        if is_text(found.type):
            numbers, _ = parse_numbers(found, column.format or PLAIN, reader.missing)
        values = without(pc.cast(numbers, pa.float64(), safe=False).to_numpy(), reader.missing)
        return bool(differs(values, column.constant).any())
    if pa.types.is_dictionary(found.type):
        found = pc.cast(found, found.type.value_type)
    texts = distinct(found if is_text(found.type) else pc.cast(found, pa.string()))[0]
    return not {canonical(text) for text in texts} <= {*NULLS, *reader.missing, *column.categories}


def constancy(column: Column) -> str:
    """How a watched column was in training, in words."""
    if not column.categories:
        return "no value" if column.categories is not None else f"constant ({column.constant:g})"
    return f"constant ({column.categories[0]!r})"


def file_decimal(reader: Reader) -> Literal[".", ","] | None:
    """The decimal mark that the columns of text prove in the first rows; None: none of them does."""
    n_point = n_comma = 0
    for column in reader.peek.columns if reader.decimal else []:
        if is_text(column.type):
            text = NumberText(column)
            proofs = text.proofs()
            if max(sum(text.units(mark).values()) for mark in (".", ",")) >= MOSTLY * text.is_present().sum():
                n_point, n_comma = n_point + proofs[0], n_comma + proofs[1]
    return "," if n_comma > n_point else "." if n_point else None
