"""One row or one picture alone is scored as it is among others, and what is neither is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.detector.detector import Detector

QUICK = {"device": "cpu", "training__steps": 4, "model__latent": 2, "split__folds": 0}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=40), "n": rng.integers(0, 9, 40), "k": rng.choice(["a", "b"], 40)}
    return pd.DataFrame(columns | {"on": rng.random(40) > 0.5})


@pytest.fixture(scope="module")
def table(frame: pd.DataFrame) -> Detector:
    return Detector.fit(frame, **QUICK)


@pytest.fixture(scope="module")
def grey(digits: tuple[Any, Any]) -> Detector:
    return Detector.fit(digits[0], **QUICK)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Path]:
    """A detector of image files, in colour, and their folder."""
    from anomaly_vae.data.open import open_source
    from anomaly_vae.detector.configuration import load
    from anomaly_vae.detector.fit import fit

    folder, rng = tmp_path_factory.mktemp("camera"), np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    overrides = ["model.kind=conv2d", "data.size=8", "training.steps=2", "model.latent=2", "device=cpu"]
    config = load(overrides=[*overrides, "tracking.enabled=false"])
    return fit(open_source(folder, config.data), config)[0], folder


def test_a_row_in_every_form(table: Detector, frame: pd.DataFrame) -> None:
    row, score = frame.iloc[3], table.score(frame)[3]
    for sample in (row, row.to_dict(), dict(row[::-1]), row.to_dict() | {"more": 1}, [row.to_dict()], frame[3:4]):
        assert table.score(sample).tolist() == [score]
    assert table.predict(row.to_dict()).tolist() == [score >= table.threshold.value]
    odd = frame.copy()
    odd.loc[3, "x"] = 50.0
    explained, among = table.explain(odd.iloc[3]), table.explain(odd)
    assert len(explained) and explained.equals(among[among["row"] == 3].assign(row=0).reset_index(drop=True))
    both = table.score([frame.iloc[3].to_dict(), frame.iloc[5].to_dict()])
    np.testing.assert_array_equal(both, table.score(frame)[[3, 5]])
    views = pa.table(frame.drop(columns="k")).append_column("k", pa.array(frame.k, pa.string_view()))
    np.testing.assert_array_equal(table.score(views), table.score(frame))


def test_a_row_of_an_array() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3))
    detector = Detector.fit(X, **QUICK)
    for row in (X[3], X[3].tolist(), pd.Series(X[3])):
        assert detector.score(row) == detector.score(X)[3]
    masked = np.ma.masked_array(X, np.arange(120).reshape(40, 3) == 10)
    np.testing.assert_array_equal(detector.score(masked), detector.score(np.where(masked.mask, np.nan, X)))


def test_what_is_no_row_is_said(table: Detector, frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"a Series with the index 0, 1, 2, .*; a column of many rows is X.to_frame"):
        table.score(frame.x)
    with pytest.raises(DataError, match="column 'x' of a row holds a list; a dict is one row"):
        table.score({"x": [1, 2], "n": 3})
    with pytest.raises(DataError, match="input column 'n', 'k', 'on' not found"):
        table.score({"x": 1.0})
    with pytest.raises(DataError, match=r"an array of shape \(3,\); expected a DataFrame"):
        table.score(np.zeros(3))
    with pytest.raises(DataError, match=r"a dict of shape \(\); expected a DataFrame"):
        Detector.fit({"x": 1})


def test_a_picture_in_every_form(grey: Detector, digits: tuple[Any, Any], tmp_path: Path) -> None:
    picture, scores = digits[0][3], grey.score(digits[0])
    image = Image.fromarray(picture)
    image.save(tmp_path / "a.png")
    colour = image.convert("RGB")  # of equal channels
    for sample in (
        picture,
        picture[None],
        picture[:, :, None],
        image,
        colour,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        assert grey.score(sample).tolist() == [scores[3]]
    with pytest.raises(DataError, match="1 x 9 x 8 = 72 pixels, expected 1 x 8 x 8"):
        grey.score(image.resize((8, 9)))
    with pytest.raises(DataError, match="3 x 8 x 8 = 192 pixels, expected 1 x 8 x 8"):
        grey.score(Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)))
    with pytest.raises(UsageError, match=r"pictures have no columns; detector\.maps"):
        grey.explain(picture)


def test_a_picture_of_a_camera_is_read_as_its_file(camera: tuple[Detector, Path]) -> None:
    detector, folder = camera
    with Image.open(folder / "3.png") as image:
        pixels = np.asarray(image)
        expected = detector.score(folder / "3.png")
        assert len(expected) == 1
        for sample in (str(folder / "3.png"), image, pixels, pixels.transpose(2, 0, 1)):
            np.testing.assert_array_equal(detector.score(sample), expected)
    np.testing.assert_array_equal(detector.stream().push(pixels).score, expected[0])
    assert len(detector.score(folder)) == 12


def test_a_file_is_scored_by_its_path(table: Detector, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "rows.csv", index=False)
    np.testing.assert_array_equal(table.score(tmp_path / "rows.csv"), table.score(frame))


def test_an_explanation_names_the_row_of_a_series_that_is_not_in_order() -> None:
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=120, freq="h")
    frame = pd.DataFrame({"time": times, "a": rng.normal(size=120), "b": rng.normal(size=120)})
    detector = Detector.fit(frame, kind="series", **QUICK, data__window=8, model__channels=[4])
    frame.loc[60, "b"] = 50.0
    explained = detector.explain(frame[::-1], most=1).set_index("row")
    assert explained.index.is_monotonic_increasing
    assert explained.value[59] == 50.0 and explained.column[59] == "b"
