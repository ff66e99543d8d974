"""Columns that are no inputs by their role: labels that nobody named, identifiers of rows, counters and dates."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_vae.core.advice import option, setting
from anomaly_vae.data.readers.base import SHOWN, Reader
from anomaly_vae.data.readers.cells import NORMAL_WORDS, NULLS, canonical, is_number, is_text, parse_number, truth_of
from anomaly_vae.data.timestamps import EPOCHS

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


def is_identifier(name: str) -> bool:
    """Whether a column is named like an identifier of rows."""
    name = name.strip()
    return any(pattern.fullmatch(text) for pattern in (IDENTIFIERS, INDEXES) for text in (name, name.lower()))


def identifier_reason(
    name: str, values: NDArray[np.float64], rows: NDArray[np.intp], complete: bool, steps: bool
) -> str:
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
