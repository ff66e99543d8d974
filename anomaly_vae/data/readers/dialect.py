"""How a text file is written, decided from its head: lines above the names, separator, names, units, decimal comma.

Ready sniffers were tried on 22 heads: DuckDB's reads 17 of them (no runs of blanks, no decimal comma, no names that are
numbers, comments only without separators) and is a dependency of 66 MB; CleverCSV and Python's csv.Sniffer read 12.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from anomaly_vae.core.advice import setting
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import DataConfig
from anomaly_vae.data.readers.cells import NULLS

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'", " ": "a blank"}  # " ": a run of blanks
SAMPLE, SAMPLE_CHARS = 100, 1 << 18  # records, and characters, that the decision is based on; at least FEWEST records
FEWEST = 4
LIKE_NUMBER = re.compile(r"[-+\u2212(]?\s*[$€£]?\s*[.,'’ ]*\d[\d.,'’ ]*([eE][-+]?\d+)?\s*[%$€£)]?")
DECIMAL_COMMA = re.compile(r"[-+]?(\d{1,3}(\.\d{3})+|\d+),\d+([eE][-+]?\d+)?")  # 0,5 or 1.234,56
DECIMAL_POINT = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)\.\d+([eE][-+]?\d+)?")
UNIT = re.compile(
    r"[\[(<].*[\])>]|.*[%°²³µΩ/^].*|-|[munpkMGcdh]?(V|A|W|Pa|bar|Hz|g|m|s|J|N|l|L|C|K|F|Wh|Nm|mol|S|B|b|T|cd|lx|VA|var)"
    r"|deg(C|F|K| ?C)?|celsius|kelvin|fahrenheit|rpm|min|h|d|sec|hours?|psi|ppm|ppb|ppt|pH|dB[A-Z]?|rad|lb|lbs|in|ft|t"
    r"|pct|percent|EUR|USD|counts?|units?|m[23]|NTU|RH|G",
)
csv.field_size_limit(2**31 - 1)  # the default, 131072 characters, is less than some headers and messages in quotes


@dataclass(frozen=True)
class Dialect:
    """separator: one character; " " is a run of blanks. decimal: the decimal point. names: of the columns, as they are
    written. lines, offset: number of lines and of characters above the first row. header_line: of the names, from 1; 0
    without. notes: what was decided, and how to decide otherwise."""

    separator: str
    decimal: str
    names: tuple[str, ...]
    lines: int
    offset: int
    header_line: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """One record: its cells, the line (from 1) and the character (from 0) it begins at, and the numbers of lines and of
    characters up to its end."""

    cells: list[str]
    line: int
    start: int
    lines: int
    offset: int


@dataclass(frozen=True)
class _Reading:
    """A head read with one separator. records: that are not empty, below comments. width: most records' number of
    cells. numeric: the columns of numbers. header: index of the names in `records`; None: there are none. first: index
    of the first row."""

    separator: str
    records: list[Record]
    width: int
    numeric: list[int]
    header: int | None
    first: int

    @property
    def rows(self) -> list[list[str]]:
        return [record.cells for record in self.records[self.first :]]

    @property
    def is_regular(self) -> bool:
        """Whether every record from the names on has the same number of cells, and there are several columns."""
        start = self.first if self.header is None else self.header
        return self.width > 1 and all(len(record.cells) == self.width for record in self.records[start:])


def recognise(path: str, text: str, is_all: bool, config: DataConfig) -> Dialect:
    """The dialect of a file that begins with `text`, a number of complete lines. is_all: the file ends with them.

    Raises DataError if the first row has no names above it, if rows and names have different separators, and if two
    lines could be the names.
    """
    start, above, comments = _above(text, config)
    wanted = [config.separator] if config.separator else list(SEPARATORS)
    if above and (match := re.match(r'"?sep=(.)"?\s*$', text.splitlines()[0])):
        wanted = [match[1]]
    readings = [r for s in wanted if (r := _read(text, is_all, s, start, above, config)) is not None]
    if not readings:
        raise DataError(f"{path}: the file is empty; expected a line of column names and rows below it")
    # text has commas and blanks too, so what splits all rows alike into the most columns of numbers is the separator
    regular = [r for r in readings if r.is_regular and (r.separator != " " or r.numeric)]
    sure = [r for r in regular if r.separator != " "] or regular
    best = max(sure, key=lambda r: (len(r.numeric) / r.width, r.width)) if sure else _irregular(path, readings)
    return _dialect(path, best, comments, config)


def _above(text: str, config: DataConfig) -> tuple[int, int, list[Record]]:
    """Where the names are looked for: (characters, lines) above them, and the comment lines among these."""
    lines = list(itertools.islice(io.StringIO(text, newline=""), 100_000 if config.skip is None else config.skip + 1))
    if config.skip is not None:
        return sum(map(len, lines[: config.skip])), config.skip, []
    offset = count = 0
    comments = []
    for line in lines:
        is_comment = line.startswith("#") or (count == 0 and re.match(r'"?sep=.?"?\s*$', line) is not None)
        if not is_comment and line.strip():
            break
        offset, count = offset + len(line), count + 1
        if line.startswith("#"):
            comments.append(Record([line.rstrip("\r\n")], count, offset - len(line), count, offset))
    if count == len(lines) and comments:  # nothing but lines that begin with #: they are data
        return 0, 0, []
    return offset, count, comments


def _records(text: str, separator: str, start: int, above: int) -> Iterator[Record]:
    """The records of `text` that are not empty, from the character `start` and the line `above` on."""
    offset, lines = start, above

    def counted() -> Iterator[str]:
        nonlocal offset, lines
        for line in io.StringIO(text[start:], newline=""):
            offset, lines = offset + len(line), lines + 1
            yield line

    before = offset, lines
    for cells in map(split_blanks, counted()) if separator == " " else csv.reader(counted(), delimiter=separator):
        if any(cell.strip() for cell in cells):
            yield Record(cells, before[1] + 1, before[0], lines, offset)
        before = offset, lines


def split_blanks(line: str) -> list[str]:
    """The cells of a line that are separated by runs of blanks; quotes are kept together, and taken off."""
    cells = re.findall(r'"(?:[^"]|"")*"|\S+', line)
    return [c[1:-1].replace('""', '"') if len(c) > 1 and c[0] == c[-1] == '"' else c for c in cells]


def _read(text: str, is_all: bool, separator: str, start: int, above: int, config: DataConfig) -> _Reading | None:
    records: list[Record] = []
    for record in itertools.islice(_records(text, separator, start, above), SAMPLE):
        is_cut = record.offset == len(text) and not is_all  # it may go on
        if len(records) >= FEWEST and (is_cut or record.offset - start > SAMPLE_CHARS):
            break
        records.append(record)
    if not records:
        return None
    tail = records[1:][len(records[1:]) // 2 :] or records
    width = Counter(len(record.cells) for record in tail).most_common(1)[0][0]
    tail = [record for record in tail if len(record.cells) == width]
    numeric = [i for i in range(width) if _is_numeric([record.cells[i] for record in tail])]
    if config.header is not None:
        first = min(config.header, len(records))
        return _Reading(separator, records, width, numeric, 0 if config.header else None, first)
    header, first = (0, 1) if config.skip is not None or not numeric else _header(records, width, numeric)
    reading = _Reading(separator, records, width, numeric, header, first)
    if header is not None:
        records[header] = replace(records[header], cells=_padded(records[header].cells, reading))
    return reading


def _padded(names: list[str], reading: _Reading) -> list[str]:
    """The names, with an empty one where all rows have one cell more: an empty last one, or names of rows as R writes
    them."""
    rows = reading.rows
    if len(rows) < 2 or any(len(row) != len(names) + 1 for row in rows):
        return names
    if all(not row[-1].strip() for row in rows):
        return [*names, ""]
    is_counted = [row[0] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    is_named = reading.separator == " " and len({row[0] for row in rows}) == len(rows)
    return ["", *names] if is_counted or is_named else names


def _header(records: list[Record], width: int, numeric: list[int]) -> tuple[int | None, int]:
    """(index of the names or None, index of the first row): where text ends above columns of numbers."""

    def cells(index: int, kind: str) -> int:
        """How many cells of numeric columns are numbers, or text."""
        row = records[index].cells
        return sum(_kind(row[i]) == kind for i in numeric) if len(row) == width else 0

    data = next((i for i in range(len(records)) if 2 * cells(i, "number") > len(numeric)), None)
    if data is None:
        return 0, 1
    first = data
    while (
        first > 0
        and len(records[first - 1].cells) == width
        and (cells(first - 1, "number") or not cells(first - 1, "text"))
    ):
        first -= 1  # rows of few values, or of none
    if first == 0:
        first = data
    if first == 0 or len(records[first - 1].cells) != width:
        rows = [record.cells for record in records[first + 1 :] if len(record.cells) == width]
        is_names = first + 1 < len(records) and _are_names(records[first].cells, rows, numeric)
        return (first, first + 1) if is_names else (None, first) if first == 0 else (0, 1)
    names = first - 1
    has_two = names > 0 and len(records[names - 1].cells) == width and 2 * cells(names - 1, "text") > len(numeric)
    if has_two and (_are_units(records[names].cells) or all(cell.strip() for cell in records[names - 1].cells)):
        return names - 1, first
    return names, first


def _are_units(cells: Sequence[str]) -> bool:
    written = [cell.strip() for cell in cells if cell.strip()]
    return 2 * sum(UNIT.fullmatch(cell) is not None for cell in written) >= len(written)


def _are_names(cells: Sequence[str], rows: list[list[str]], numeric: list[int]) -> bool:
    """Whether cells that are mostly numbers are names all the same: years, wavelengths, 0, 1, 2, ... or beside words.

    rows: the rows below. numeric: the columns of numbers.
    """
    if any(_kind(cells[i]) == "text" for i in numeric):
        return True
    for i in set(range(len(cells))) - set(numeric):
        column = [row[i].strip() for row in rows]
        cell = cells[i].strip()
        is_word = not any(map(str.isdigit, cell)) and all(any(map(str.isdigit, other)) for other in column if other)
        if cell and cell not in column and (is_word or len(set(column)) <= len(column) / 2):
            return True
    if len(set(cells)) < len(cells):
        return False
    return len(numeric) > 1 and _is_even(cells, numeric) and not (rows and _is_even(rows[0], numeric))


def _is_even(cells: Sequence[str], numeric: list[int]) -> bool:
    """Whether numbers grow by the same step."""
    try:
        numbers = [float(cells[i]) for i in numeric]
    except ValueError:
        return False
    step = numbers[1] - numbers[0]
    return step > 0 and all(abs(b - a - step) < 1e-6 * step for a, b in itertools.pairwise(numbers))


def _irregular(path: str, readings: list[_Reading]) -> _Reading:
    """The reading of a file whose rows differ in width, or of one column. Raises DataError if the rows have another
    separator than the names."""
    ordinary = [r for r in readings if r.separator != " "] or readings
    best = max(ordinary, key=lambda r: len(r.records[r.header or 0].cells))
    lines = [_joined(r, best.separator) for r in best.records[(best.header or 0) + 1 :]]
    width = len(best.records[best.header or 0].cells)
    for other in ordinary:
        # text often holds a comma, so a row counts as different only if it lacks the separator of the names
        if other is best or width == 1 or not lines:
            continue
        if all(best.separator not in line and other.separator in line for line in lines):
            one, two = (SEPARATORS.get(r.separator, repr(r.separator)) for r in (best, other))
            raise DataError(
                f"{path}: mixed separators: the header has {one}, the rows have {two}; use one of them throughout"
            )
    if width == 1:
        for reading in readings:
            names = reading.records[reading.header or 0].cells
            if reading.separator == " " and reading.width > 1 and len(reading.numeric) == reading.width:
                raise DataError(
                    f"{path}: {reading.width} numbers a row, separated by blanks, below {len(names)} words; separate"
                    " names and numbers by commas"
                )
    return best


def _joined(record: Record, separator: str) -> str:
    return separator.join(record.cells)


def _dialect(path: str, best: _Reading, comments: list[Record], config: DataConfig) -> Dialect:
    records, notes = best.records, []
    top = records[best.first] if best.header is None else records[best.header]
    if best.header is not None:
        names, last = top.cells, records[best.first - 1]
        position = last.lines, last.offset, top.line
        if top.line > 1 and config.skip is None and (best.header or comments):
            what = "line above the header was" if top.line == 2 else "lines above the header were"
            otherwise = f"{setting('data.skip', 0)} {setting('data.header', 1)} reads line 1 as the header"
            notes.append(f"{top.line - 1} {what} skipped; {otherwise}")
        if best.first - best.header > 1 and config.header is None and not _are_units(last.cells):
            raise DataError(
                f"{path}: both line {top.line} and line {last.line} could be the column names;"
                f" {setting('data.skip', top.line - 1)} {setting('data.header', 2)} takes line {top.line},"
                f" {setting('data.skip', last.line - 1)} line {last.line}"
            )
        if best.first - best.header > 1 and config.header is None:
            units = ", ".join(repr(cell.strip()) for cell in last.cells[:5])
            otherwise = f"{setting('data.skip', top.line - 1)} {setting('data.header', 1)} reads it as a row"
            notes.append(f"line {last.line}, below the names, was skipped as units ({units}); {otherwise}")
        if best.first < len(records) and names[0] == "" and len(names) > 1 and best.separator == " ":
            notes.append("the first column has no name; it was taken as the names of the rows")
    elif config.header is not None:
        names, position = [f"x{i}" for i in range(best.width)], (top.line - 1, top.start, 0)
    elif (commented := _commented(comments, best)) is not None:
        names, position = commented, (comments[-1].lines, comments[-1].offset, comments[-1].line)
    else:
        skip = f"{setting('data.skip', top.line - 1)} " if top.line > 1 else ""
        raise DataError(
            f"{path}: line {top.line} holds numbers; expected a first line of column names. Add one, or"
            f" {skip}{setting('data.header', 0)} names the columns x0, x1, ..., {skip}{setting('data.header', 1)} takes"
            f" line {top.line} as the names"
        )
    if best.separator == " ":
        notes.append(f"runs of blanks separate the columns; {setting('data.separator', ',')} names another separator")
    decimal = config.decimal or _decimal(best)
    if decimal == "," and config.decimal is None:
        notes.append(f"numbers are read with a decimal comma; {setting('data.decimal', '.')} reads them with a point")
    return Dialect(best.separator, decimal, tuple(names), *position, tuple(notes))


def _commented(comments: list[Record], best: _Reading) -> list[str] | None:
    """The names in the last comment line, if it has as many cells as the rows: `# time flow load`; else None."""
    if not comments:
        return None
    line = comments[-1].cells[0]
    for text in (line, line.lstrip("# ")):  # numpy.savetxt writes "# " before the names
        cells = split_blanks(text) if best.separator == " " else next(csv.reader([text], delimiter=best.separator))
        if len(cells) == best.width and not all(_kind(cell) == "number" for cell in cells):
            return cells
    return None


def _decimal(best: _Reading) -> str:
    """The decimal point. Where the separator is a semicolon, 1,234 is no thousand."""
    if best.separator == ",":
        return "."
    cells = [cell.strip() for row in best.rows for cell in row]
    commas = [cell for cell in cells if DECIMAL_COMMA.fullmatch(cell)]
    if not commas or any(DECIMAL_POINT.fullmatch(cell) for cell in cells):
        return "."
    is_plain = any(len(re.split("[eE]", cell)[0].split(",")[1]) != 3 or re.match(r"[-+]?0,", cell) for cell in commas)
    return "," if is_plain or best.separator == ";" else "."


def _is_numeric(cells: list[str]) -> bool:
    kinds = Counter(map(_kind, cells))
    return kinds["number"] > 0 and kinds["number"] >= 9 * kinds["text"]


def _kind(cell: str) -> str:
    """number, missing or text."""
    cell = cell.strip()
    if cell in NULLS:
        return "missing"
    is_number = LIKE_NUMBER.fullmatch(cell) or cell.lower().lstrip("+-") in ("inf", "infinity")
    return "number" if is_number else "text"
