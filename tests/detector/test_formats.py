"""Folders of earlier formats load, and give the scores that the version that wrote them gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.detector.detector import Detector
from anomaly_vae.scoring.score_model import renamed_format_4

# Detectors of a table (categories, two members, mixture prior, neighbours), a series, pictures and feature maps, fitted
# for 8 steps and saved by format 4; scores.npz: what they scored, and the parts that came out.
FOLDER = Path(__file__).parent / "format4"


def read(saved: Any, name: str) -> Any:
    if name == "table":
        return pd.DataFrame(saved["table_numbers"], columns=["a", "b"]).assign(c=saved["table_words"])
    values: NDArray[Any] = saved[name]
    return pd.DataFrame(values, columns=["a", "b"]) if name == "series" else values


@pytest.mark.parametrize("name", ["table", "series", "pictures", "features"])
def test_a_folder_of_format_4_scores_as_it_did_and_is_saved_anew(name: str, tmp_path: Path) -> None:
    with np.load(FOLDER / "scores.npz") as saved:
        expected = {key.partition(".")[2]: nats for key, nats in saved.items() if key.startswith(f"{name}.")}
        data = read(saved, name)
    detector = Detector.load(FOLDER / name, "cpu")
    scores = detector.parts(data)
    assert list(scores.parts) == list(expected)
    for part, nats in expected.items():
        np.testing.assert_allclose(scores.parts[part], nats, rtol=1e-4, atol=1e-4)
    detector.save(tmp_path / "anew")
    np.testing.assert_array_equal(Detector.load(tmp_path / "anew", "cpu").parts(data).total, scores.total)


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
