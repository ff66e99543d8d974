"""The studies, end to end on tiny data: resumed without computing, their numbers against a direct computation."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.thresholds import choose
from anomaly_vae.training import loop
from pipelines import (
    baselines,
    collapse,
    false_alarms,
    idx,
    labels,
    one_class_images,
    series,
    series_alarms,
    series_faults,
    tables,
)
from pipelines.steps import main as compare_settings
from pipelines.study import COLLECTIONS, HALVES, Study, chosen, listed, natural, paired, settings

Main = Callable[[list[str]], None]
SMALL: dict[str, Any] = {"training.steps": 8, "model.channels": [4, 8], "model.hidden": [16]}
FIT = {name.replace(".", "__"): value for name, value in SMALL.items()}  # the same to Detector.fit
STEPS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
QUIET = [*STEPS, "--set", "tracking.enabled=false"]


@pytest.fixture(autouse=True)
def place(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no PyOD whether it is installed or not. Epochs are short: what is asserted of the
    numbers holds of any weights."""
    monkeypatch.setattr(loop, "STEPS", 4)
    monkeypatch.setattr(baselines, "has_pyod", lambda: False)
    return workplace


@pytest.fixture
def table_folder(place: Path) -> Path:
    """One table of 60 rows: 40 normals, 20 anomalies."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(40, 3)), rng.normal(2, 2, (20, 3))])
    (place / "data").mkdir()
    np.savez(place / "data" / "1_small.npz", X=X, y=np.repeat([0, 1], [40, 20]))
    return place / "data"


@pytest.fixture
def series_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two SKAB files of 200 steps, of which 120 train, and one ASD machine."""
    monkeypatch.setattr(series, "TRAIN", 120)
    rng = np.random.default_rng(0)
    for name in ("2", "10"):
        frame = pd.DataFrame(rng.normal(size=(200, 2)), columns=["a", "b"])
        frame.loc[150:169, ["a", "b"]] += 4.0
        frame.insert(0, "datetime", pd.date_range("2020-03-09", periods=200, freq="s").astype(str))
        frame["anomaly"] = np.r_[np.zeros(150), np.ones(20), np.zeros(30)]
        frame["changepoint"] = 0.0
        (place / "data" / "skab" / "valve").mkdir(parents=True, exist_ok=True)
        frame.to_csv(place / "data" / "skab" / "valve" / f"{name}.csv", sep=";", index=False)
    machine = place / "data" / "asd" / "omi-1"
    machine.mkdir(parents=True)
    steps = pd.DataFrame(rng.normal(size=(320, 3)), columns=["s0", "s1", "s2"])
    steps.loc[250:279] += 4.0
    steps[:120].to_csv(machine / "train.csv.gz", index=False)
    label = np.r_[np.zeros(130, int), np.ones(30, int), np.zeros(40, int)]
    steps[120:].assign(label=label).to_csv(machine / "test.csv.gz", index=False)
    return place / "data"


@pytest.fixture
def image_folder(place: Path) -> Path:
    """Digits 0, 1 and 2 of scikit-learn, 8x8, as an IDX folder: gzipped images, plain labels."""
    bunch = load_digits()
    rows = np.flatnonzero(bunch.target < 3)
    pictures, labels = (bunch.images[rows] * (255 / 16)).astype(np.uint8), bunch.target[rows].astype(np.uint8)
    folder = place / "small"
    folder.mkdir()
    for part, chosen_rows in (("train", slice(0, 240)), ("t10k", slice(240, 300))):
        images = struct.pack(">4B3i", 0, 0, 8, 3, len(pictures[chosen_rows]), 8, 8) + pictures[chosen_rows].tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        content = struct.pack(">4Bi", 0, 0, 8, 1, len(labels[chosen_rows])) + labels[chosen_rows].tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(content)
    return folder


def run_twice(main: Main, argv: list[str], out: str, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The cells of a study that was run, and run again without any fit; the tables must come out the same."""
    argv = [*argv, "--out", out]
    main(argv)
    cells, files = (Path(out) / "cells.jsonl").read_text(), (Path(out) / "files.csv").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(Detector, "fit", None)
        main(argv)
    assert (Path(out) / "cells.jsonl").read_text() == cells
    assert (Path(out) / "files.csv").read_text() == files
    return pd.DataFrame([json.loads(line) for line in cells.splitlines()]).set_index(["file", "method"])


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tables(table_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run_twice(tables.main, [str(table_folder), "--seeds", "1", *QUIET], "out", monkeypatch)
    parts = [f"anomaly-vae {part} alone" for part in ("recon", "kl", "neighbours", "lof", "marginals", "missing")]
    assert list(cells.loc["1_small"].index) == ["anomaly-vae", "anomaly-vae recon + kl", *parts, *baselines.TABLES]

    train, test, anomalous = tables.draw(table_folder / "1_small.npz", 0)
    scores = Detector.fit(train, seed=0, **FIT).parts(test)
    raw = scores.raw
    assert raw is not None
    direct = {"anomaly-vae": scores.total, parts[0]: raw["recon"]}
    direct["anomaly-vae recon + kl"] = raw["recon"] + raw["kl"]
    mean, sd = train.mean(0), train.std(0)
    distances = np.linalg.norm(((test - mean) / sd)[:, None] - ((train - mean) / sd)[None], axis=2)
    direct["kNN mean of 5"] = np.sort(distances, axis=1)[:, :5].mean(1)
    direct["kNN nearest"] = distances.min(1)
    for method, expected in direct.items():
        found = cells.loc[("1_small", method)]
        assert found["auroc"] == pytest.approx(roc_auc_score(anomalous, expected))
        assert found["aupr"] == pytest.approx(average_precision_score(anomalous, expected))


def test_labels_gain_beside_the_same_rows_without_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(150, 2)), np.arange(150) >= 110
    X[y, 0] += 2
    np.savez(place / "many.npz", X=X, y=y.astype(int))
    np.savez(place / "few.npz", X=X[:120], y=y[:120].astype(int))  # ten anomalies
    monkeypatch.setattr(labels, "COUNTS", (0, 1, 4))
    cells = run_twice(labels.main, [str(place), "--seeds", "1", *QUIET], "out", monkeypatch)
    assert [*cells.index] == [("many", f"{count} labels") for count in (0, 1, 4)]
    assert (cells["auroc_gain"] == cells["auroc_gain"].where(cells["weighted"] > 0, 0)).all(), "no weights, no gain"
    assert (cells["weighted"] == 0).tolist()[:2] == [True, True]
    lead = {"method": "4 labels", "seed": 0, "aupr_gain": 0.0}
    table = labels.summary(
        pd.DataFrame([lead | {"file": "a", "auroc_gain": -0.01}, lead | {"file": "b", "auroc_gain": 0.02}])
    )
    assert table.loc["4 labels", "auroc_lost"] == 0.5 and table.loc["4 labels", "auroc_gain"] == pytest.approx(0.005)


def test_the_draw_of_a_large_table_is_stratified_and_seeded(place: Path) -> None:
    X = np.arange(20_000.0)[:, None]
    np.savez(place / "large.npz", X=X, y=(np.arange(20_000) < 500).astype(int))
    train, test, anomalous = tables.draw(place / "large.npz", 1)
    assert (len(train), len(test), anomalous.sum()) == (4875, 5125, 250)
    assert train.min() >= 500
    assert len(np.unique(np.r_[train, test])) == 10_000
    assert (test[anomalous] < 500).all()
    assert not np.array_equal(train, tables.draw(place / "large.npz", 2)[0])


def test_a_table_that_says_what_trains_is_not_drawn(place: Path) -> None:
    train, test = np.arange(6).reshape(3, 2), np.arange(8).reshape(4, 2)
    np.savez(place / "odd.npz", train=train, test=test, y=np.array([0, 1, 0, 1]))
    for seed in (0, 1):
        found = tables.draw(place / "odd.npz", seed)
        assert [part.tolist() for part in found] == [train.tolist(), test.tolist(), [False, True, False, True]]
        assert found[0].dtype == np.float64


def test_halves_are_by_their_rule_alone() -> None:
    for lists in yaml.safe_load(COLLECTIONS.read_text()).values():
        assert tuple(lists) == HALVES
        names = [name for half in HALVES for name in lists[half]]
        order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        assert set(lists["development"]) == set(order[: len(order) // 2])
        assert len(set(order)) == len(order)


def test_a_half_of_the_tables(table_folder: Path) -> None:
    names = ["44_Wilt", "4_breastw", "VoteResult"]
    assert listed(names, None, "adbench") == names
    assert listed(names, "development", "adbench", "oddbench") == ["44_Wilt"]
    assert listed(names, "reporting", "adbench", "oddbench") == ["4_breastw", "VoteResult"]
    with pytest.raises(SystemExit, match=r"lists none of 1_small; leave --half out"):
        tables.main([str(table_folder), "--half", "reporting", *QUIET])


def test_tables_are_one_run_with_a_child_a_file(table_folder: Path) -> None:
    from mlflow import MlflowClient

    for _ in range(2):  # the second time all cells are there, and nothing is logged twice
        tables.main([str(table_folder), "--seeds", "2", *STEPS])
    folder = Path("mlruns/studies/tables")
    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    parent = client.get_run((folder / "run_id").read_text())
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", max_results=10
    )
    assert [child.info.run_name for child in children] == ["1_small"]
    overall = pd.read_csv(folder / "overall.csv").set_index("method")
    assert parent.data.metrics["kNN nearest/auroc"] == pytest.approx(overall.loc["kNN nearest", "auroc_mean"])
    assert children[0].data.metrics == pytest.approx(parent.data.metrics)  # the mean over the only file


def test_pyod_is_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pyod.models.vae", None)
    assert not baselines.has_pyod()
    assert "anomaly-vae[bench]" in capsys.readouterr().out


def test_pyod_with_its_kl_has_the_loss_of_a_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    vae = pytest.importorskip("pyod.models.vae", reason="the extra `bench` is not installed")
    made: list[Any] = []
    monkeypatch.setattr(vae, "VAE", lambda **settings: made.append(settings) or Fitted())

    class Fitted:
        def fit(self, rows: Any) -> Any:
            return SimpleNamespace(decision_function=lambda rows: rows[:, 0])

    rng = np.random.default_rng(0)
    for method in baselines.PYOD.values():
        assert method(rng.normal(size=(9, 4)), 3)(np.ones((2, 4))).tolist() == [1.0, 1.0]
    default, charged = made
    x, decoded, mu, log_var = (torch.from_numpy(rng.normal(size=(5, n))) for n in (4, 4, 2, 2))
    normal, kl_of = torch.distributions.Normal, torch.distributions.kl_divergence
    kl = kl_of(normal(mu, (log_var / 2).exp()), normal(0.0, 1.0)).sum(1).mean()
    recon = -normal(decoded, 1.0).log_prob(x).sum(1).mean() - 4 * 0.5 * np.log(2 * np.pi)
    weights = {name: charged[name] for name in ("beta", "capacity")}
    assert vae.vae_loss(x, decoded, mu, log_var, **weights).item() == pytest.approx(((recon + kl) * 2 / 4).item())
    assert default == {"random_state": 3, "verbose": 0}
    assert vae.vae_loss(x, decoded, mu, log_var).item() == pytest.approx((recon * 2 / 4).item())  # no KL


def test_the_paired_test_by_hand() -> None:
    ours, knn = [0.9, 0.8, 0.7, 0.6, 0.99, 0.5], [0.8, 0.85, 0.5, 0.6, 0.69, float("nan")]
    rows = [
        {"file": f"t{i}", "seed": seed, "method": method, "auroc": value + (seed - 0.5) * 0.01}
        for method, values in (("us", ours), ("kNN", knn))
        for i, value in enumerate(values)
        for seed in (0, 1)
    ]
    found = paired(rows, "us", ["auroc"]).loc[("kNN", "auroc")]
    assert (found["wins"], found["ties"], found["losses"]) == (3, 1, 1)
    assert found["difference"] == pytest.approx((0.1 - 0.05 + 0.2 + 0.3) / 5)
    assert found["without_best"] == pytest.approx((0.1 - 0.05 + 0.2 + 0) / 4)
    # four differences, the smallest against us: of 16 signs, those with a rank sum of 1 or less are + + + + and - + + +
    assert found["p"] == pytest.approx(2 * 2 / 16)
    level = [{"file": f, "method": m, "auroc": 0.5} for f in "ab" for m in ("us", "kNN")]
    assert paired(level, "us", ["auroc"])["p"].tolist() == [1.0]


def test_tables_print_the_paired_test_and_leave_our_single_parts_out(
    table_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.main([str(table_folder), "--seeds", "1", *QUIET, "--out", "out"])
    table = pd.read_csv("out/paired.csv")
    assert table["rival"].drop_duplicates().tolist() == list(baselines.TABLES)
    assert (table[["wins", "ties", "losses"]].sum(axis=1) == 1).all()
    assert "paired" in capsys.readouterr().out


def test_variants_of_the_settings_side_by_side(
    table_folder: Path, series_folder: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skab = series.read_skab(series_folder / "skab" / "valve" / "2.csv")
    drawn: dict[Path, tuple[str, tuple[Any, Any, Any], dict[str, Any]]] = {
        table_folder: ("1_small", tables.draw(table_folder / "1_small.npz", 0), {}),
        image_folder: ("2", one_class_images.one_class(idx.read_set(image_folder), 2), {}),
        series_folder / "skab": ("valve/2", (skab.train, skab.stream, skab.anomalous), {"kind": "series"}),
    }
    faster = "training.lr=0.01"
    for number, (folder, (name, (train, scored, anomalous), kind)) in enumerate(drawn.items()):
        argv = [str(folder), "--only", name, "--try", faster, "--try", "", "--seeds", "1", *QUIET]
        cells = run_twice(compare_settings, argv, f"out{number}", monkeypatch).loc[name]
        assert list(cells.index) == [faster, f"{faster}, recon + kl", "defaults", "defaults, recon + kl"]
        config = settings(SimpleNamespace(overrides=[]), split=NO_TEST)  # type: ignore[arg-type]
        detector = Detector.fit(train, config=config, seed=0, training__lr=0.01, **FIT, **kind)
        expected = detector.score(scored)[-len(anomalous) :]
        assert cells.loc[faster, "auroc"] == pytest.approx(roc_auc_score(anomalous, expected))
        assert (pd.read_csv(f"out{number}/paired.csv")["rival"] == "defaults").all()


# --- series ----------------------------------------------------------------------------------------------------------


def test_series(series_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run_twice(series.main, [str(series_folder), "--seeds", "1", *QUIET], "out", monkeypatch)
    names = ["asd/omi-1", "skab/valve/2", "skab/valve/10"]
    assert list(dict.fromkeys(cells.index.get_level_values("file"))) == names
    assert list(cells.loc[names[0]].index) == ["anomaly-vae", "Conv-AE", *baselines.SERIES]
    joined = pd.read_csv("out/joined.csv").set_index(["collection", "method"])
    assert "tp_mean" not in joined

    labels, alarms = [], []
    for name in names[1:]:
        steps = pd.read_csv(series_folder / f"{name}.csv", sep=";")
        X = np.ascontiguousarray(steps[["a", "b"]].to_numpy())
        detector = Detector.fit(X[:120], kind="series", seed=0, **FIT)
        scores = detector.score(X)[120:]
        label = steps["anomaly"][120:] == 1
        assert cells.loc[(name, "anomaly-vae"), "auroc"] == pytest.approx(roc_auc_score(label, scores))
        labels.append(label)
        alarms.append(scores >= detector.threshold.value)
    truth, raised = np.concatenate(labels), np.concatenate(alarms)
    ours = joined.loc[("skab", "anomaly-vae")]
    assert ours["f1_mean"] == pytest.approx(f1_score(truth, raised))
    assert ours["far_mean"] == pytest.approx(raised[~truth].mean())
    assert ours["mar_mean"] == pytest.approx(1 - raised[truth].mean())
    assert ours["vus_pr_mean"] == pytest.approx(cells.loc[(names[1:], "anomaly-vae"), "vus_pr"].mean())


def test_windowed_pca_has_the_smoothing_that_our_score_has() -> None:
    steps = np.random.default_rng(0).normal(size=(60, 2))
    plain = baselines.SERIES["PCA 16-row windows"](steps[:40], 0)(steps)
    found = baselines.SERIES["PCA 16-row windows, mean of 8"](steps[:40], 0)(steps)
    expected = [plain[max(0, t - 4) : t + 4].mean() for t in range(60)]
    np.testing.assert_allclose(found, expected)


def test_the_tail_rule_holds_the_last_rows_out() -> None:
    """15 steps of cube roots 1, 2, 3, 1 ...: independent, or a little less than that, so 15 of them count."""
    cut = round(100 * NO_TEST["train"])
    roots = np.resize([1.0, 2.0, 3.0], 100 - cut)
    expected = (roots.mean() + student.isf(1e-4, 14) * roots.std(ddof=1) * np.sqrt(16 / 15)) ** 3
    assert series.tail(np.r_[np.full(cut, 1e9), roots**3], "tail=0.0001") == pytest.approx(expected)


def test_the_autoencoder_is_ranked_by_its_squared_error(series_folder: Path) -> None:
    data = series.read_asd(series_folder / "asd" / "omi-1")
    options = SimpleNamespace(overrides=["training.steps=40"])
    config = settings(options, data={"kind": "series", "window": 8}, split=NO_TEST, **series.PLAIN)  # type: ignore[arg-type]
    score, threshold = series.fit_autoencoder(data.train, config, 0, "tail=0.0001")
    detector = Detector.fit(data.train, config=config, seed=0)
    one = data.stream[:8]  # a single window, so that nothing is averaged
    x = detector.scaler.transform(one).T[None]
    import torch

    with torch.no_grad():
        mean = detector.score_model.model(torch.from_numpy(np.ascontiguousarray(x))).px.mean.numpy()
    assert score(one) == pytest.approx(((x - mean) ** 2)[0].mean(0), rel=1e-3, abs=1e-4)
    assert threshold > 0


@pytest.mark.parametrize("window", [1, 3])
def test_pca_by_hand(window: int) -> None:
    """Two equal sensors: the one direction that they share is T2, their difference is Q."""
    t = np.tile([-1.0, 1.0], 50)
    train = np.stack([t, 2 * t], axis=1)
    score = baselines.pca(window)(train, 0)
    rows = score(np.array([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0], [1.0, -2.0]]))
    assert rows[2] == pytest.approx(score(train)[-1])
    assert rows[3] > 100 * rows[2]
    if window == 1:
        assert rows[2] == pytest.approx(0.99)  # a variance of 2 * 100 / 99 for a squared distance of 2


def test_a_window_begins_with_its_first_row_repeated() -> None:
    rows = baselines.embedded(np.array([[1.0, 10.0], [2.0, 20.0]]), 2)
    assert rows.tolist() == [[1.0, 1.0, 10.0, 10.0], [1.0, 2.0, 10.0, 20.0]]


# --- images ----------------------------------------------------------------------------------------------------------


def test_one_class_images(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run_twice(one_class_images.main, [str(image_folder), "--only", "1", *QUIET], "out", monkeypatch)
    parts = ["recon + kl", "recon alone", "kl alone", "neighbours alone"]
    methods = ["anomaly-vae", *(f"anomaly-vae {part}" for part in parts), "autoencoder", "plain VAE"]
    assert list(cells.loc["1"].index) == [*methods, *baselines.PIXELS]
    images = idx.read_set(image_folder)
    train, test = (part.reshape(len(part), -1) / 255 for part in (images.train[images.train_labels == 1], images.test))
    nearest = np.linalg.norm(test[:, None] - train[None], axis=2).min(1)
    assert cells.loc[("1", "kNN nearest"), "auroc"] == pytest.approx(roc_auc_score(images.test_labels != 1, nearest))
    plain = {"objective__beta": 0, "objective__free_bits": 0, "objective__free_bits_total": 0,
             "training__jitter": 0, "training__noise": 0, "scoring__prior": "normal",
             "scoring__recon": "likelihood", "scoring__neighbours": 0}  # fmt: skip
    fit = partial(Detector.fit, images.train[images.train_labels == 1], seed=0, **FIT)
    for method, scores in {
        "anomaly-vae": fit().score(images.test),
        "autoencoder": fit(**plain).parts(images.test).parts["recon"],
    }.items():
        assert cells.loc[("1", method), "auroc"] == pytest.approx(roc_auc_score(images.test_labels != 1, scores))


def test_out_of_distribution(image_folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = place / "inverted"
    other.mkdir()
    for path in image_folder.iterdir():
        content = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(content)
            content = gzip.compress(raw[:16] + bytes(255 - value for value in raw[16:]))
        (other / path.name).write_bytes(content)
    argv = [str(image_folder), "--ood", str(other), *QUIET]
    cells = run_twice(one_class_images.main, argv, "out", monkeypatch)
    found = cells.loc["small against inverted"]
    assert found.loc["kNN nearest", "auroc"] == 1.0
    images = idx.read_set(image_folder)
    detector = Detector.fit(images.drawn(20_000, 0), seed=0, **FIT)
    expected = roc_auc_score(np.repeat([0, 1], 60), detector.score(np.concatenate([images.test, 255 - images.test])))
    assert found.loc["anomaly-vae", "auroc"] == pytest.approx(expected)


@pytest.mark.parametrize("kind", one_class_images.COLOURS)
def test_plainer_pictures_than_textures(kind: str) -> None:
    train, scored, anomalous = one_class_images.colours(kind, 0)
    assert (train.shape, scored.shape, anomalous.sum()) == ((4000, 3, 32, 32), (2000, 3, 32, 32), 1000)
    assert train.dtype == scored.dtype == np.uint8
    steps = np.abs(np.diff(scored.astype(float), axis=3)).mean((1, 2, 3))
    assert np.median(steps[anomalous]) < 0.5 * np.median(steps[~anomalous])


def test_idx_files(image_folder: Path) -> None:
    images = idx.read_set(image_folder)
    assert images.train.shape == (240, 8, 8)
    assert images.test_labels.tolist() == load_digits().target[load_digits().target < 3][240:300].tolist()
    (image_folder / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
    with pytest.raises(SystemExit, match="not a whole IDX file"):
        idx.read_set(image_folder)
    (image_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(SystemExit, match="torchvision's raw layout"):
        idx.read_set(image_folder)


def test_collapse(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [str(image_folder), "--only", "beta 10", "--set", "model.latent=4", *QUIET]
    cells = run_twice(collapse.main, argv, "out", monkeypatch).loc["beta 10"]
    assert list(cells.index) == [*collapse.PROTECTIONS, "our defaults"]
    images = idx.read_set(image_folder)
    train = images.drawn(10_000, 0, np.flatnonzero(images.train_labels != 2))
    detector = Detector.fit(
        train, seed=0, **FIT, model__latent=4, objective__beta=10.0, objective__schedule="constant",
        objective__free_bits_total=0.0, model__sigma="fixed", model__sigma_value=1.0, training__noise=0.0,
        training__jitter=0.0, scoring__prior="normal", scoring__recon="likelihood", scoring__neighbours=0,
    )  # fmt: skip
    scores, new = detector.parts(images.test), images.test_labels == 2
    bare = cells.loc["no protection"]
    assert bare["auroc"] == pytest.approx(roc_auc_score(new, scores.total))
    assert bare["kl"] == pytest.approx(scores.parts["kl"][~new].mean(), rel=1e-3, abs=1e-5)
    assert bare["recon"] == pytest.approx(scores.parts["recon"][~new].mean(), rel=1e-5)
    constant = 64 * 0.5 * np.log(2 * np.pi)
    assert bare["squared_error"] == pytest.approx(2 * (bare["recon"] - constant), rel=1e-4)


# --- false alarms ----------------------------------------------------------------------------------------------------


def test_series_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--only", "ar0.9-2x120", "--only", "varying-1x120", "--seeds", "1", "--fresh", "200", *QUIET]
    monkeypatch.setattr(series_alarms, "SENSORS", (1, 2))
    monkeypatch.setattr(series_alarms, "STEPS", (120,))
    cells = run_twice(series_alarms.main, argv, "out", monkeypatch)
    methods = ["log-normal", "default, tail=0.001", "tail=0.05"]
    assert list(cells.loc["ar0.9-2x120"].index) == methods
    X = series_alarms.simulated("ar0.9", 320, 2, 0)
    detector = Detector.fit(X[:120], kind="series", seed=0, **FIT)
    row = cells.loc[("ar0.9-2x120", methods[1])]
    assert row["realised"] == (detector.score(X[120:]) >= detector.threshold.value).mean()
    assert row["ratio"] == pytest.approx(row["realised"] / 0.001)
    assert (row["promised"], row["noted"], row["kept"]) == (0.001, 1, 1)
    steps = pd.read_csv("out/by steps.csv").set_index(["method", "steps"])
    assert steps.loc[("tail=0.05", 120), "cells"] == 2
    both = cells.xs("log-normal", level="method")["ratio"]
    assert steps.loc[("log-normal", 120), ["ratio", "max"]].tolist() == pytest.approx([both.mean(), both.max()])


@pytest.mark.parametrize("case", series_alarms.CASES)
def test_simulated_normals_are_what_they_are_called(case: str) -> None:
    """AR(1) of variance 1 and its coefficient, half of the variance common; a cycle that repeats, or that does not."""
    X = series_alarms.simulated(case, 100_000, 2, 0)
    if case.startswith("ar"):
        c = float(case[2:])
        slack = 0.03 * (1 + c) / (1 - c) ** 0.5
        assert X.var(axis=0) == pytest.approx([1, 1], abs=slack)
        assert np.corrcoef(X.T)[0, 1] == pytest.approx(0.5, abs=slack)
        assert np.corrcoef(X[1:, 0], X[:-1, 0])[0, 1] == pytest.approx(c, abs=0.02)
        return
    days = X[: len(X) // 48 * 48, 0].reshape(-1, 48)
    assert days.std(axis=0).mean() == pytest.approx(0.2, abs=0.01) if case == "exact" else days.std(axis=0).max() > 0.3


def test_series_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in {"DAY": 24, "TRAIN": 400, "FRESH": 300, "COPIES": 2}.items():
        monkeypatch.setattr(series_faults, name, steps)
    cells = run_twice(
        series_faults.main, ["--only", "spike", "--only", "level", "--seeds", "1", *QUIET], "out", monkeypatch
    )
    log, _ = series_faults.drawn(700, 0)
    detector = Detector.fit(log[:400], kind="series", seed=0, **FIT)
    weeks = 300 / series_faults.WEEK
    false = series_faults.events(detector.predict(log[400:])) / weeks
    assert cells["false_week"].tolist() == pytest.approx([false, false])
    assert cells[["found", "steps"]].isin([0, 0.5, 1]).loc["spike"].all(axis=None)
    assert pd.read_csv("out/faults.csv")["faults"].tolist() == [2]


def test_alarms_within_an_hour_are_one_event() -> None:
    alarms = np.zeros(60, bool)
    alarms[[3, 4, 15, 28]] = True  # an hour is 12 steps
    assert series_faults.events(alarms) == 2
    assert series_faults.events(alarms[:3]) == 0


def test_drawn_faults_are_what_they_are_called() -> None:
    log, noise = series_faults.drawn(4 * series_faults.DAY, 0)
    fresh, rng = log.std(axis=0), np.random.default_rng(0)
    changed = {}
    for name, (make, _) in series_faults.FAULTS.items():
        changed[name] = log.copy()
        make(changed[name], noise, slice(400, 500), 2, float(fresh[2]), rng)
        differs = (changed[name] != log).any(axis=1)
        assert not differs[:400].any()
        assert not differs[500:].any()
        assert (changed[name] != log).any(axis=0).tolist() == [name == "phase" or sensor == 2 for sensor in range(8)]
    shift = {name: (x - log)[400:500, 2] / fresh[2] for name, x in changed.items()}
    assert shift["level"] == pytest.approx(1.5)
    assert shift["spike"] == pytest.approx(6)
    assert (np.diff(shift["drift"]) > 0).all()
    assert shift["drift"][-1] == pytest.approx(3)
    assert np.ptp(changed["stuck"][399:500, 2]) == 0
    assert changed["lost"][400:500, 2].std() == pytest.approx(noise[400:500, 2].std())
    assert (changed["noise"] - log)[400:500, 2] == pytest.approx(3 * noise[400:500, 2])
    np.testing.assert_array_equal(changed["phase"][400:500], log[328:428])


def test_false_alarms(table_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [str(table_folder), "--only", "1_small", "--only", "digit-4", "--seeds", "1", *QUIET]
    cells = run_twice(false_alarms.main, argv, "out", monkeypatch)
    train, test, anomalous = tables.draw(table_folder / "1_small.npz", 0)
    detector = Detector.fit(train, seed=0, **FIT)
    alarms = detector.score(test[~anomalous]) > detector.normal.max()
    found = cells.loc[("1_small", "5% asked")]
    n = len(detector.normal)
    assert n == 20  # for 5 % the threshold stands above the largest of them, whose rate is 1 / (n + 1)
    assert found["realised"] == pytest.approx(alarms.mean())
    assert (found["promised"], found["calibrated_on"], found["supported"]) == (pytest.approx(1 / (n + 1)), n, 1)
    shares = pd.read_csv("out/shares.csv").set_index("cells of")
    assert shares.loc["all", "cells"] == len(cells) == 6
    assert shares.loc["all", "inside_binomial"] == pytest.approx(cells["inside_binomial"].mean())


def test_the_intervals_hold_what_they_say() -> None:
    """Of ideal conformal thresholds the beta-binomial interval holds at least 95 %, the plain binomial one fewer."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        known, unseen = rng.random(39), rng.random(60)
        stub: Any = SimpleNamespace(
            with_threshold=lambda policy, known=known: SimpleNamespace(threshold=choose(policy, known, np.empty(0)))
        )
        found = false_alarms.count(stub, unseen, 0.10)
        assert found["promised"] == pytest.approx(0.1)  # 4 of 40
        inside.append([found["inside_binomial"], found["inside_beta_binomial"]])
    binomial, beta_binomial = np.mean(inside, axis=0)
    assert beta_binomial > 0.94
    assert binomial < 0.9


# --- what they share -------------------------------------------------------------------------------------------------


def test_a_folder_of_other_settings_is_refused(table_folder: Path) -> None:
    argv = [str(table_folder), "--seeds", "1", "--out", "out", "--set", "tracking.enabled=false"]
    tables.main([*argv, "--set", "training.steps=20"])
    with pytest.raises(SystemExit, match="other data or settings"):
        tables.main([*argv, "--set", "training.steps=21"])


def test_a_stopped_study_goes_on(place: Path) -> None:
    def compute(file: str, seed: int) -> dict[str, dict[str, float]]:
        if (file, seed) in done:
            raise AssertionError("computed twice")
        done.append((file, seed))
        if len(done) == 3 and not stopped:
            stopped.append(True)
            done.pop()
            raise KeyboardInterrupt
        return {"a": {"auroc": 0.5 + seed, "count": 1.0}}

    done: list[tuple[str, int]] = []
    stopped: list[bool] = []
    config = settings(SimpleNamespace(overrides=["tracking.enabled=false"]))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt), Study("s", place / "s", config, hidden=("count",)) as study:
        study.grid(["x", "y"], 2, compute)
    with Study("s", place / "s", config, hidden=("count",)) as study:
        study.grid(["x", "y"], 2, compute)
        study.finish()
    assert done == [("x", 0), ("x", 1), ("y", 0), ("y", 1)]
    table = pd.read_csv(place / "s" / "overall.csv")
    assert list(table.columns) == ["method", "auroc_mean", "auroc_std"]
    assert table["auroc_mean"].tolist() == [1.0]
    assert table["auroc_std"].tolist() == [pytest.approx(np.std([0.5, 1.5], ddof=1))]


@pytest.mark.filterwarnings("ignore")  # of ray's own code
def test_a_study_over_a_cluster_is_the_study(place: Path, cluster: None) -> None:
    config = settings(SimpleNamespace(overrides=["tracking.enabled=false"]))  # type: ignore[arg-type]

    def compute(file: str, seed: int) -> dict[str, dict[str, float]]:
        return {method: {"auroc": seed / len(file + method)} for method in ("a", "bb")}

    tables = {}
    for name, engine in (("here", "local"), ("there", "ray")):
        with Study(name, place / name, config) as study:
            study.grid(["y"], 1, compute)  # what an earlier run computed
            study.grid(["x", "y", "z"], 3, compute, engine)  # type: ignore[arg-type]
            study.finish()
        rows = [json.loads(line) for line in (place / name / "cells.jsonl").read_text().splitlines()]
        assert len(rows) == 18
        tables[name] = {f.name: f.read_text() for f in (place / name).glob("*.csv")}
    assert tables["there"] == tables["here"]


def test_names(table_folder: Path) -> None:
    assert sorted(["a/10", "a/2", "a"], key=natural) == ["a", "a/2", "a/10"]
    with pytest.raises(SystemExit, match="found x, y"):
        chosen(["x", "y"], ["z"])
    with pytest.raises(SystemExit, match=r"no \.npz files"):
        tables.names(table_folder.parent)
    with pytest.raises(SystemExit, match="neither CSVs"):
        series.find(table_folder)


def labelled(n: int) -> NDArray[np.bool_]:
    return np.arange(n) % 2 == 0


def test_a_ranking_needs_both_classes() -> None:
    assert all(np.isnan(list(baselines.ranking(np.zeros(3, bool), np.arange(3.0)).values())))
    assert baselines.ranking(labelled(4), np.array([2.0, 1.0, 2.0, 1.0])) == {"auroc": 1.0, "aupr": 1.0}
