"""Folding against one that holds everything in memory and loops over every step."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_vae.data.datasets import segment_starts, window_starts
from anomaly_vae.scoring.windows import Residuals, WindowFolder

Array = NDArray[np.float64]


def folder_of(window: int) -> WindowFolder:
    """One that reads values as they are and reports residuals as they come."""
    return WindowFolder(window, lambda values, _: values.astype(np.float32), Residuals)


def measure(windows: Array) -> tuple[Array, Array]:
    """Made-up nats (B, C, T) and KL (B,) of windows (B, C, T), which depend on the place within the window."""
    place = 1 + np.arange(windows.shape[2]) / 8
    return windows * place, np.abs(windows).sum((1, 2))


def brute_force(
    values: Array, groups: NDArray[np.str_], window: int, after_gap: NDArray[np.bool_] | None = None
) -> tuple[Array, Array]:
    """(nats (N, C), kl (N,)): the mean of what each window that covers a step says of it."""
    stride = max(1, window // 8)
    nats, kl, count = np.zeros(values.shape), np.zeros(len(values)), np.zeros(len(values))
    order = np.argsort(groups, kind="stable")
    starts = segment_starts(groups[order], None if after_gap is None else after_gap[order], len(order), window)
    for rows in np.split(order, np.flatnonzero(starts)[1:]):
        last = len(rows) - window
        for start in sorted({*range(0, last + 1, stride), last}):
            covered = rows[start : start + window]
            some, one = measure(values[covered].T[None])
            nats[covered] += some[0].T
            kl[covered] += one[0] / window
            count[covered] += 1
    return nats / count[:, None], kl / count


def folded(
    values: Array,
    groups: NDArray[np.str_] | None,
    window: int,
    sizes: list[int],
    most: int,
    after_gap: NDArray[np.bool_] | None = None,
) -> tuple[list[NDArray[np.intp]], Array, Array]:
    """What comes out of a Folder that gets its steps in pieces of these sizes, again and again."""
    folder, start, turn = folder_of(window), 0, 0
    pieces: list[tuple[NDArray[np.generic], Array, Array]] = []

    def drain() -> None:
        for number, windows in folder.windows(most):
            assert number % most + len(windows) <= most
            assert windows.shape[1:] == (values.shape[1], window)
            nats, kl = measure(windows.astype(np.float64))
            folder.add(nats.astype(np.float32), kl.astype(np.float32)[:, None])
        ids, arrays, kl = folder.finished()
        pieces.append((ids, arrays[0] if arrays else np.empty((0, values.shape[1])), kl[:, 0]))

    while start < len(values):
        rows = slice(start, start + sizes[turn % len(sizes)])
        ids = np.arange(len(values))[rows]
        gaps = None if after_gap is None else after_gap[rows]
        folder.push(ids, values[rows], None if groups is None else groups[rows], gaps)
        drain()
        start, turn = rows.stop, turn + 1
    folder.close()
    drain()
    assert folder.short is None
    ids, nats, kl = zip(*pieces, strict=True)
    return list(ids), np.concatenate(nats), np.concatenate(kl)


def whole_numbers(rng: np.random.Generator, n: int, sensors: int) -> Array:
    """Small whole numbers: sums and eighths of them are exact in float32, whatever their order."""
    return rng.integers(-9, 10, (n, sensors)).astype(np.float64)


@pytest.mark.parametrize("seed", range(12))
def test_any_lengths_pieces_and_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = int(rng.choice([4, 5, 16, 27]))
    lengths = rng.integers(window, 5 * window, rng.integers(1, 4))
    groups = np.repeat([f"machine {i}" for i in range(len(lengths))], lengths)
    if seed % 2:
        groups = rng.permutation(groups)  # interleaved
    values = whole_numbers(rng, len(groups), int(rng.integers(1, 4)))
    sizes = [int(size) for size in rng.integers(1, 3 * window, 4)]
    ids, nats, kl = folded(values, groups, window, sizes, most=int(rng.integers(1, 6)))
    assert np.concatenate(ids).tolist() == list(range(len(values)))
    expected_nats, expected_kl = brute_force(values, groups, window)
    np.testing.assert_allclose(nats, expected_nats, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(kl, expected_kl, rtol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_no_window_spans_a_gap(seed: int) -> None:
    """Whatever the pieces, and however many gaps come one after the other."""
    rng = np.random.default_rng(seed)
    window = int(rng.choice([4, 5, 16]))
    groups = rng.permutation(np.repeat(["a", "b"], rng.integers(window, 9 * window, 2)))
    after_gap = rng.random(len(groups)) < rng.choice([0.02, 0.2])
    values = whole_numbers(rng, len(groups), 2)
    sizes = [int(size) for size in rng.integers(1, 3 * window, 4)]
    ids, nats, kl = folded(values, groups, window, sizes, int(rng.integers(1, 6)), after_gap)
    assert np.concatenate(ids).tolist() == list(range(len(values)))
    expected_nats, expected_kl = brute_force(values, groups, window, after_gap)
    np.testing.assert_allclose(nats, expected_nats, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(kl, expected_kl, rtol=1e-6)


@pytest.mark.parametrize(
    ("gaps", "starts"),
    [
        ([5], [0, 5]),
        ([3, 8], [0, 8]),  # a segment of three steps belongs to the next one
        ([9], [0]),  # and one at the end to the one before
        ([4, 7, 9], [0, 4]),
        ([0], [0]),
    ],
)
def test_segments_have_at_least_a_window(gaps: list[int], starts: list[int]) -> None:
    after_gap = np.isin(np.arange(12), gaps)
    assert np.flatnonzero(segment_starts(None, after_gap, 12, 4)).tolist() == starts
    _, windows = window_starts(np.arange(12), None, 12, 4, after_gap)
    cut = starts[1:]
    assert windows.tolist() == [first for first in range(9) if not any(first < gap < first + 4 for gap in cut)]


def test_no_difference_spans_a_gap() -> None:
    folder = WindowFolder(2, lambda values, before: np.diff(values, axis=0, prepend=values[:1] if before is None else
                          before[None]).astype(np.float32), Residuals)  # fmt: skip
    for step in range(6):  # 0, 1, 2 and, after a gap, 10, 11; and after another, a last one alone
        value = np.array([[[0.0, 1, 2, 10, 11, 50][step]]])
        folder.push(np.array([step]), value, None, np.array([step in (3, 5)]))
    folder.close()
    segments = [*folder.ended, folder.groups[""].segment]
    assert [segment.values[:, 0].tolist() for segment in segments] == [[0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("sizes", [[1], [7], [64], [3, 50]])
def test_the_size_of_the_pieces_changes_no_bit(sizes: list[int]) -> None:
    values = np.random.default_rng(0).normal(size=(100, 2))
    _, nats, kl = folded(values, None, 24, sizes, most=4)
    _, whole_nats, whole_kl = folded(values, None, 24, [100], most=100)
    np.testing.assert_array_equal(nats, whole_nats)
    np.testing.assert_array_equal(kl, whole_kl)


def test_by_hand() -> None:
    """Five steps, windows of four: [0, 4) and [1, 5). Every window's KL of 8 is 2 a step."""
    folder = folder_of(4)
    folder.push(np.arange(5), np.zeros((5, 1)), None)
    folder.close()
    ((number, windows),) = folder.windows(9)
    assert number == 0
    assert windows.shape == (2, 1, 4)
    folder.add(np.array([[[1, 2, 3, 4]], [[10, 20, 30, 40]]], np.float32), np.array([[8], [8]], np.float32))
    assert list(folder.windows(9)) == []
    ids, (nats,), kl = folder.finished()
    kl = kl[:, 0]
    assert ids.tolist() == [0, 1, 2, 3, 4]
    assert nats[:, 0].tolist() == [1, 6, 11.5, 17, 40]
    assert kl.tolist() == [2, 2, 2, 2, 2]


def test_steps_come_out_before_the_end_and_few_are_held() -> None:
    values = np.random.default_rng(0).normal(size=(400, 1))
    ids, _, _ = folded(values, None, 8, [10], most=64)
    given = np.cumsum([len(piece) for piece in ids])
    pushed = np.minimum(10 * (1 + np.arange(len(ids))), 400)
    assert (pushed - given <= 2 * 8).all()


def test_every_group_is_scaled_with_its_own_step_before() -> None:
    """Differences to the step before never look across machines, nor break where a piece ends."""

    def difference(values: Array, before: Array | None) -> NDArray[np.float32]:
        first = values[:1] if before is None else before[None]
        return np.diff(values, axis=0, prepend=first).astype(np.float32)

    rng = np.random.default_rng(0)
    values, groups = whole_numbers(rng, 30, 2), rng.permutation(["a", "b", "c"] * 10)
    for size in (1, 7, 30):
        folder = WindowFolder(4, difference, Residuals)
        for start in range(0, 30, size):
            folder.push(np.arange(30)[start : start + size], values[start : start + size], groups[start : start + size])
        for name in "abc":
            mine = values[groups == name]
            np.testing.assert_array_equal(folder.groups[name].segment.values, np.diff(mine, axis=0, prepend=mine[:1]))


def test_one_window_exactly() -> None:
    values = whole_numbers(np.random.default_rng(0), 8, 2)
    _, nats, kl = folded(values, None, 8, [8], most=4)
    some, one = measure(values.T[None])
    np.testing.assert_allclose(nats, some[0].T)
    np.testing.assert_allclose(kl, one[0] / 8)


def test_a_group_shorter_than_a_window_is_named() -> None:
    folder = folder_of(4)
    groups = np.array(["long"] * 6 + ["brief"] * 3)
    folder.push(np.arange(9), np.zeros((9, 1)), groups)
    folder.close()
    for _, windows in folder.windows(9):
        folder.add(np.zeros_like(windows), np.zeros((len(windows), 1), np.float32))
    assert folder.short == ("brief", 3)
    assert folder.finished()[0].tolist() == list(range(6))
