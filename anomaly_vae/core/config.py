"""The configuration: a tree of frozen sections, read from YAML files and options.

YAML files hold only settings that differ from the defaults; `--set section.key=VALUE` overrides both, with VALUE read
as YAML. `detector.configuration` passes the names that settings may choose from, and fills in settings that depend on
the data.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from anomaly_vae.core.errors import ConfigError
from anomaly_vae.core.settings import (
    DataConfig,
    EventsConfig,
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
    "Config", "DataConfig", "EventsConfig", "ModelConfig", "ObjectiveConfig", "ScoringConfig", "SplitConfig",
    "ThresholdConfig", "TrackingConfig", "TrainingConfig", "read", "validate",
]  # fmt: skip

LONGEST = 1 << 20  # bytes of a file of settings


class Config(Section):
    """All settings of one run."""

    seed: int = Field(
        0, ge=0, lt=1 << 63, description="seed of the split, the weights, the order of batches and the noise"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    events: EventsConfig = EventsConfig()
    tracking: TrackingConfig = TrackingConfig()

    def labelled(
        self,
        label: str | None,
        normal: tuple[str, ...],
        skip_broken: bool = False,
        unlabelled: str = "leave_out",
        written: Mapping[str, Any] | None = None,
    ) -> Config:
        """This configuration for other labelled data. label, normal: instead of those it was fitted with. unlabelled:
        "normal" where rows without a label are taken as normal there, beside where they were in the fit. written: of
        how the file is written."""
        changes = {"label": label or self.data.label, "normal": normal or self.data.normal, "skip_broken": skip_broken}
        changes |= written or {}
        if unlabelled == "normal":
            changes["unlabelled"] = unlabelled
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
        """All settings as YAML."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def read(
    path: str | Path | None,
    overrides: Iterable[str],
    base: Mapping[str, Any],
    shorthands: Mapping[str, Any],
    names: Mapping[str, Collection[str]],
) -> Config:
    """The configuration of a YAML file (None: the defaults) with `section.key=VALUE` overrides applied.

    base: a tree of settings that the file overrides, e.g. those of a saved detector. shorthands: dotted names and
    values that override everything else. names: registry -> the names that settings may choose from it; see
    `settings.one_of`.

    Raises ConfigError for a missing or malformed file, an unknown key or a value of the wrong type.
    """
    tree: dict[str, Any] = _merge({}, base)
    origin = "the settings"
    if path is not None:
        origin = str(path)
        tree = _merge(tree, _read_yaml(Path(path)))
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    for name, value in shorthands.items():
        tree = _merge(tree, _nested(name, value))
    return validate(tree, origin, names)


def validate(tree: Mapping[str, Any], origin: str, names: Mapping[str, Collection[str]]) -> Config:
    """The configuration of a tree of settings. origin: where they come from, for messages; names: see `read`.

    Raises ConfigError with the first setting that is wrong.
    """
    try:
        return Config.model_validate(tree, context=names)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error)}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: no file; name one with settings")
        with open(path, "rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this configuration file ({error.strerror})") from error
    if len(content) > LONGEST:
        raise ConfigError(f"{path}: more than {LONGEST} bytes, which no configuration file has")
    try:
        tree = yaml_value(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file of settings ({' '.join(str(error).split())})") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as 'training:', found {type(tree).__name__}")
    return tree


def _parse_override(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override}: expected section.key=VALUE, e.g. --set training.epochs=20")
    if name.count(".") > 1:
        raise ConfigError(f"--set {override}: no setting's name has more than one dot; e.g. training.epochs")
    try:
        value = yaml_value(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {reprlib.repr(text)} is not a YAML value") from error
    return _nested(name, value)


def yaml_value(text: str) -> Any:
    """The value that `--set` reads in a text. Raises yaml.YAMLError where it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except Exception as error:  # PyYAML lets those of Python's parsers through: !!int abc, !!timestamp 2020-99-99
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


def _nested(name: str, value: Any) -> dict[str, Any]:
    """The tree of settings with one value, at a dotted name."""
    tree: Any = value
    for key in reversed(name.split(".")):
        tree = {key: tree}
    result: dict[str, Any] = tree
    return result


class _Loader(yaml.SafeLoader):
    """A YAML 1.1 loader that also reads 3e-4 as a float, as YAML 1.2 does; YAML 1.1 reads it as a string.

    It has no aliases, of which a few bytes make gigabytes, and no dates, which no setting holds: 2024-05-01 is text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (of the base class)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"*{self.peek_event().anchor}: aliases are not read; write the value out")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `base`, section by section overridden by those of `overrides`."""
    merged = dict(base)
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _first_problem(error: ValidationError) -> str:
    """The first setting that is wrong, in one line."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section: Any = Config
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        valid_names = list(section.model_fields)
        closest = difflib.get_close_matches(path[-1], valid_names, n=1)
        hint = f"; did you mean '{closest[0]}'?" if closest else ""
        inside = f"section '{'.'.join(path[:-1])}' has" if path[:-1] else "the settings are"
        return f"unknown setting '{name}'{hint} {inside} {', '.join(valid_names)}"
    message = problem["msg"].removeprefix("Value error, ")  # pydantic's prefix to the message of a validator
    try:
        value = reprlib.repr(problem["input"])
    except ValueError:  # a number that Python does not write out
        value = "a number of thousands of digits"
    return f"setting '{name}' = {value}: {message}"
