"""latent: the group of commands (verbs) that look into a detector's latent space."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from anomaly_vae.cli.options import DEVICE, MODEL, load_config, require_there, settings
from anomaly_vae.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from anomaly_vae.workflows.latent.projection import Method
    from anomaly_vae.workflows.latent.verbs import Drawing
    from anomaly_vae.workflows.opening import Model

DIRECTION = "latent-direction.csv"  # the default file that `direction` writes and `edit` reads
DATA = click.argument("data", required=False)
DATA_OPTION = click.option("--data", metavar="DATA", help="Where the ids come from; default: the data of the fit.")


@click.group(short_help="Look into the latent space: samples, traversals, edits, ...")
def latent() -> None:
    """Look into a detector's latent space. Each verb writes a PNG and, beside it, the numbers behind it as CSV, and
    logs both to the detector's run. DATA is, where it is left out, what the detector was fitted on."""


def verb(command: Callable[..., Drawing]) -> Any:
    """A command of the group: `command(model, **options)` makes the drawing, which is then saved and logged."""

    def run(ctx: click.Context, /, model: str | None, output: str | None, device: str | None, **options: Any) -> None:
        common = {name: options.pop(name) for name in ("config_file", "overrides")}
        config = load_config({**common, "device": device})
        if options.get("data"):
            require_there(options["data"])
        from anomaly_vae.cli.console import Console
        from anomaly_vae.workflows.latent import verbs
        from anomaly_vae.workflows.opening import find

        paths = verbs.places(command.__name__, output)
        opened = find(model, config)
        drawing = command(opened, **options)
        verbs.keep(drawing, opened, paths)
        Console(ctx.obj["quiet"]).say(f"{drawing.summary}, by {opened.name}")
        for path in paths:
            click.echo(path)

    wrapped: Any = click.pass_context(functools.wraps(command)(run))  # wraps also copies the command's own options
    for option in (
        DEVICE,
        click.option("-o", "--output", metavar="FILE", help=f"The PNG; default: latent-{command.__name__}.png."),
        MODEL,
        settings,
    ):
        wrapped = option(wrapped)
    return latent.command(command.__name__)(wrapped)


@verb
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1),
    help="How many; default: 64 pictures, else 16; under a condition 10 or 4 of each.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Under this condition; repeatable. Default: under all classes.",
)
def samples(model: Model, count: int | None, seed: int, conditions: tuple[str, ...]) -> Drawing:
    """New data: decoded draws of the mixture fitted to the training posteriors, else of the model's prior."""
    from anomaly_vae.workflows.latent import verbs

    pairs = [text.partition("=") for text in conditions]
    malformed = [text for text, (_, equals, _) in zip(conditions, pairs, strict=True) if not equals]
    if malformed:
        raise UsageError(f"--condition {malformed[0]}: expected COLUMN=VALUE")
    return verbs.samples(model, count, seed, {column: value for column, _, value in pairs})


@verb
@DATA
@click.option("--id", "ids", multiple=True, metavar="ID", help="Reconstruct this one; repeatable.")
@click.option("-n", "--count", type=click.IntRange(1), default=10, show_default=True, help="How many, without --id.")
def reconstruct(model: Model, data: str | None, ids: tuple[str, ...], count: int) -> Drawing:
    """Some of DATA beside what is left of them after the latent space."""
    from anomaly_vae.workflows.latent import verbs

    return verbs.reconstruct(model, data, ids, count)


@verb
@click.argument("first", metavar="ID")
@click.argument("second", metavar="ID")
@DATA_OPTION
@click.option("--steps", type=click.IntRange(2), default=9, show_default=True, help="Of each way.")
def interpolate(model: Model, first: str, second: str, data: str | None, steps: int) -> Drawing:
    """From one row of DATA to another, on the straight line and on the sphere."""
    from anomaly_vae.workflows.latent import verbs

    return verbs.interpolate(model, data, first, second, steps)


@verb
@DATA
@click.option("--around", metavar="ID", help="Around this row of DATA; default: the mean code.")
@click.option("--dimensions", type=click.IntRange(1), default=10, show_default=True, help="How many, at most.")
@click.option("--steps", type=click.IntRange(2), default=9, show_default=True, help="Of each dimension.")
def traverse(model: Model, data: str | None, around: str | None, dimensions: int, steps: int) -> Drawing:
    """What each latent dimension does, one a row, the most used over DATA first."""
    from anomaly_vae.workflows.latent import verbs

    return verbs.traverse(model, data, around, dimensions, steps)


@verb
@DATA
@click.option("--steps", type=click.IntRange(2), help="Of each side; default: 15 of pictures, else 5.")
def manifold(model: Model, data: str | None, steps: int | None) -> Drawing:
    """The plane of two latent dimensions, the most used over DATA, as a grid of equal probability."""
    from anomaly_vae.workflows.latent import verbs

    return verbs.manifold(model, data, steps)


@verb
@DATA
@click.option("--color", metavar="COLUMN", help="Colour by this column; default: the label column.")
@click.option(
    "--method",
    type=click.Choice(["pca", "umap"]),
    default="pca",
    show_default=True,
    help="Of more than two dimensions; umap needs the extra of that name.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of umap.")
def scatter(model: Model, data: str | None, color: str | None, method: Method, seed: int) -> Drawing:
    """The codes of DATA in two dimensions, coloured by a column."""
    from anomaly_vae.workflows.latent import verbs

    return verbs.scatter(model, data, color, method, seed)


@verb
@DATA
@click.option("--column", required=True, metavar="COLUMN", help="The attribute: two values, or numbers.")
@click.option("--value", metavar="VALUE", help="What rows with the attribute hold, of several values.")
def direction(model: Model, data: str | None, column: str, value: str | None) -> Drawing:
    """The attribute vector of a column: how codes change with it. `edit` follows the CSV that this writes."""
    from anomaly_vae.workflows.latent import verbs

    return verbs.direction(model, data, column, value)


def require_direction(_: click.Context, __: click.Parameter, file: str) -> str:
    """Checks early, before slow imports, that the file of a direction exists. Raises DataError."""
    if not os.path.exists(file):
        raise DataError(f"{file}: no such direction; `anomaly-vae latent direction DATA --column COLUMN` writes one")
    return file


@verb
@click.argument("id_", metavar="ID")
@DATA_OPTION
@click.option(
    "--direction",
    "file",
    metavar="FILE",
    default=DIRECTION,
    show_default=True,
    callback=require_direction,
    help="CSV of `latent direction`.",
)
@click.option(
    "--strength",
    "strengths",
    type=float,
    multiple=True,
    metavar="S",
    default=(-1.0, 1.0),
    show_default=True,
    help="1: from those without to those with; repeatable.",
)
def edit(model: Model, id_: str, data: str | None, file: str, strengths: tuple[float, ...]) -> Drawing:
    """A row of DATA, and what it becomes along an attribute's direction."""
    from anomaly_vae.workflows.latent import verbs
    from anomaly_vae.workflows.latent.directions import Direction

    return verbs.edit(model, data, id_, Direction.read(file), strengths)


COMMANDS = (latent,)
