"""The subcommands of `anomaly-vae latent`, one function each; each returns a figure and the numbers in it.

Every function works for pictures, for windows of a series (curves) and for rows of a table, in the units of the data.
Of a model they use only `code`, `decode` and `prior`, which every model has. In all of them `data` is a file or folder;
None: the data that the detector was fitted on, which its run records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.advice import option
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.core.files import replacing
from anomaly_vae.data.source import Source
from anomaly_vae.data.writers import batch, open_writer
from anomaly_vae.detector.configuration import EMBEDDED_DATA
from anomaly_vae.workflows.latent import directions
from anomaly_vae.workflows.latent.directions import Direction
from anomaly_vae.workflows.latent.grid import Grid, draw_grid, numbers_of
from anomaly_vae.workflows.latent.projection import Method, project
from anomaly_vae.workflows.latent.space import Axes, LatentSpace, lerp, slerp
from anomaly_vae.workflows.opening import Model, open_data, reopen

ROWS = 10_000  # largest number of rows, pictures or windows of the data that are encoded; they are evenly spaced
ARTIFACTS = "latent"  # folder of a run's artifacts


@dataclass(frozen=True)
class Drawing:
    """The result of a subcommand.

    figure: draws the figure. columns: name -> (N,) columns of the CSV. summary: what it shows, in a line.
    """

    figure: Callable[[], Any]
    columns: dict[str, Any]
    summary: str


def samples(
    model: Model, count: int | None = None, seed: int = 0, condition: Mapping[str, str] | None = None
) -> Drawing:
    """Generate new samples: decoded draws from the mixture fitted to the training posteriors, else from the prior.

    count: the number of samples; None: a number that fits the figure. condition: column -> value, for a conditional
    model; all classes of the other columns are drawn. A row of the figure is one condition, and a column one draw.
    """
    space = LatentSpace(model.detector)
    conditions = space.conditions(condition or {})
    prior = "the prior" if model.detector.score_model.prior is None else "the mixture fitted to the training posteriors"
    if not conditions:
        count = count or (64 if space.kind.pictures else 16)
        values = space.decode(*space.draw(count, seed))
        title = f"{count} samples of {prior}, seed {seed}"
        return _drawing(space, Grid.of_many(values, space.kind.view, {"sample": range(count)}), title)
    count = count or (10 if space.kind.pictures else 4)
    codes, members = space.draw(count, seed)
    conditioned = np.concatenate([np.c_[codes, np.tile(encoded, (count, 1))] for encoded in conditions.values()])
    values = space.decode(conditioned, None if members is None else np.tile(members, len(conditions)))
    grid = Grid.of(
        values.reshape(len(conditions), count, *values.shape[1:]),
        {"condition": list(conditions)},
        {"sample": [str(number) for number in range(count)]},
    )
    return _drawing(space, grid, f"{count} samples of {prior} under each condition, seed {seed}")


def reconstruct(model: Model, data: str | None, ids: Sequence[str] = (), count: int = 10) -> Drawing:
    """Show items of the data beside their reconstructions: those with these ids, or `count` evenly spaced ones."""
    space, source = LatentSpace(model.detector), _source(data, model)
    items = space.find(source, ids) if ids else space.spread(source, count)
    decoded = space.decode(space.codes(items.x), starts=space.starts(items))
    values = np.stack([items.values, decoded], axis=1)  # (N, 2, ...)
    grid = Grid.of(values, {"id": items.ids.tolist()}, {"what": ["original", "reconstruction"]})
    title = f"{len(items.ids)} of {source.path} and their reconstructions"
    return _drawing(space, grid.turn() if space.kind.pictures else grid, title, reference=True)


def interpolate(model: Model, data: str | None, a: str, b: str, steps: int = 9) -> Drawing:
    """Interpolate in latent space between the items with the ids `a` and `b`, linearly and spherically."""
    space, source = LatentSpace(model.detector), _source(data, model)
    items = space.find(source, (a, b))
    codes, shares = space.codes(items.x), np.linspace(0, 1, steps)
    ways = {"linear": lerp(codes[0], codes[1], shares), "spherical": slerp(codes[0], codes[1], shares)}
    first_steps = space.starts(items)
    starts = None if first_steps is None else np.tile(lerp(first_steps[0], first_steps[1], shares), (2, 1))
    values = space.decode(np.concatenate(list(ways.values())), starts=starts).reshape(2, steps, *items.values.shape[1:])
    grid = Grid.of(values, {"way": list(ways)}, {"share": [f"{share:.3g}" for share in shares]})
    return _drawing(space, grid, f"From {a} to {b}, the share of the way")


def traverse(
    model: Model, data: str | None, around: str | None = None, dimensions: int = 10, steps: int = 9
) -> Drawing:
    """Vary one latent dimension in each row of the figure, the most used first.

    The dimension runs from 3 standard deviations below its mean over the data to 3 above. The other dimensions keep
    their mean or, with `around`, the code of the item with that id.
    """
    space, source = LatentSpace(model.detector), _source(data, model)
    axes = space.axes(source, ROWS)
    mean = np.r_[axes.centre, axes.condition]
    base = mean if around is None else space.codes(space.find(source, [around]).x)[0]
    shown, offsets = axes.order[:dimensions], np.linspace(-3, 3, steps)
    codes = np.tile(base, (len(shown) * steps, 1))
    dimension = np.repeat(shown, steps)
    codes[np.arange(len(codes)), dimension] = (
        axes.centre[dimension] + np.tile(offsets, len(shown)) * axes.spread[dimension]
    )
    values = space.decode(codes, space.member_of(dimension))
    grid = Grid.of(
        values.reshape(len(shown), steps, *values.shape[1:]),
        {"dimension": [f"z{d}  {axes.use[d]:.2g}" for d in shown]},
        {"sd": [f"{offset:+.3g}" for offset in offsets]},
    )
    where = "the mean code" if around is None else around
    return _drawing(space, grid, f"Traversal around {where}, dimensions by {axes.by}, ± 3 sd")


def manifold(model: Model, data: str | None, steps: int | None = None) -> Drawing:
    """Decode a grid in the plane of two latent dimensions, spaced by equal probability under N(0, 1) (Kingma & Welling
    2014, appendix A).

    Of more than two dimensions, the two of one member that the data uses most are shown; the others are 0.
    Raises UsageError for a model of a single dimension.
    """
    from statistics import NormalDist

    space = LatentSpace(model.detector)
    if space.model.latent < 2:
        raise UsageError("a plane needs two latent dimensions, and this model has one; `latent traverse` shows it")
    axes = space.axes(_source(data, model), ROWS) if space.model.latent > 2 or space.model.condition_size else None
    first, second = (0, 1) if axes is None or space.model.latent == 2 else _two(space, axes)
    steps = steps or (15 if space.kind.pictures else 5)
    places = np.array([NormalDist().inv_cdf(share) for share in np.linspace(0, 1, steps + 2)[1:-1]])
    condition = np.empty(0) if axes is None else axes.condition
    codes = np.tile(np.r_[np.zeros(space.model.latent), condition], (steps * steps, 1))
    codes[:, second], codes[:, first] = np.repeat(places[::-1], steps), np.tile(places, steps)  # up and to the right
    members = space.member_of(np.full(len(codes), first))
    values = space.decode(codes, members)
    names = [f"{place:+.2f}" for place in places]
    grid = Grid.of(values.reshape(steps, steps, *values.shape[1:]), {f"z{second}": names[::-1]}, {f"z{first}": names})
    return _drawing(space, grid, f"The plane of z{first} (to the right) and z{second} (up)")


def scatter(model: Model, data: str | None, color: str | None = None, method: Method = "pca", seed: int = 0) -> Drawing:
    """Show the codes of the data in two dimensions, coloured by a column; None: the label column, if there is one."""
    from anomaly_vae.reporting.plots import latent as plots

    space, source = LatentSpace(model.detector), _source(data, model)
    color = color or _label(source, model)
    items, codes = space.codes_of(source, ROWS)
    points, names = project(codes[:, : space.model.latent], method, seed)
    values = None if color is None else directions.colours(source.column(color), items.places, plots.CLASSES)
    columns: dict[str, Any] = {"id": items.ids, "x": _rounded(points[:, 0]), "y": _rounded(points[:, 1])}
    columns |= {} if values is None or color is None else {color: values}
    title = f"{len(codes)} codes of {source.path}"
    return Drawing(lambda: plots.code_scatter(points, values, color or "", names, title), columns, title)


def direction(model: Model, data: str | None, column: str, value: str | None = None) -> Drawing:
    """Find the attribute vector of a column (Larsen 2016): the direction in which codes change with it, for `edit`.

    value: the text of rows that have the attribute; None: the column has two values or holds numbers. A strength of 1
    is the distance between the mean codes without and with the attribute, or one standard deviation of the numbers.
    """
    from anomaly_vae.reporting.plots import latent as plots

    space, source = LatentSpace(model.detector), _source(data, model)
    attribute = directions.attribute(source.column(column), column, value, column == _label(source, model))
    items, codes = space.codes_of(source, ROWS)
    values, codes = attribute.of(items.places), codes[:, : space.model.latent]
    is_present = ~np.isnan(values)
    values, codes = values[is_present], codes[is_present]
    way = Direction.fit(codes, values, column, space.fingerprint())
    along, summary = way.along(codes), way.summary(codes, values, attribute)
    return Drawing(
        figure=lambda: plots.attribute_axis(along, values, attribute.names, column, summary),
        columns=way.to_columns(),
        summary=summary,
    )


def edit(model: Model, data: str | None, id_: str, way: Direction, strengths: Sequence[float]) -> Drawing:
    """Show an item, its reconstruction, and its edits: the code moved along a direction by each of `strengths`.

    Raises UsageError for a direction of another detector.
    """
    space, source = LatentSpace(model.detector), _source(data, model)
    way.require(space.fingerprint())
    items = space.find(source, [id_])
    codes = space.codes(items.x) + np.array([0.0, *strengths])[:, None] * np.pad(
        way.vector, (0, space.model.condition_size)
    )
    starts = space.starts(items)
    edited = space.decode(codes, starts=None if starts is None else np.repeat(starts, len(codes), axis=0))
    names = ["original", "reconstruction", *(f"{strength:+.3g}" for strength in strengths)]
    grid = Grid.of(np.concatenate([items.values, edited])[None], {"id": [id_]}, {"strength": names})
    return _drawing(space, grid, f"{id_} along '{way.column}'", reference=True)


def places(verb: str, output: str | None) -> tuple[Path, Path]:
    """The paths of a subcommand's PNG and CSV. Raises UsageError unless `output` ends in .png, and for files that are
    there already: of data.png that would be data.csv."""
    png = Path(output or f"latent-{verb}.png")
    if png.suffix.lower() != ".png":
        raise UsageError(f"{png}: a figure is written as PNG; end the name in .png (its numbers go beside it, as .csv)")
    csv = png.with_suffix(".csv")
    for path in (png, csv):
        if path.exists():
            raise UsageError(
                f"{path}: already there, and nothing is overwritten; {option('-o', 'FILE.png')} names another"
            )
    return png, csv


def keep(drawing: Drawing, model: Model, to: tuple[Path, Path]) -> None:
    """Writes the PNG and the CSV, both or neither, and logs them to the detector's run, if there is one."""
    png, csv = to
    rows = batch(drawing.columns)
    with replacing(png) as beside, open_writer(csv, rows.schema) as write:
        write(rows)
        drawing.figure().savefig(beside)
    if model.run_id:
        from anomaly_vae import tracking

        with tracking.update(model.run_id, model.detector.config) as run:
            run.file(png, ARTIFACTS)
            run.file(csv, ARTIFACTS)


# --- helpers -----------------------------------------------------------------------------------------------------


def _source(path: str | None, model: Model) -> Source:
    """Opens the data; None: the data that the detector was fitted on. Raises UsageError if its run does not say."""
    if path is None and model.run_id:
        from anomaly_vae import tracking

        path = tracking.data_of(model.run_id, model.detector.config)
    if path is None:
        raise UsageError("name the data to look at: a detector in a folder does not know what it was fitted on")
    return open_data(None, model.detector.config) if path == EMBEDDED_DATA else reopen(path, model.detector)


def _label(source: Source, model: Model) -> str | None:
    """The label column of this data; None if it has none."""
    name = model.detector.config.data.label or "label"
    try:
        return name if source.labels() is not None else None
    except DataError:  # the new data lacks the label column
        return None


def _drawing(space: LatentSpace, grid: Grid, title: str, reference: bool = False) -> Drawing:
    layout, scaler = space.layout, space.detector.scaler
    return Drawing(lambda: draw_grid(grid, layout, scaler, title, reference), numbers_of(grid, layout), title)


def _two(space: LatentSpace, axes: Axes) -> tuple[int, int]:
    """The most used dimension, and the next most used one of the same member."""
    members = space.member_of(axes.order)
    dimensions = axes.order if members is None else axes.order[members == members[0]]
    if len(dimensions) < 2:
        raise UsageError("a plane needs two latent dimensions of one member, and those of this model have one")
    return int(dimensions[0]), int(dimensions[1])


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(values, 6)
