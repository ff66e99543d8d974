"""Scores: to the bit the same in whatever company and pieces a row comes, and each line the exact sum of its parts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.threads import prefetched
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.batching import BLOCK
from anomaly_vae.scoring.scores import Scores, join
from anomaly_vae.training.objective import terms

WINDOW = 16
N = BLOCK + 44
KINDS = ["table", "series", "pictures", "colour"]
ROWS = ["table", "pictures", "colour"]  # those whose samples are scored one by one


def values_of(kind: str, n: int = N) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if kind in ("pictures", "colour"):
        return rng.integers(0, 256, (n, *{"pictures": (1, 8, 8), "colour": (3, 9, 7)}[kind]), dtype=np.uint8)
    values = rng.normal(3, 2, (n, 5))
    values[2, 1] = np.nan
    return values


@cache
def detector_of(kind: str, **settings: Any) -> Detector:
    """Widths whose matrix products are known to round differently from place to place in a batch."""
    quick = {"device": "cpu", "training__steps": 4, "model__hidden": (9,), "model__latent": 3, "split__folds": 0}
    if kind == "series":
        quick |= {"kind": "series", "data__window": WINDOW}
    return Detector.fit(values_of(kind), **quick | settings)


def chunks_of(values: NDArray[Any], size: int, groups: NDArray[np.str_] | None = None) -> Iterator[Chunk]:
    for start in range(0, len(values), size):
        rows = slice(start, start + size)
        yield Chunk(np.arange(len(values))[rows], values[rows], None if groups is None else groups[rows])


def scored(kind: str, size: int = 10_000, values: NDArray[Any] | None = None) -> Scores:
    values = values_of(kind) if values is None else values
    return join(detector_of(kind).score_chunks(chunks_of(values, size), explain=True))


def nats_of(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """The parts before they were turned into surprises."""
    return scores.parts if scores.raw is None else scores.raw


def assert_same_bits(a: Scores, b: Scores) -> None:
    np.testing.assert_array_equal(a.ids, b.ids)
    assert a.parts.keys() == b.parts.keys()
    for name in a.parts:
        np.testing.assert_array_equal(a.parts[name], b.parts[name], err_msg=name)
    assert a.elements is not None
    assert b.elements is not None
    np.testing.assert_array_equal(a.elements, b.elements)


@pytest.mark.parametrize("kind", KINDS)
def test_two_calls_give_the_same_bits(kind: str) -> None:
    first = scored(kind)
    torch.manual_seed(7)
    assert_same_bits(first, scored(kind))


@pytest.mark.parametrize("size", [1, 37, BLOCK, 299])
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_the_chunks_changes_no_bit(kind: str, size: int) -> None:
    values = values_of(kind)[: 60 if size == 1 else N]
    assert_same_bits(scored(kind, values=values), scored(kind, size, values))


@pytest.mark.parametrize("kind", ROWS)
def test_the_neighbours_of_a_row_change_no_bit_of_it(kind: str) -> None:
    values, others = values_of(kind), values_of(kind)[::-1].copy()
    rows = np.arange(N) % 3 == 0
    others[rows] = values[rows]
    np.testing.assert_array_equal(scored(kind).total[rows], scored(kind, values=others).total[rows])
    np.testing.assert_array_equal(scored(kind).total[:17], scored(kind, values=values[:17]).total)


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_adds_up_as_it_is_printed(kind: str) -> None:
    found = scored(kind)
    assert list(found.parts)[:2] == ["recon", "kl"]
    printed = [[Decimal(repr(value)) for value in part.tolist()] for part in found.parts.values()]
    assert [sum(line) for line in zip(*printed, strict=True)] == [
        Decimal(repr(value)) for value in found.total.tolist()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_its_score_in_order(kind: str) -> None:
    found = scored(kind, 50)
    assert found.ids.tolist() == list(range(N))
    assert found.total.shape == (N,)
    assert np.isfinite(found.total).all()
    assert len(np.unique(found.total)) > N // 2


@pytest.mark.parametrize("kind", ROWS)
def test_the_elements_are_what_recon_is_made_of(kind: str) -> None:
    found = scored(kind)
    assert found.elements is not None
    assert found.elements.shape == values_of(kind).shape
    raw = nats_of(found)
    expected = raw["recon"] + raw.get("missing", 0)
    np.testing.assert_allclose(found.elements.reshape(N, -1).sum(1), expected, rtol=1e-4, atol=1e-4)


def test_the_reconstruction_of_a_table_is_the_objectives() -> None:
    detector = detector_of("table")
    x = torch.from_numpy(detector.scaler.transform(values_of("table")))
    with torch.no_grad():
        recon, _ = terms(x, detector.score_model.model(x))
    np.testing.assert_allclose(nats_of(scored("table"))["recon"], recon, rtol=1e-5, atol=1e-5)


def test_windows_never_span_two_machines() -> None:
    values = values_of("series", 180)
    groups = np.array(["a", "b", "a"] * 60)
    together = join(detector_of("series").score_chunks(chunks_of(values, 17, groups)))
    assert together.ids.tolist() == list(range(180))
    for name in ("a", "b"):
        np.testing.assert_array_equal(
            together.total[groups == name], scored("series", values=values[groups == name]).total
        )


def test_a_missing_cell_has_the_nats_of_its_being_missing_alone() -> None:
    found = scored("table")
    assert found.elements is not None
    assert found.elements[2, 1] == pytest.approx(nats_of(found)["missing"][2]) != 0
    assert (found.elements[2, [0, 2, 3, 4]] != 0).all()


@pytest.mark.parametrize("kind", ["table", "series"])
@pytest.mark.parametrize("extreme", [1e300, -1e300, 1e30])
def test_a_cell_beyond_all_bounds_has_a_finite_and_the_largest_score(kind: str, extreme: float) -> None:
    values = values_of(kind, 120)
    values[60, 3] = extreme
    total = scored(kind, values=values).total
    assert np.isfinite(total).all()
    assert abs(total.argmax() - 60) <= (0 if kind == "table" else 4)


@pytest.mark.parametrize(("groups", "said"), [(None, "holds 5 time steps"), ("ab", "group 'b' has 1 time steps")])
def test_a_series_shorter_than_a_window_says_so(groups: str | None, said: str) -> None:
    names = None if groups is None else np.array(["a"] * WINDOW + ["b"])
    values = values_of("series", 5 if groups is None else WINDOW + 1)
    with pytest.raises(DataError, match=f"{said}, fewer than the {WINDOW} of one window"):
        list(detector_of("series").score_chunks(chunks_of(values, 3, names)))


@pytest.mark.parametrize(("sizes", "elsewhere"), [([], 0), ([1], 0), ([3], 1), ([3, 3, 2], 3), ([2, 3], 0)])
def test_a_thread_reads_ahead_where_more_may_come(sizes: list[int], elsewhere: int) -> None:
    """Chunks of 3 rows but for the last; elsewhere: how often another thread reads, the end included."""
    readers = []

    def chunks() -> Iterator[Chunk]:
        for number, size in enumerate(sizes):
            readers.append(threading.current_thread())
            yield Chunk(np.full(size, number), np.zeros((size, 1)))
        readers.append(threading.current_thread())

    assert [chunk.ids.tolist() for chunk in prefetched(chunks(), 3)] == [[n] * size for n, size in enumerate(sizes)]
    assert sum(reader is not threading.current_thread() for reader in readers) == elsewhere
