"""Cells of a column: which are missing, which are numbers, and how text becomes numbers, codes and labels."""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Texts that people and programs write for a missing cell. The list omits "none" on purpose: in practice it is a
# category ("no garage"), while "None" is what Python writes for a missing value.
NULLS = (
    "", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NaT", "null", "NULL", "None", "?",
)  # fmt: skip


def is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def parse_number(text: str) -> float | None:
    """The number in a cell; NaN if the cell is missing, None if it is other text."""
    text = text.strip()
    if text in NULLS:
        return float("nan")
    try:
        # Python reads 1_000 as a number; no other program does.
        return None if "_" in text else float(text)
    except ValueError:
        return None


def parse_numbers(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, tuple[int, str] | None]:
    """A column of text as float64, and its first cell that is not a number.

    Returns (numbers, bad): `numbers` has NaN for a missing cell and for one that is not a number; `bad` is the first of
    the latter as (row index, text), or None.
    """
    with contextlib.suppress(pa.ArrowInvalid):
        return pc.cast(column, pa.float64()), None
    cells, codes = distinct(column)
    parsed = [parse_number(cell) for cell in cells]
    values = np.array([np.nan if number is None else number for number in parsed] + [np.nan])[codes]
    # `cells` is in order of first appearance, so its first text is also the first text of the column.
    bad_code = next((code for code, number in enumerate(parsed) if number is None), None)
    bad = None if bad_code is None else (int(np.argmax(codes == bad_code)), cells[bad_code])
    return pa.chunked_array([pa.array(values)]), bad


def distinct(column: pa.ChunkedArray | pa.Array) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct cells of a text column in order of first appearance, and the code of every cell, (N,).

    A code is an index into the distinct cells; the code of a missing cell is their number. Work on text is done once
    for each distinct cell, which is cheap even for columns of millions of rows.
    """
    coded = pc.dictionary_encode(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    cells: list[str] = coded.dictionary.to_pylist()
    return cells, pc.fill_null(coded.indices, len(cells)).to_numpy(zero_copy_only=False).astype(np.intp)


def canonical(text: str) -> str:
    """The same text for the same value in every file type: 1.0 and 1 become "1", True and TRUE become "true"."""
    text = text.strip()
    lower = text.lower()
    if lower in ("true", "false"):
        return lower
    number = parse_number(text)
    return str(int(number)) if number is not None and number.is_integer() and abs(number) < 2**53 else text


def as_labels(column: pa.ChunkedArray | pa.Array) -> NDArray[np.str_]:
    """The cells as canonical text, (N,); a missing cell becomes empty text."""
    cells, codes = distinct(pc.cast(column, pa.string()))
    texts = [canonical(cell) for cell in cells]
    return np.array(["" if text in NULLS else text for text in texts] + [""], dtype=np.str_)[codes]
