"""Cells of a column: which are missing, which are numbers, and how text becomes numbers, codes and labels."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Texts that people and programs write for a missing cell. The list omits "none" on purpose: in practice it is a
# category ("no garage"), while "None" is what Python writes for a missing value.
NULLS = (
    "", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NaT", "null", "NULL", "None", "?",
)  # fmt: skip
# Further ones, that in a column of text may be values.
MARKS = (
    *NULLS, ".", "..", "...", "-", "--", "---", "–", "—", "*", "\\N", "na", "Na", "n.a.", "N.A.", "n.a", "n/k", "N/K",
    "n.d.", "n/d", "N/D", "ND", "nd", "k.A.", "#N/A N/A", "#NA", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!",
    "#NULL!", "#WERT!", "BDL", "BLD", "bdl", "<LOD", "< LOD", "LOD", "<LOQ", "< LOQ", "<DL", "<MDL", "nil", "NIL",
    "Nil", "none", "NONE", "Null", "(null)", "(NULL)", "[null]", "<null>", "(none)", "(blank)", "blank", "missing",
    "Missing", "MISSING", "unknown", "Unknown", "UNKNOWN", "no data", "No data", "nodata", "NoData", "undefined",
    "-nan(ind)", "nan(ind)", "1.#QNAN", "-1.#QNAN", "1.#IND", "-1.#IND", "1.#IND00", "-1.#IND00",
)  # fmt: skip
NORMAL_WORDS = ("0", "false", "normal", "good", "ok", "no", "benign", "inlier")  # labels of normal rows
# How a value of two states is written: off and on, in any case.
TRUTHS = (
    ("false", "true"), ("f", "t"), ("no", "yes"), ("n", "y"), ("off", "on"), ("closed", "open"), ("close", "open"),
    ("nein", "ja"), ("n", "j"), ("falsch", "wahr"), ("aus", "ein"), ("aus", "an"), ("zu", "auf"), ("non", "oui"),
    ("faux", "vrai"), ("inactive", "active"), ("disabled", "enabled"), ("stopped", "running"), ("low", "high"),
    ("down", "up"), ("absent", "present"),
)  # fmt: skip
CURRENCIES = {"US$": "USD", "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR", "Rs.": "INR", "Rs": "INR"} | {
    code: code for code in ("USD", "EUR", "CHF", "GBP", "JPY", "INR", "CNY", "CAD", "AUD", "SEK", "NOK", "DKK", "PLN")
}
LONGEST = 40  # characters of a cell that may be a number
SHAPES = 20_000  # number of distinct shapes from which a column is text


def is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


# --- numbers as people write them


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a column are written.

    decimal: the decimal mark. unit: what stands beside a number, such as "°C", "%" or "EUR"; a cell without it is read
    alike. limits: whether cells such as "<0.05" are read as missing. truths: whether the cells are truth values.
    """

    decimal: Literal[".", ","] = "."
    unit: str = ""
    limits: bool = False
    truths: bool = False


PLAIN = NumberFormat()


class NumberText:
    """A column of text (N,), and the numbers that its cells hold under a format.

    Cells are grouped by shape, their text with every digit written as 9: patterns are matched once for each shape, of
    which a column of numbers has a few dozen, and the digits of all cells of a shape are read at once.
    """

    def __init__(self, column: pa.ChunkedArray, missing: Sequence[str] = ()) -> None:
        cells, self.codes = _encoded(column)
        self.cells = pc.utf8_trim_whitespace(cells)  # (V,) the distinct cells
        self.is_mark = _is_in(self.cells, (*MARKS, *missing))  # (V,)
        self.shapes, self.shape_of = _shapes(pc.if_else(self.is_mark, pa.scalar(""), self.cells))
        if len(self.shapes) > SHAPES:
            self.shapes = [""] * len(self.shapes)
        self._matches = {mark: [_match(pattern, shape) for shape in self.shapes] for mark, pattern in _WRITTEN.items()}
        counts = np.bincount(self.codes, minlength=len(self.cells) + 1)[:-1]
        self._counts = np.bincount(
            self.shape_of, weights=counts, minlength=len(self.shapes)
        )  # (S,) cells of each shape

    def proofs(self) -> tuple[int, int]:
        """The number of cells that are numbers only with a decimal point, and only with a decimal comma."""
        is_point, is_comma = (np.array([m is not None for m in matches], bool) for matches in self._matches.values())
        return int(self._counts[is_point & ~is_comma].sum()), int(self._counts[is_comma & ~is_point].sum())

    def open_cell(self) -> str:
        """A cell that is one number with a decimal point and another with a decimal comma; empty: there is none."""
        matches = zip(*self._matches.values(), strict=True)
        is_open = np.array([bool(a and b and re.search("[.,]", a["number"])) for a, b in matches], bool)
        return self._first(is_open[self.shape_of])

    def units(self, decimal: str) -> dict[str, int]:
        """The number of cells beside each unit, "" for none, most frequent first."""
        counts: dict[str, int] = {}
        for match, count in zip(self._matches[decimal], self._counts, strict=True):
            if match:
                unit = _unit(match)
                counts[unit] = counts.get(unit, 0) + int(count)
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def first_with(self, unit: str, decimal: str) -> int:
        """The index of the first row whose number has a unit."""
        is_such = np.array([m is not None and _unit(m) == unit for m in self._matches[decimal]], bool)
        return int(np.argmax(np.append(is_such[self.shape_of], False)[self.codes]))

    def read(self, format_: NumberFormat) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """(N,) the numbers, NaN where there is none; (N,) which cells are text; (N,) which are limits."""
        values, is_limit = np.full(len(self.cells) + 1, np.nan), np.zeros(len(self.cells) + 1, bool)
        is_text = np.append(~self.is_mark, False)
        order = np.argsort(self.shape_of, kind="stable")
        ends = np.cumsum(np.bincount(self.shape_of, minlength=len(self.shapes)))
        data, starts = _bytes(self.cells)
        for number, (match, end) in enumerate(zip(self._matches[format_.decimal], ends, strict=True)):
            if match is None or _unit(match) not in ("", format_.unit) or (match["limit"] and not format_.limits):
                continue
            rows = order[ends[number - 1] if number else 0 : end]
            is_text[rows] = False
            if match["limit"]:
                is_limit[rows] = True
            else:
                values[rows] = _values(match, data, starts[rows], format_.decimal)
        infinite = pc.match_substring_regex(self.cells, r"(?i)^[-+−]?(inf|infinity|∞|1\.#inf0*)$")
        rows = np.flatnonzero(infinite.to_numpy(zero_copy_only=False))
        values[rows], is_text[rows] = np.inf, False
        if format_.truths:
            for row, cell in enumerate(self.cells.to_pylist()):
                if (truth := truth_of(cell)) is not None:
                    values[row], is_text[row] = truth, False
        return values[self.codes], is_text[self.codes], is_limit[self.codes]

    def first_unusual(self, values: NDArray[np.float64]) -> int | None:
        """The first row whose cell is one of the numbers (N,), but not as programs write it; None: there is none."""
        plain = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
        is_unusual = np.array([not plain.fullmatch(shape) for shape in self.shapes], bool)
        rows = np.flatnonzero(np.append(is_unusual[self.shape_of], False)[self.codes] & ~np.isnan(values))
        return int(rows[0]) if len(rows) else None

    def marks(self) -> tuple[str, int]:
        """A mark of a missing cell that is not in NULLS, and the number of cells with one of them."""
        is_mark = self.is_mark & ~_is_in(self.cells, NULLS)
        return self._first(is_mark), int(np.append(is_mark, False)[self.codes].sum())

    def is_present(self) -> NDArray[np.bool_]:
        """(N,) which cells are not missing."""
        return np.append(~self.is_mark, False)[self.codes]

    def text(self, row: int) -> str:
        """The cell of a row that is not missing."""
        return str(self.cells[int(self.codes[row])])

    def _first(self, chosen: NDArray[np.bool_]) -> str:
        return str(self.cells[int(np.argmax(chosen))]) if chosen.any() else ""


def parse_numbers(
    column: pa.ChunkedArray, format_: NumberFormat = PLAIN, missing: Sequence[str] = ()
) -> tuple[pa.ChunkedArray, tuple[int, str] | None]:
    """A column of text as float64, and its first cell that is not a number.

    Returns (numbers, bad): `numbers` has NaN for a missing cell and for one that is not a number; `bad` is the first of
    the latter as (row index, text), or None.
    """
    if format_.decimal == ".":
        with contextlib.suppress(pa.ArrowInvalid):
            return pc.cast(column, pa.float64()), None
    text = NumberText(column, missing)
    values, is_text, _ = text.read(format_)
    row = int(np.argmax(is_text)) if is_text.any() else None
    return pa.chunked_array([pa.array(values)]), None if row is None else (row, text.text(row))


def parse_number(text: str) -> float | None:
    """The number in a cell as programs write it; NaN if the cell is missing, None if it is other text."""
    text = text.strip()
    if text in NULLS:
        return float("nan")
    try:
        # Python reads 1_000 as a number; no other program does.
        return None if "_" in text else float(text)
    except ValueError:
        return None


def truth_of(text: str) -> float | None:
    """1 or 0 for a truth value, in any case; None for other text."""
    return _TRUTH_OF.get(text.strip().lower())


def is_truth_pair(values: Iterable[str]) -> bool:
    """Whether the values of a column are the two states of a truth value."""
    return {value.strip().lower() for value in values} in _PAIRS


_TRUTH_OF = {word: float(state) for pair in TRUTHS for state, word in enumerate(pair)}
_PAIRS = [set(pair) for pair in TRUTHS]


def _written(decimal: str) -> re.Pattern[str]:
    """The pattern of a number with its sign, unit and brackets."""
    currency = "|".join(map(re.escape, sorted(CURRENCIES, key=len, reverse=True)))
    group = "[, \u00a0\u2007\u2009\u202f'’]" if decimal == "." else "[. \u00a0\u2007\u2009\u202f'’]"
    indian = r"|[1-9]\d?(?:,\d\d)+,\d{3}" if decimal == "." else ""
    return re.compile(
        rf"(?P<limit>(?:[<>]=?|[≤≥])\s*)?(?P<open>\()?\s*(?P<sign>[-+−–])?\s*(?P<before>{currency})?\s*(?P<inner>[-+−–])?"
        rf"(?P<number>(?:[1-9]\d{{0,2}}(?P<group>{group})\d{{3}}(?:(?P=group)\d{{3}})*{indian}|\d+)"
        rf"(?:{re.escape(decimal)}\d*)?|{re.escape(decimal)}\d+)"
        r"(?P<exponent>(?:[eE][-+−]?|[dD][-+−])\d+)?"
        r"(?:(?P<minus>[-−])"
        r"|\s*(?P<after>(?!x\d)(?:[^\W\d_]|[°%‰$€£¥₹])[\w°%‰/*·^.²³⁻¹]{0,11}(?:\ [^\W\d_]{1,6})?))?"
        r"\s*(?P<close>\))?"
    )


_WRITTEN = {mark: _written(mark) for mark in (".", ",")}


def _match(pattern: re.Pattern[str], shape: str) -> re.Match[str] | None:
    """The parts of a number; None for other text, and where brackets, signs or units contradict each other."""
    match = pattern.fullmatch(shape) if 0 < len(shape) <= LONGEST else None
    if match is None or bool(match["open"]) != bool(match["close"]) or (match["before"] and match["after"]):
        return None
    return match if sum(bool(match[part]) for part in ("open", "sign", "inner", "minus")) < 2 else None


def _unit(match: re.Match[str]) -> str:
    """The unit of a number in one spelling, "" for none."""
    unit = match["before"] or match["after"] or ""
    return CURRENCIES.get(unit, re.sub(r"(?<=[^\W\d_]{2})s$", "", unit))


def _values(
    match: re.Match[str], data: NDArray[np.uint8], starts: NDArray[np.int64], decimal: str
) -> NDArray[np.float64]:
    """The numbers of cells of one shape, which `match` is of. starts: (n,) where they begin in `data`."""
    shape, begin, end = match.string, *match.span("number")
    if match["exponent"]:
        end = match.end("exponent")
    keep, positions = "", []
    for position in range(begin, end):
        character = shape[position]
        if character.isdigit() or character in decimal + "eEdD+-−":
            positions.append(len(shape[:position].encode()))
            keep += {decimal: ".", "D": "e", "d": "e", "−": "-"}.get(character, character)
    texts = data[starts[:, None] + np.array(positions)]  # (n, characters)
    for index, character in enumerate(keep):
        if not character.isdigit():
            texts[:, index] = ord(character)
    width = len(keep)
    offsets = pa.py_buffer(np.arange(0, (len(texts) + 1) * width, width, dtype=np.int32))
    numbers = pa.StringArray.from_buffers(len(texts), offsets, pa.py_buffer(np.ascontiguousarray(texts)))
    values: NDArray[np.float64] = pc.cast(numbers, pa.float64()).to_numpy(zero_copy_only=False)
    signs = (
        match["open"],
        match["minus"],
        *(match[s] if match[s] in ("-", "−", "–") else None for s in ("sign", "inner")),
    )
    return -values if any(signs) else values


def _shapes(cells: pa.Array) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct shapes of cells (V,), and the index of each cell's, (V,).

    Zeros at the start of digits stay, for a group of thousands does not begin with one; so does a digit behind a
    letter, which is part of a unit (m2) or an exponent.
    """
    data, _ = _bytes(cells)
    offsets = np.frombuffer(cells.buffers()[1], np.int32)[: len(cells) + 1]
    is_digit = (data >= 48) & (data <= 57)
    before = np.concatenate([[32], data[:-1]]).astype(np.uint8) if len(data) else data
    before[np.minimum(offsets[:-1], max(len(data) - 1, 0))[np.diff(offsets) > 0]] = 32
    starts_run = is_digit & ~((before >= 48) & (before <= 57))
    is_letter = ((before | 32) >= 97) & ((before | 32) <= 122)
    shaped = np.where(is_digit & ~(starts_run & ((data == 48) | is_letter)), 57, data).astype(np.uint8)
    texts = pa.StringArray.from_buffers(len(cells), cells.buffers()[1], pa.py_buffer(shaped))
    coded = pc.dictionary_encode(texts)
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.intp)


def _bytes(cells: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The UTF-8 bytes of texts (V,) without a missing one, and where each begins, (V,)."""
    _, offsets, data = cells.buffers()
    starts = np.frombuffer(offsets, np.int32)[: len(cells) + 1].astype(np.int64)
    return np.frombuffer(data, np.uint8)[: starts[-1]] if len(cells) and data else np.empty(0, np.uint8), starts[:-1]


def _is_in(cells: pa.Array, texts: Iterable[str]) -> NDArray[np.bool_]:
    is_in: NDArray[np.bool_] = pc.is_in(cells, pa.array(list(texts), pa.string())).to_numpy(zero_copy_only=False)
    return is_in


# --- text


def _encoded(column: pa.ChunkedArray | pa.Array) -> tuple[pa.Array, NDArray[np.intp]]:
    """The distinct cells of a text column and the code of every cell, as `distinct` defines them."""
    coded = pc.dictionary_encode(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    codes = pc.fill_null(coded.indices, len(coded.dictionary)).to_numpy(zero_copy_only=False).astype(np.intp)
    return pc.cast(coded.dictionary, pa.string()), codes


def distinct(column: pa.ChunkedArray | pa.Array) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct cells of a text column in order of first appearance, and the code of every cell, (N,).

    A code is an index into the distinct cells; the code of a missing cell is their number. Work on text is done once
    for each distinct cell, which is cheap even for columns of millions of rows.
    """
    cells, codes = _encoded(column)
    return cells.to_pylist(), codes


def canonical(text: str) -> str:
    """The same text for the same value in every file type: 1.0 and 1 become "1", True and TRUE become "true".

    Text with leading zeros, such as 007, is a name and stays.
    """
    text = text.strip()
    lower = text.lower()
    if lower in ("true", "false"):
        return lower
    number = None if re.match(r"[-+]?0\d", text) else parse_number(text)
    return str(int(number)) if number is not None and number.is_integer() and abs(number) < 2**53 else text


def as_labels(column: pa.ChunkedArray | pa.Array) -> NDArray[np.str_]:
    """The cells as canonical text, (N,); a missing cell becomes empty text."""
    cells, codes = distinct(pc.cast(column, pa.string()))
    return _texts([canonical(cell) for cell in cells], codes)


def as_names(column: pa.ChunkedArray | pa.Array) -> NDArray[np.str_]:
    """The cells as names of groups and classes, (N,): text as it is written, 007, 7, 1E2 and 100 being four names; only
    7.0, which programs write for 7 where cells are missing, is 7. A missing cell becomes empty text."""
    cells, codes = distinct(pc.cast(column, pa.string()))
    return _texts([re.sub(r"^(-?(?:0|[1-9]\d*))\.0+$", r"\1", cell.strip()) for cell in cells], codes)


def _texts(cells: list[str], codes: NDArray[np.intp]) -> NDArray[np.str_]:
    return np.array(["" if text in NULLS else text for text in cells] + [""], dtype=np.str_)[codes]
