"""Folders of earlier formats load, and give the scores that the version that wrote them gave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.storage import READABLE
from anomaly_vae.scoring.score_model import renamed_format_4

# Of each format detectors of a table (categories, two members, mixture prior, neighbours), a series, pictures and
# feature maps, fitted for 8 steps; scores.npz: what they scored, and the parts that came out. When the format changes,
# `python -m tests.detector.test_formats FOLDER` writes the next.
FOLDERS = Path(__file__).parent
NAMES = {"format4": ("table", "series", "pictures", "features"), "format5": ("table", "series", "pictures")}


def fitted(name: str, data: Any) -> Detector:
    """A detector of the current format."""
    size = {"table": {"hidden": [4], "latent": 2, "members": 2}, "series": {"channels": [4], "latent": 2}}
    tree: dict[str, Any] = {"model": size.get(name, {"kind": "conv2d", "channels": [4], "hidden": [4], "latent": 2})}
    tree |= {"training": {"steps": 8}, "data": {"kind": {"pictures": "pixels"}.get(name, name), "window": 8}}
    tree |= {"scoring": {"neighbours": 24} if name == "table" else {}}
    return Detector.fit(data, config=load(base=tree))


def write(folder: Path) -> None:
    """Detectors of the current format, and what they score."""
    rng, saved = np.random.default_rng(0), {}
    words = rng.choice(["x", "y"], 140)
    numbers = rng.normal(size=(140, 2)) * [1, 1.5]
    waves = np.sin(np.arange(260)[:, None] / [3, 5]) + 0.1 * rng.normal(size=(260, 2))
    squares = rng.integers(0, 60, (24, 16, 16)).astype(np.uint8)
    squares[:, 4:12, 4:12] += 120
    saved |= {"table_numbers": numbers[:20], "table_words": words[:20], "series": waves[:60], "pictures": squares[:4]}
    table = pd.DataFrame(numbers, columns=["a", "b"]).assign(c=words)
    for name, data in (("table", table), ("series", pd.DataFrame(waves, columns=["a", "b"])), ("pictures", squares)):
        detector = fitted(name, data)
        detector.save(folder / name)
        saved |= {f"{name}.{part}": nats for part, nats in detector.parts(read(saved, name)).parts.items()}
    np.savez_compressed(folder / "scores.npz", **saved)


def read(saved: Any, name: str) -> Any:
    if name == "table":
        return pd.DataFrame(saved["table_numbers"], columns=["a", "b"]).assign(c=saved["table_words"])
    values: NDArray[Any] = saved[name]
    return pd.DataFrame(values, columns=["a", "b"]) if name == "series" else values


@pytest.mark.parametrize(("version", "name"), [(version, name) for version in NAMES for name in NAMES[version]])
def test_a_folder_of_each_format_scores_as_it_did_and_is_saved_anew(version: str, name: str, tmp_path: Path) -> None:
    with np.load(FOLDERS / version / "scores.npz") as saved:
        expected = {key.partition(".")[2]: nats for key, nats in saved.items() if key.startswith(f"{name}.")}
        data = read(saved, name)
    detector = Detector.load(FOLDERS / version / name, "cpu")
    scores = detector.parts(data)
    assert list(scores.parts) == list(expected)
    for part, nats in expected.items():
        np.testing.assert_allclose(scores.parts[part], nats, rtol=1e-4, atol=1e-4)
    detector.save(tmp_path / "anew")
    np.testing.assert_array_equal(Detector.load(tmp_path / "anew", "cpu").parts(data).total, scores.total)


def test_a_folder_of_every_readable_format_is_kept() -> None:
    kept = {int(path.name.removeprefix("format")) for path in FOLDERS.glob("format*")}
    assert kept == set(READABLE) == {int(version.removeprefix("format")) for version in NAMES}


@pytest.mark.parametrize("whole", ["", "tile."])
def test_names_of_format_4_are_told_apart_by_what_the_score_has(whole: str) -> None:
    of_samples = {
        "model.head.log_sigma": "vae.head.log_sigma",
        "prior.means": "parts.kl.means",
        "energy.weight": "parts.recon.weight",
    }
    of_patches = {
        "model.out.bias": "patches.vae.out.bias",
        "positions.mean": "mean_feature",
        "positions.deviation": "deviation",
        "positions.border": "border",
        "positions.prior.whiten": "patches.parts.kl.whiten",
        "positions.memory.points": "patches.parts.neighbours.points",
        "positions.unit": "patches.parts.neighbours.unit",
        "positions.whiten": "patches.parts.recon.whiten",
    }
    for names in (of_samples, of_patches):
        expected = [whole + new for new in names.values()]
        state = {old: torch.tensor(float(number)) for number, old in enumerate(names)}
        renamed = renamed_format_4(state | {"positions.residual_mean": torch.tensor(9.0)}, expected)
        assert {name: int(value) for name, value in renamed.items()} == {new: i for i, new in enumerate(expected)}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
