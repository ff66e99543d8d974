"""Pictures with their reconstructions and heat maps; series with their scores."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import dates, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from anomaly_vae.reporting.plots.overlays import MASK
from anomaly_vae.reporting.plots.style import (
    ANOMALOUS,
    DRAWN,
    INK,
    LABEL_SIZE,
    NORMAL,
    new_figure,
    say,
    set_scale,
    short,
    styled,
)

SENSORS = 8  # panels of a series, at most
GAP = 0.08  # between pictures, as a share of their width
SMOOTH = 128  # pixels; smaller regions are enlarged towards this, so their outline follows the edges of pixels


@styled
def reconstructions(
    originals: ArrayLike,
    reconstructions: ArrayLike | None,
    maps: ArrayLike,
    titles: Sequence[str],
    threshold: float,
    masks: ArrayLike | None = None,
) -> Figure:
    """A row each of originals (N, C, H, W), 0-1, of reconstructions, if any, and of maps (N, H, W) in nats above the
    usual.

    The colours of maps run from 0 to twice the pixel threshold (nats), whose contour is white; masks (N, H, W) are
    outlined in blue.
    """
    batches = {"original": originals} | ({} if reconstructions is None else {"reconstruction": reconstructions})
    pictures = [np.asarray(batch, dtype=np.float32) for batch in batches.values()]
    last = len(pictures)  # the row of the maps
    heat = np.asarray(maps, dtype=np.float32)
    count = len(heat)
    if not count:
        figure, axes = new_figure(5, 2)
        return say(figure, axes, "no pictures")
    height, width = heat.shape[1:]
    side = 1.3  # inches
    size = (side * count + 1.1, side * (last + 1) * min(height / width, 2) + 0.75)
    figure, grid = new_figure(*size, rows=last + 1)
    rows = [row[0] for row in grid]  # a row of pictures shares its axes: axes take 10 ms to make
    top = 2 * threshold if threshold > 0 else 1.0
    blue = tuple(value / 255 for value in MASK)
    lefts = [column * width * (1 + GAP) for column in range(count)]
    for column, left in enumerate(lefts):
        place = {"extent": (left - 0.5, left + width - 0.5, height - 0.5, -0.5), "interpolation": "nearest"}
        for axes, batch in zip(rows, pictures, strict=False):
            axes.imshow(_rgb(batch[column]), vmin=0, vmax=1, **place)
        shown = rows[last].imshow(heat[column], cmap="inferno", vmin=0, vmax=top, **place)
        _contour(rows[last], heat[column] >= threshold, "white", left)
        if masks is not None:
            for axes in (rows[0], rows[last]):
                _contour(axes, np.asarray(masks)[column], blue, left)
        rows[0].annotate(
            titles[column],
            (left + (width - 1) / 2, -0.5),
            (0, 4),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="bottom",
        )
    for axes, name in zip(rows, (*batches, "excess"), strict=True):
        axes.set(xticks=[], yticks=[], xlim=(-0.5, lefts[-1] + width - 0.5), ylim=(height - 0.5, -0.5))
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_ylabel(name, fontsize=LABEL_SIZE)
    bar = figure.colorbar(shown, ax=rows[last], shrink=0.9, pad=0.01, aspect=12)
    bar.set_label("nats a pixel", fontsize=8)
    bar.outline.set_visible(False)
    return figure


@styled
def series(
    times: ArrayLike,
    values: ArrayLike,
    names: Sequence[str],
    scores: ArrayLike,
    threshold: float,
    labels: ArrayLike | None = None,
    shaded: str = "true anomaly",
    step: int | None = None,
    title: str = "Sensors and score",
) -> Figure:
    """Sensors (T, C) above, scores (T,) in nats with the threshold below; steps with labels 1 are shaded. step: one
    that is marked.

    times: (T,) numbers, datetimes or ISO timestamps; anything else is drawn by step. Of more than 8 sensors, those that
    change most where the score is at or above the threshold are drawn.
    """
    x, is_date = _times(times)
    sensors, score = np.asarray(values, dtype=float), np.asarray(scores, dtype=float)
    if not len(x):
        figure, axes = new_figure(5, 2)
        return say(figure, axes, "no time steps")
    chosen = _most_changed(sensors, score >= threshold)
    heights = [1.0] * len(chosen) + [2.0]
    figure, grid = new_figure(10.5, 0.75 * len(chosen) + 2.6, rows=len(heights), heights=heights)
    panels = [row[0] for row in grid]
    for axes, sensor in zip(panels, chosen, strict=False):
        axes.plot(*_envelope(x, sensors[:, sensor]), color=INK, linewidth=0.9)
        axes.set_ylabel(short(names[sensor], 18), rotation=0, ha="right", va="center", fontsize=LABEL_SIZE)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(3))
        axes.tick_params(labelbottom=False)
    below = panels[-1]
    finite = score[np.isfinite(score)]
    if len(finite):
        set_scale(below.yaxis, finite[finite < threshold], np.r_[finite, threshold])
    t, s = _envelope(x, score)
    below.plot(t, s, color=NORMAL, linewidth=1)
    below.plot(t, np.where(s >= threshold, s, np.nan), color=ANOMALOUS, linewidth=1, marker="o", markersize=1.5)
    below.axhline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=f"threshold {threshold:.4g}")
    below.set(ylabel="score (nats)", xlabel="time" if is_date else "time or step")
    truth = _shade(panels, x, labels, shaded)
    for axes in panels if step is not None else ():
        axes.axvline(x[step], color=ANOMALOUS, linewidth=1.2)
    below.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    if is_date:
        locator = dates.AutoDateLocator(minticks=4, maxticks=9)
        below.xaxis.set_major_locator(locator)
        below.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    for axes in panels:
        pad = 0.004 * (x.max() - x.min()) or 1.0
        axes.set_xlim(x.min() - pad, x.max() + pad)
    shown = f", {len(chosen)} of {sensors.shape[1]} sensors" if len(chosen) < sensors.shape[1] else ""
    figure.suptitle(f"{title}{shown}{truth}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _contour(axes: Axes, inside: NDArray[np.bool_], colour: Any, left: float) -> None:
    """Draws the edge of a region (H, W) of the picture whose left side is at x = left; in small pictures, along the
    edges of pixels."""
    if not inside.any():
        return
    fine = max(1, SMOOTH // max(inside.shape))
    region = np.pad(inside.repeat(fine, axis=0).repeat(fine, axis=1), 1)
    y, x = ((np.arange(length) - 0.5) / fine - 0.5 for length in region.shape)
    axes.contour(left + x, y, region.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)


def _rgb(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture (C, H, W) as (H, W, 3): one channel is grey, two are averaged, of more the first three are colours."""
    if picture.shape[0] in (1, 2):
        picture = np.repeat(picture.mean(axis=0, keepdims=True), 3, axis=0)
    return np.asarray(np.clip(np.nan_to_num(picture[:3]), 0, 1).transpose(1, 2, 0))


def _times(times: ArrayLike) -> tuple[NDArray[np.float64], bool]:
    """Coordinates (T,) on the time axis, and whether they are dates (in matplotlib's unit, days since 1970)."""
    array = np.asarray(times)
    if np.issubdtype(array.dtype, np.number):
        return array.astype(float), False
    try:
        stamps = array.astype("datetime64[us]")
    except (ValueError, TypeError):
        return np.arange(len(array), dtype=float), False
    if np.isnat(stamps).any():
        return np.arange(len(array), dtype=float), False
    return np.asarray(dates.date2num(stamps), dtype=float), True


def _most_changed(sensors: NDArray[np.float64], flagged: NDArray[np.bool_]) -> list[int]:
    """At most SENSORS columns, in their order: those whose mean differs most between flagged and other steps."""
    count = sensors.shape[1]
    if count <= SENSORS:
        return list(range(count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a sensor without any value comes last
        change = np.nanstd(sensors, axis=0)
        if flagged.any() and not flagged.all():
            shift = np.nanmean(sensors[flagged], axis=0) - np.nanmean(sensors[~flagged], axis=0)
            change = np.abs(shift) / np.maximum(np.nanstd(sensors[~flagged], axis=0), 1e-12)
    return sorted(np.argsort(-np.nan_to_num(change), kind="stable")[:SENSORS].tolist())


def _envelope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most DRAWN points of a line: the lowest and the highest of each stretch, so no peak is lost."""
    if len(x) <= DRAWN:
        return x, y
    filled = np.nan_to_num(y)
    bounds = np.linspace(0, len(x), DRAWN // 2 + 1).astype(int)
    index = np.unique([(a + filled[a:b].argmin(), a + filled[a:b].argmax()) for a, b in pairwise(bounds)])
    return x[index], y[index]


def _shade(panels: Sequence[Axes], x: NDArray[np.float64], labels: ArrayLike | None, what: str) -> str:
    """Shades what labels tell over all panels; returns what the title says of it."""
    if labels is None:
        return ""
    is_anomaly = np.asarray(labels).astype(bool)
    change = np.flatnonzero(np.diff(np.r_[False, is_anomaly, False].astype(np.int8)))
    begins, ends = change[::2], change[1::2]
    if not len(begins):
        return f", no {what} in sight"
    step = float(np.median(np.diff(x))) if len(x) > 1 else 1.0
    spans = [(x[a] - step / 2, x[b - 1] - x[a] + step) for a, b in zip(begins, ends, strict=True)]
    for axes in panels:
        last = axes is panels[-1]
        axes.broken_barh(
            spans,
            (0, 1),
            transform=axes.get_xaxis_transform(),
            facecolor=ANOMALOUS,
            alpha=0.16,
            linewidth=0,
            zorder=0,
            label=what if last else None,
        )
    return ""
