"""The scaler against NumPy, and through JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Column, Layout
from anomaly_vae.data.units import moments, smallest_step


def layout(kind: str, *columns: Column) -> Layout:
    return Layout(kind, (len(columns),), columns)


def numbers(kind: str, n: int) -> Layout:
    return layout(kind, *(Column(f"c{i}") for i in range(n)))


@pytest.fixture
def values() -> NDArray[Any]:
    found = np.random.default_rng(0).normal([0, 1e6, -3], [1e-3, 1e4, 5], (200, 3))
    found[:20, 1] = np.nan
    return found


def test_a_sensor_is_standardised_and_missing_cells_stay(values: NDArray[Any]) -> None:
    scaler = Scaler.fit(values.T, numbers("series", 3))
    scaled = scaler.transform(values)
    assert scaled.dtype == np.float32
    expected = (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(values))


def test_scaled_rows_lie_in_memory_one_after_the_other(values: NDArray[Any]) -> None:
    scaler = Scaler.fit(values.T, numbers("table", 3))
    assert scaler.read(values, None).flags.c_contiguous  # else every pass of the score goes through memory by columns


def test_a_sensor_that_wanders_is_read_as_its_differences(values: NDArray[Any]) -> None:
    wandering = np.c_[np.cumsum(values[:, 0]), values[:, 0]]
    scaler = Scaler.fit(wandering.T, numbers("series", 2))
    scaled = scaler.transform(wandering)
    steps = np.diff(wandering[:, 0], prepend=wandering[0, 0])
    np.testing.assert_allclose(scaled[:, 0], (steps - steps.mean()) / steps.std(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        scaled[:, 1], (values[:, 0] - values[:, 0].mean()) / values[:, 0].std(), rtol=1e-4, atol=1e-5
    )
    # in two pieces the second one needs the step before
    later = scaler.transform(wandering[70:], wandering[69])
    np.testing.assert_array_equal(later, scaled[70:])


def test_only_training_rows_count(values: NDArray[Any]) -> None:
    scaler = Scaler.fit(values.T, numbers("series", 3))
    moved = scaler.transform(values[:5] + 7 * np.nanstd(values, axis=0))
    np.testing.assert_allclose(moved, scaler.transform(values[:5]) + 7, rtol=1e-4)


def test_a_number_of_a_table_comes_with_a_second_element_that_bends_its_tails(values: NDArray[Any]) -> None:
    scaler = Scaler.fit(values.T, numbers("table", 3))
    scaled = scaler.transform(values)
    assert scaler.column.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1, rtol=1e-5)
    low, median, high = np.nanpercentile(values, [25, 50, 75], axis=0)
    bent = np.arcsinh((values - median) / ((high - low) / 1.349))
    np.testing.assert_allclose(scaled[:, 3:], (bent - np.nanmean(bent, 0)) / np.nanstd(bent, 0), rtol=1e-4, atol=1e-5)


def test_elements_are_summed_to_their_columns(values: NDArray[Any]) -> None:
    scaler = Scaler.fit(values.T, numbers("table", 3))
    nats = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(scaler.by_column(nats), nats[:, :3] + nats[:, 3:])
    sensors = Scaler.fit(values.T, numbers("series", 3))
    np.testing.assert_array_equal(sensors.by_column(nats[:, :3]), nats[:, :3])


def test_codes_pass_and_an_unseen_value_has_a_class() -> None:
    columns = layout("table", Column("size"), Column("colour", ("blue", "red")))
    values = np.array([[1.0, 0], [2.0, 1], [3.0, np.nan], [7.0, 0]])
    scaler = Scaler.fit(values.T, columns)
    unseen = np.array([[1.0, 2.0]])
    assert scaler.transform(unseen)[0, scaler.column == 1].tolist() == [2.0]
    assert [classes for classes, column in zip(scaler.categories(columns), scaler.column, strict=True) if column] == [3]


@pytest.mark.parametrize("level", [0.0, 1e9])
def test_a_column_that_does_not_vary_is_not_blown_up(level: float) -> None:
    values = np.c_[np.full(10, level), np.arange(10.0)]
    values[3, 0] += 1e-6 * (level > 0)  # rounding at this magnitude
    for kind in ("table", "series"):
        scaled = Scaler.fit(values.T, numbers(kind, 2)).transform(values)  # type: ignore[arg-type]
        assert np.abs(scaled).max() < 4


@pytest.mark.parametrize("kind", ["table", "series"])
def test_what_is_beyond_all_bounds_is_clipped(values: NDArray[Any], kind: str) -> None:
    scaler = Scaler.fit(values.T, numbers(kind, 3))
    extreme = scaler.transform(np.array([[1e300, -1e300, 0.0]]))
    assert extreme[0, :2].tolist() == [KINDS[kind].limit, -KINDS[kind].limit]
    assert np.isfinite(np.square(extreme)).all()


def test_pictures_are_divided_by_255() -> None:
    pictures = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    scaler = Scaler.fit([], Layout("pixels", (1, 8, 8)))
    np.testing.assert_array_equal(scaler.transform(pictures), pictures.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("kind", ["table", "series"])
def test_through_json_not_a_bit_changes(values: NDArray[Any], kind: str) -> None:
    scaler = Scaler.fit(values.T, numbers(kind, 3))
    restored = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    np.testing.assert_array_equal(restored.transform(values), scaler.transform(values))
    assert restored.elements == scaler.elements


def test_pictures_through_json() -> None:
    scaler = Scaler.fit([], Layout("images", (1, 2, 2)))
    restored = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    assert restored.transform(np.full((1, 1, 2, 2), 51, np.uint8)).max() == np.float32(0.2)


def test_log_units_bring_a_density_to_the_units_of_the_data() -> None:
    """The standard normal of a scaled element plus its unit is the density of the column; asinh tells it again."""
    rng = np.random.default_rng(0)
    columns = (Column("x"), Column("c", ("a", "b")), Column("y"))
    values = np.c_[rng.normal(3.0, 250.0, 5000), rng.integers(0, 2, 5000), rng.normal(0.0, 0.004, 5000)]
    scaler = Scaler.fit(values.T, layout("table", *columns))
    units = scaler.log_units()
    assert [element.how for element in scaler.elements] == ["linear", "code", "linear", "asinh", "asinh"]
    assert np.isnan(units).tolist() == [False, False, False, True, True]
    assert units[1] == 0
    scaled = scaler.transform(values)
    for element, column in ((0, 0), (2, 2)):
        x = values[:, column]
        expected = -norm.logpdf(x, x.mean(), x.std())
        np.testing.assert_allclose(-norm.logpdf(scaled[:, element]) + units[element], expected, rtol=1e-4, atol=1e-5)


def test_the_log_unit_of_a_difference_is_that_of_the_next_step(values: NDArray[Any]) -> None:
    """Given the step before, the density of a step is that of its difference."""
    wandering = np.cumsum(values[:, :1], axis=0)
    scaler = Scaler.fit(wandering.T, numbers("series", 1))
    assert scaler.elements[0].how == "difference"
    steps = np.diff(wandering[:, 0], prepend=wandering[0, 0])
    assert scaler.log_units().tolist() == pytest.approx([np.log(steps.std())])


def test_pictures_have_no_log_units() -> None:
    assert Scaler.fit(np.zeros((2, 1, 2, 2), np.uint8), Layout("images", (1, 2, 2))).log_units().tolist() == []


def in_units(unit: float) -> NDArray[Any]:
    """Three sensors: one that varies little about a large mean, one that wanders, one nearly always the same."""
    rng = np.random.default_rng(1)
    still = np.where(rng.random(400) < 0.01, 0.25, 0.125)
    return np.c_[4.8e-5 + 2e-8 * rng.normal(size=400), np.cumsum(rng.normal(size=400)), still] * unit


@pytest.mark.parametrize("kind", ["table", "series"])
@pytest.mark.parametrize("unit", [2.0**-40, 2.0**30, 1e-9, 1e9, 1e-30, 1e-300, 1e300])
def test_units_do_not_matter(kind: str, unit: float) -> None:
    usual, other = in_units(1), in_units(unit)
    found, expected = (Scaler.fit(x.T, numbers(kind, 3)).transform(x) for x in (other, usual))
    if np.frexp(unit)[0] == 0.5:
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert expected[:, 0].std() == pytest.approx(1, abs=0.01)
    scaler = Scaler.fit(other.T, numbers(kind, 3))
    np.testing.assert_allclose(scaler.inverse(found, other[0]), other, rtol=1e-3)


def test_a_sensor_that_is_nearly_always_the_same_is_scaled_by_its_step() -> None:
    still = in_units(1)[:, 2:]
    scaled = Scaler.fit(still.T, numbers("series", 1)).transform(still)
    assert np.ptp(scaled) == pytest.approx(1)  # by its deviation it would be 10


def test_rounding_is_no_variation() -> None:
    x = np.r_[np.full(50, 0.1 + 0.2), np.full(50, 0.3)]  # differ in the last bit
    assert moments(x) == (pytest.approx(0.3), pytest.approx(0.3))
    assert smallest_step(x) == 0
    assert smallest_step(np.array([1.0, 1.25, 3.0, 1.0])) == 0.25
