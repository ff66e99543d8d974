"""Options that a message tells the user to type: quoted so that, pasted into a shell, they do what the message says."""

from __future__ import annotations

import json
import shlex
from typing import Any

import yaml

from anomaly_vae.core.config import yaml_value


def setting(name: str, value: Any) -> str:
    """`--set NAME=VALUE` as a shell reads it. value: text, a number, a truth value, None, or a list of these."""
    return f"--set {shlex.quote(f'{name}={as_yaml(value)}')}"


def option(flag: str, value: str) -> str:
    """`FLAG VALUE` as a shell reads it: --label 'my label'. A value that begins with a dash follows an equals sign."""
    return f"{flag}={_quoted(value)}" if value.startswith("-") else f"{flag} {_quoted(value)}"


def argument(path: str) -> str:
    """A path, or pattern of paths, that is an argument or the value of a short option, as a shell reads it."""
    return _quoted(f"./{path}" if path.startswith("-") else path)


def _quoted(text: str) -> str:
    """Text in a shell's quotes, on one line: what cannot be printed is escaped in $'...'."""
    if text.isprintable():
        return shlex.quote(text)
    escapes = {"'": "\\'", "\\": "\\\\"}
    return "$'" + "".join(escapes.get(c, c) if c.isprintable() else f"\\U{ord(c):08x}" for c in text) + "'"


def as_yaml(value: Any) -> str:
    """A value in YAML's flow style, on one line: text is quoted only where YAML would read something else."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_yaml, value)) + "]"
    if isinstance(value, str):
        # JSON's quotes are YAML's; what YAML folds, such as NEL, is escaped
        return value if _is_plain(value) else json.dumps(value, ensure_ascii=not value.isprintable())
    return json.dumps(value)


def _is_plain(text: str) -> bool:
    """Whether YAML reads unquoted text as the same text, in a list too."""
    try:
        return bool(text.isprintable() and yaml_value(f"[{text}]") == [text])
    except yaml.YAMLError:
        return False
