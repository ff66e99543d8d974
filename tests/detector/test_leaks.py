"""Nothing that a fit learns comes from test rows or from anomalies.

Each kind of data is fitted twice, the second time with other values where nothing may be learned; every number of the
two detectors must have the same bits. A third fit, on other training rows, must differ: else the comparison is blind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.open import open_source
from anomaly_vae.detector.configuration import load, opening
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import Fit, fit, fit_memory

Rows = NDArray[np.intp]
QUICK: dict[str, Any] = {
    "device": "cpu", "tracking__enabled": False, "training__steps": 15, "model__hidden": [8], "model__latent": 2,
}  # fmt: skip
NONE = np.empty(0, np.intp)


class Case(NamedTuple):
    """Data of one kind.

    kind: of KINDS. fitted: fits it, in an empty folder, with other values in some rows. learned: beginnings of the
    names, see `numbers`, that other training rows must change.
    """

    kind: str
    fitted: Callable[[Path, Rows], tuple[Detector, Fit]]
    learned: tuple[str, ...]


def table(folder: Path, changed: Rows, **settings: Any) -> tuple[Detector, Fit]:
    """240 rows with a category, an integer code, missing cells and 40 anomalies."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 6 == 5
    frame = pd.DataFrame(rng.normal(size=(240, 2)) + 3 * y[:, None], columns=["size", "weight"])
    frame["colour"] = rng.choice(["red", "green"], 240)
    frame.loc[::31, "size"] = np.nan
    frame.loc[changed, "size"] = 1e7 * (1 + np.arange(len(changed)))
    frame.loc[changed[::2], "weight"] = np.nan
    frame.loc[changed, "colour"] = "violet"
    return fit_memory(frame, y, **{"split__folds": 2} | QUICK | settings)


def series(folder: Path, changed: Rows) -> tuple[Detector, Fit]:
    """Two machines by turns, of 200 steps each, with anomalous stretches in every part."""
    n = 400
    t = np.arange(n)
    values = np.c_[np.sin(t / 9), np.cumsum(np.random.default_rng(0).normal(size=n))]  # the other one wanders
    values += np.random.default_rng(1).normal(0, 0.1, (n, 2))
    values[changed] = 1e4 * (1 + np.arange(len(changed)))[:, None]
    frame = pd.DataFrame(values, columns=["flow", "level"]).assign(machine=np.where(t % 2, "b", "a"))
    y = (t % 100 >= 60) & (t % 100 < 66)
    return fit_memory(frame, y, kind="series", data__group="machine", data__window=8, model__channels=[4, 4], **QUICK)


def pictures(changed: Rows, side: int = 8) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """60 gratings (N, side, side), of which every fifth is anomalous: it has a spot."""
    rng = np.random.default_rng(0)
    found = 128 + 60 * np.sin(np.arange(side))[:, None] + rng.normal(0, 8, (60, side, side))
    y = np.arange(60) % 5 == 4
    found[y, 2:5, 2:5] = 250
    found[changed] = rng.choice([0, 255], (len(changed), side, side))
    return found.clip(0, 255).astype(np.uint8), y


def pixels(folder: Path, changed: Rows) -> tuple[Detector, Fit]:
    return fit_memory(*pictures(changed), model__channels=[4, 8], **QUICK)


def listed_images(folder: Path, changed: Rows) -> tuple[Detector, Fit]:
    """A list that says which pictures train, choose and report; anomalies are in each part."""
    X, y = pictures(changed)
    roles = np.repeat(["train", "valid", "test"], 20)
    for number, picture in enumerate(X):
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
    names = [f"{number:02d}.png" for number in range(60)]
    pd.DataFrame({"path": names, "label": y.astype(int), "split": roles}).to_csv(folder / "list.csv", index=False)
    return images(folder / "list.csv", "model.kind=conv2d", "model.channels=[4,8]", "data.size=8")


def foldered_images(folder: Path, changed: Rows) -> tuple[Detector, Fit]:
    """MVTec's layout, read through a backbone; some of `train` is held out. Rows are in the order of the names."""
    y = pictures(NONE, 32)[1]
    names = {}
    for number in range(60):
        if number >= 30 or not y[number]:
            names[f"{'train' if number < 30 else 'test'}/{'spot' if y[number] else 'good'}/{number:02d}.png"] = number
    X = pictures(np.array([number for _, number in sorted(names.items())])[changed], 32)[0]
    for name, number in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[number]).save(folder / name)
    return images(folder, "data.size=32", "model.layers=[blocks.2,blocks.4]", "scoring.neighbours=20",
                  "scoring.components=2")  # fmt: skip


def images(path: Path, *settings: str) -> tuple[Detector, Fit]:
    quick = [f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in QUICK.items()]
    config = load(overrides=[*quick, *settings])
    return fit(open_source(path, opening(config)), config)


SCORED = ("normal", "normal_mean", "threshold", "reference score: kl")
CASES = {
    "table": Case("table", table, ("layout", "scaler", "weights vae", "weights parts.neighbours", *SCORED)),
    "table, mixture": Case(
        "table", lambda *given: table(*given, scoring__prior="mixture", scoring__components=2),
        ("layout", "scaler", "weights parts.kl", *SCORED),
    ),
    "series": Case("series", series, ("scaler", "weights vae", "weights parts.recon", *SCORED)),
    "pixels": Case(
        "pixels", pixels, ("weights vae", "weights parts.recon", "weights parts.kl", "pixels", "reference bri", *SCORED)
    ),
    "images, a list with roles": Case(
        "images", listed_images, ("weights vae", "weights parts.recon", "pixels", "reference brightness", *SCORED)
    ),
    "images, folders with roles": Case(
        "images", foldered_images,
        ("weights patches.vae", "weights patches.parts.neighbours.points", "weights patches.parts.neighbours.unit",
         "weights patches.parts.recon", "weights patches.parts.kl", "weights border", "weights mean_feature", "pixels",
         *(name for name in SCORED if name != "normal_mean")),  # maps that are scores have no usual nats
    ),
}  # fmt: skip
ALONE = [name for name, case in CASES.items() if not KINDS[case.kind].ordered]  # samples are read one by one


def numbers(detector: Detector, seen: Fit) -> dict[str, Any]:
    """Everything that was learned, by name, and what training was judged by."""
    learned: dict[str, Any] = {f"weights {k}": v.numpy() for k, v in detector.score_model.state_dict().items()}
    learned |= {name: getattr(detector, name) for name in ("normal", "normal_mean")}
    learned |= {f"reference {r.name}": (r.to_json(), r.values.tolist()) for r in detector.references}
    history = [{k: v for k, v in epoch.items() if k != "samples_per_second"} for epoch in seen.history.epochs]
    return learned | {
        "config": detector.config.flat(), "layout": detector.layout.to_json(), "scaler": detector.scaler.to_json(),
        "threshold": detector.threshold.to_json(), "pixels": detector.pixels and detector.pixels.to_json(),
        "history": history, "best epoch": seen.history.best_epoch, "active units": seen.active, "kl": seen.kl,
    }  # fmt: skip


def bits(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    return json.dumps(value).encode()


def differences(first: tuple[Detector, Fit], second: tuple[Detector, Fit]) -> set[str]:
    """The names of what has other bits."""
    ours, theirs = numbers(*first), numbers(*second)
    return {name for name in ours.keys() | theirs.keys() if bits(ours.get(name)) != bits(theirs.get(name))}


@pytest.fixture(scope="module", params=CASES)
def fits(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Callable[[Rows], tuple[Detector, Fit]], tuple[Detector, Fit]]:
    """A case, how to fit it with other values in some rows, and its fit with none."""
    case = CASES[request.param]

    def again(changed: Rows) -> tuple[Detector, Fit]:
        return case.fitted(tmp_path_factory.mktemp("data"), changed)

    return case, again, again(NONE)


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} == set(KINDS)


def test_nothing_is_learned_from_test_rows_nor_from_anomalies_that_choose_no_threshold(fits: Any) -> None:
    """Validation's anomalies choose a threshold with labels, and stay; test rows, whatever they are, and anomalies
    among training rows do not. Steps of a series are read together with those around them: its anomalies stay."""
    case, again, first = fits
    split = first[1].split
    changed = np.setdiff1d(np.flatnonzero(split.anomalous), split.valid)
    changed = split.test if KINDS[case.kind].ordered else np.union1d(split.test, changed)
    assert split.anomalous[changed].any() and not split.anomalous[changed].all()
    assert not np.isin(changed, np.r_[split.train, split.valid]).any()
    assert differences(first, again(changed)) == set()


@pytest.mark.parametrize("fits", ALONE, indirect=True)
def test_anomalies_of_validation_change_the_threshold_with_labels_alone(fits: Any) -> None:
    _, again, first = fits
    split = first[1].split
    changed = np.flatnonzero(split.anomalous)
    assert np.isin(changed, split.valid).any()
    second = again(changed)
    assert first[0].threshold.labelled
    assert differences(first, second) <= {"threshold"}
    assert not np.array_equal(first[0].anomalous, second[0].anomalous)  # they were read, and scored


@pytest.mark.parametrize("fits", [name for name in CASES if name not in ALONE], indirect=True)
def test_anomalous_steps_train_nothing(fits: Any) -> None:
    """Scores of the steps around them do change, and with them what is calibrated on scores."""
    _, again, first = fits
    split = first[1].split
    changed = np.flatnonzero(split.anomalous)
    assert np.isin(changed, split.valid).any() and (changed < split.train.max()).any()
    found = differences(first, again(changed))
    trained = {name for name in found if name.startswith(("weights", "layout", "scaler", "history", "best", "active"))}
    assert trained <= {"weights parts.recon.step", "weights parts.recon.level", "weights cells.missing.alarm"}


def test_training_rows_change_everything(fits: Any) -> None:
    case, again, first = fits
    found = differences(first, again(first[1].split.train[::3]))
    assert [name for name in case.learned if not any(other.startswith(name) for other in found)] == []


@pytest.mark.parametrize("name", ALONE)
def test_held_out_normals_change_what_is_calibrated_on_them_and_not_what_is_learned_before(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Layout and scaler, and with one epoch, in which nothing can stop early, weights and prior are of training rows
    alone."""
    case = CASES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(QUICK, "training__steps", 1)
        patch.setitem(QUICK, "split__folds", 0)
        first = case.fitted(tmp_path_factory.mktemp("data"), NONE)
        split = first[1].split
        changed = split.valid[~split.anomalous[split.valid]]
        found = differences(first, case.fitted(tmp_path_factory.mktemp("data"), changed))
    assert {"normal", "threshold"} <= found
    weights = {other for other in found if other.startswith("weights")}
    calibrated = (
        "weights parts.recon", "weights parts.neighbours", "weights border", "weights surprise", "weights part_weights",
        "weights patches.parts.neighbours.unit", "weights cells.missing.alarm",
    )  # fmt: skip
    assert not {other for other in weights if not other.startswith(calibrated)}
    assert not found & {"layout", "scaler", "config"}


def test_a_machine_with_less_than_a_window_before_its_test_steps_is_scored_whole() -> None:
    """Of ten steps seven come before test: none of its windows trains, and none is without test steps."""
    machine = np.repeat(["long", "brief"], [200, 10])
    X = np.random.default_rng(0).normal(size=(210, 2))
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(machine=machine)
    y = np.arange(210) % 50 == 49
    detector, seen = fit_memory(frame, y, kind="series", data__group="machine", data__window=8, **QUICK)
    assert np.flatnonzero(machine == "brief")[:7].max() < seen.split.test[seen.split.test >= 200].min() == 207
    whole = detector.parts(frame)
    for name, nats in seen.scores.parts.items():
        np.testing.assert_array_equal(nats[200:], whole.parts[name][200:])
        np.testing.assert_array_equal(nats[seen.split.test], whole.parts[name][seen.split.test])
