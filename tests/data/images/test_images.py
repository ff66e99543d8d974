"""Image files: layouts of folders, manifests, decoding."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.images.decoding import BrokenImageError, limit_pixels, resize, size
from anomaly_vae.data.open import open_source
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.split import split
from anomaly_vae.detector.configuration import load


def save(path: Path, value: int | tuple[int, ...] = 7, size: tuple[int, int] = (8, 8), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def opened(path: Path, **settings: object) -> Source:
    return open_source(path, DataConfig.model_validate({"size": 8, **settings}))


def whole(source: Source) -> Chunk:
    (chunk,) = source.chunks(source.learn(np.arange(source.count())), 100)
    return chunk


def texts(values: np.ndarray | None) -> list[str] | None:
    return None if values is None else values[:].tolist()


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
    assert source.why == "images in train and test folders: 4 of 2 kinds (2 train, 2 test), 1 with a mask"
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
    save(tmp_path / "only" / "good" / "a.png")
    assert opened(tmp_path / "only").labels() is None


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
        ("I;16", 4095, "png", [255]),  # twelve bits a pixel
        ("LA", (100, 255), "png", [100]),
        ("LA", (100, 0), "png", [255]),  # what cannot be seen is white, whatever lies under it
        ("L", 100, "bmp", [100]),
        ("RGB", (10, 20, 30), "png", [10, 20, 30]),
        ("RGBA", (10, 20, 30, 255), "png", [10, 20, 30]),
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


def draw(path: Path, value: int | np.ndarray, size: tuple[int, int] = (8, 8)) -> None:
    """A grey picture (width, height) of one value, or an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = value if isinstance(value, np.ndarray) else np.full(size[::-1], value, np.uint8)
    Image.fromarray(array).save(path)


CORNER = np.zeros((6, 10), np.uint8)
CORNER[:2, :3] = 1  # VisA marks with small numbers, not with white


def test_masks_of_the_mvtec_layout(tmp_path: Path) -> None:
    for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/cut/0.png", "test/cut/1.jpg"):
        draw(tmp_path / name, 9, (10, 6))
    draw(tmp_path / "ground_truth/cut/0_mask.png", CORNER)
    draw(tmp_path / "ground_truth/cut/1.png", 255 * CORNER[::-1])  # BTAD's masks are called as their pictures
    for root, rows in ((tmp_path, [0, 1, 2]), (tmp_path / "test", [0, 1, 2])):
        source = opened(root)
        assert source.why.endswith(", 2 with a mask")
        image_files = source.image_files()
        assert image_files is not None
        assert image_files.masked
        np.testing.assert_array_equal(image_files.mask(rows[0]), CORNER > 0)
        np.testing.assert_array_equal(image_files.mask(rows[1]), CORNER[::-1] > 0)
        np.testing.assert_array_equal(image_files.mask(rows[2]), np.zeros((6, 10), bool))  # a good one needs none
        image_files.require(np.array(source.labels()) == "cut")
    assert not any("ground_truth" in id_ for id_ in whole(opened(tmp_path)).ids)


def test_an_anomalous_picture_without_mask_is_not_measured_and_a_mask_of_another_size_refused(tmp_path: Path) -> None:
    for name in ("good/0.png", "cut/0.png", "cut/1.png"):
        draw(tmp_path / name, 9, (10, 6))
    draw(tmp_path / "masks/cut/0.png", CORNER)
    anomalous = np.array([True, True, False])
    files = opened(tmp_path).image_files()
    assert (
        files.require(anomalous)
        == "masks for 1 of 2 anomalous pictures: pixel metrics are over those and the normal ones"
    )
    assert [files.measured(row, bool(anomalous[row])) for row in range(3)] == [True, False, True]
    draw(tmp_path / "masks/cut/1.png", CORNER[:, :6])
    with pytest.raises(DataError, match=r"1\.png: a mask of 6x6 pixels for a picture of 10x6"):
        opened(tmp_path).image_files().require(anomalous)


def test_a_mask_lies_over_the_upright_picture(tmp_path: Path) -> None:
    """The picture is stored lying, and its mask was drawn over what a viewer shows."""
    picture = Image.fromarray(np.zeros((10, 6), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    (tmp_path / "cut").mkdir()
    picture.save(tmp_path / "cut/0.jpg", exif=exif)
    lossy = Image.fromarray(255 * CORNER)
    (tmp_path / "masks/cut").mkdir(parents=True)
    lossy.save(tmp_path / "masks/cut/0.jpg", quality=100, subsampling=0)  # noise around black is no anomaly
    image_files = opened(tmp_path).image_files()
    assert image_files.size(0) == (6, 10)
    assert image_files.picture(0).shape == (6, 10, 3)
    np.testing.assert_array_equal(image_files.mask(0), CORNER > 0)


def test_a_palette_is_a_picture_of_its_colours_and_a_mask_of_its_numbers(tmp_path: Path) -> None:
    paletted = Image.fromarray(CORNER, "P")
    paletted.putpalette([0, 0, 0, 0, 0, 0] + [9] * 762)  # 0 and 1 are both drawn black
    for name in ("cut/0.png", "masks/cut/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        paletted.save(tmp_path / name)
    image_files = opened(tmp_path).image_files()
    assert image_files.picture(0).max() == 0
    np.testing.assert_array_equal(image_files.mask(0), CORNER > 0)


VISA = """object,split,label,image,mask
candle,train,normal,candle/0.JPG,
candle,test,anomaly,candle/1.JPG,masks/1.png
pcb,test,normal,pcb/0.JPG,
candle,test,normal,candle/2.JPG,
"""


def test_visa_split_file(tmp_path: Path) -> None:
    """Its paths are relative to the folder above the one it lies in."""
    for value, name in enumerate(("candle/0.JPG", "candle/1.JPG", "candle/2.JPG", "pcb/0.JPG")):
        draw(tmp_path / name, 50 * value, (10, 6))
    draw(tmp_path / "masks/1.png", CORNER)
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text(VISA)
    source = opened(tmp_path / "split_csv/1cls.csv", object="candle")
    assert (source.kind, source.name) == ("images", "candle")
    assert texts(source.labels()) == ["normal", "anomaly", "normal"]
    assert texts(source.roles()) == ["train", "test", "test"]
    chunk = whole(source)
    assert chunk.ids.tolist() == ["candle/0.JPG", "candle/1.JPG", "candle/2.JPG"]
    np.testing.assert_array_equal(chunk.values[:, 0, 0, 0], [0, 50, 100])
    np.testing.assert_array_equal(source.image_files().mask(1), CORNER > 0)
    with pytest.raises(DataError, match=r"holds 2 objects \('candle', 'pcb'\); choose one, e\.g\. --set data\.object="):
        opened(tmp_path / "split_csv/1cls.csv")
    with pytest.raises(DataError, match="column 'object' has no 'cup'"):
        opened(tmp_path / "split_csv/1cls.csv", object="cup")


def test_a_manifest_with_masks_names_what_it_does_not_read(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 9, (10, 6))
    draw(tmp_path / "m.png", CORNER)
    (tmp_path / "list.csv").write_text("path,label,mask,camera\na.png,bad,m.png,2\n")
    source = opened(tmp_path / "list.csv")
    np.testing.assert_array_equal(source.image_files().mask(0), CORNER > 0)
    assert source.notes == ("not read: column 'camera'; known are 'path', 'image', 'label', 'mask', 'split', 'object'",)
    (tmp_path / "list.csv").write_text("path,mask\na.png,\na.png,gone.png\n")
    with pytest.raises(DataError, match=r"row 2 \(line 3\): no mask 'gone\.png'"):
        opened(tmp_path / "list.csv")


def test_broken_files_are_named_together_or_skipped_and_named(tmp_path: Path) -> None:
    for name in "abcd":
        draw(tmp_path / f"{name}.png", ord(name))
    for name in "bd":
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    source = opened(tmp_path)
    with pytest.raises(DataError, match=r"2 pictures cannot be read: b\.png \(.*\), d\.png \(.*--skip-broken"):
        source.learn(np.arange(4))
    skipped = opened(tmp_path, skip_broken=True)
    assert whole(skipped).ids.tolist() == ["a.png", "c.png"]
    (note,) = skipped.notes
    assert note.startswith("skipped 2 broken pictures: b.png (not a readable image, or its end is missing), d.png (")
    for name in "ac":
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(DataError, match="none is left"):
        opened(tmp_path, skip_broken=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "wanted"), [((8, 8), (16, 12)), ((90, 70), (25, 25)), ((5, 60), (32, 8)), ((1, 1), (4, 4))]
)
def test_pictures_are_resized_as_torchvision_does(
    channels: int, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    import torch
    from torchvision.transforms.v2 import functional

    stored = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
    picture = stored.transpose(2, 0, 1)  # (C, H, W)
    expected = functional.resize(torch.from_numpy(picture), list(wanted), antialias=True)
    np.testing.assert_array_equal(resize(picture, *wanted), expected)


def test_a_picture_of_a_list_without_a_label_is_in_no_part(tmp_path: Path) -> None:
    lines = []
    for number, (label, part) in enumerate(
        [("good", "train")] * 6
        + [("", "train")] * 3
        + [("good", "test")] * 4
        + [("crack", "test")] * 4
        + [("", "test")]
    ):
        save(tmp_path / f"{number}.png", number)
        lines.append(f"{number}.png,{label},{part}")
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    source = opened(tmp_path / "list.csv")
    config = load(base={"split": {"train": 0.6, "valid": 0.2}})
    found = split(source, config)
    assert not {6, 7, 8, 17} & set(np.concatenate([found.train, found.valid, found.test]).tolist())
    assert found.note.startswith("4 of 18 pictures have no label in 'label' and were left out")
    assert found.anomalous is not None and np.flatnonzero(found.anomalous).tolist() == [13, 14, 15, 16]


DAYS = ("2024-03-01", "2024-03-02")


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (DAYS, None),
        (("day 1", "day 2"), None),
        (("cam_left", "cam_right"), None),
        (("1", "2", "3"), None),
        (("20240301T1030", "20240302T0915"), None),
        (("Monday", "tuesday 2"), None),
        (("bottle1", "bottle2"), None),
        (("0", "1"), ["0", "1"]),
        (("good", "cut"), ["cut", "good"]),
        (("good", "2"), ["2", "good"]),
        (("crack1", "crack2"), ["crack1", "crack2"]),
        (("cats", "dogs"), ["cats", "dogs"]),
        ((f"{DAYS[0]}/good", f"{DAYS[1]}/good", f"{DAYS[1]}/cut"), ["good", "cut", "good"]),
        (("photos/good", "photos/cut"), ["cut", "good"]),
        (("good", "cut", "."), ["", "cut", "good"]),
    ],
)
def test_only_folders_that_name_classes_are_labels(
    tmp_path: Path, folders: tuple[str, ...], labels: list[str] | None
) -> None:
    for folder in folders:
        save(tmp_path / folder / "a.png")
    source = opened(tmp_path)
    assert texts(source.labels()) == labels
    assert bool(source.notes) == (labels is None)


def test_folders_by_day_are_classes_for_who_says_so(tmp_path: Path) -> None:
    for day in DAYS:
        save(tmp_path / day / "a.png")
    (note,) = opened(tmp_path).notes
    assert note.endswith(
        "all pictures are taken as normal; --normal 2024-03-01 makes them classes of which that one is normal"
    )
    assert texts(opened(tmp_path, normal=DAYS[:1]).labels()) == [*DAYS]


def test_endings_are_read_or_named(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.PGM", "c.ppm", "d.webp", "e.TIF", "f.jpe", "g.avif"):
        Image.new("L" if name.endswith("PGM") else "RGB", (8, 8), 7).save(
            tmp_path / name, "JPEG" if name[0] in "af" else None
        )
    for name in ("h.heic", "i.HEIC", "j.raw", "noending", "readme.txt", ".hidden.raw"):
        (tmp_path / name).write_bytes(b"x")
    source = opened(tmp_path)
    assert len(whole(source)) == 7
    (note,) = (note for note in source.notes if "grey" not in note)
    assert note.startswith("not read: 2 .heic, 1 .raw, 1 without an ending; pictures end in .avif, .bmp")
    (tmp_path / "only").mkdir()
    (tmp_path / "only/a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images in this folder, and it holds 1 \.heic; expected files ending in"):
        opened(tmp_path / "only")


def test_mixed_grey_and_colour_and_later_pictures_are_told(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / f"{number:02d}.png", number)
    grey = opened(tmp_path)
    layout = grey.learn(np.arange(30))
    assert layout.shape == (1, 8, 8)
    whole(grey)
    assert grey.notes == ()
    save(tmp_path / "98.png", (9, 9, 9), mode="RGB")  # without colour, though stored as such
    save(tmp_path / "99.png", (10, 20, 30), mode="RGB")
    mixed = opened(tmp_path)
    assert whole(mixed).values.shape == (32, 3, 8, 8)  # the colour of one picture is kept
    assert mixed.notes == (
        "30 of 32 pictures are grey and are read as colour, as the others are; --set data.channels=1 reads all as grey",
    )
    told = opened(tmp_path)
    list(told.chunks(layout, 10))
    assert told.notes == (
        "1 of 32 pictures are in colour and are read as grey; fit with --set data.channels=3 if colour tells",
    )
    (tmp_path / "two").mkdir()
    frames = [Image.new("L", (8, 8), value) for value in (5, 9)]
    for name in "ab":
        frames[0].save(tmp_path / f"two/{name}.tif", save_all=True, append_images=frames[1:])
    layers = opened(tmp_path / "two")
    assert np.unique(whole(layers).values).tolist() == [5]
    assert layers.notes == ("2 of 2 files hold several pictures, of which the first is read",)


def test_one_picture_is_scored_but_not_trained_on(tmp_path: Path) -> None:
    for value, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", value)
    layout = opened(tmp_path).learn(np.arange(3))
    one = opened(tmp_path / "c.png")
    (chunk,) = one.chunks(layout, 10)
    assert (one.why, chunk.ids.tolist(), np.unique(chunk.values).tolist()) == ("one picture", ["c.png"], [2])
    with pytest.raises(DataError, match=r"c\.png: one picture; training needs a folder of normal pictures"):
        one.preload(ArrayStore(0, None))
    with pytest.raises(DataError, match="a picture, expected a CSV or Parquet file for kind table"):
        opened(tmp_path / "c.png", kind="table")


def test_a_damaged_tiff_is_one_error_and_writes_nothing_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow logs what it finds wrong, which without any handler goes to stderr."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "tiff")
    samples_per_pixel = b"\x15\x01\x03\x00\x01\x00\x00\x00"
    broken = file.getvalue().replace(samples_per_pixel + b"\x03\x00", samples_per_pixel + b"\x00\x08")
    assert broken != file.getvalue()
    (tmp_path / "a.tiff").write_bytes(broken)
    limit_pixels(1 << 20)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own, which no command has
    with pytest.raises(BrokenImageError, match="not a readable image"):
        size(tmp_path / "a.tiff")
    assert capsys.readouterr().err == ""
