"""Pictures with masks from fit to maps: what is drawn, saved and measured is the same thing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score

from anomaly_vae.core.config import Config, DataConfig, ThresholdConfig
from anomaly_vae.data.images.masks import ImageFiles
from anomaly_vae.data.open import open_source
from anomaly_vae.data.split import split
from anomaly_vae.detector.anomaly_maps import pixel_threshold, resized
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.reporting.plots import overlays
from anomaly_vae.training import loop
from anomaly_vae.workflows import fit
from pipelines import defects
from tests.commands import ok

HEIGHT, WIDTH, SIZE = 24, 40, 16  # of the files, and as the network reads them
SETTINGS = ["--set", f"data.size={SIZE}", "--set", "model.kind=conv2d", "--set", "training.steps=64",
            "--set", "model.channels=[4,8]"]  # fmt: skip
UNTRACKED = ["--set", "tracking.enabled=false"]


def part(seed: int, cut: bool) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A grey stripe on black (H, W), and where it is cut: a bright square of 8 x 8 somewhere."""
    rng = np.random.default_rng(seed)
    picture, mask = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH), bool)
    picture[8:16] = 120
    if cut:
        y, x = rng.integers(0, (HEIGHT - 8, WIDTH - 8))
        mask[y : y + 8, x : x + 8] = True
    picture[mask] = 255
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8), mask


def write(root: Path, name: str, seed: int, cut: bool = False) -> None:
    picture, mask = part(seed, cut)
    files = {f"{name}.png": picture}
    if cut:
        files[f"ground_truth/{name.removeprefix('test/')}_mask.png"] = np.where(mask, 255, 0).astype(np.uint8)
    for file, array in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """parts/ in MVTec's layout, and `detector`, whose thresholds saw half of its test pictures."""
    root = tmp_path_factory.mktemp("defects")
    for seed in range(24):
        write(root / "parts", f"train/good/{seed:02d}", seed)
    for seed in range(24, 32):
        write(root / "parts", f"test/good/{seed}", seed)
        write(root / "parts", f"test/cut/{seed}", seed, cut=True)
    store = ["--set", f"tracking.folder={root / 'runs'}"]
    said = ok("fit", str(root / "parts"), *SETTINGS, *store, "-o", str(root / "detector"), "--json")
    (root / "said.json").write_text(said)
    return root


@pytest.fixture(scope="module")
def values(folder: Path) -> Path:
    """The maps of all test pictures, and their values."""
    ok("score", str(folder / "parts/test"), "-m", str(folder / "detector"), "--maps", str(folder / "maps"),
        "--all-maps", "--map-values", "-o", str(folder / "scores.csv"))  # fmt: skip
    return folder / "maps"


def test_a_fit_reports_pixels_and_saves_their_threshold(folder: Path) -> None:
    found: dict[str, Any] = json.loads((folder / "said.json").read_text())["metrics"]
    assert found["pixel_auroc"] > 0.9  # bright squares where there was none
    assert 0 < found["aupro"] <= 1
    assert found["regions"] == 4  # half of test, a square each
    chosen = Detector.load(folder / "detector").pixels
    assert chosen is not None
    assert (chosen.policy, chosen.labelled) == ("f1", True)
    assert chosen.anomalies == 4 * 64  # pixels of the other half, at the size of the files
    assert chosen.normals == 8 * HEIGHT * WIDTH + 5 * HEIGHT * WIDTH - 4 * 64
    assert [path.name for path in (folder / "runs").rglob("reconstructions.png")] == ["reconstructions.png"]


def test_evaluate_measures_the_maps_that_score_writes(folder: Path, values: Path) -> None:
    said = json.loads(ok("evaluate", str(folder / "parts"), "-m", str(folder / "detector"), "--json"))
    assert said["metrics"]["rows"] == 16  # of train and test, test
    names = sorted(path.relative_to(values).with_suffix("") for path in values.rglob("*.npy"))
    heat = np.stack([np.load(values / f"{name}.npy") for name in names])
    assert heat.shape == (16, HEIGHT, WIDTH)
    assert heat.dtype == np.float32
    mask = np.stack([part(int(name.name), name.parts[0] == "cut")[1] for name in names])
    cut = Detector.load(folder / "detector").pixels.value
    assert said["metrics"]["pixel_auroc"] == pytest.approx(roc_auc_score(mask.ravel(), heat.ravel()), abs=1e-4)
    assert said["metrics"]["pixel_f1"] == pytest.approx(f1_score(mask.ravel(), heat.ravel() >= cut))
    false = [(h >= cut).any() for h, name in zip(heat, names, strict=True) if name.parts[0] == "good"]
    assert said["metrics"]["pixel_false_alarm_rate"] == pytest.approx(np.mean(false))


def test_masks_of_some_anomalies_are_measured_with_the_normal_pictures(
    folder: Path, values: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "parts/test", tmp_path / "test")
    shutil.copytree(folder / "parts/ground_truth", tmp_path / "ground_truth")
    for seed in (25, 27, 28):
        (tmp_path / f"ground_truth/cut/{seed}_mask.png").unlink()
    said = json.loads(ok("evaluate", str(tmp_path / "test"), "-m", str(folder / "detector"), "--json"))
    assert "masks for 5 of 8 anomalous pictures: pixel metrics are over those and the normal ones" in said["notes"]
    names = [path.relative_to(values).with_suffix("") for path in values.rglob("*.npy")]
    names = [name for name in names if name.parts[0] == "good" or int(name.name) not in (25, 27, 28)]
    heat = np.stack([np.load(values / f"{name}.npy") for name in names])
    mask = np.stack([part(int(name.name), name.parts[0] == "cut")[1] for name in names])
    assert said["metrics"]["pixel_auroc"] == pytest.approx(roc_auc_score(mask.ravel(), heat.ravel()), abs=1e-4)
    assert said["metrics"]["rows"] == 16


def test_a_pixel_threshold_leaves_anomalies_without_a_mask_out(tmp_path: Path) -> None:
    heat = np.random.default_rng(0).random((6, 8, 8)).astype(np.float32)
    heat[3:, :2] += 0.8
    files, masks = [tmp_path / f"{i}.png" for i in range(6)], [tmp_path / f"m{i}.png" for i in range(6)]
    for i in range(6):
        marked = np.zeros((8, 8), np.uint8)
        marked[:2] = 255 * (i > 2)
        Image.fromarray(marked).save(files[i])
        Image.fromarray(marked).save(masks[i])
    config, is_anomaly = ThresholdConfig(unlabelled="fpr=0.1"), np.arange(6) > 2
    some = ImageFiles("p", files, [None, None, None, masks[3], None, masks[5]])
    found = pixel_threshold(config, heat, np.arange(6), is_anomaly, some)
    rows = np.array([0, 1, 2, 3, 5])  # without the anomalous 4
    every = ImageFiles("p", files, [None] * 3 + masks[3:])
    expected = pixel_threshold(config, heat[rows], rows, is_anomaly[rows], every)
    assert (found, found.anomalies) == (expected, 2 * 16)
    none = pixel_threshold(config, heat, np.arange(6), is_anomaly, ImageFiles("p", files, [masks[0]] + [None] * 5))
    assert not none.labelled


def test_a_map_is_the_excess_of_its_picture_at_its_own_size(folder: Path, values: Path) -> None:
    detector = Detector.load(folder / "detector")
    source = open_source(folder / "parts/test/cut", DataConfig(size=SIZE))
    ((_, scores),) = detector.score_source(source, explain=True)
    assert scores.elements.sum(axis=(1, 2, 3)) == pytest.approx(scores.parts["recon"], rel=1e-5)
    heat = detector.maps(scores)
    np.testing.assert_allclose(heat, (scores.elements - detector.normal_mean)[:, 0], atol=1e-6)
    np.testing.assert_array_equal(np.load(values / "cut/24.npy"), resized(heat[0], (HEIGHT, WIDTH)))


def test_resizing_a_map_is_bilinear() -> None:
    heat = np.array([[0.0, 4.0]], np.float32)
    np.testing.assert_allclose(resized(heat, (2, 4)), [[0, 1, 3, 4]] * 2)  # centres at -1/4, 1/4, 3/4, 5/4


def test_drawn_maps_show_contour_and_mask_at_the_size_of_the_file(folder: Path, values: Path) -> None:
    cut = Detector.load(folder / "detector").pixels.value
    factor = -(-overlays.SMALLEST // WIDTH)
    for name, wrong in (("cut/24", True), ("good/24", False)):
        drawn = np.asarray(Image.open(values / f"{name}.png"))
        plain = drawn[: HEIGHT * factor, : WIDTH * factor]
        hot = drawn[: HEIGHT * factor, WIDTH * factor + overlays.GAP : 2 * WIDTH * factor + overlays.GAP]
        inside = np.load(values / f"{name}.npy") >= cut
        white = (hot == overlays.CONTOUR).all(axis=2)
        assert white.any() == inside.any()
        assert not (white & ~np.kron(inside, np.ones((factor, factor), bool))).any()
        blue = (plain == overlays.MASK).all(axis=2)
        assert blue.sum() == (4 * (8 * factor) - 4 if wrong else 0)  # the edge of the square


def test_only_alarms_are_drawn_unless_all_are_asked_for(folder: Path, tmp_path: Path) -> None:
    out = ok("score", str(folder / "parts/test"), "-m", str(folder / "detector"), "--maps", str(tmp_path / "maps"))
    flagged = [line.split(",")[0] for line in out.splitlines() if line.endswith("true")]
    assert 0 < len(flagged) < 16
    drawn = {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.*")}
    assert drawn == set(flagged)


def test_a_share_of_the_test_pictures_chooses_or_none(folder: Path) -> None:
    source = open_source(folder / "parts", DataConfig(size=SIZE))
    test = np.flatnonzero(source.roles() == "test")
    for share, taken in ((0.0, 0), (0.25, 2), (0.5, 4)):  # of 8 good and of 8 cut
        config = resolve(Config.model_validate({"split": {"test_share": share}}), "images")
        found = split(source, config)
        shared = np.intersect1d(found.valid, test)
        assert [int(found.anomalous[shared].sum()), int((~found.anomalous[shared]).sum())] == [taken, taken]
        np.testing.assert_array_equal(np.sort(np.r_[shared, found.test]), test)
        assert len(found.valid) - len(shared) == 5  # and a fifth of train


def test_the_study_measures_every_category_on_its_whole_test(
    folder: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "STEPS", 4)  # of an epoch: the numbers are those of a direct fit, of any weights
    (workplace / "parts").symlink_to(folder / "parts")
    (workplace / "remarks").mkdir()
    few = [*SETTINGS, *UNTRACKED, "--set", "training.steps=8"]
    argv = [str(workplace), "--out", "out", *few]
    defects.main(argv)
    (cell,) = [json.loads(line) for line in Path("out/cells.jsonl").read_text().splitlines()]
    assert (cell["file"], cell["seed"], cell["method"]) == ("parts", 0, "anomaly-vae")
    overrides = few[1::2]
    fitted = fit.fit(str(folder / "parts"), load(overrides=[*overrides, "split.test_share=0"]))
    assert fitted.rows["test"] == 16
    assert {name: cell[name] for name in defects.METRICS} == {name: fitted.metrics[name] for name in defects.METRICS}
    # a second call computes nothing
    monkeypatch.setattr(defects, "measure", lambda *_: pytest.fail("computed again"))
    defects.main(argv)
    assert "anomaly-vae" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no category in it"):
        defects.main([str(workplace / "remarks")])


@pytest.mark.parametrize("threshold", [0.5, 1394.0, 123_456.0, 3e7])
def test_the_words_of_the_scale_are_whole(threshold: float) -> None:
    drawn = overlays.overlay(np.zeros((256, 256, 3), np.uint8), np.zeros((256, 256)), threshold)
    assert (drawn[:, -2:] == 255).all(), "words run into the edge"
    assert (drawn[:, -40:] < 255).any()
