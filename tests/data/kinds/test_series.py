"""Series: the time column, the sensors, the order of time within each machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.source import Column, Source

DAYS = [f"2024-03-{day:02d}" for day in range(1, 31)]


def opened(folder: Path, columns: dict[str, Sequence[object]], **settings: object) -> Source:
    pd.DataFrame(columns).to_csv(folder / "x.csv", index=False)
    return open_source(folder / "x.csv", DataConfig.model_validate(settings))


def run(source: Source, rows: int = 4) -> tuple[list[str], np.ndarray]:
    chunks = list(source.chunks(source.learn(np.arange(source.count())), rows))
    return [str(id_) for chunk in chunks for id_ in chunk.ids], np.concatenate([chunk.values for chunk in chunks])


@pytest.mark.parametrize(
    ("name", "clock"),
    [
        ("datetime", [f"{day} 10:30:00" for day in DAYS]),
        ("anything", [f"{day}T10:30:00Z" for day in DAYS]),
        ("date", DAYS),
        ("date", [f"{day[8:]}.{day[5:7]}.{day[:4]} 10:30" for day in DAYS]),
        ("Time Stamp", [f"{day[8:]}/{day[5:7]}/{day[:4]}" for day in DAYS]),
        ("timestamp", [f"{day[5:7]}/{day[8:]}/{day[:4]}" for day in DAYS]),
        ("time", [f"2024-03-01 10:30:00.{i:07d}" for i in range(30)]),
        ("ts", [1_700_000_000 + 60 * i for i in range(30)]),
        ("ts", [1_700_000_000_000 + 60 * i for i in range(30)]),
    ],
)
def test_a_time_column_makes_a_series_and_is_its_id_as_written(
    tmp_path: Path, name: str, clock: Sequence[object]
) -> None:
    source = opened(tmp_path, {"s": [i % 4 + 0.5 for i in range(30)], name: clock})
    assert source.kind == "series"
    assert source.why == f"a series: 30 time steps of 1 sensor, time column '{name}'"
    layout = source.learn(np.arange(30))
    assert layout.time == name
    assert layout.left_out == {name: "the time column"}
    ids, values = run(source)
    assert ids == [str(cell) for cell in clock]
    np.testing.assert_array_equal(values[:, 0], [i % 4 + 0.5 for i in range(30)])


@pytest.mark.parametrize(
    ("name", "clock"),
    [
        ("date", DAYS[::-1]),
        ("time", [i * i for i in range(30)]),  # a count of seconds in a table of events is a column like any other
        ("time", ["soon", "late"] * 15),
    ],
)
def test_without_times_in_order_it_is_a_table(tmp_path: Path, name: str, clock: Sequence[object]) -> None:
    assert opened(tmp_path, {"s": [i % 4 + 0.5 for i in range(30)], name: clock}).kind == "table"


def test_sensors(tmp_path: Path) -> None:
    source = opened(
        tmp_path,
        {
            "time": DAYS[:6],
            "a": [0.5, np.nan, 2, 3, 5, 8],
            "on": [True, False, True, True, False, False],
            "state": list("uvuvuv"),
            "still": [1] * 6,
            "label": [0, 0, 0, 0, 1, 1],
        },
        label="label",
    )
    layout = source.learn(np.arange(6))
    assert layout.columns == (Column("a"), Column("on"), Column("still", None, 1.0))
    assert layout.left_out == {
        "time": "the time column",
        "state": "text; a series is made of numbers",
        "label": "the label column",
    }
    values = run(source)[1]
    np.testing.assert_array_equal(values, [[0.5, 1, 1], [np.nan, 0, 1], [2, 1, 1], [3, 1, 1], [5, 0, 1], [8, 0, 1]])


def test_the_order_of_the_file_is_enough(tmp_path: Path) -> None:
    source = opened(tmp_path, {"a": [3.5, 1, 2]}, kind="series")
    assert source.why == "a series: 3 time steps of 1 sensor, no time column, in the order of the file"
    ids, values = run(source)
    assert ids == ["0", "1", "2"]
    np.testing.assert_array_equal(values, [[3.5], [1], [2]])


def test_an_array_is_a_series_where_the_configuration_says_so() -> None:
    source = open_memory(np.array([[1.0, 5], [2, 7]]), DataConfig(kind="series"))
    np.testing.assert_array_equal(run(source)[1], [[1, 5], [2, 7]])


def test_machines_have_their_own_time(tmp_path: Path) -> None:
    columns = {"time": DAYS[:5] * 2, "machine": ["m1"] * 5 + ["m2"] * 5, "a": np.arange(10) ** 2}
    source = opened(tmp_path, columns, group="machine")
    assert source.kind == "series"
    assert run(source)[0] == DAYS[:5] * 2
    groups = source.groups()
    assert groups is not None
    assert groups[:].tolist() == columns["machine"]
    chunks = list(source.chunks(source.learn(np.arange(10)), 4))
    assert [chunk.groups.tolist() for chunk in chunks if chunk.groups is not None] == [
        ["m1"] * 4, ["m1", *["m2"] * 3], ["m2"] * 2,
    ]  # fmt: skip


def test_time_that_runs_backwards_between_two_chunks(tmp_path: Path) -> None:
    columns = {"time": [*DAYS[4:8], DAYS[0], DAYS[9]], "m": list("pppppq"), "a": [1, 2, 4, 8, 16, 32]}
    with pytest.raises(DataError, match=r"row 5 \(line 6\), column 'time': '2024-03-01' is before the step above"):
        run(opened(tmp_path, columns, kind="series"))
    with pytest.raises(DataError, match=r"row 5 \(line 6\)"):
        run(opened(tmp_path, columns, group="m"))


def test_times_may_stand_still(tmp_path: Path) -> None:
    assert len(run(opened(tmp_path, {"time": ["2024-03-01"] * 6, "a": [1, 2, 4, 8, 16, 32]}))[0]) == 6


@pytest.mark.parametrize("cell", ["soon", ""])
def test_a_cell_that_is_no_time(tmp_path: Path, cell: str) -> None:
    columns = {"time": [*DAYS[:20], cell], "a": [i % 3 + 0.5 for i in range(21)]}
    with pytest.raises(DataError, match=rf"row 21 \(line 22\), column 'time': '{cell}' is no time"):
        run(opened(tmp_path, columns))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time": "no"}, "time column 'no' not found; the columns are 'a', 'b'"),
        ({"time": "b"}, r"column 'b' holds no times \(row 1: 'u'\)"),
        ({"group": "no"}, "column 'no' not found"),
    ],
)
def test_a_setting_that_names_no_time(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(tmp_path, {"a": [1, 2], "b": ["u", "v"]}, **settings)


def test_text_in_a_sensor_names_the_cell(tmp_path: Path) -> None:
    columns = {"time": DAYS[:6], "a": ["1", "2", "3", "4", "off", "6"]}
    with pytest.raises(DataError, match=r"row 5 \(line 6\), column 'a': 'off' is not a number"):
        run(opened(tmp_path, columns))
