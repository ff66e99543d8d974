"""One home, one default and one override syntax for each setting; a wrong one names what would work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.core.settings import Policy
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.registry import MODELS


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("3e-4", 3e-4), ("1E-3", 1e-3), ("5e+1", 50.0), (".5e-2", 5e-3), ("2.5e-3", 2.5e-3), ("1", 1.0)]
)
def test_an_override_reads_every_way_to_write_a_float(text: str, value: float) -> None:
    lr = load(overrides=[f"training.lr={text}"]).training.lr
    assert isinstance(lr, float)
    assert lr == value


def test_a_file_with_an_exponent_is_a_float_too(tmp_path: Path) -> None:
    assert load(written(tmp_path, "training:\n  lr: 3e-4\n")).training.lr == 3e-4


@pytest.mark.parametrize(
    ("override", "unknown", "near"),
    [
        ("training.epoch=3", "training.epoch", "did you mean 'epochs'? section 'training' has steps, epochs, "),
        ("trainig.epochs=3", "trainig", "did you mean 'training'? the settings are seed, device, data,"),
        ("objective.betta=1", "objective.betta", "did you mean 'beta'? section 'objective' has beta, schedule,"),
    ],
)
def test_an_unknown_key_names_the_near_one_and_all_that_exist(override: str, unknown: str, near: str) -> None:
    said = problem(override)
    assert said.startswith(f"the settings: unknown setting '{unknown}'; ")
    assert near in said


def test_a_key_unlike_any_other_gets_no_guess() -> None:
    assert "did you mean" not in problem("model.zzz=1")


@pytest.mark.parametrize(
    "override",
    ["training.epochs=a", "training.epochs=0", "seed=-1", "training.lr=0", "model.kind=transformer", "split.train=0"],
)
def test_a_value_of_the_wrong_type_or_range_is_named(override: str) -> None:
    assert f"setting '{override.partition('=')[0]}'" in problem(override)


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.epochs=[1"])
def test_a_malformed_override_is_quoted(override: str) -> None:
    assert f"--set {override}" in problem(override)


@pytest.mark.parametrize(("text", "said"), [("- 1\n", "found list"), ("a: [\n", "not a YAML file"), ("lr: 1", "'lr'")])
def test_a_malformed_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    assert problem(path=path).startswith(f"{path}: ")
    assert said in problem(path=path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in problem(path=tmp_path / "absent.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing\n")) == Config()


def test_file_under_override_under_shorthand(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\ntraining: {epochs: 11, lr: 0.1, clip: 4}\nmodel: {latent: 7}\n")
    base = {"seed": 9, "split": {"train": 0.5}, "training": {"epochs": 9}}
    config = load(path, ["training.epochs=22", "training.lr=0.2"], base, {"training.epochs": 33})
    assert (config.training.epochs, config.training.lr, config.training.clip) == (33, 0.2, 4.0)
    assert (config.seed, config.split.train, config.model.latent) == (1, 0.5, 7)


def test_changed_holds_what_differs_and_nothing_else() -> None:
    config = load(overrides=["training.lr=0.5", "seed=3", "data.normal=[a, b]", "objective.warmup=0.2"])
    assert config.changed() == {"seed": 3, "data.normal": ["a", "b"], "training.lr": 0.5}
    assert Config().changed() == {}


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = resolve(
        load(overrides=["data.shape=[3,8,8]", "data.normal=['3']", "threshold.policy=cost=10", "training.lr=1e-5"]),
        "pixels",
    )
    assert load(written(tmp_path, config.to_yaml())) == config
    assert yaml.safe_load(config.to_yaml())["training"]["lr"] == 1e-5


@pytest.mark.parametrize("kind", list(KINDS))
def test_resolve_fills_what_depends_on_the_data_and_keeps_what_was_set(kind: str) -> None:
    resolved = resolve(load(overrides=["model.latent=3"]), kind)
    assert resolved.data.kind == kind
    of_model = MODELS[KINDS[kind].defaults["model"]["kind"]].defaults
    for section, settings in KINDS[kind].defaults.items():
        for key, value in (settings | of_model.get(section, {})).items():
            assert getattr(getattr(resolved, section), key) == (3 if key == "latent" else value)
    assert resolve(resolved, kind) == resolved  # nothing is left to fill


@pytest.mark.parametrize(("rows", "window"), [(10, 8), (319, 8), (320, 16), (10_000, 32)])
def test_the_window_follows_the_rows(rows: int, window: int) -> None:
    assert resolve(Config(), "series", rows).data.window == window
    assert resolve(load(overrides=["data.window=5"]), "series", rows).data.window == 5
    assert resolve(Config(), "table", rows).data.window is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("youden", Policy("youden")),
        ("f1", Policy("f1")),
        ("fpr=0.01", Policy("fpr", 0.01)),
        ("recall=1", Policy("recall", 1.0)),
        ("cost=10", Policy("cost", 10.0)),
        ("cost=1e-2", Policy("cost", 0.01)),
        ("tail=1e-4", Policy("tail", 1e-4)),
    ],
)
def test_a_policy_is_read_and_written(text: str, policy: Policy) -> None:
    assert Policy.parse(text) == policy
    assert Policy.parse(str(policy)) == policy
    assert load(overrides=[f"threshold.policy={text}"]).threshold.policy == text


@pytest.mark.parametrize(
    "text",
    ["", "Youden", "youden=1", "f1=", "fpr", "fpr=", "fpr=0", "fpr=1", "fpr=-0.1", "fpr=x", "fpr=nan", "recall=0",
     "recall=1.1", "cost=0", "cost=inf", "cost=nan", "cost=-1", "tail=0", "tail=1"],
)  # fmt: skip
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'{text}' is no threshold policy; use youden, f1, fpr=0.01")):
        Policy.parse(text)
    tree: dict[str, Any] = {"threshold": {"policy": text}}
    with pytest.raises(ConfigError, match="is no threshold policy"):
        load(base=tree)
