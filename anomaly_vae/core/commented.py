"""A configuration as YAML for people: what each setting is, and what it may be, stands above it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from anomaly_vae.core.config import Config
from anomaly_vae.core.settings import Section

WIDTH = 110  # characters of a line of comment


def commented(config: Config, names: Mapping[str, Collection[str]], only_changed: bool = False) -> str:
    """The settings as YAML with comments, which `fit -c` reads. names: registry -> the names that settings may choose
    from it. only_changed: those that differ from the defaults alone."""
    shown = "\n".join(_lines(config, Config(), names, only_changed, "")).strip()
    return f"{shown or '# nothing differs from the defaults'}\n"


def _lines(
    section: Section, default: Section, names: Mapping[str, Collection[str]], only_changed: bool, indent: str
) -> Iterator[str]:
    values, defaults = section.model_dump(mode="json"), default.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        if only_changed and values[name] == defaults[name]:
            continue
        inner = getattr(section, name)
        if isinstance(inner, Section):
            yield from ("", *_comment((type(inner).__doc__ or "").partition("\n")[0], indent), f"{indent}{name}:")
            yield from _lines(inner, getattr(default, name), names, only_changed, f"{indent}  ")
            continue
        choices = ", ".join(dict.fromkeys(_choices(field.annotation))) or ", ".join(_registered(field, names))
        yield from _comment("; ".join(filter(None, (field.description, choices and f"one of {choices}"))), indent)
        value = yaml.safe_dump([values[name]], default_flow_style=True, width=1 << 20, allow_unicode=True)
        yield f"{indent}{name}: {value.strip()[1:-1]}"


def _comment(text: str, indent: str) -> list[str]:
    text = re.sub(r"\bNone\b", "null", text)  # as YAML has it
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _choices(annotation: Any) -> Iterator[str]:
    """The words of every Literal in a type."""
    for inner in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(inner)
        else:
            yield from _choices(inner)


def _registered(field: FieldInfo, names: Mapping[str, Collection[str]]) -> list[str]:
    """The names of the registry that a setting chooses from, see `settings.one_of`."""
    registries = (getattr(getattr(rule, "func", None), "registry", "") for rule in field.metadata)
    return sorted(name for registry in registries if registry for name in names.get(registry, ()))
