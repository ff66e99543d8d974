"""Columns: numbers as people write them, labels and identifiers that nobody named, truth values and missing cells."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.open import open_source
from anomaly_vae.data.readers.cells import NumberFormat, as_names, parse_numbers
from anomaly_vae.data.source import Column, Layout
from anomaly_vae.data.tabular import TabularSource

N = 40
RANDOM = np.random.default_rng(0)
Z = [f"{z:.3f}" for z in RANDOM.normal(size=N)]  # an input of every table here


def opened(folder: Path, columns: dict[str, Sequence[object]], sep: str = ",", **settings: object) -> TabularSource:
    with open(folder / "x.csv", "w", newline="") as file:
        csv.writer(file, delimiter=sep).writerows([list(columns), *zip(*columns.values(), strict=True)])
    source = open_source(folder / "x.csv", DataConfig.model_validate(settings))
    assert isinstance(source, TabularSource)
    return source


def learned(
    folder: Path, column: Sequence[object], name: str = "a", **settings: object
) -> tuple[TabularSource, Layout]:
    source = opened(folder, {name: column, "z": (Z * len(column))[: len(column)]}, **settings)  # type: ignore[arg-type]
    return source, source.learn(np.arange(len(column)))


def read(source: TabularSource, layout: Layout) -> list[float]:
    """The cells of the first column."""
    return [value for chunk in source.chunks(layout, 16) for value in chunk.values[:, 0].tolist()]


@pytest.mark.parametrize(
    ("cell", "decimal", "unit", "number"),
    [
        ("1,234.5", ".", "", 1234.5),
        ("1,234", ".", "", 1234),
        ("12,34,567", ".", "", 1234567),
        ("1'234.5", ".", "", 1234.5),
        ("1 234.5", ".", "", 1234.5),
        ("1\u202f234.5", ".", "", 1234.5),
        ("1.234,5", ",", "", 1234.5),
        ("1.234", ",", "", 1234),
        ("1\u00a0234,5", ",", "", 1234.5),
        ("0,5", ",", "", 0.5),
        ("(1,234.50)", ".", "", -1234.5),
        ("\u22127", ".", "", -7),
        ("7-", ".", "", -7),
        ("+7", ".", "", 7),
        ("\u00a07 ", ".", "", 7),
        ("1.5D+03", ".", "", 1500),
        ("1e5", ".", "", 1e5),
        ("-$5", ".", "USD", -5),
        ("$(5)", ".", "USD", None),
        ("5 €", ".", "EUR", 5),
        ("EUR 5", ".", "EUR", 5),
        ("12.5 %", ".", "%", 12.5),
        ("21.5 °C", ".", "°C", 21.5),
        ("3 days", ".", "day", 3),
        ("5 m2", ".", "m2", 5),
        ("5 m3", ".", "m2", None),
        ("5 °F", ".", "°C", None),
        ("5", ".", "°C", 5),
        ("0x1F", ".", "", None),
        ("1_000", ".", "", None),
        ("1,23", ".", "", None),
        ("0,500", ".", "", None),
        ("1,234'567", ".", "", None),
        ("1.5", ",", "", None),
        ("(5", ".", "", None),
        ("-(5)", ".", "", None),
        ("2024-01-05", ".", "", None),
        ("<0.05", ".", "", None),
    ],
)
def test_a_number_as_people_write_it(cell: str, decimal: str, unit: str, number: float | None) -> None:
    format_ = NumberFormat(decimal, unit)  # type: ignore[arg-type]
    numbers, bad = parse_numbers(pa.chunked_array([["0", cell, "n.a.", None]]), format_)
    missing = float("nan")
    np.testing.assert_array_equal(numbers.to_numpy(), [0, missing if number is None else number, missing, missing])
    assert bad == (None if number is not None else (1, cell))


def test_cells_of_many_shapes_are_those_of_python() -> None:
    values = np.concatenate([RANDOM.normal(size=50) * 10.0**k for k in range(-3, 9)])
    numbers, bad = parse_numbers(pa.chunked_array([[f"{value:,.2f}" for value in values]]))
    assert bad is None
    np.testing.assert_array_equal(numbers.to_numpy(), [float(f"{value:.2f}") for value in values])


def test_the_decimal_mark_is_decided_on_the_column_then_on_the_file(tmp_path: Path) -> None:
    """1.234 alone is 1.234; beside 12,5 in its column or in another one it is 1234."""
    thousands = [f"{1 + i % 9}.{i:03d}" for i in range(N)]
    source, layout = learned(tmp_path, thousands)
    assert (read(source, layout)[5], layout.columns[0].format) == (6.005, None)
    source, layout = learned(tmp_path, [*thousands[1:], "12,5"])
    assert (read(source, layout)[4], layout.columns[0].format) == (6005.0, NumberFormat(","))
    source = opened(tmp_path, {"a": thousands, "b": [f"{i},5" for i in range(N)]}, sep=";")
    layout = source.learn(np.arange(N))
    assert (read(source, layout)[5], layout.columns[0].format) == (6005.0, NumberFormat(","))
    # New data is read alike, though nothing in it proves a comma.
    fresh = opened(tmp_path, {"a": ["1.234"], "b": ["7"]}, sep=";")
    assert read(fresh, Layout.from_json(layout.to_json())) == [1234.0]


def test_semicolons_suggest_a_decimal_comma_where_cells_have_one(tmp_path: Path) -> None:
    columns = {"a": [f"{1 + i % 9},{i:03d}" for i in range(N)], "b": ["-", *[i * i for i in range(1, N)]]}
    source = opened(tmp_path, columns, sep=";")
    layout = source.learn(np.arange(N))
    assert (read(source, layout)[5], layout.columns[1].format) == (6.005, None)


def test_an_open_decimal_mark_is_said_with_the_option_that_decides_otherwise(tmp_path: Path) -> None:
    cells = [f"{1 + i % 9},{i:03d}" for i in range(N)]
    source, layout = learned(tmp_path, cells)
    assert read(source, layout)[5] == 6005.0
    assert "--set data.decimal=," in source.notes[0] or "--set 'data.decimal=\",\"'" in source.notes[0]
    source, layout = learned(tmp_path, cells, decimal=",")
    assert read(source, layout)[5] == 6.005


def test_what_is_not_plain_is_said_once(tmp_path: Path) -> None:
    columns = {"a": [f"{5000 + i * i:,}.00" for i in range(N)], "t": [f"{i % 7}.5 °C" for i in range(N)]}
    source = opened(tmp_path, columns)
    layout = source.learn(np.arange(N))
    assert source.notes == ("column 'a': '5,000.00' is read as 5000; column 't': '0.5 °C' is read as 0.5",)
    assert layout.columns == (Column("a"), Column("t", format=NumberFormat(unit="°C")))


def test_several_units_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"several units: '0\.1 °C' in row 1 and '3\.1 °F' in row 4; .*data\.drop=\[a\]"
    ):
        learned(tmp_path, [f"{i}.1 {'°F' if i % 4 == 3 else '°C'}" for i in range(N)], max_categories=10)


@pytest.mark.parametrize("mark", [".", "-", "\\N", "#DIV/0!", "BDL", "n.a.", "(null)", "1.#QNAN"])
def test_marks_of_a_missing_cell(tmp_path: Path, mark: str) -> None:
    source, layout = learned(tmp_path, [mark if i % 5 else f"{i}.5" for i in range(N)])
    np.testing.assert_array_equal(read(source, layout)[:6], [0.5, *[np.nan] * 4, 5.5])
    assert source.notes == (f"column 'a': 32 cells such as {mark!r} read as missing",)
    fresh = opened(tmp_path, {"a": ["2.5", mark], "z": [1, 2]})  # read as a stream, where numbers are expected
    np.testing.assert_array_equal(read(fresh, layout), [2.5, np.nan])


def test_marks_of_the_user_are_texts_or_numbers(tmp_path: Path) -> None:
    source, layout = learned(tmp_path, [-999 if i % 5 else i * i for i in range(N)], missing=[-999])
    np.testing.assert_array_equal(read(source, layout)[:6], [0, *[np.nan] * 4, 25])
    source, layout = learned(tmp_path, ["lost" if i % 5 else f"{i}.5" for i in range(N)], missing="lost")
    assert np.isnan(read(source, layout)).sum() == 32


def test_limits_are_missing_where_training_has_them_and_are_said(tmp_path: Path) -> None:
    source, layout = learned(tmp_path, ["<0.05" if i == 6 else f"{i}.5" for i in range(N)])
    assert np.isnan(read(source, layout)).nonzero()[0].tolist() == [6]
    assert "1 cell such as '<0.05' (row 7) read as missing: limits" in source.notes[0]
    _, plain = learned(tmp_path, [f"{i}.5" for i in range(N)])
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'a': '>90' is not a number"):
        read(opened(tmp_path, {"a": ["2.5", ">90"], "z": [1, 2]}), plain)


def test_cells_that_are_no_numbers_are_named_in_one_line(tmp_path: Path) -> None:
    cells = ["broken" if i == 7 else "lost" if i in (9, 30) else f"{i}.5" for i in range(N)]
    with pytest.raises(DataError) as raised:
        learned(tmp_path, cells)
    assert str(raised.value) == (
        f"{tmp_path}/x.csv: row 8 (line 9), column 'a': 'broken' is not a number, nor are rows 10 ('lost'), 31"
        " ('lost'); correct it, read it as missing with --set 'data.missing=[broken,lost]', or leave the"
        " column out with --set 'data.drop=[a]'"
    )
    source, layout = learned(tmp_path, cells, missing=["broken", "lost"])
    assert np.isnan(read(source, layout)).sum() == 3


def test_a_column_of_numbers_and_text_says_the_truth(tmp_path: Path) -> None:
    cells = ["lost" if i % 3 else f"{i}.5" for i in range(N)]
    _, layout = learned(tmp_path, cells, max_categories=5)
    told = (
        "14 of 40 cells are numbers, the others text such as 'lost': --set 'data.missing=[lost]' reads them as missing"
    )
    assert layout.left_out == {"a": told}
    source, layout = learned(tmp_path, ["lost" if i % 3 else i % 2 for i in range(N)])
    assert layout.columns[0].categories == ("0", "1", "lost")
    assert source.notes == (f"column 'a' is read as categories: {told}",)


@pytest.mark.parametrize(
    ("name", "cells", "is_label"),
    [
        ("Class", [int(i > 35) for i in range(N)], True),
        ("Class", [f"{i}.5" for i in range(N)], False),
        ("target", [20 + 10 * (i % 3) for i in range(N)], False),  # of a controller
        ("y", RANDOM.permutation(N), False),
        ("y", [i % 2 for i in range(N)], True),
        ("attack_cat", ["dos" if i > 30 else "normal" for i in range(N)], True),
        ("isFraud", [i == 3 for i in range(N)], True),
        ("is_weekend", [i % 7 > 4 for i in range(N)], False),
        ("is_broken", [i == 3 for i in range(N)], True),
        ("fault_code", [i % 4 for i in range(N)], False),
        ("defect", ["no" if i % 9 else "yes" for i in range(N)], True),
    ],
)
def test_a_label_that_nobody_named(tmp_path: Path, name: str, cells: Sequence[object], is_label: bool) -> None:
    _, layout = learned(tmp_path, cells, name)
    assert (name not in [column.name for column in layout.columns]) == is_label
    if is_label:
        assert layout.left_out[name].startswith("named like a label, and its values are '")
        assert f"--label {name} takes it as one, --set 'data.keep=[{name}]' keeps it" in layout.left_out[name]
        _, layout = learned(tmp_path, cells, name, keep=name)
        assert layout.columns[0].name == name


def test_other_labels_leak_beside_the_one_that_is_named(tmp_path: Path) -> None:
    kinds = ["dos" if i > 30 else "normal" for i in range(N)]
    source = opened(tmp_path, {"z": Z, "label": [int(k == "dos") for k in kinds], "attack_cat": kinds}, label="label")
    assert source.learn(np.arange(30)).shape == (1,)  # of whose rows all are normal


def test_few_ones_under_another_name_are_said(tmp_path: Path) -> None:
    source, layout = learned(tmp_path, [int(i == 5) for i in range(N)], "alert")
    assert layout.columns[0].name == "alert"
    assert "--label alert takes it as one" in source.notes[0]


GAPS = np.cumsum(1 + RANDOM.integers(0, 8, N))


@pytest.mark.parametrize(
    ("name", "cells", "reason"),
    [
        ("order", 100_000 + GAPS, "an identifier: a whole number that grows from row to row"),
        ("newest_first", 100_000 - GAPS, "an identifier: a whole number that grows from row to row"),
        ("customer_id", 7 * RANDOM.permutation(N), "an identifier: named like one, and different in every row"),
        ("customerId", RANDOM.permutation(N), "an identifier: named like one, and different in every row"),
        ("", [*GAPS[:20], *GAPS[:20]], "an identifier: named like one, and growing from row to row"),
        ("index", [*GAPS[RANDOM.permutation(N)[:20]], *GAPS[:20]], "an index that pandas saved"),
        (
            "when",
            [20_240_101 + 100 * (i % 12) + i // 2 for i in RANDOM.permutation(N)],
            "dates written as whole numbers",
        ),
        ("seen", 1_700_000_000 + np.cumsum(GAPS**2), "a time: seconds, or fractions of them, since 1970"),
        ("drift", [f"{10 + 0.37 * i:.2f}" for i in range(N)], ""),
        ("sorted_price", np.unique((1.5 ** np.arange(10, 10 + N)).astype(int)), ""),
        ("count", RANDOM.permutation(N), ""),
    ],
)
def test_identifiers(tmp_path: Path, name: str, cells: Sequence[object], reason: str) -> None:
    _, layout = learned(tmp_path, cells, name)
    name = name or "Unnamed: 0"
    kept = f"{reason}; --set " + (f"'data.keep=[{name}]'" if name.isidentifier() else f"'data.keep=[\"{name}\"]'")
    assert layout.left_out.get(name, "") == (f"{kept} keeps it as an input" if reason else "")


def test_a_growing_sensor_of_a_series_is_no_identifier(tmp_path: Path) -> None:
    _, layout = learned(tmp_path, 100 + GAPS, "energy_kWh", kind="series")
    assert [column.name for column in layout.columns] == ["energy_kWh", "z"]


def test_the_only_text_that_differs_in_every_row_is_the_id(tmp_path: Path) -> None:
    names = [f"T-{i}" for i in range(N)]
    times = [f"05.01.2024 {i // 60:02d}:{i % 60:02d}" for i in range(N)]
    source = opened(tmp_path, {"who": names, "when": times, "z": Z}, kind="table")
    layout = source.learn(np.arange(N))
    assert (layout.id, layout.left_out["who"].split(", so")[0]) == ("who", "text that is different in every row")
    assert [id_ for chunk in source.chunks(layout, 16) for id_ in chunk.ids] == names
    assert (
        learned(tmp_path, [f"{i} said that it is a long way to the next town, and left" for i in names])[1].id is None
    )


def test_truth_values_have_many_names(tmp_path: Path) -> None:
    cells = ["ON" if i % 3 else "OFF" for i in range(N)]
    states = [float(i % 3 > 0) for i in range(N)]
    source, layout = learned(tmp_path, cells, kind="series")
    assert layout.columns[0] == Column("a", format=NumberFormat(truths=True))
    assert read(source, layout) == states
    for pair in (("off", "on"), ("false", "true"), ("0", "1")):
        fresh = opened(tmp_path, {"a": [pair[int(state)] for state in states], "z": Z}, kind="series")
        assert read(fresh, layout) == states
    source, layout = learned(tmp_path, cells)
    assert layout.columns[0].categories == ("OFF", "ON")
    assert read(opened(tmp_path, {"a": ["on", "1", "off", "true", "half"], "z": range(5)}), layout) == [1, 1, 0, 1, 2]
    _, layout = learned(tmp_path, cells, kind="series")
    fresh = opened(tmp_path, {"a": ["half"], "z": [1]}, kind="series")
    with pytest.raises(DataError, match=r"row 1 \(line 2\), column 'a': 'half' is not a number"):
        read(fresh, layout)


def test_groups_are_names(tmp_path: Path) -> None:
    names = ["007", "7", "1E2", "100"]
    source = opened(tmp_path, {"m": [name for name in names for _ in range(10)], "z": Z}, group="m")
    groups = source.groups()
    assert groups is not None
    assert groups.values.tolist() == sorted(names)
    assert as_names(pa.array([7.0, None, 1.5])).tolist() == ["7", "", "1.5"]
    _, layout = learned(tmp_path, (names * 10)[:N], condition="a")
    assert layout.conditions[0].categories == tuple(sorted(names))


def test_a_missing_category_that_training_shows_is_a_category(tmp_path: Path) -> None:
    source, layout = learned(tmp_path, [("DE", "NA", "FR")[i % 3] for i in range(N)])
    assert layout.columns[0].categories == ("DE", "FR", "")
    assert read(source, layout)[:3] == [0, 2, 1]
    assert "'NA' in 13 of 40 training rows is a category of its own" in source.notes[0]
    _, layout = learned(tmp_path, [("DE", "FR")[i % 2] for i in range(N)])
    np.testing.assert_array_equal(read(opened(tmp_path, {"a": ["NA", "XX"], "z": [1, 2]}), layout), [np.nan, 2])
