"""A configuration: where it is read from, and what is filled in.

It is a tree of frozen sections (`sections`). YAML files hold only what differs from the defaults, and
`--set section.key=VALUE` overrides both; VALUE is read as YAML. Settings whose best value depends on the kind of
data default to None and are filled in by `Config.resolve`, so a saved configuration always states the values used.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from anomaly_vae.core.defaults import BY_KIND, BY_MODEL
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.core.settings import (
    NETWORKS,
    DataConfig,
    DataKind,
    ModelConfig,
    ObjectiveConfig,
    ScoringConfig,
    Section,
    SplitConfig,
    ThresholdConfig,
    TrackingConfig,
    TrainingConfig,
)

__all__ = [
    "BY_KIND", "EMBEDDED", "NO_TEST", "Config", "DataConfig", "DataKind", "ModelConfig", "ObjectiveConfig",
    "ScoringConfig", "SplitConfig", "ThresholdConfig", "TrackingConfig", "TrainingConfig", "load",
]  # fmt: skip


class Config(Section):
    """All settings of one run."""

    seed: int = Field(0, ge=0, description="seed of the split, the weights, the order of batches and the noise")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    tracking: TrackingConfig = TrackingConfig()

    def resolve(self, kind: DataKind) -> Config:
        """This configuration with every None that depends on the kind of model or of data filled in."""
        tree = self.model_dump()
        tree["data"]["kind"] = kind
        tree["model"]["kind"] = self._kind()
        model = tree["model"]["kind"] or BY_KIND[kind]["model"]["kind"]
        for defaults in (BY_MODEL.get(model, {}), BY_KIND[kind]):
            for section, settings in defaults.items():
                for key, value in settings.items():
                    if tree[section][key] is None:
                        tree[section][key] = value
        if tree["training"]["binarise"] and tree["model"]["likelihood"] != "bernoulli":
            raise ConfigError(
                f"training.binarise=true makes pixels 0 or 1, which model.likelihood={tree['model']['likelihood']} is"
                " no likelihood of; model.likelihood=bernoulli would work"
            )
        return _validate(tree, "the defaults")

    def _kind(self) -> str | None:
        """model.kind, which follows from a condition. Raises ConfigError where the two contradict each other."""
        if self.data.condition and self.model.kind not in (None, "conditional"):
            raise ConfigError(
                f"model.kind={self.model.kind} reads no condition; leave it out, or use model.kind=conditional with"
                f" model.network={self.model.kind if self.model.kind in NETWORKS else NETWORKS[0]}"
            )
        if self.model.kind == "conditional" and not self.data.condition:
            raise ConfigError("model.kind=conditional needs a condition; name its column with --condition COLUMN")
        return "conditional" if self.data.condition else self.model.kind

    def opening(self) -> DataConfig:
        """How to open data whose kind is not known yet: with the size that pictures are read at."""
        return self.data.model_copy(update={"size": self.resolve("images").data.size})

    def with_window(self, rows: int) -> Config:
        """This configuration with the window of a series, where it is None, chosen for so many training rows."""
        if self.data.kind != "series" or self.data.window is not None:
            return self
        window = 32  # or a half of it, ..., until the training rows hold twenty windows side by side
        while window > 8 and window > rows / 20:
            window //= 2
        return self.model_copy(update={"data": self.data.model_copy(update={"window": window})})

    def labelled(self, label: str | None, normal: tuple[str, ...], skip_broken: bool = False) -> Config:
        """This configuration for other labelled data. label, normal: instead of those it was fitted with."""
        changes = {"label": label or self.data.label, "normal": normal or self.data.normal, "skip_broken": skip_broken}
        return self.model_copy(update={"data": DataConfig(**{**self.data.model_dump(), **changes})})

    def changed(self) -> dict[str, Any]:
        """Dotted name and value of every setting that differs from its default."""
        default = Config().flat()
        return {key: value for key, value in self.flat().items() if value != default[key]}

    def flat(self) -> dict[str, Any]:
        """Dotted name and value of every setting."""
        flat: dict[str, Any] = {}
        for key, value in self.model_dump(mode="json").items():
            flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
        return flat

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


# The split where all rows are known to be normal and none is kept for a test.
NO_TEST = {"train": 0.85, "valid": 0.15}

# What `anomaly-vae fit` without data trains on: scikit-learn's digits, one class against the rest.
EMBEDDED: dict[str, Any] = {"data": {"kind": "pixels", "label": "label", "normal": ("3",)}}


def load(
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    shorthands: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a YAML file (None: the defaults) with `section.key=VALUE` overrides applied.

    base: a tree of settings under the file, e.g. what a saved detector was fitted with. shorthands: dotted names and
    values over everything else.

    Raises ConfigError for a missing or malformed file, an unknown key or a value of the wrong type.
    """
    tree: dict[str, Any] = _merge({}, base or {})
    where = "the settings"
    if path is not None:
        where = str(path)
        tree = _merge(tree, _read_yaml(Path(path)))
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    for name, value in (shorthands or {}).items():
        tree = _merge(tree, _nested(name, value))
    return _validate(tree, where)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this configuration file ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as 'training:', found {type(tree).__name__}")
    return tree


def _parse_override(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override}: expected section.key=VALUE, e.g. --set training.epochs=20")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value") from error
    return _nested(name, value)


def _nested(name: str, value: Any) -> dict[str, Any]:
    tree: Any = value
    for key in reversed(name.split(".")):
        tree = {key: tree}
    result: dict[str, Any] = tree
    return result


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-4 as a string; the YAML 1.2 float that every user means is added here."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _validate(tree: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section: Any = Config
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        known = list(section.model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        inside = f"section '{'.'.join(path[:-1])}' has" if path[:-1] else "the settings are"
        return f"unknown setting '{name}'{hint} {inside} {', '.join(known)}"
    said = problem["msg"].removeprefix("Value error, ")  # pydantic's words before those of a validator
    return f"setting '{name}' = {problem['input']!r}: {said}"
