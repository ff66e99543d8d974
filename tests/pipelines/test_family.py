"""The studies of the family, end to end on tiny data, and their measures by hand or by another implementation."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.registry import MODELS, build
from anomaly_vae.training import loop
from pipelines import autoencoders, family, likelihood

QUIET = ["--set", "tracking.enabled=false"]


@pytest.fixture(autouse=True)
def place(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loop, "STEPS", 1)
    return workplace


def write_images(folder: Path) -> Path:
    """Stripes of 8x8 in two classes: 24 to train on and 10 to test."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 24), ("t10k", 10)):
        labels = (np.arange(n) % 2).astype(np.uint8)
        images = rng.integers(0, 100, (n, 8, 8), dtype=np.uint8)
        images[labels == 1, ::2] += 100
        for what, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
            (folder / f"{part}-{what}.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return folder


def cells(study: str) -> dict[str, dict[str, Any]]:
    """method -> figures of the one cell of each."""
    lines = Path(f"mlruns/studies/{study}/cells.jsonl").read_text().splitlines()
    return {row["method"]: row for row in map(json.loads, lines)}


def test_the_likelihood_of_every_member(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(likelihood.COMMON, "split", {"train": 18, "valid": 6})
    argv = [str(write_images(Path("images"))), "--epochs", "1", "--draws", "3", "--rows", "8", *QUIET]
    likelihood.main([*argv, "--set", "model.channels=[4,4]", "--set", "model.hidden=[8]", "--set", "model.latent=2"])
    found = cells("likelihood")
    assert set(found) == set(likelihood.MEMBERS)
    for member, figures in found.items():
        if member != "vq":  # whose posterior is certain: all draws are one
            assert figures["nll"] < figures["elbo"]
        assert figures["epochs"] == 1
        assert np.isfinite(list(figures.values())[3:]).all()
    assert found["dense flow"]["parameters"] > found["dense"]["parameters"]
    assert 1 <= found["vq"]["perplexity"] <= 64
    assert "valid_loss" in capsys.readouterr().out  # the bound of each epoch


def test_the_family_on_each_kind_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(Path("mnist"))
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(40, 3)), rng.normal(2, 2, (20, 3))])
    Path("adbench").mkdir()
    np.savez("adbench/small.npz", X=X, y=np.repeat([0, 1], [40, 20]))
    frame = pd.DataFrame(rng.normal(size=(500, 2)), columns=["a", "b"])
    frame["anomaly"] = (np.arange(500) > 450).astype(int)
    Path("skab").mkdir()
    frame.to_csv("skab/valve.csv", sep=";", index=False)
    for name, value in (("DIGITS", (1,)), ("TABLES", ("small",)), ("VALVES", ("valve",))):
        monkeypatch.setattr(family, name, value)
    small = {"pixels": ("conv2d", "vq"), "table": ("flow",), "series": ("conv1d", "flow")}
    kept = {kind: {m: family.MEMBERS[kind][m] for m in members} for kind, members in small.items()}
    monkeypatch.setattr(family, "MEMBERS", kept)
    family.main([".", "--set", "training.steps=2", *QUIET])
    rows = [json.loads(line) for line in Path("mlruns/studies/family/cells.jsonl").read_text().splitlines()]
    assert [(row["file"], row["method"]) for row in rows] == [
        ("digit 1", "conv2d"), ("digit 1", "vq"), ("small", "flow"), ("valve", "conv1d"), ("valve", "flow")
    ]  # fmt: skip
    assert all(0 <= row["auroc"] <= 1 and row["parameters"] > 0 for row in rows)


def test_a_spatial_latent_beside_a_flat_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    folder = Path("bottle/train/good")
    folder.mkdir(parents=True)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    monkeypatch.setitem(autoencoders.MODELS["spatial"], "channels", [4, 4, 4, 4])
    autoencoders.main(["bottle", "--size", "32", "--steps", "2", *QUIET])
    found = cells("autoencoders")
    assert found["spatial"]["latent"] == 4 * 4 * 4
    assert all(np.isfinite(figures["psnr"]) and -1 <= figures["ssim"] <= 1 for figures in found.values())


def test_psnr_by_hand() -> None:
    x = torch.full((2, 1, 4, 4), 0.5)
    assert autoencoders.psnr(x, x + torch.tensor([0.1, 0.01])[:, None, None, None]) == pytest.approx(30.0, abs=1e-3)


def test_ssim_by_another_implementation() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((1, 2, 20, 24))
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1)

    def blurred(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (0, 0, 1.5, 1.5), truncate=3.5)[..., 5:-5, 5:-5]

    mx, my = blurred(x), blurred(y)
    vx, vy, cov = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    found = autoencoders.ssim(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    assert found == pytest.approx(expected, abs=1e-4)
    assert autoencoders.ssim(torch.from_numpy(x).float(), torch.from_numpy(x).float()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vanilla", {"down.0": (1, 784, 400), "down.2": (1, 400, 40), "up.0": (1, 20, 400), "up.2": (1, 400, 784)}),
        ("textbook_conv", {"down.1.weight": (32, 1, 4, 4), "down.4.weight": (64, 32, 4, 4), "squeeze.0.weight":
                           (256, 7 * 7 * 64), "posterior.weight": (40, 256), "up.4.weight": (32, 1, 4, 4)}),
    ],
)  # fmt: skip
def test_the_textbook_networks_are_settings(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    config = resolve(load(Path(__file__).parents[2] / "configs" / f"{name}.yaml"), "pixels")
    weights = build(config.model, (1, 28, 28)).state_dict()
    assert {key: tuple(weights[key].shape) for key in shapes} == shapes


def test_every_member_is_compared() -> None:
    """`conditional` and the like, which need columns of their own, are not in the study."""
    compared = {model.get("kind") for members in family.MEMBERS.values() for model in members.values()}
    assert {"flow", "hierarchical", "vq", "kl_autoencoder"} <= compared <= {*MODELS, None}
