"""One row beside the training distribution of each of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from anomaly_vae.reporting.plots.style import (
    ANOMALOUS,
    FAINT,
    INK,
    LABEL_SIZE,
    NORMAL,
    new_figure,
    set_scale,
    short,
    styled,
)

ACROSS, BINS, BARS = 3, 40, 6  # panels in a line; of a histogram; categories at most


@dataclass(frozen=True)
class Panel:
    """A column of a row. value: its number, or the name of its category; None where it is missing. text: its cell.
    usual: what is usual. nats: of the score. is_reason: whether the score is explained by it. values: (R,) of training;
    of a category empty. shares: of the training rows, by category.
    common: quantiles of the values between which is shaded."""

    name: str
    value: float | str | None
    text: str
    usual: str
    nats: float
    is_reason: bool
    values: NDArray[np.float64]
    shares: dict[str, float]
    common: tuple[float, float] = (0.05, 0.95)


@styled
def row(panels: Sequence[Panel], title: str, more: int = 0) -> Figure:
    """The panels in their order, the value marked in each. more: columns that are not shown."""
    lines = -(-len(panels) // ACROSS)
    figure, grid = new_figure(10.5, 0.8 + 1.75 * lines, rows=lines, columns=ACROSS)
    axes = np.ravel(grid) if lines > 1 else np.atleast_1d(grid)
    for panel, place in zip(panels, axes, strict=False):
        colour = ANOMALOUS if panel.is_reason else FAINT
        _bars(place, panel, colour) if panel.shares else _histogram(place, panel, colour)
        nats = f"    {panel.nats:.1f} nats" if panel.nats >= 0.05 else ""
        text = f"{short(panel.name, 24)} = {short(panel.text, 14)}{nats}"
        place.set_title(text, fontsize=10, color=ANOMALOUS if panel.is_reason else INK, pad=17)
        place.text(0, 1.04, f"usual: {short(panel.usual, 44)}", transform=place.transAxes, fontsize=8, color=INK)
        place.set_yticks([])
        place.grid(False, axis="y")
        place.spines["left"].set_visible(False)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    rest = f"; {more} more columns are not drawn" if more else ""
    figure.suptitle(f"{title}{rest}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _histogram(axes: Axes, panel: Panel, colour: str) -> None:
    values = panel.values
    value = panel.value if isinstance(panel.value, float) else None
    if len(values):
        everything = values if value is None else np.r_[values, value]
        set_scale(axes.xaxis, values, everything)
        to_axis = axes.xaxis.get_transform()
        low, high = to_axis.transform(np.array([everything.min(), everything.max()]))
        pad = 0.02 * (high - low) or 0.5
        edges = to_axis.inverted().transform(np.linspace(low - pad, high + pad, BINS + 1))
        axes.axvspan(*np.quantile(values, panel.common), color=FAINT, alpha=0.15, linewidth=0)
        axes.hist(values, edges.tolist(), color=NORMAL, alpha=0.55)
        axes.set_xlim(edges[0], edges[-1])
        if axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
        else:
            axes.xaxis.set_major_locator(ticker.SymmetricalLogLocator(axes.xaxis.get_transform(), subs=(1.0,)))
    if value is not None:
        axes.axvline(value, color=colour if colour != FAINT else INK, linewidth=2)
    else:
        axes.text(0.5, 0.5, panel.text, transform=axes.transAxes, ha="center", color=colour, fontweight="bold")


def _bars(axes: Axes, panel: Panel, colour: str) -> None:
    shown = dict(sorted(panel.shares.items(), key=lambda pair: -pair[1])[:BARS])
    name = str(panel.text if panel.value is None else panel.value)
    if name not in shown:
        shown[name] = panel.shares.get(name, 0.0)
    colours = [(colour if colour != FAINT else INK) if category == name else NORMAL for category in shown]
    places = np.arange(len(shown))
    axes.bar(places, list(shown.values()), color=colours, alpha=0.6, width=0.7)
    if not shown[name]:
        axes.plot([places[-1]], [0], marker="v", markersize=8, color=colour, clip_on=False)
    axes.set_xticks(places, [short(category, max(4, 32 // len(shown))) for category in shown], fontsize=LABEL_SIZE - 1)
    axes.set_xlim(-0.6, len(shown) - 0.4)
