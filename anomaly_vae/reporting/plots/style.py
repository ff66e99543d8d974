"""The style of all figures, and functions that several of them use.

Object-oriented matplotlib only: no pyplot, no state shared between figures, nothing to close. The colours are those of
Okabe and Ito (2008), which people with any colour vision can distinguish; anomalies are orange, normals blue.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

NORMAL, ANOMALOUS, GOOD, INK, FAINT = "#0072B2", "#D55E00", "#009E73", "#2B2F36", "#8A9099"
STYLE = {
    "figure.dpi": 130,  # 910 pixels wide: the width of MLflow's artifact viewer
    "savefig.dpi": "figure",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
LABEL_SIZE = 9
DRAWN = 4_000  # points of one line, at most: four for each pixel of its width

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A decorator: the figure is drawn in STYLE, and matplotlib's settings stay as they are."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(STYLE):
            figure = draw(*args, **kwargs)
        for axes in figure.axes:  # ticks are made when the figure is saved, outside the style
            axes.tick_params(which="both", labelsize=LABEL_SIZE, color=FAINT, labelcolor=INK)
        return figure

    return styled


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure (sizes in inches) and its axes: one, a list of one row, or a list of rows."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights, sharex="col" if heights else False)
    if rows == 1:
        return figure, grid[0, 0] if columns == 1 else list(grid[0])
    return figure, grid.tolist()


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a name; it is drawn as a box
        FigureCanvasAgg(figure).print_png(file)  # the bytes of savefig, which would draw twice to find the layout
    return file.getvalue()


def say(figure: Figure, axes: Axes, text: str) -> Figure:
    """The figure with a message instead of a plot."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=FAINT, transform=axes.transAxes)
    return figure


def set_scale(axis: Any, usual: NDArray[np.float64], everything: NDArray[np.float64]) -> None:
    """Makes the axis logarithmic beyond the usual values if any value is more than 30 of their spreads away."""
    usual = usual if len(usual) else everything
    low, middle, high = np.quantile(usual, (0.01, 0.5, 0.99))
    spread = max(high - low, 1e-3 * abs(middle), 1e-9)
    if np.abs(everything - middle).max() > 30 * spread:
        linear = float(max(abs(low), abs(high), spread))
        change = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
        change("symlog", linthresh=linear, linscale=2)


def short(text: str, length: int) -> str:
    """The text cut to `length` characters, with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
