"""A detector is one thing in memory and on disk; what is wrong with a folder is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from anomaly_vae.core.errors import AnomalyVAEError, ConfigError, DataError, DetectorError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import Fit, fit_memory
from anomaly_vae.detector.storage import MANIFEST
from anomaly_vae.detector.thresholds import choose

Array = NDArray[Any]
QUICK = {"device": "cpu", "training__steps": 40, "model__hidden": [16]}
TABLE = QUICK | {"scoring__weights": "none"}  # rows that choose weights are scored by others
HELD_OUT = QUICK | {"split__folds": 0}  # one training instead of five, where folds are not the subject


def series(n: int = 240) -> Array:
    t = np.arange(n)
    noise = np.random.default_rng(0).normal(0, 0.1, (n, 2))
    return np.c_[np.sin(t / 4), np.cos(t / 7)] + noise


def mixed(n: int = 200) -> pd.DataFrame:
    """A category that says which of two levels a number has; some cells are missing."""
    rng = np.random.default_rng(0)
    colour = rng.choice(["blue", "red"], n)
    frame = pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n) + 5 * (colour == "red"), "colour": colour})
    frame.loc[::17, "a"] = np.nan
    return frame


@pytest.fixture(scope="module")
def table_fit(cancer: tuple[Array, Array]) -> tuple[Detector, Fit]:
    return fit_memory(*cancer, **TABLE)


@pytest.fixture(scope="module")
def table(table_fit: tuple[Detector, Fit]) -> Detector:
    return table_fit[0]


@pytest.fixture(scope="module")
def pictures_fit(digits: tuple[Array, Array]) -> tuple[Detector, Fit]:
    return fit_memory(*digits, **QUICK | {"training__steps": 100}, model__channels=[4, 8])


@pytest.fixture(scope="module")
def pictures(pictures_fit: tuple[Detector, Fit]) -> Detector:
    return pictures_fit[0]


@pytest.fixture(scope="module")
def steps() -> Detector:
    return Detector.fit(series(), kind="series", **QUICK, model__channels=[4, 8], data__window=16)


@pytest.fixture(scope="module")
def frame() -> Detector:
    return Detector.fit(mixed(), **HELD_OUT | {"training__steps": 150})


@pytest.fixture
def saved(table: Detector, tmp_path: Path) -> Path:
    table.save(tmp_path / "detector")
    return tmp_path / "detector"


@pytest.mark.parametrize("kind", ["table", "pictures", "steps", "frame"])
def test_saved_and_loaded_scores_to_the_same_bits(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, cancer: tuple[Array, Array], digits: tuple[Array, Array]
) -> None:
    detector: Detector = request.getfixturevalue(kind)
    X: Any = {"table": cancer[0], "pictures": digits[0], "steps": series(), "frame": mixed()}[kind]
    detector.save(tmp_path / "detector")
    loaded = Detector.load(tmp_path / "detector", "cpu")
    ours, theirs = detector.parts(X, explain=True), loaded.parts(X, explain=True)
    np.testing.assert_array_equal(ours.total, theirs.total)
    assert ours.elements is not None
    assert theirs.elements is not None
    np.testing.assert_array_equal(ours.elements, theirs.elements)
    np.testing.assert_array_equal(detector.score(X), ours.total)
    np.testing.assert_array_equal(detector.predict(X), ours.total >= loaded.threshold.value)
    np.testing.assert_array_equal(detector.normal, loaded.normal)
    assert (loaded.threshold, loaded.config, loaded.layout) == (detector.threshold, detector.config, detector.layout)


def test_fitting_twice_gives_the_same_detector(table: Detector, cancer: tuple[Array, Array]) -> None:
    again = Detector.fit(*cancer, **TABLE)
    np.testing.assert_array_equal(table.score(cancer[0]), again.score(cancer[0]))
    other = Detector.fit(*cancer, **TABLE | {"split__folds": 0}, seed=1)
    assert not np.array_equal(table.score(cancer[0]), other.score(cancer[0]))


def test_the_reference_is_the_validation_split(table_fit: tuple[Detector, Fit], cancer: tuple[Array, Array]) -> None:
    table, seen = table_fit
    scores, anomalous = seen.part(seen.split.valid)
    assert anomalous is not None
    np.testing.assert_array_equal(table.normal, np.sort(scores.total[~anomalous]))
    np.testing.assert_array_equal(table.anomalous, np.sort(scores.total[anomalous]))
    np.testing.assert_array_equal(anomalous, cancer[1][seen.split.valid])
    assert table.threshold == replace(choose("auto", table.normal, table.anomalous), folds=4)


def test_anomalies_score_higher(table_fit: Any, pictures_fit: Any, cancer: Any, digits: Any) -> None:
    from sklearn.metrics import roc_auc_score

    for (detector, seen), (X, y) in ((table_fit, cancer), (pictures_fit, digits)):
        test = seen.split.test
        assert roc_auc_score(y[test], detector.score(X)[test]) > 0.8


def test_p_values_of_the_own_normals_are_their_ranks(table: Detector) -> None:
    n = len(table.normal)
    assert len(np.unique(table.normal)) == n
    np.testing.assert_allclose(table.p_values(table.normal), (1 + np.arange(n, 0, -1)) / (n + 1))


def test_another_threshold_from_the_same_scores(table: Detector, cancer: tuple[Array, Array]) -> None:
    chosen = table.with_threshold("recall=1")
    assert chosen.threshold == replace(choose("recall=1", table.normal, table.anomalous), folds=4)
    assert chosen.config.threshold.policy == "recall=1"
    assert chosen.threshold.value <= table.anomalous[0]
    np.testing.assert_array_equal(chosen.score(cancer[0]), table.score(cancer[0]))
    assert table.config.threshold.policy == "auto"
    with pytest.raises(ValueError, match="'best' is no threshold policy"):
        table.with_threshold("best")


def test_the_planted_column_is_named(table: Detector, cancer: tuple[Array, Array]) -> None:
    X = cancer[0][:20].copy()
    X[4, 7] += 30 * cancer[0][:, 7].std()
    order, shares = table.contributions(table.parts(X, explain=True), 3)
    assert order.shape == shares.shape == (20, 3)
    assert order[4, 0] == 7
    assert shares[4, 0] > 0.5
    assert (np.diff(shares, axis=1) <= 0).all()
    assert (shares >= 0).all()
    assert (shares.sum(1) <= 1 + 1e-12).all()
    _, everything = table.contributions(table.parts(X, explain=True), 99)
    assert everything.shape == (20, 10)
    np.testing.assert_allclose(everything.sum(1)[4], 1)


def test_an_unseen_category_raises_the_score(frame: Detector) -> None:
    seen = pd.DataFrame({"a": [0.0, 0.0, 0.0], "b": [0.0, 5.0, 0.0], "colour": ["blue", "red", "green"]})
    score = frame.score(seen)
    assert score[2] > max(score[0], score[1]) + 1
    order, _ = frame.contributions(frame.parts(seen, explain=True), 1)
    assert [column.name for column in frame.layout.columns][order[2, 0]] == "colour"


def test_a_missing_cell_has_the_nats_of_its_being_missing_alone(frame: Detector) -> None:
    rows = pd.DataFrame({"a": [np.nan, 0.1], "b": [0.0, np.nan], "colour": ["blue", None]})
    found = frame.parts(rows, explain=True)
    assert found.elements is not None
    names = [column.name for column in frame.layout.columns]
    missing = rows[names].isna().to_numpy()
    assert found.raw is not None
    np.testing.assert_allclose(np.where(missing, found.elements, 0).sum(1), found.raw["missing"], rtol=1e-6)
    assert (found.elements[~missing] != 0).all()
    assert np.isfinite(found.total).all()


def test_columns_are_found_by_name(frame: Detector) -> None:
    rows = mixed(50)
    shuffled = rows[["colour", "b", "a"]].assign(more=1.0)
    np.testing.assert_array_equal(frame.score(rows), frame.score(shuffled))
    with pytest.raises(DataError, match="'b' not found"):
        frame.score(rows.drop(columns="b"))


def test_every_step_of_a_series_has_a_score(steps: Detector) -> None:
    X = series()
    X[150:155, 1] += 4
    score = steps.score(X)
    assert score.shape == (240,)
    assert 140 <= score.argmax() <= 165


def altered(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))


def refused(folder: Path) -> str:
    with pytest.raises(DetectorError) as caught:
        Detector.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


FILES = [
    "weights.safetensors",
    "validation.safetensors",
    "calibration.safetensors",
    "config.yaml",
    "layout.json",
    "reference.json",
    "reference.safetensors",
    "scaler.json",
    "threshold.json",
    "trained_rows.safetensors",
    "training_scores.safetensors",
]


def test_the_folder_holds_what_it_should(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == sorted([*FILES, MANIFEST])


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_one_bit_changed_or_one_file_missing_is_refused(saved: Path, name: str) -> None:
    altered(saved, name)
    assert f"{name} was altered after it was saved" in refused(saved)
    (saved / name).unlink()
    assert f"incomplete, {name} is missing" in refused(saved)


def test_a_folder_of_another_format_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps(manifest | {"format": 99, "anomaly_vae": "7.0"}))
    said = refused(saved)
    assert "detector format 99 (anomaly-vae 7.0)" in said
    assert "fit again" in said
    (saved / MANIFEST).write_text("{")
    assert "cannot be read as JSON" in refused(saved)


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    assert "no such detector folder" in refused(tmp_path / "absent")
    assert f"not a detector folder ({MANIFEST} is missing)" in refused(tmp_path)


def test_nothing_is_overwritten(table: Detector, saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(AnomalyVAEError, match="already there, and nothing is overwritten"):
        table.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["detector"]


def test_a_folder_can_be_moved(saved: Path, table: Detector, cancer: tuple[Array, Array]) -> None:
    shutil.move(saved, saved.parent / "elsewhere")
    moved = Detector.load(saved.parent / "elsewhere", "cpu")
    np.testing.assert_array_equal(moved.score(cancer[0]), table.score(cancer[0]))


def test_without_labels_the_threshold_is_conformal(cancer: tuple[Array, Array]) -> None:
    X = cancer[0][~cancer[1]]
    found = Detector.fit(X, **QUICK | {"training__steps": 10}, threshold__policy="fpr=0.1")
    assert found.threshold == replace(choose("fpr=0.1", found.normal, np.empty(0)), folds=4)
    assert len(found.normal) == len(X), "few rows calibrate by folds"
    assert found.predict(X).mean() <= 0.1


def test_rows_that_are_not_known_neither_train_nor_test_and_it_is_said() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), np.zeros(200)
    y[:100] = np.nan
    y[100:120] = 1
    settings = QUICK | {"training__steps": 2, "split__train": 0.5, "split__valid": 0.25}
    _, seen = fit_memory(X, y, None, **settings)
    parts = np.concatenate([seen.split.train, seen.split.valid, seen.split.test])
    assert sorted(parts) == list(range(100, 200))
    assert any(note.startswith("100 of 200 rows have no label in 'label' and were left out") for note in seen.notes)
    _, seen = fit_memory(X, y, None, **settings, data__unlabelled="normal")
    assert (len(seen.split.train), "no label" in " ".join(seen.notes)) == (90, False)
    _, seen = fit_memory(X, np.zeros(200), None, **settings)
    assert seen.split.anomalous is not None and not seen.split.anomalous.any(), "no anomaly is known, and it trains"


def test_a_column_that_is_named_and_looks_like_a_label_is_left_out_and_said() -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 4)), columns=["a", "y", "Class", "label"])
    frame["Class"] = frame["Class"] > 1
    detector, seen = fit_memory(frame, None, None, **HELD_OUT)
    assert [column.name for column in detector.layout.columns] == ["a", "y"]
    assert any("'Class': named like a label" in note and "--label Class takes it" in note for note in seen.notes)
    detector, _ = fit_memory(frame, None, None, **HELD_OUT, data__keep=["Class"])
    assert [column.name for column in detector.layout.columns] == ["a", "y", "Class"]


def test_a_collapsed_posterior_is_told_by_its_kl() -> None:
    """Every unit is active at beta = 10, and the KL in all is what free bits grant: 2 nats."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4))
    settings = {"tracking__enabled": False, "device": "cpu", "training__steps": 300, "split__folds": 0}
    _, collapsed = fit_memory(X, None, None, **settings, objective__beta=10.0, objective__free_bits_total=0.0)
    _, healthy = fit_memory(X, None, None, **settings, objective__beta=0.1)
    for seen, told in ((collapsed, True), (healthy, False)):
        latent = seen.latent_metrics()
        assert latent["kl_total"] == pytest.approx(seen.kl.sum())
        assert latent["kl_dimensions"] == (seen.kl * 2 > 0.1).sum(), "two members share each column"
        assert any("posterior collapse: the latent code carries" in note for note in seen.notes) is told
    assert collapsed.latent_metrics()["kl_total"] < 1 < healthy.latent_metrics()["kl_total"]


def test_settings_and_data_that_cannot_work(cancer: tuple[Array, Array]) -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'training\.epoch'"):
        Detector.fit(cancer[0], training__epoch=3)
    with pytest.raises(DataError, match="3 labels for 260 rows"):
        Detector.fit(cancer[0], [0, 1, 0])
    with pytest.raises(DataError, match="windows of 32 normal time steps"):
        Detector.fit(series(40), kind="series", **QUICK, data__window=32)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("kind", ["series", "pixels"])
def test_any_model_that_reads_the_shape_will_do(kind: str, members: int, digits: tuple[Array, Array]) -> None:
    X = digits[0] if kind == "pixels" else series()
    settings = QUICK | {"training__steps": 4}
    found = Detector.fit(X, kind=kind, **settings, model__kind="dense", model__members=members, model__latent=3)
    parts = found.parts(X, explain=True)
    assert len(parts) == len(X)
    assert np.isfinite(parts.total).all()
    assert parts.elements is not None
    assert parts.elements.shape == (len(X), *found.layout.shape)


@pytest.mark.parametrize(
    "settings",
    [{"model__likelihood": likelihood} for likelihood in ("gaussian", "laplace", "bernoulli")]
    + [{"model__sigma": sigma} for sigma in ("predicted", "element", "shared", "optimal", "fixed")],
)
def test_every_likelihood_fits_pictures(settings: dict[str, Any], digits: tuple[Array, Array]) -> None:
    found = Detector.fit(*digits, **QUICK | {"training__steps": 4}, **settings)
    assert np.isfinite(found.score(digits[0])).all()
    assert np.isfinite(found.threshold.value)
