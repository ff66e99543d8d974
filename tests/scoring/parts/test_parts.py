"""PARTS: what every part promises, and that one file and one line add a part to the score."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_vae.core.errors import ConfigError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit_memory
from anomaly_vae.scoring.parts import PARTS, names_of, part_class
from anomaly_vae.scoring.parts.knn_density import KNNDensity
from anomaly_vae.scoring.parts.memory_bank import MemoryBank
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.scoring.score_model import ScoreModel

TINY = {"training__steps": 4, "model__hidden": [8], "model__members": 1, "split__folds": 0, "device": "cpu"}
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(RNG.normal(size=(120, 3)), columns=list("abc"))
SERIES = pd.DataFrame(RNG.normal(size=(300, 2)), columns=list("ab"))

ONE_FILE = '''
import torch
from anomaly_vae.scoring.parts.base import Batch, Normals, Part


class Largest(Part):
    """The largest number of a sample, in units of its mean over training samples."""

    column = "largest"
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(()))

    def fit(self, normals: Normals) -> None:
        self.scale = self.largest(normals.train()).mean()

    def nats(self, batch: Batch) -> torch.Tensor:
        return self.largest(batch.x) / self.scale

    def largest(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs().flatten(1).amax(1)
'''
ONE_LINE = {"largest": ("largest", "largest_part:Largest")}


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of its own column, as CONTRIBUTING says."""
    (tmp_path / "largest_part.py").write_text(ONE_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "largest_part", raising=False)
    for name, line in ONE_LINE.items():
        monkeypatch.setitem(PARTS, name, line)


@pytest.mark.parametrize("name", PARTS)
def test_the_registry_knows_each_parts_column_without_importing_it(name: str) -> None:
    column, _ = PARTS[name]
    assert part_class(name).column == column
    assert name in names_of(column)


def test_names_are_those_of_the_settings() -> None:
    assert names_of("recon") == ("likelihood", "energy", "level", "covariance")
    assert names_of("kl") == ("normal", "mixture")


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(("data", "kind"), [(TABLE, "table"), (SERIES, "series")])
def test_one_file_and_one_line_add_a_part_that_is_fitted_scored_saved_and_loaded(
    data: pd.DataFrame, kind: str, tmp_path: Path
) -> None:
    plain = Detector.fit(data, kind=kind, scoring__parts=[], **TINY)
    detector, seen = fit_memory(data, kind=kind, scoring__parts=["largest"], **TINY)
    scores, before = detector.parts(data), plain.parts(data)
    assert list(scores.parts) == list(detector.score_model.part_names)
    assert set(scores.parts) - set(before.parts) == {"largest"}
    for name, nats in before.parts.items():
        np.testing.assert_array_equal(scores.parts[name], nats)
    np.testing.assert_allclose(scores.total, sum(scores.parts.values()), atol=1e-5)
    if kind == "table":
        scaled = detector.scaler.transform(data.to_numpy())
        largest = np.abs(scaled).max(1)
        expected = largest / largest[seen.split.train].mean()
        assert scores.raw is not None
        np.testing.assert_allclose(scores.raw["largest"], expected, rtol=1e-5)
    detector.save(tmp_path / "detector")
    again = Detector.load(tmp_path / "detector", "cpu").parts(data)
    for name, nats in scores.parts.items():
        np.testing.assert_array_equal(again.parts[name], nats)


def test_settings_that_name_no_part_or_one_twice() -> None:
    with pytest.raises(
        ConfigError, match=r"setting 'scoring\.parts' = 'nothing': Input should be 'likelihood', 'energy'"
    ):
        Detector.fit(TABLE, scoring__parts=["nothing"], **TINY)
    with pytest.raises(ConfigError, match=r"two parts in its column 'kl'; leave one out of scoring\.parts"):
        Detector.fit(TABLE, scoring__parts=["mixture"], **TINY)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scoring__recon": "energy"}, r"scoring\.recon=energy is of pictures"),
        ({"scoring__recon": "level"}, r"scoring\.recon=level is of the sensors of a series"),
    ],
)
def test_a_part_says_what_it_is_a_part_of(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Detector.fit(TABLE, **settings, **TINY)


def test_parts_take_their_size_from_the_data_and_from_the_tensors(tmp_path: Path) -> None:
    settings = {"scoring__neighbours": 5000, "scoring__prior": "mixture", "scoring__components": 50, "model__latent": 2}
    detector, seen = fit_memory(TABLE, **settings, **TINY)
    split, score = seen.split, detector.score_model
    assert isinstance(score, ScoreModel)
    near, prior = score.part(KNNDensity), score.part(MixturePrior)
    assert near is not None
    assert prior is not None
    rows = len(split.train) + len(split.valid)
    assert near.weights.shape[0] * near.weights.shape[2] == 4 * (rows // 4)
    assert len(prior.means) == len(split.train) // (8 * 2)
    assert (detector.config.scoring.neighbours, detector.config.scoring.components) == (5000, 50)
    detector.save(tmp_path / "detector")
    again = Detector.load(tmp_path / "detector", "cpu")
    np.testing.assert_array_equal(again.score(TABLE), detector.score(TABLE))
    assert score.part(MemoryBank) is None


def test_a_table_without_numbers_has_no_distances(tmp_path: Path) -> None:
    words = pd.DataFrame({"u": RNG.choice(["x", "y"], 90), "v": RNG.choice(["p", "q", "r"], 90)})
    detector = Detector.fit(words, **TINY)
    assert detector.score_model.part_names == ("recon", "kl", "marginals", "missing")
    detector.save(tmp_path / "detector")
    np.testing.assert_array_equal(Detector.load(tmp_path / "detector", "cpu").score(words), detector.score(words))
