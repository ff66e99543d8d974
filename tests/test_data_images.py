"""Image files: layouts of folders, manifests, decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_vae.config import DataConfig
from anomaly_vae.data import open_source
from anomaly_vae.data.base import Chunk, Source
from anomaly_vae.errors import DataError


def save(path: Path, value: int | tuple[int, ...] = 7, size: tuple[int, int] = (8, 8), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def opened(path: Path, **settings: object) -> Source:
    return open_source(path, DataConfig.model_validate({"size": 8, **settings}))


def whole(source: Source) -> Chunk:
    (chunk,) = source.chunks(source.learn(np.arange(source.count())), 100)
    return chunk


def texts(values: np.ndarray | None) -> list[str] | None:
    return None if values is None else values.tolist()


def test_mvtec_layout(tmp_path: Path) -> None:
    names = [
        "train/good/1.png",
        "train/good/0.png",
        "test/good/0.png",
        "test/crack/0.png",
        "ground_truth/crack/0_mask.png",
    ]
    for value, name in enumerate(names):
        save(tmp_path / "bottle" / name, value)
    source = opened(tmp_path / "bottle")
    assert (source.kind, source.name) == ("images", "bottle")
    assert source.why == "images in train and test folders: 4 of 2 kinds (2 train, 2 test)"
    assert texts(source.labels()) == ["crack", "good", "good", "good"]
    assert texts(source.roles()) == ["test", "test", "train", "train"]
    chunk = whole(source)
    assert chunk.ids.tolist() == ["test/crack/0.png", "test/good/0.png", "train/good/0.png", "train/good/1.png"]
    np.testing.assert_array_equal(chunk.values[:, 0, 0, 0], [3, 2, 1, 0])


def test_one_folder_a_class_and_a_flat_folder(tmp_path: Path) -> None:
    for name in ("ok/b.png", "ok/a.png", "broken/deep/c.png", ".hidden/d.png"):
        save(tmp_path / name)
    source = opened(tmp_path)
    assert texts(source.labels()) == ["broken", "ok", "ok"]
    assert source.roles() is None
    flat = opened(tmp_path / "ok")
    assert flat.labels() is None
    assert whole(flat).ids.tolist() == ["a.png", "b.png"]
    assert flat.why == "images in one folder: 2, no labels"


def test_manifest(tmp_path: Path) -> None:
    for name, value in (("one/a.png", 10), ("b.png", 20), ("c.png", 30)):
        save(tmp_path / name, value)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label,split\nc.png,0,train\none/a.png,0,val\nb.png,1.0,test\n")
    source = opened(manifest)
    assert (source.kind, source.name) == ("images", "list")
    assert texts(source.labels()) == ["0", "0", "1"]
    assert texts(source.roles()) == ["train", "valid", "test"]
    chunk = whole(source)
    assert chunk.ids.tolist() == ["c.png", "one/a.png", "b.png"]
    np.testing.assert_array_equal(chunk.values[:, 0, 0, 0], [30, 10, 20])


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("path\na.png\ngone.png\n", {}, r"row 2 \(line 3\): no image 'gone\.png'; paths are relative"),
        ("path,split\na.png,train\na.png,later\n", {}, r"row 2 \(line 3\), column 'split': 'later'; expected train"),
        ("file,x\na.png,1\n", {"kind": "images"}, "column 'path' not found; the columns are 'file', 'x'"),
        ("path\na.png\n", {"label": "y"}, "label column 'y' not found"),
    ],
)
def test_a_faulty_manifest(tmp_path: Path, content: str, settings: dict[str, object], message: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "list.csv", **settings).labels()


@pytest.mark.parametrize(
    ("mode", "value", "ending", "expected"),
    [
        ("L", 100, "png", [100]),
        ("1", 1, "png", [255]),
        ("I;16", 257 * 100, "png", [100]),
        ("LA", (100, 3), "png", [100]),
        ("L", 100, "bmp", [100]),
        ("RGB", (10, 20, 30), "png", [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), "png", [10, 20, 30]),
        ("RGB", (10, 20, 30), "tiff", [10, 20, 30]),
        ("RGB", (50, 50, 50), "png", [50]),
    ],
)
def test_every_depth_becomes_grey_or_colour_of_8_bits(
    tmp_path: Path, mode: str, value: int | tuple[int, ...], ending: str, expected: list[int]
) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.{ending}", value, mode=mode)
    values = whole(opened(tmp_path)).values
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, np.broadcast_to(np.reshape(expected, (-1, 1, 1)), (2, len(expected), 8, 8)))


def test_one_colour_picture_makes_all_colour_unless_told_otherwise(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 9)
    save(tmp_path / "b.png", (10, 20, 30), mode="RGB")
    assert opened(tmp_path).learn(np.arange(2)).shape == (3, 8, 8)
    assert opened(tmp_path, channels=1).learn(np.arange(2)).shape == (1, 8, 8)


def test_pictures_are_resized_and_turned_upright(tmp_path: Path) -> None:
    array = np.zeros((6, 12), np.uint8)
    array[:, :6] = 200  # the left half is bright
    picture = Image.fromarray(array)
    exif = picture.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the left becomes the top
    picture.save(tmp_path / "a.png", exif=exif)
    picture.save(tmp_path / "b.png")
    turned, straight = whole(opened(tmp_path, size=4)).values[:, 0]
    np.testing.assert_array_equal(turned[[0, 3]], [[200] * 4, [0] * 4])
    np.testing.assert_array_equal(straight[:, [0, 3]], [[200, 0]] * 4)


@pytest.mark.parametrize("cut", [0, 20, 300])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_truncated_image_is_named(tmp_path: Path, ending: str, cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    for name in "ab":
        Image.fromarray(noise).save(tmp_path / f"{name}.{ending}")
    source = opened(tmp_path)
    layout = source.learn(np.arange(2))
    path = tmp_path / f"b.{ending}"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"b\.{ending}: not a readable image, or its end is missing") as raised:
        list(source.chunks(layout, 10))
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a folder, expected a CSV or Parquet file for kind table"):
        opened(tmp_path, kind="table")


def test_one_image_is_too_few_to_train_on(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 image to train on"):
        opened(tmp_path).learn(np.arange(1))
