"""Pixel tables and arrays of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.source import Chunk, Layout, Source

DIGITS = np.random.default_rng(0).integers(0, 256, (6, 16))
NAMES = [f"pixel{i}" for i in range(16)]


def opened(folder: Path, values: np.ndarray, names: list[str] = NAMES, **settings: object) -> Source:
    pd.DataFrame(values, columns=names).to_csv(folder / "x.csv", index=False)
    return open_source(folder / "x.csv", DataConfig.model_validate(settings))


def whole(source: Source, layout: Layout | None = None) -> Chunk:
    (chunk,) = source.chunks(layout or source.learn(np.arange(source.count())), 10**6)
    return chunk


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        [f"pixel_{i}_{j}" for i in range(4) for j in range(4)],
        [f"{i}x{j}" for i in range(4) for j in range(4)],
    ],
)
def test_names_of_pixels_are_recognised(tmp_path: Path, names: list[str]) -> None:
    source = opened(tmp_path, DIGITS, names)
    assert source.kind == "pixels"
    assert source.why == f"a pixel table: 6 pictures of 16 pixels, values {DIGITS.min()} to {DIGITS.max()}"
    layout = source.learn(np.arange(6))
    assert (layout.shape, layout.pixels, layout.pixel_max) == ((1, 4, 4), tuple(names), 255.0)
    chunk = whole(source)
    assert chunk.values.dtype == np.uint8
    np.testing.assert_array_equal(chunk.values, DIGITS.reshape(6, 1, 4, 4))


@pytest.mark.parametrize(("side", "top", "kind"), [(28, 255, "pixels"), (28, 300, "table"), (27, 255, "table")])
def test_a_large_square_of_bytes_is_a_picture(tmp_path: Path, side: int, top: int, kind: str) -> None:
    values = np.full((3, side * side), top)
    names = [str(i) for i in range(side * side)]
    assert opened(tmp_path, values, names).kind == kind


def test_labels_and_row_numbers_are_no_pixels(tmp_path: Path) -> None:
    frame = pd.DataFrame(DIGITS, columns=NAMES)
    frame.insert(0, "digit", [3, 3, 4, 3, 4, 3])
    frame.to_csv(tmp_path / "x.csv")  # with pandas' index
    source = open_source(tmp_path / "x.csv", DataConfig(label="digit"))
    chunk = whole(source)
    labels = source.labels()
    assert labels is not None
    assert labels[:].tolist() == ["3", "3", "4", "3", "4", "3"]
    np.testing.assert_array_equal(chunk.values.reshape(6, 16), DIGITS)
    assert source.learn(np.arange(6)).left_out == {"Unnamed: 0": "not a pixel", "digit": "the label column"}


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    layout = opened(tmp_path, DIGITS).learn(np.arange(6))
    shuffled = opened(tmp_path, DIGITS[:, ::-1], NAMES[::-1])
    np.testing.assert_array_equal(whole(shuffled, layout).values.reshape(6, 16), DIGITS)
    with pytest.raises(DataError, match=r"input column 'pixel15' not found"):
        whole(opened(tmp_path, DIGITS[:, :15], NAMES[:15]), layout)


def test_white_is_one_or_255_by_the_training_rows(tmp_path: Path) -> None:
    source = opened(tmp_path, DIGITS / 255)
    layout = source.learn(np.arange(6))
    assert layout.pixel_max == 1.0
    np.testing.assert_array_equal(whole(source, layout).values.reshape(6, 16), DIGITS)
    dark = np.vstack([np.ones((3, 16)), DIGITS[:3]])
    assert opened(tmp_path, dark).learn(np.arange(3)).pixel_max == 1.0
    assert opened(tmp_path, dark).learn(np.arange(6)).pixel_max == 255.0
    with pytest.raises(DataError, match=r"row 4 \(line 5\).*expected a number from 0 to 1 as in the training rows"):
        whole(opened(tmp_path, dark), layout)


def test_a_colour_picture_is_stored_channel_by_channel(tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 12)
    source = opened(tmp_path, values, [f"c{i}" for i in range(12)], shape=[3, 2, 2])
    assert source.kind == "pixels"
    np.testing.assert_array_equal(whole(source).values[1, 2], [[20, 21], [22, 23]])


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (15, {}, r"15 pixel columns make no square picture; give --set 'data\.shape=\[C,H,W\]'"),
        (15, {"shape": [3, 4, 4]}, r"15 pixel columns do not make pictures of data\.shape=\[3, 4, 4\]"),
    ],
)
def test_columns_that_make_no_picture(tmp_path: Path, columns: int, settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(tmp_path, DIGITS[:, :columns], NAMES[:columns], **settings).learn(np.arange(6))


@pytest.mark.parametrize(
    ("cell", "found"),
    [(-1, "the value -1"), (256, "the value 256"), (np.nan, "a missing pixel"), (np.inf, "the value inf")],
)
def test_a_value_out_of_range_is_named(tmp_path: Path, cell: float, found: str) -> None:
    values = DIGITS.astype(float)
    values[4, 2] = cell
    source = opened(tmp_path, values)
    with pytest.raises(
        DataError, match=rf"row 5 \(line 6\), column 'pixel2': {found}; expected a number from 0 to 255"
    ):
        source.learn(np.arange(6))
    with pytest.raises(DataError, match=rf"row 5 \(line 6\), column 'pixel2': {found}"):
        whole(source, source.learn(np.arange(3)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (DIGITS.reshape(6, 4, 4).astype(np.uint8), DIGITS),
        (DIGITS.reshape(6, 1, 4, 4), DIGITS),
        (DIGITS.reshape(6, 1, 4, 4) / 255, DIGITS),
        (DIGITS.reshape(6, 4, 4).astype(np.float32), DIGITS),
    ],
)
def test_arrays_of_pictures(values: np.ndarray, expected: np.ndarray) -> None:
    source = open_memory(values, DataConfig(), labels=list("aababb"))
    layout = source.learn(np.arange(6))
    assert (source.kind, layout.shape) == ("pixels", (1, 4, 4))
    chunks = list(source.chunks(layout, 4))
    assert [len(chunk) for chunk in chunks] == [4, 2]
    assert chunks[1].values.dtype == np.uint8
    labels = source.labels()
    assert labels is not None
    assert labels[4:].tolist() == ["b", "b"]
    np.testing.assert_array_equal(np.concatenate([c.values for c in chunks]).reshape(6, 16), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(4), r"array of shape \(4,\)"),
        (np.zeros((2, 0, 4)), r"pictures of shape \(2, 0, 4\)"),
        (np.full((2, 4, 4), -0.5), "picture 0 has a pixel that is missing or outside 0-255"),
        (np.full((2, 4, 4), np.nan), "picture 0 has a pixel that is missing"),
    ],
)
def test_arrays_that_are_no_pictures(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_memory(values, DataConfig())


def test_pictures_of_another_shape() -> None:
    layout = open_memory(np.zeros((2, 4, 4), np.uint8), DataConfig()).learn(np.arange(2))
    with pytest.raises(DataError, match="1 x 5 x 5 = 25 pixels, expected 1 x 4 x 4 = 16 pixels"):
        whole(open_memory(np.zeros((2, 5, 5), np.uint8), DataConfig()), layout)
