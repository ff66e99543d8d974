"""A condition is read by encoder and decoder and never judged: contracts, and anomalies that only it can tell."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from anomaly_vae.cli import main
from anomaly_vae.core.config import Config, DataConfig, ModelConfig, ObjectiveConfig
from anomaly_vae.core.errors import ConfigError, DataError, DetectorError, UsageError
from anomaly_vae.data import conditions
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.source import Column
from anomaly_vae.detector.configuration import resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.base import VAE, elements
from anomaly_vae.models.likelihoods import kl_normal
from anomaly_vae.models.registry import build
from anomaly_vae.training.objective import loss, terms
from anomaly_vae.workflows.export import export
from anomaly_vae.workflows.latent import verbs
from anomaly_vae.workflows.opening import Model

B, GIVEN, LATENT = 5, 2, 3
SHAPES = [(4,), (2, 8), (1, 9, 8)]  # of the data alone


def built(shape: tuple[int, ...], categories: tuple[int, ...] = (), **settings: Any) -> VAE:
    sizes = {"latent": LATENT, "hidden": (16,), "channels": (8,), "members": 1, "sigma_min": 0.1, "sigma_value": 1.0}
    config = ModelConfig.model_validate(
        {"kind": "conditional", "likelihood": "gaussian", "sigma": "predicted"} | sizes | settings
    )
    torch.manual_seed(0)
    return build(config, (shape[0] + GIVEN, *shape[1:]), categories, GIVEN)


def batch(shape: tuple[int, ...], condition: float = 0.0) -> torch.Tensor:
    """(B, C + GIVEN, ...): the same data whatever the condition, which is constant within a sample."""
    data = torch.rand(B, *shape, generator=torch.Generator().manual_seed(1))
    return torch.cat([data, torch.full((B, GIVEN, *shape[1:]), condition)], dim=1)


@pytest.mark.parametrize("network", [None, "dense"])
@pytest.mark.parametrize("shape", SHAPES)
def test_encoder_and_decoder_read_the_condition_and_nothing_scores_it(
    shape: tuple[int, ...], network: str | None
) -> None:
    model = built(shape, network=network, members=2 if network == "dense" or len(shape) == 1 else 1).eval()
    x, other = batch(shape), batch(shape, 1.0)
    out = model(x)
    assert out.mu.shape == (B, model.latent)
    assert model.code(x).shape == (B, model.latent + model.condition_size)
    assert not torch.allclose(out.mu, model(other).mu)  # the encoder reads it
    z = model.code(x)
    swapped = torch.cat([z[:, : model.latent], model.code(other)[:, model.latent :]], dim=1)
    assert not torch.allclose(model.decode(z).mean, model.decode(swapped).mean)  # and the decoder
    assert torch.equal(model.decode(z).mean, out.px.mean)
    assert elements(x, out).shape == (B, *shape)  # nats of the data alone
    recon, kl = terms(x, out)
    torch.testing.assert_close(recon, elements(x, out).flatten(1).sum(1))
    torch.testing.assert_close(kl, kl_normal(out.mu, out.log_var).sum(1) / model.members)  # type: ignore[arg-type]
    loss(x + torch.linspace(0, 1, B).reshape(B, *(1,) * len(shape)), model.train()(x, torch.Generator().manual_seed(0)),
         ObjectiveConfig(free_bits_total=0.0), 1.0)[0].backward()  # fmt: skip
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_window_is_told_step_by_step() -> None:
    model = built((2, 8)).eval()
    x, later = batch((2, 8)), batch((2, 8))
    later[:, 2:, 5:] = 1
    told = model.code(later)[:, LATENT:].reshape(B, GIVEN, 8)
    assert torch.equal(told, later[:, 2:])
    assert not torch.allclose(model(x).px.mean, model(later).px.mean)


def test_the_log_weights_are_of_the_data_given_its_condition() -> None:
    """One linear-Gaussian case worked by hand: with the decoder's weights on z at 0, p(x|z, c) = p(x|c) exactly, and
    every weight is log p(x|c) + log p(z) - log q(z|x, c)."""
    model = built((4,), sigma="fixed", sigma_value=1.0).eval()
    with torch.no_grad():
        model.inner.up[0][:, :LATENT].zero_()  # type: ignore[index, operator, union-attr]
    x = batch((4,), 0.7)
    mean = model(x).px.mean[0]
    expected = -0.5 * ((x[:, :4] - mean).square() + math.log(2 * math.pi)).sum(1)
    weights = torch.stack(list(model.log_weights(x, torch.Generator().manual_seed(0), 1000)))
    found = torch.logsumexp(weights, 0) - math.log(len(weights))
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0)


def test_categories_stand_beside_a_condition() -> None:
    model = built((3,), (0, 3, 0), members=2)
    x = torch.cat([torch.tensor([[0.1, 2.0, math.nan]] * B), torch.ones(B, GIVEN)], dim=1)
    assert elements(x, model(x)).shape == (B, 3)


# --- columns --------------------------------------------------------------------------------------------------------


def learned(texts: list[str], name: str = "c") -> Column:
    source = open_memory(pd.DataFrame({"x": np.arange(len(texts)) * 0.5, name: texts}), DataConfig())
    return conditions.learn(source, [name], np.arange(len(texts)), 50)[0]


def test_columns_become_conditions() -> None:
    assert learned(["b", "a", "b"]) == Column("c", ("a", "b"))
    assert learned(["3", "1", "2"]) == Column("c", ("1", "2", "3"))  # few whole numbers name classes
    assert learned(["0.5", "1", "2"]) == Column("c")
    assert learned([str(i) for i in range(30)]) == Column("c")
    with pytest.raises(DataError, match="condition column 'c' holds only 'a' in the training rows"):
        learned(["a", "a"])
    codes = conditions.encode([np.array(["b", "", "z"])], [Column("c", ("a", "b"))], "data.csv")
    np.testing.assert_array_equal(codes, [[1], [np.nan], [2]])
    with pytest.raises(DataError, match=r"data\.csv: condition column 'c' holds a cell that is no finite number"):
        conditions.encode([np.array(["1", "x"])], [Column("c")], "data.csv")


def test_the_settings_agree_with_each_other() -> None:
    chosen = Config(data=DataConfig(condition=("mode",)))
    assert resolve(chosen, "series").model.kind == "conditional"
    with pytest.raises(ConfigError, match=r"model\.kind=flow reads no condition"):
        resolve(Config(data=DataConfig(condition=("mode",)), model=ModelConfig(kind="flow")), "table")
    with pytest.raises(ConfigError, match="needs a condition; name its column with --condition"):
        resolve(Config(model=ModelConfig(kind="conditional")), "table")


# --- detectors ------------------------------------------------------------------------------------------------------


def plant(seed: int, wrong: tuple[int, ...] = ()) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """900 steps of two sensors in two modes of 100 steps each, and where the mode is another than it says."""
    rng, t = np.random.default_rng(seed), np.arange(900)
    fast = (t // 100) % 2 == 0
    a = np.where(fast, np.sin(t / 4), 0.4 * np.sin(t / 11) + 0.8)
    frame = pd.DataFrame({"a": a, "b": np.where(fast, np.cos(t / 4), -a)}) + 0.08 * rng.normal(size=(900, 2))
    anomalous = np.isin(t // 10, wrong)
    frame["mode"] = np.where(fast != anomalous, "fast", "slow")
    return frame, anomalous


def test_a_wrong_regime_is_found_under_its_condition_alone() -> None:
    train, (new, anomalous) = plant(0)[0], plant(1, wrong=(13, 14, 15, 43, 44, 45, 76, 77))
    found = {}
    for name, condition in (("without", []), ("with", ["mode"])):
        detector = Detector.fit(train, kind="series", data__window=16, training__steps=120, data__condition=condition)
        found[name] = roc_auc_score(anomalous, detector.score(new))
    assert found["with"] > 0.95
    assert found["without"] < 0.7


@pytest.fixture(scope="module")
def table() -> tuple[Detector, pd.DataFrame]:
    """A table whose level follows its machine and whose spread follows its load, and a detector of it."""
    rng = np.random.default_rng(0)
    machine = rng.choice(["m1", "m2", "m3"], 400)
    load = rng.uniform(0, 1, 400)
    level = np.array([{"m1": -3.0, "m2": 0.0, "m3": 3.0}[m] for m in machine])
    frame = pd.DataFrame({"a": level + rng.normal(size=400) * 0.2, "b": load + 0.05 * rng.normal(size=400)})
    frame["machine"], frame["load"] = machine, load
    return Detector.fit(frame, data__condition=["machine", "load"], training__steps=250, split__folds=0), frame


def test_a_row_is_judged_under_its_machine(table: tuple[Detector, pd.DataFrame], tmp_path: Path) -> None:
    detector, frame = table
    assert [column.name for column in detector.layout.columns] == ["a", "b"]
    wrong = frame.assign(machine=frame["machine"].map({"m1": "m2", "m2": "m3", "m3": "m1"}))
    scores = detector.score(frame), detector.score(wrong)
    assert roc_auc_score(np.r_[np.zeros(400), np.ones(400)], np.r_[scores]) > 0.98
    explained = detector.parts(wrong, explain=True)
    assert explained.elements is not None
    assert explained.elements.shape == (400, 2)  # no condition among what is explained
    order, _ = detector.contributions(explained, 1)
    assert (order == 0).mean() > 0.95  # it is the level that does not belong to the machine
    detector.save(tmp_path / "det")
    np.testing.assert_array_equal(
        Detector.load(tmp_path / "det").score(wrong[["load", "b", "machine", "a"]]), scores[1]
    )
    with pytest.raises(DetectorError, match="this detector reads a condition besides"):
        export(detector, tmp_path / "det.pt2")
    with pytest.raises(DataError, match="condition column 'machine' not found"):
        detector.score(frame.drop(columns="machine"))


def test_samples_follow_their_condition(table: tuple[Detector, pd.DataFrame]) -> None:
    model = Model(table[0], Path(), "")
    drawn = pd.DataFrame(verbs.samples(model, 20, seed=0, condition={"load": "0.9"}).columns)
    means = drawn.groupby("condition")["a"].mean()
    assert means.index.tolist() == [f"machine={m}, load=0.9" for m in ("m1", "m2", "m3")]
    np.testing.assert_allclose(means, [-3, 0, 3], atol=0.7)
    low = pd.DataFrame(verbs.samples(model, 20, condition={"load": "0.1", "machine": "m2"}).columns)
    assert drawn["b"].mean() - low["b"].mean() > 0.5
    with pytest.raises(DataError, match="machine=m9: not seen in training, which had 'm1', 'm2', 'm3'"):
        verbs.samples(model, condition={"machine": "m9"})
    with pytest.raises(UsageError, match="'b' is no condition of this detector; its conditions are 'machine', 'load'"):
        verbs.samples(model, condition={"b": "1"})


def test_codes_keep_their_condition(table: tuple[Detector, pd.DataFrame], tmp_path: Path) -> None:
    detector, frame = table
    model, data = Model(detector, Path(), ""), str(tmp_path / "rows.csv")
    frame.to_csv(data, index=False)
    first = frame["machine"][0]
    for drawing in (verbs.traverse(model, data, dimensions=2, steps=3), verbs.manifold(model, data, steps=3)):
        level = {"m1": -3.0, "m2": 0.0, "m3": 3.0}[first]  # that of the first row's machine
        assert np.abs(np.array(drawing.columns["a"]) - level).max() < 2
    space = verbs.LatentSpace(detector)
    way = verbs.Direction("b", np.zeros(detector.score_model.model.latent), space.fingerprint())
    edited = pd.DataFrame(verbs.edit(model, data, "0", way, (1.0,)).columns)
    assert edited["a"][2] == edited["a"][1] == pytest.approx(frame["a"][0], abs=1)
    assert verbs.direction(model, data, "b").columns["direction"].shape == (detector.score_model.model.latent,)
    assert verbs.scatter(model, data, "machine").columns["machine"].tolist() == frame["machine"].tolist()


def test_a_stream_of_a_series_is_scored_the_same_in_any_pieces() -> None:
    frame, _ = plant(0)
    detector = Detector.fit(frame, kind="series", data__window=16, training__steps=40, data__condition=["mode"])
    whole = open_memory(frame, detector.config.data)
    pieces = list(detector.score_chunks(whole.chunks(detector.layout, 37)))
    assert np.concatenate([chunk.ids for chunk, _ in pieces]).tolist() == list(range(len(frame)))
    assert all(chunk.ids.tolist() == scores.ids.tolist() for chunk, scores in pieces)
    np.testing.assert_array_equal(np.concatenate([scores.total for _, scores in pieces]), detector.score(frame))


def test_pictures_under_their_class(workplace: Path) -> None:
    """Through the command line: a pixel table, whose mislabelled digits stand out, and a list of files."""
    bunch = load_digits()
    chosen = bunch.target < 3
    frame = pd.DataFrame(
        (bunch.images[chosen] * 15).astype(int).reshape(-1, 64), columns=[f"pixel_{i}" for i in range(64)]
    )
    frame.insert(0, "label", bunch.target[chosen])
    frame.to_csv("digits.csv", index=False)
    off = ["--set", "tracking.enabled=false", "--set", "training.steps=100", "--set", "training.jitter=0",
           "--set", "model.hidden=[32]", "--set", "training.batch_size=64"]  # fmt: skip
    fitted = CliRunner().invoke(main, ["fit", "digits.csv", "--condition", "label", "-o", "det", *off])
    assert fitted.exit_code == 0, fitted.stderr
    frame["label"] = (frame["label"] + (np.arange(len(frame)) % 4 == 0)) % 3
    frame.loc[1, "label"] = 7
    frame.to_csv("wrong.csv", index=False)
    scored = CliRunner().invoke(main, ["score", "wrong.csv", "-m", "./det", "-o", "scores.csv"])
    assert scored.exit_code == 0, scored.stderr
    told = f"worry: values that training has not seen, judged as none of those it has: 'label' in 1 of {len(frame)}"
    assert told in scored.stderr
    scores = pd.read_csv("scores.csv")["score"]
    assert roc_auc_score(np.arange(len(frame)) % 4 == 0, scores) > 0.9
    drawn = CliRunner().invoke(main, ["latent", "samples", "-m", "./det", "-n", "3", "--condition", "label=1"])
    assert drawn.exit_code == 0, drawn.stderr
    assert pd.read_csv("latent-samples.csv")["condition"].tolist() == ["label=1"] * 3


def test_a_list_of_pictures_has_conditions_too(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        shade = 60 if i % 2 else 180
        Image.fromarray(rng.integers(shade - 20, shade + 20, (8, 8)).astype(np.uint8)).save(f"{i}.png")
    lines = [f"{i}.png,{'dark' if i % 2 else 'light'}" for i in range(30)]
    Path("list.csv").write_text("\n".join(["path,kind", *lines]))
    command = ["fit", "list.csv", "--condition", "kind", "--set", "data.size=8", "--set", "training.steps=20",
               "--set", "model.channels=[4]", "--set", "model.hidden=[8]"]  # fmt: skip
    result = CliRunner().invoke(main, [*command, "-o", "det"])
    assert result.exit_code == 0, result.stderr
    assert list(Path("mlruns").rglob("reconstructions.png"))
    assert Detector.load("det").layout.conditions == (Column("kind", ("dark", "light")),)
    scored = CliRunner().invoke(main, ["score", "list.csv", "-m", "./det"])
    assert len(scored.stdout.splitlines()) == 31
