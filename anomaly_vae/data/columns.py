"""Columns of a table: which are inputs, of what type, and how their cells become numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.advice import option, setting
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.readers.base import SHOWN, Reader, plural
from anomaly_vae.data.readers.cells import (
    NORMAL_WORDS,
    NULLS,
    PLAIN,
    NumberFormat,
    NumberText,
    canonical,
    distinct,
    is_number,
    is_text,
    is_truth_pair,
    parse_number,
    parse_numbers,
    truth_of,
)
from anomaly_vae.data.source import Column
from anomaly_vae.data.timestamps import EPOCHS
from anomaly_vae.data.units import RESOLUTION, differs, unit_of

LABELS = frozenset({"label", "labels", "anomaly", "is_anomaly", "outlier", "is_outlier"})
# Names of labels that are left out where the values look like labels too.
LIKE_LABELS = re.compile(
    r"class|classes|target|y|fraud|fraudulent|malware|malicious|intrusion|defect|defects|defective|fault|faulty|attack.*"
    r"|ground_?truth|anomalous|anomalies|outliers|abnormal|is_(fraud|fraudulent|attack|malware|fault|faulty|defect"
    r"|abnormal|anomalous|malicious)|(class|target|fraud|attack|fault|anomaly|outlier|true|y)_?(label|class|flag|true)"
)
RARE = 0.1  # share of 1s among 0s below which a column may be a label
CLASSES = 20  # largest number of whole numbers from 0 or 1 on that are classes
IDENTIFIERS = re.compile(
    r"(.*[\W_])?(id|ids|uuid|guid|index|idx|key|nr|no|num|number|row|rowid|seq|serial|serialno)|id[\W_].*|#"
    r"|.*[a-zäöü](ID|Id|No|Nr|Key|Number|Index)"
)
INDEXES = re.compile(r"unnamed: ?\d+|index|level_\d+|__index_level_\d+__")  # that pandas saves
BOOLEAN = ("false", "true")
FEWEST, MANY = 5, 20  # number of rows from which a column that counts rows, or that grows, is no coincidence
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
        reason = _identifier(name, present, rows[~np.isnan(values)], len(present) == len(values), reading.steps)
        if reason:
            return None, f"{reason}; {setting('data.keep', [name])} keeps it as an input"
    return Column(name), ""


def _identifier(name: str, values: NDArray[np.float64], rows: NDArray[np.intp], complete: bool, steps: bool) -> str:
    """Why the present values (n,) of the rows (n,) are an identifier of rows, a counter or a time; "" if they are not.

    steps: whether rows are time steps.
    """
    if (values != np.floor(values)).any():
        return ""
    n, is_named = len(values), is_identifier(name)
    # The training rows are a subset of all rows, so values that count rows are recognised by a constant difference
    # from the row index.
    if complete and n >= FEWEST and (values - rows == values[0] - rows[0]).all():
        return "an identifier: it counts the rows"
    growing = np.diff(values)
    n_back = int(min((growing < 0).sum(), (growing > 0).sum()))  # newest first counts down
    is_epoch = any(low <= values.min() and values.max() <= high for low, high in EPOCHS.values())
    if not (is_named or is_epoch or _are_dates(values) or n_back == 0):
        return ""
    n_distinct = len(np.unique(values))
    if is_named and n_distinct == n and complete:
        return "an identifier: named like one, and different in every row"
    if n < MANY or n_distinct < MANY:
        return ""
    if is_named and n_distinct >= 0.95 * n:
        return "an identifier: named like one, and different in nearly every row"
    if is_named and n_back <= max(1, 0.02 * n):
        return "an identifier: named like one, and growing from row to row"
    if INDEXES.fullmatch(name.strip().lower()) and n_distinct >= 0.3 * n:
        return "an index that pandas saved"
    if _are_dates(values):
        return "dates written as whole numbers"
    if is_epoch and (n_back <= 0.01 * n or re.search(r"time|date|(?:^|_)(?:ts|at)$", name.lower())):
        return "a time: seconds, or fractions of them, since 1970"
    # A counter that skips numbers grows evenly; a table that is sorted by a measurement seldom does.
    if not steps and n_back == 0 and n_distinct == n and abs(np.corrcoef(values, rows)[0, 1]) > 0.99:
        return "an identifier: a whole number that grows from row to row"
    return ""


def _are_dates(values: NDArray[np.float64]) -> bool:
    """Whether whole numbers are all dates such as 20240105."""
    if values.min() < 19_000_101 or values.max() > 21_001_231:
        return False
    month, day = values // 100 % 100, values % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())


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


def label_reason(reader: Reader, name: str, column: pa.ChunkedArray, most: int) -> str:
    """Why a column (N,) is taken for a label that nobody named; "" if it is not: by its name and its values."""
    lower = re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())).lower().strip("_")
    is_name = bool(LIKE_LABELS.fullmatch(lower)) and not (lower == "y" and {"x", "X"} & set(reader.columns))
    values = _few(column, max(most, CLASSES)) if is_name or lower.startswith("is_") else None
    if values is None:
        return ""
    numbers = [number for value in values if (number := parse_number(value)) is not None]
    if len(numbers) == len(values):  # classes are whole numbers from 0 or 1 on
        low, high = min(numbers), max(numbers)
        if low not in (-1, 0, 1) or high > CLASSES or any(number != int(number) for number in numbers):
            return ""
    elif len(values) > most:
        return ""
    is_rare = len(values) == 2 and min(values.values()) < RARE * sum(values.values())
    has_normal = any(value.lower() in NORMAL_WORDS and value.isalpha() and truth_of(value) is None for value in values)
    if not (is_name or is_rare or has_normal):
        return ""
    shown = ", ".join(f"'{value}'" for value in list(values)[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
    return f"named like a label, and its values are {shown}; {advice(name)}"


def advice(name: str) -> str:
    """What to do about a column that was left out because it looks like a label."""
    return f"{option('--label', name)} takes it as one, {setting('data.keep', [name])} keeps it as an input"


def is_rare_flag(column: pa.ChunkedArray) -> bool:
    """Whether a column holds few 1s among 0s."""
    values = _few(column, 2) if not is_text(column.type) else None
    return (
        values is not None
        and set(values) in ({"0", "1"}, set(BOOLEAN))
        and (0 < values.get("1", values.get("true", 0)) < RARE * sum(values.values()))
    )


def _few(column: pa.ChunkedArray, most: int) -> dict[str, int] | None:
    """The number of cells of each value, in canonical spelling, if there are 2 to `most`; else None."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if not (is_text(column.type) or is_number(column.type) or pa.types.is_boolean(column.type)):
        return None
    if pc.count_distinct(column.slice(0, 1 << 16)).as_py() > 2 * most:  # quickly
        return None
    counts: dict[str, int] = {}
    for entry in pc.value_counts(column).to_pylist():
        value = "" if entry["values"] is None else canonical(str(entry["values"]))
        if value not in NULLS:
            counts[value] = counts.get(value, 0) + entry["counts"]
    return counts if 2 <= len(counts) <= most else None


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


def is_identifier(name: str) -> bool:
    """Whether a column is named like an identifier of rows."""
    name = name.strip()
    return any(pattern.fullmatch(text) for pattern in (IDENTIFIERS, INDEXES) for text in (name, name.lower()))


def infinity(reader: Reader, row: int, name: str) -> DataError:
    """The error for an infinite number in column `name`; it is returned, not raised."""
    return DataError(
        f"{reader.path}: {reader.place(row)}, column '{name}': an infinite value; write a finite number, or leave the"
        " cell empty if it is missing"
    )


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


def without(values: NDArray[np.float64], missing: Sequence[str]) -> NDArray[np.float64]:
    """Numbers (N,) with NaN for those that are marks of a missing cell."""
    marks = [number for number in map(parse_number, missing) if number is not None and number == number]
    return np.where(np.isin(values, marks), np.nan, values) if marks else values


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
