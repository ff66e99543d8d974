"""Options that several commands have, and the configuration made of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from anomaly_vae.core.advice import argument
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.core.files import require_readable

if TYPE_CHECKING:
    from anomaly_vae.core.config import Config


def settings(command: Callable[..., Any]) -> Any:
    """The options of every command that reads settings: -c and --set, resolved into `config`."""

    @click.option("-c", "--config", "config_file", metavar="FILE", help="YAML file with settings.")
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeatable.")
    @functools.wraps(command)
    def wrapped(config_file: str | None, overrides: tuple[str, ...], **options: Any) -> Any:
        return command(config_file=config_file, overrides=overrides, **options)

    return wrapped


AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of the table.")
DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
ID_COLUMN = click.option("--id", "id_column", metavar="COLUMN", help="Column to report as id.")
LABEL = click.option("--label", metavar="COLUMN", help="Label column; default: the one of the fit.")
MODEL = click.option(
    "-m",
    "--model",
    metavar="RUN|FOLDER|models:/NAME@ALIAS",
    help="Detector; a run by its id or name; default: of the latest finished run.",
)
NORMAL = click.option("--normal", multiple=True, metavar="VALUE", help="Label value that is normal; repeatable.")
SKIP_BROKEN = click.option(
    "--skip-broken", is_flag=True, default=None, help="Leave out, and name, pictures that cannot be decoded."
)


def _one(ctx: click.Context, _: click.Parameter, values: tuple[str, ...]) -> str | None:
    """The only value. Raises UsageError for several, as a shell makes of a pattern, and of a path with blanks."""
    if len(values) < 2:
        return values[0] if values else None
    command, joined = f"anomaly-vae {ctx.info_name}", " ".join(values)
    if os.path.exists(joined):
        raise UsageError(f"one file is expected; quote a path with blanks: {command} {argument(joined)}")
    from anomaly_vae.data.images.listing import is_picture

    folders, endings = {os.path.dirname(value) for value in values}, {os.path.splitext(value)[1] for value in values}
    advice = []
    if len(folders) == 1 and all(map(is_picture, values)):
        advice.append(f"`{command} {argument(max(folders) or '.')}` reads the pictures of the folder")
    if len(folders) == 1 and ctx.info_name == "score":
        pattern = os.path.join(max(folders), f"*{max(endings) if len(endings) == 1 else ''}")
        advice.append(f"`{command} {argument(pattern)} -o DIR`, in quotes, scores each file on its own")
    raise UsageError(f"{len(values)} files where one is expected; {', '.join(advice) or 'name one of them'}")


def data_argument(required: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """The argument DATA of a command: one file or folder."""
    return click.argument("data", nargs=-1, required=required, metavar="DATA" if required else "[DATA]", callback=_one)


def require_there(data: str) -> None:
    """Checks early, before slow imports, that DATA can be read; `-` is stdin. Raises DataError."""
    if "://" in data:
        raise DataError(f"{data}: an address; download it first, and name the file")
    if data != "-":
        require_readable(data)


# option -> the setting it is a shorthand for
SHORTHANDS = {
    "kind": "data.kind",
    "label": "data.label",
    "normal": "data.normal",
    "group": "data.group",
    "id_column": "data.id",
    "device": "device",
    "seed": "seed",
    "name": "tracking.name",
    "policy": "threshold.policy",
    "skip_broken": "data.skip_broken",
    "condition": "data.condition",
    "contamination": "data.contamination",
}


def load_config(options: dict[str, Any], base: dict[str, Any] | None = None) -> Config:
    """The settings of -c, --set and the options that are shorthands for one, which win."""
    from anomaly_vae.detector.configuration import load

    shorthands: dict[str, Any] = {}
    rate = options.get("false_alarm_rate")
    given = {**options, "policy": f"fpr={rate!r}" if rate else options.get("policy")}
    for option, setting in SHORTHANDS.items():
        value = given.get(option)
        if value is not None and value != ():
            shorthands[setting] = list(value) if isinstance(value, tuple) else value
    return load(options.get("config_file"), options.get("overrides") or (), base=base, shorthands=shorthands)
