"""The settings of a fit: read, checked against the registries, and resolved for the data.

`resolve` is the one place where settings are filled in. What it returns is read from there on, and saved with the
detector, so a saved configuration states the values that were used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anomaly_vae.core.config import Config, DataConfig, read, validate
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.core.settings import NETWORKS
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.models.registry import MODELS
from anomaly_vae.scoring.parts import names_of

# Floating-point operations of a training up to which the default number of steps is kept, and the fewest steps that it
# is cut to. What a step costs follows from the settings and the data, not from the machine.
MOST_WORK, FEWEST_STEPS = 1.5e13, 300

# What `anomaly-vae fit` without data trains on: scikit-learn's digits, one class against the rest.
EMBEDDED: dict[str, Any] = {"data": {"kind": "pixels", "label": "label", "normal": ("3",)}}
EMBEDDED_DATA = "scikit-learn's digits"  # what a run calls them


def load(
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    shorthands: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a YAML file (None: the defaults) with `section.key=VALUE` overrides applied.

    base: a tree of settings under the file, e.g. what a saved detector was fitted with. shorthands: dotted names and
    values over everything else.

    Raises ConfigError for a missing or malformed file, an unknown key or name, or a value of the wrong type.
    """
    return read(path, overrides, base or {}, shorthands or {}, names())


def unlabelled(config: Config) -> str:
    """The policy of `threshold.policy=auto` where no anomaly is known, of a resolved configuration."""
    assert config.threshold.unlabelled
    return config.threshold.unlabelled


def opening(config: Config) -> DataConfig:
    """How to open data whose kind is not known yet: with the size that pictures are read at."""
    return config.data.model_copy(update={"size": _filled_in(config, "images").data.size})


def resolve(config: Config, kind: str, train_rows: int | None = None) -> Config:
    """The configuration with everything filled in that depends on the kind of data, the model and the number of
    training rows (None: not known yet); what was chosen stays.

    Raises ConfigError where settings contradict each other.
    """
    from anomaly_vae.models import backbone, pretrained

    require_steps(config, kind)
    config = _filled_in(config, kind, train_rows)
    return config.model_copy(update={"model": backbone.adapted(pretrained.adapted(config.model))})


def require_steps(config: Config, kind: str) -> None:
    """Raises ConfigError where a policy is of events and the data is no series."""
    if config.threshold.asks_for_events() and not KINDS[kind].ordered:
        raise ConfigError(
            f"threshold policy events=RATE is of the steps of a series, and this data is of the kind {kind}; fpr=RATE"
            " would work"
        )


def within_cost(config: Config, step_flops: float) -> Config:
    """A resolved configuration whose number of steps is a default, with fewer where these would cost too much."""
    training = config.training
    assert training.steps
    affordable = max(FEWEST_STEPS, int(MOST_WORK / max(step_flops, 1.0)))
    steps = min(training.steps, affordable)
    return config.model_copy(update={"training": training.model_copy(update={"steps": steps})})


def _filled_in(config: Config, kind: str, train_rows: int | None = None) -> Config:
    """With the defaults of the kind of data and of the model, and where it is known of the number of training rows."""
    tree = config.model_dump()
    tree["data"]["kind"] = kind
    tree["model"]["kind"] = _model_kind(config)
    kind_of_data = KINDS[kind]
    if tree["split"]["train"] or tree["split"]["valid"] or "folds" not in kind_of_data.defaults["split"]:
        tree["split"]["folds"] = tree["split"]["folds"] or 0  # who says what is held out wants it held out
    model = MODELS[tree["model"]["kind"] or kind_of_data.defaults["model"]["kind"]]
    by_rows: Mapping[str, Mapping[str, Any]] = {}
    if kind_of_data.by_rows is not None and train_rows is not None:
        by_rows = kind_of_data.by_rows(train_rows, config.data.window)
    for defaults in (model.defaults, kind_of_data.defaults, by_rows):
        for section, settings in defaults.items():
            for key, value in settings.items():
                if tree[section][key] is None:
                    tree[section][key] = value
    tree["split"]["folds"] = tree["split"]["folds"] or 0
    if tree["scoring"]["weights"] == "auto" and kind_of_data.ordered:
        raise ConfigError(
            f"scoring.weights=auto is of samples that are independent, as {kind_of_data.noun} are not; leave it out"
        )
    if tree["training"]["binarise"] and tree["model"]["likelihood"] != "bernoulli":
        raise ConfigError(
            f"training.binarise=true makes pixels 0 or 1, which model.likelihood={tree['model']['likelihood']} is"
            " no likelihood of; model.likelihood=bernoulli would work"
        )
    return validate(tree, "the defaults", names())


def _model_kind(config: Config) -> str | None:
    """model.kind, which follows from a condition. Raises ConfigError where the two contradict each other."""
    kind, condition = config.model.kind, config.data.condition
    if condition and kind not in (None, "conditional"):
        raise ConfigError(
            f"model.kind={kind} reads no condition; leave it out, or use model.kind=conditional with"
            f" model.network={kind if kind in NETWORKS else NETWORKS[0]}"
        )
    if kind == "conditional" and not condition:
        raise ConfigError("model.kind=conditional needs a condition; name its column with --condition COLUMN")
    return "conditional" if condition else kind


def names() -> dict[str, tuple[str, ...]]:
    """What settings choose from, by the registries as they stand."""
    return {"kinds": tuple(KINDS), "models": tuple(MODELS), "recon": names_of("recon"), "kl": names_of("kl")}
