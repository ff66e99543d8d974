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
from anomaly_vae.data.readers.cells import NumberFormat
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
    assert source.why.startswith(f"a series: 30 time steps of 1 sensor, time column '{name}', a step each ")
    assert source.otherwise == "--kind table reads rows as independent of each other"
    layout = source.learn(np.arange(30))
    assert layout.time == name
    assert layout.left_out == {name: "the time column"}
    ids, values = run(source)
    assert ids == [str(cell) for cell in clock]
    np.testing.assert_array_equal(values[:, 0], [i % 4 + 0.5 for i in range(30)])


@pytest.mark.parametrize(
    ("name", "clock"),
    [
        ("date", [DAYS[(7 * i) % 30] for i in range(30)]),
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
    on = Column("on", format=NumberFormat(truths=True))
    assert layout.columns == (Column("a"), on, Column("still", None, 1.0))
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


def test_steps_are_put_in_order_and_know_their_rows(tmp_path: Path) -> None:
    """Within each machine, whether the newest come first or one is late."""
    times = [*DAYS[4:8], DAYS[0], DAYS[9]]
    source = opened(tmp_path, {"time": times, "m": list("pppppq"), "a": [1, 2, 4, 8, 16, 32]}, kind="series", group="m")
    ids, values = run(source, rows=2)
    assert ids == [DAYS[0], *DAYS[4:8], DAYS[9]]
    assert values[:, 0].tolist() == [16, 1, 2, 4, 8, 32]
    assert source.notes == (
        "1 step of 6 came after a later one; all were put in order of 'time'; scores stay in the order of the file",
    )
    newest_first = opened(tmp_path, {"time": DAYS[::-1], "a": np.arange(30.0), "label": [0] * 29 + [1]}, label="label")
    assert newest_first.kind == "series"
    chunks = list(newest_first.chunks(newest_first.learn(np.arange(30)), 7))
    places = np.concatenate([chunk.places for chunk in chunks if chunk.places is not None])
    assert places.tolist() == list(range(29, -1, -1))
    assert np.concatenate([chunk.values for chunk in chunks])[:, 0].tolist() == list(range(29, -1, -1))
    labels = newest_first.labels()
    assert labels is not None and labels[:3].tolist() == ["1", "0", "0"]


@pytest.mark.parametrize("per_machine", [30, 1500])  # within the first rows, and not
@pytest.mark.parametrize("interleaved", [True, False])
def test_a_column_that_tells_machines_apart_is_the_group(tmp_path: Path, per_machine: int, interleaved: bool) -> None:
    minutes = pd.date_range("2024-03-01", periods=per_machine, freq="min").astype(str)
    frame = pd.DataFrame(
        {"time": [*minutes] * 2, "m": ["x"] * per_machine + ["y"] * per_machine, "a": np.arange(2 * per_machine) % 7}
    )
    if interleaved:
        frame = frame.sort_values("time", kind="stable")
    source = opened(tmp_path, {**frame, "b": frame["a"] + 0.5})
    assert source.kind == "series"
    groups = source.groups()
    assert groups is not None and groups[:].tolist() == frame["m"].tolist()
    assert source.why.endswith("a step each 1 min, group column 'm'")
    (note,) = source.notes
    assert "as --group m says" in note


def test_machines_below_each_other_that_nothing_tells_apart(tmp_path: Path) -> None:
    minutes = pd.date_range("2024-03-01", periods=1500, freq="min").astype(str)
    with pytest.raises(
        DataError, match=r"'time' goes back, and 1500 of 3000 steps have the time of another, .* --group"
    ):
        opened(tmp_path, {"time": [*minutes] * 2, "a": np.arange(3000) % 7 + 0.5})


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
