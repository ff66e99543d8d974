"""Figures of a latent space: grids of pictures, of curves and of table rows, scatters of codes, attribute axes.

A grid has R rows of C samples; values are in the units of the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from anomaly_vae.reporting.plots.pictures import SENSORS
from anomaly_vae.reporting.plots.style import ANOMALOUS, FAINT, INK, LABEL_SIZE, NORMAL, new_figure, short, styled

# Okabe and Ito (2008) and two more, in the order in which classes get them
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#2B2F36", "#8A9099", "#7A4FBF")
CLASSES = len(COLOURS)  # values of a column that get a colour of their own, at most
COLUMNS = 30  # of a grid of rows, drawn at most
WRITTEN = (40, 14)  # rows and columns of a grid, at most, for values to be written into its cells
SMALLEST, GAP = 64, 4  # pixels: the longer side of a picture at least, and the white between two


@styled
def picture_grid(values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Pictures (R, C, channels, H, W) in 0-255, with a name beside each row and above each column."""
    r, c, channels, height, width = values.shape
    factor = max(1, -(-SMALLEST // max(height, width)))  # small pictures are enlarged, their pixels kept square
    shown = np.repeat(values[:, :, :1], 3, axis=2) if channels < 3 else values[:, :, :3]
    shown = shown.repeat(factor, axis=3).repeat(factor, axis=4)
    height, width = height * factor, width * factor
    sheet = np.full((r * (height + GAP) - GAP, c * (width + GAP) - GAP, 3), 255.0)
    for i in range(r):
        for j in range(c):
            top, left = i * (height + GAP), j * (width + GAP)
            sheet[top : top + height, left : left + width] = shown[i, j].transpose(1, 2, 0)
    side = float(np.clip(9 / c, 0.45, 1.1))  # inches a picture
    named = bool(max((len(name) for name in rows), default=0))
    figure, axes = new_figure(side * c + (1.3 if named else 0.4), side * r * height / width + 0.9)
    axes.imshow(np.clip(sheet, 0, 255).astype(np.uint8), interpolation="nearest", aspect="equal")
    _bare(axes)
    axes.set_yticks([i * (height + GAP) + height / 2 for i in range(r)], rows if named else [""] * r)
    if any(columns):
        axes.set_xticks([j * (width + GAP) + width / 2 for j in range(c)], [short(name, 14) for name in columns])
        axes.xaxis.tick_top()
    axes.tick_params(length=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


@styled
def curve_grid(
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    sensors: Sequence[str],
    title: str,
    reference: bool = False,
) -> Figure:
    """Curves (R, C, T, S) of T steps: R rows of panels, one for each sensor, with C curves in each.

    reference: the first of C is drawn dashed, for comparison. Of more than 8 sensors, those whose curves differ most
    are drawn.
    """
    r, c, _, s = values.shape
    spread = values.std(axis=(0, 1)).mean(axis=0) / np.maximum(values.std(axis=(0, 1, 2)), 1e-12)  # (S,)
    chosen = sorted(np.argsort(-spread, kind="stable")[:SENSORS].tolist())
    shades = colormaps["viridis"](np.linspace(0, 0.9, c - reference))
    figure, grid = new_figure(max(2.1 * len(chosen), 5.5) + 1.3, 1.35 * r + 1.2, rows=r, columns=len(chosen))
    panels = np.array(grid, dtype=object).reshape(r, len(chosen))
    for k, sensor in enumerate(chosen):
        low, high = float(np.nanmin(values[..., sensor])), float(np.nanmax(values[..., sensor]))
        pad = 0.06 * (high - low) or max(0.06 * abs(low), 0.1)  # one scale a sensor, or rows could not be compared
        for i in range(r):
            axes: Axes = panels[i, k]
            for j in range(c):
                first = reference and j == 0
                colour, style = (INK, (0, (3, 1.5))) if first else (shades[j - reference], "solid")
                axes.plot(values[i, j, :, sensor], color=colour, linestyle=style, linewidth=1.4, label=columns[j])
            axes.set_ylim(low - pad, high + pad)
            axes.tick_params(labelbottom=i == r - 1, labelsize=LABEL_SIZE - 1)
            axes.locator_params(axis="y", nbins=4)
        panels[0, k].set_title(short(sensors[sensor], 20), fontsize=LABEL_SIZE, loc="center")
        panels[-1, k].set_xlabel("step")
    for i in range(r):
        panels[i, 0].set_ylabel(short(rows[i], 19), fontsize=LABEL_SIZE if len(rows[i]) < 12 else 7)
    if c <= 12:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(c, 6), frameon=False)
    more = f", {len(chosen)} of {s} sensors" if len(chosen) < s else ""
    figure.suptitle(title + more, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


@styled
def row_grid(
    shades: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    names: Sequence[str],
    title: str,
) -> Figure:
    """Table rows (R, C, F) as R blocks of C lines of F coloured cells.

    shades: in standard deviations of training from its mean, NaN for a category. texts: the values in (R * C) lines of
    F, written into the cells where these are large enough.
    """
    r, c, f = shades.shape
    flat, drawn = shades.reshape(r * c, f)[:, :COLUMNS], min(f, COLUMNS)
    written = r * c <= WRITTEN[0] and drawn <= WRITTEN[1]
    wide = 0.62 if written else 0.34
    figure, axes = new_figure(max(wide * drawn + 2.2, 6), float(np.clip(0.23 * r * c, 1.2, 16)) + 2.1)
    colours = colormaps["RdBu_r"].with_extremes(bad="#F1F2F4")
    image = axes.imshow(np.ma.masked_invalid(flat), cmap=colours, vmin=-3, vmax=3, aspect="auto")
    axes.grid(False)
    axes.set_xticks(
        range(drawn), [short(name, 22) for name in names[:drawn]], rotation=45, ha="left", rotation_mode="anchor"
    )
    axes.xaxis.tick_top()
    axes.set_yticks(range(r * c), [f"{row}  {column}".strip() for row in rows for column in columns])
    axes.tick_params(length=0)
    for block in range(1, r):
        axes.axhline(block * c - 0.5, color="white", linewidth=3)
    if written:
        for i, line in enumerate(texts):
            for j, text in enumerate(line[:drawn]):
                dark = abs(np.nan_to_num(flat[i, j])) > 1.8
                axes.text(j, i, short(text, 9), ha="center", va="center", fontsize=6.5, color="white" if dark else INK)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01, aspect=25)
    bar.set_label("sd from the training mean", fontsize=8)
    bar.outline.set_visible(False)
    more = f", {drawn} of {f} columns" if drawn < f else ""
    figure.suptitle(title + more, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


@styled
def code_scatter(
    points: NDArray[np.float64],
    values: NDArray[np.str_] | NDArray[np.float64] | None,
    column: str,
    axes_names: tuple[str, str],
    title: str,
) -> Figure:
    """Points (N, 2), coloured by the texts or numbers (N,) of a column; None: in one colour."""
    figure, axes = new_figure(7, 5.6)
    size = float(np.clip(8000 / len(points), 5, 24))
    style = {"s": size, "alpha": 0.75, "linewidths": 0}
    if values is None:
        axes.scatter(*points.T, color=NORMAL, **style)
    elif values.dtype.kind == "f":
        shown = axes.scatter(*points.T, c=values, cmap="viridis", **style)
        bar = figure.colorbar(shown, ax=axes, pad=0.01, aspect=30)
        bar.set_label(column)
        bar.outline.set_visible(False)
    else:
        names, counts = np.unique(values, return_counts=True)
        kept = sorted(names[np.argsort(-counts, kind="stable")[:CLASSES]].tolist())
        rest = ~np.isin(values, kept)
        if rest.any():
            axes.scatter(*points[rest].T, color="#D5D8DC", label="others", **style)
        for colour, name in zip(COLOURS, kept, strict=False):
            axes.scatter(*points[values == name].T, color=colour, label=name or "(missing)", **style)
        axes.legend(title=column, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, frameon=False)
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
    axes.set_title(title)
    return figure


@styled
def attribute_axis(
    along: NDArray[np.float64], attribute: NDArray[np.float64], names: tuple[str, str] | None, column: str, title: str
) -> Figure:
    """Coordinates (N,) of codes along the direction of an attribute, by the attribute (N,): two histograms, or points
    if it is a number.

    names: of the rows without the attribute (0) and with it (1); None: the attribute is a number.
    """
    figure, axes = new_figure(7, 4)
    if names is None:
        axes.scatter(
            along, attribute, s=float(np.clip(4000 / len(along), 3, 22)), color=NORMAL, alpha=0.6, linewidths=0
        )
        axes.set_ylabel(column)
    else:
        edges = np.histogram_bin_edges(along, bins=40)
        for value, name, colour in ((0, names[0], NORMAL), (1, names[1], ANOMALOUS)):
            chosen = along[attribute == value]
            axes.hist(chosen, edges, weights=np.full(len(chosen), 1 / len(chosen)), color=colour, alpha=0.6, label=name)
        axes.legend(title=column)
        axes.set_ylabel("share of the rows")
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_xlabel("place along the direction, in units of strength")
    axes.set_title(title, fontsize=9.5)
    return figure


def _bare(axes: Axes) -> None:
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
