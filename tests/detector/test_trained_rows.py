"""Which rows a detector was trained on: found again in another order, with other labels, in every kind of data."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_vae.data.open import open_memory
from anomaly_vae.data.source import Chunk, Column, Layout
from anomaly_vae.detector import trained_rows
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.trained_rows import RowHasher, TrainedRows

QUICK = {"training__epochs": 1, "tracking__enabled": False, "device": "cpu"}
TABLE = Layout("table", (2,), (Column("a"), Column("b")))
SERIES = Layout("series", (1,), (Column("a"),))


def hashed(layout: Layout, *chunks: Chunk) -> NDArray[np.uint64]:
    hasher = RowHasher(layout)
    for chunk in chunks:
        hasher.add(chunk)
    return hasher.hashes()


def of_values(values: list[list[float]], groups: list[str] | None = None) -> Chunk:
    return Chunk(np.arange(len(values)), np.array(values), None if groups is None else np.array(groups))


def test_a_hash_is_of_the_cells() -> None:
    found = hashed(TABLE, of_values([[1.0, 2.0], [2.0, 1.0]]), of_values([[1.0, 2.0]]))
    expected = hashlib.blake2b(np.array([1.0, 2.0], "<f8").tobytes(), digest_size=8).digest()
    assert found[0] == int.from_bytes(expected, "little") == found[2] != found[1]
    assert hashed(TABLE, of_values([[0.0, np.nan]]))[0] == hashed(TABLE, of_values([[-0.0, -np.nan]]))[0]


def test_a_step_of_a_series_is_known_by_the_steps_before_it_in_its_group() -> None:
    values = [[float(v)] for v in (1, 2, 3, 4, 5, 6, 7, 8, 9, 1)]
    whole = hashed(SERIES, of_values(values))
    assert whole[0] != whole[9], "the same value after other values"
    assert (hashed(SERIES, of_values(values[:4]), of_values(values[4:])) == whole).all(), "however it is read"
    assert (hashed(SERIES, of_values(values[2:]))[7:] == whole[9:]).all(), "eight steps are the same"
    assert (hashed(SERIES, of_values(values[2:]))[:7] != whole[2:9]).all()
    both = [cell for pair in zip(values, values, strict=True) for cell in pair]
    assert (hashed(SERIES, of_values(both, ["a", "b"] * 10)).reshape(10, 2) == whole[:, None]).all()


def test_counting_by_hand() -> None:
    rows = TrainedRows(np.array([3, 5, 9], np.uint64), 10, 100)
    assert rows.contains(np.array([0, 3, 4, 9, 10, 5, 5], np.uint64)).tolist() == [
        False,
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert not rows.more_than_chance(22, 100), "10 expected, and three standard deviations of 4.24"
    assert rows.more_than_chance(23, 100)
    assert TrainedRows(rows.hashes, 0, 100).more_than_chance(1, 100)
    assert not TrainedRows(rows.hashes, 0, 100).more_than_chance(0, 100)


@pytest.mark.parametrize(("kind", "shape"), [("table", (80, 3)), ("series", (400, 2)), ("pixels", (60, 8, 8))])
def test_a_fit_knows_its_training_rows_and_no_others(kind: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape) if kind != "pixels" else rng.integers(0, 256, shape).astype(np.uint8)
    detector = Detector.fit(X, kind=kind, **QUICK)
    assert detector.trained_rows is not None
    hasher = RowHasher(detector.layout)
    for chunk in open_memory(X, detector.config.data).chunks(detector.layout, 7):
        hasher.add(chunk)
    known = detector.trained_rows.contains(hasher.hashes())
    assert (
        known.sum() == len(detector.trained_rows.hashes) == (80 if kind == "table" else round(0.85 * len(X)))
    )  # a table holds no row back
    assert detector.trained_rows.repeated == 0
    if kind == "series":
        assert known.tolist() == [True] * 340 + [False] * 60


def test_rows_that_repeat_by_chance_are_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).integers(0, 2, (200, 2)).astype(float)  # four different rows
    detector = Detector.fit(X, **QUICK)
    assert detector.trained_rows is not None and detector.trained_rows.chance == 1.0
    assert not detector.trained_rows.more_than_chance(50, 50)
    monkeypatch.setattr(trained_rows, "MOST", 100)
    assert Detector.fit(X, **QUICK).trained_rows is None
