"""Arrays in, Figure out: every picture of a run, and the heat maps of `score --maps`. The only importer of matplotlib.

Object-oriented matplotlib only: no pyplot, no state shared between figures, nothing to close. The colours are those of
Okabe and Ito (2008), told apart by people of every colour vision; anomalies are always orange, normal always blue.
Large inputs are thinned for drawing; every number that is written is computed from all samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from matplotlib import colormaps, dates, image, rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from anomaly_vae.output import replacing

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
DRAWN = 4_000  # points of one line at most: four for each pixel of its width
SENSORS = 8  # panels of a series at most
SMALLEST = 128  # pixels of the longer side of a saved heat map at least

P = ParamSpec("P")


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(STYLE):
            figure = draw(*args, **kwargs)
        for axes in figure.axes:  # ticks are made when the figure is saved, outside the style
            axes.tick_params(which="both", labelsize=LABEL_SIZE, color=FAINT, labelcolor=INK)
        return figure

    return styled


@_styled
def roc(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Figure:
    """ROC curve of labels (N,) (1: anomalous) and scores (N,), with the chosen point marked."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _figure(5.6, 5.2)
    wrong, score = _labelled(labels, scores)
    if _one_class(figure, axes, wrong):
        return figure
    fpr, tpr, _ = roc_curve(wrong, score)
    here = (float((score[~wrong] >= threshold).mean()), float((score[wrong] >= threshold).mean()))
    keep = _spread(len(fpr))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.fill_between(fpr[keep], tpr[keep], color=NORMAL, alpha=0.08, linewidth=0)
    axes.plot(fpr[keep], tpr[keep], color=NORMAL, label=f"AUROC {roc_auc_score(wrong, score):.3f}")
    _mark(axes, here, f"threshold {threshold:.4g}: FPR {here[0]:.3f}, TPR {here[1]:.3f}")
    axes.set(title="ROC on test data", xlabel="false-positive rate", ylabel="true-positive rate (recall)")
    _unit_square(axes)
    axes.legend(loc="lower right")
    return figure


@_styled
def precision_recall(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Figure:
    """Precision against recall of labels (N,) (1: anomalous) and scores (N,), with the chosen point marked."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = _figure(5.6, 5.2)
    wrong, score = _labelled(labels, scores)
    if _one_class(figure, axes, wrong):
        return figure
    precision, recall, _ = precision_recall_curve(wrong, score)
    keep = _spread(len(recall))
    alarms, share = score >= threshold, float(wrong.mean())
    axes.axhline(share, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label=f"chance {share:.3f}")
    label = f"AUPRC {average_precision_score(wrong, score):.3f} (average precision)"
    axes.step(recall[keep], precision[keep], where="post", color=NORMAL, label=label)
    if alarms.any():
        here = (float(alarms[wrong].mean()), float(wrong[alarms].mean()))
        _mark(axes, here, f"threshold {threshold:.4g}: recall {here[0]:.3f}, precision {here[1]:.3f}")
    axes.set(title="Precision and recall on test data", xlabel="recall", ylabel="precision")
    _unit_square(axes)
    axes.legend(loc="lower left")
    return figure


@_styled
def score_histogram(normal_scores: ArrayLike, anomalous_scores: ArrayLike | None, threshold: float) -> Figure:
    """Histograms of scores (N,) and (M,) in nats, each a share of its own class, and the threshold."""
    figure, axes = _figure(7, 4)
    groups = [("normal", _finite(normal_scores), NORMAL)]
    if anomalous_scores is not None:
        groups.append(("anomalous", _finite(anomalous_scores), ANOMALOUS))
    groups = [group for group in groups if len(group[1])]
    if not groups:
        return _say(figure, axes, "no finite scores")
    everything = np.concatenate([scores for _, scores, _ in groups] + [np.array([threshold])])
    _scale(axes.xaxis, groups[0][1], everything)
    edges = _edges(axes, everything)
    for name, scores, colour in groups:
        above = (scores >= threshold).mean()
        label = f"{name}: {len(scores):,} samples, {above:.1%} at or above the threshold"
        weights = np.full(len(scores), 100 / len(scores))
        axes.hist(scores, edges, weights=weights, color=colour, alpha=0.6, label=label)
    axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)), label=f"threshold {threshold:.4g}")
    axes.set(title="Scores on test data", xlabel="score (nats)", ylabel="share of the class (%)")
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.set_ylim(0, axes.dataLim.y1 * 1.35)  # room for the legend
    axes.legend(loc="upper left", ncols=1)
    return figure


@_styled
def training(history: dict[str, list[float]]) -> Figure:
    """Curves by epoch, one value each: loss, valid_loss, recon and kl (nats a sample), beta, active_units.

    A key that is absent is left out.
    """
    figure, (bound, recon, kl) = _figure(10.5, 3.5, columns=3)
    _curves(bound, history, (("loss", "training, β as scheduled", NORMAL),))
    _curves(bound, history, (("valid_loss", "held out, β = 1", ANOMALOUS),))
    bound.set(title="Negative ELBO", ylabel="nats a sample")
    held_out = np.asarray(history.get("valid_loss", ()), dtype=float)
    if np.isfinite(held_out).any():
        best = int(np.nanargmin(held_out))
        label = f"best: {held_out[best]:.4g} in epoch {best + 1}"
        bound.plot(best + 1, held_out[best], "o", color=ANOMALOUS, markersize=6, markeredgecolor="white", label=label)
    _curves(recon, history, (("recon", "reconstruction", NORMAL),))
    recon.set(title="Reconstruction", ylabel="nats a sample")
    _curves(kl, history, (("kl", "KL", NORMAL),))
    kl.set(title="KL and its weight β", ylabel="nats a sample")
    if "beta" in history:
        right = kl.twinx()
        _curves(right, history, (("beta", "β", GOOD),), linestyle=(0, (4, 2)))
        right.set(ylabel="β")
        right.set_ylim(0, max(1.0, *history["beta"]) * 1.05)
        right.grid(False)
        right.spines["right"].set_visible(True)
        kl.plot([], [], color=GOOD, linestyle=(0, (4, 2)), label="β (right)")
    for axes in (bound, recon, kl):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=6))
        if axes is not recon and axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower right" if axes is kl else "upper right")
    return figure


@_styled
def kl_per_dimension(kl: ArrayLike, active: ArrayLike | None = None) -> Figure:
    """Mean KL (nats) of each latent dimension (G,), the largest first. active: mask (G,); None: above 0.01 nats."""
    nats = np.nan_to_num(np.asarray(kl, dtype=float)).reshape(-1)
    used = nats > 0.01 if active is None else np.asarray(active, dtype=bool)
    order = np.argsort(-nats, kind="stable")
    figure, axes = _figure(7, 3.6)
    place = np.arange(len(nats))
    for mask, colour, name in ((used, NORMAL, "active"), (~used, "#C3C7CD", "not active")):
        chosen = mask[order]
        if chosen.any():
            axes.bar(place[chosen], nats[order][chosen], color=colour, width=0.8, label=f"{name}: {chosen.sum()}")
    if not used.all():  # no bar is high enough to be seen
        axes.plot(place[~used[order]], np.zeros((~used).sum()), "x", color=FAINT, markersize=5, clip_on=False)
    if len(nats) <= 32:
        axes.set_xticks(place, [str(dimension) for dimension in order])
    axes.set(xlabel="latent dimension, by its KL", ylabel="KL (nats)")
    axes.set_title(f"KL of each latent dimension: {nats.sum():.4g} nats in all")
    axes.grid(False, axis="x")
    if len(nats):
        axes.legend(loc="upper right")
    return figure


@_styled
def reconstructions(originals: ArrayLike, reconstructions: ArrayLike, maps: ArrayLike, titles: Sequence[str]) -> Figure:
    """Rows of originals and reconstructions (N, C, H, W), 0-1, and maps (N, H, W) or (N, C, H, W) in nats."""
    pictures = [np.asarray(each, dtype=np.float32) for each in (originals, reconstructions)]
    heat = np.asarray(maps, dtype=np.float32)
    heat = heat.sum(axis=1) if heat.ndim == 4 else heat  # (N, H, W)
    count = len(heat)
    if not count:
        figure, axes = _figure(5, 2)
        return _say(figure, axes, "no pictures")
    height, width = heat.shape[1:]
    side = 1.3  # inches
    figure, grid = _figure(side * count + 1.1, side * 3 * min(height / width, 2) + 0.75, rows=3, columns=count)
    top = float(np.quantile(heat, 0.995)) or 1.0
    for column in range(count):
        for row, batch in enumerate(pictures):
            grid[row][column].imshow(_rgb(batch[column]), vmin=0, vmax=1, interpolation="nearest")
        shown = grid[2][column].imshow(heat[column], cmap="inferno", vmin=0, vmax=top, interpolation="nearest")
        grid[0][column].set_title(titles[column], fontsize=8, fontweight="normal", loc="center", pad=4)
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for row, name in enumerate(("original", "reconstruction", "excess")):
        grid[row][0].set_ylabel(name, fontsize=LABEL_SIZE)
    bar = figure.colorbar(shown, ax=[grid[2][column] for column in range(count)], shrink=0.9, pad=0.01, aspect=12)
    bar.set_label("nats a pixel", fontsize=8)
    bar.outline.set_visible(False)
    return figure


@_styled
def series(
    times: ArrayLike, values: ArrayLike, names: Sequence[str], scores: ArrayLike, threshold: float,
    labels: ArrayLike | None = None,
) -> Figure:  # fmt: skip
    """Sensors (T, C) above, scores (T,) in nats with the threshold below; true anomalies (labels 1) are shaded.

    times: (T,) numbers, datetimes or ISO timestamps; anything else is drawn by step. Of more than 8 sensors, those that
    change most where the score is at or above the threshold.
    """
    x, is_date = _times(times)
    sensors, score = np.asarray(values, dtype=float), np.asarray(scores, dtype=float)
    if not len(x):
        figure, axes = _figure(5, 2)
        return _say(figure, axes, "no time steps")
    chosen = _telling(sensors, score >= threshold)
    heights = [1.0] * len(chosen) + [2.0]
    figure, grid = _figure(10.5, 0.75 * len(chosen) + 2.6, rows=len(heights), heights=heights)
    panels = [row[0] for row in grid]
    for axes, sensor in zip(panels, chosen, strict=False):
        axes.plot(*_envelope(x, sensors[:, sensor]), color=INK, linewidth=0.9)
        axes.set_ylabel(_short(names[sensor], 18), rotation=0, ha="right", va="center", fontsize=LABEL_SIZE)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(3))
        axes.tick_params(labelbottom=False)
    below = panels[-1]
    finite = score[np.isfinite(score)]
    if len(finite):
        _scale(below.yaxis, finite[finite < threshold], np.r_[finite, threshold])
    t, s = _envelope(x, score)
    below.plot(t, s, color=NORMAL, linewidth=1)
    below.plot(t, np.where(s >= threshold, s, np.nan), color=ANOMALOUS, linewidth=1, marker="o", markersize=1.5)
    below.axhline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=f"threshold {threshold:.4g}")
    below.set(ylabel="score (nats)", xlabel="time" if is_date else "time or step")
    truth = _shade(panels, x, labels)
    below.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    if is_date:
        locator = dates.AutoDateLocator(minticks=4, maxticks=9)
        below.xaxis.set_major_locator(locator)
        below.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    for axes in panels:
        pad = 0.004 * (x.max() - x.min()) or 1.0
        axes.set_xlim(x.min() - pad, x.max() + pad)
    shown = f", {len(chosen)} of {sensors.shape[1]} sensors" if len(chosen) < sensors.shape[1] else ""
    figure.suptitle(f"Sensors and score{shown}{truth}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


@_styled
def table_parts(names: Sequence[str], shares: ArrayLike, title: str = "Columns behind the highest scores") -> Figure:
    """Bars of the columns that contribute most, with shares (G,), 0-1; the largest on top, 20 at most."""
    share = np.nan_to_num(np.asarray(shares, dtype=float))
    order = np.argsort(-share, kind="stable")[:20]
    figure, axes = _figure(7, 1.3 + 0.28 * max(len(order), 2))
    bars = axes.barh(np.arange(len(order)), 100 * share[order], color=NORMAL, height=0.72)
    axes.bar_label(bars, [f"{100 * value:.1f}" for value in share[order]], padding=3, fontsize=8, color=INK)
    axes.set_yticks(np.arange(len(order)), [_short(str(names[i]), 40) for i in order])
    axes.invert_yaxis()
    axes.set(title=title, xlabel="share of the reconstruction part (%)")
    axes.margins(x=0.1, y=0.02)
    axes.grid(False, axis="y")
    return figure


def overlay(picture: ArrayLike, heat: ArrayLike, vmax: float) -> NDArray[np.uint8]:
    """A heat map (H, W) over a picture (C, H, W), 0-1, as (H, W, 3) uint8; `vmax` is drawn hottest, 0 not at all."""
    rgb = _rgb(np.asarray(picture, dtype=np.float32))
    grey = rgb.mean(axis=2, keepdims=True) * np.ones(3, np.float32)
    hot = np.clip(np.nan_to_num(np.asarray(heat, dtype=np.float32)) / (vmax if vmax > 0 else 1.0), 0, 1)  # (H, W)
    colour = colormaps["inferno"](0.3 + 0.6 * hot)[..., :3]
    alpha = 0.85 * np.sqrt(hot)[..., None]
    # The picture loses its colour and some contrast, so that what is coloured is heat.
    mixed = (0.15 + 0.7 * grey) * (1 - alpha) + colour * alpha
    return np.asarray(np.rint(255 * mixed), dtype=np.uint8)


def save_png(array: NDArray[np.uint8], path: str | Path) -> None:
    """Writes (H, W, 3) uint8; one of fewer than 128 pixels is enlarged by a whole factor, its pixels kept square.

    Raises AnomalyVAEError where the file cannot be written.
    """
    factor = max(1, -(-SMALLEST // max(array.shape[:2])))
    with replacing(path) as beside:
        image.imsave(beside, array.repeat(factor, axis=0).repeat(factor, axis=1), format="png")


# --- helpers -----------------------------------------------------------------------------------------------------


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure (inches) and its axes: one, a row of them, or a list of rows."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights, sharex="col" if heights else False)
    if rows == 1:
        return figure, grid[0, 0] if columns == 1 else list(grid[0])
    return figure, grid.tolist()


def _labelled(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    score = np.asarray(scores, dtype=float)
    keep = np.isfinite(score)
    return np.asarray(labels).astype(bool)[keep], score[keep]


def _finite(scores: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(scores, dtype=float).reshape(-1)
    found: NDArray[np.float64] = array[np.isfinite(array)]
    return found


def _one_class(figure: Figure, axes: Axes, wrong: NDArray[np.bool_]) -> bool:
    """Says so where there is nothing to tell apart."""
    if wrong.any() and not wrong.all():
        return False
    text = f"needs normal and anomalous samples;\nfound {(~wrong).sum():,} normal and {wrong.sum():,} anomalous"
    _say(figure, axes, text)
    return True


def _say(figure: Figure, axes: Axes, text: str) -> Figure:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=FAINT, transform=axes.transAxes)
    return figure


def _mark(axes: Axes, here: tuple[float, float], label: str) -> None:
    axes.plot(
        *here, "o", color=ANOMALOUS, markersize=9, markeredgecolor="white", markeredgewidth=1.5, clip_on=False,
        zorder=5, label=label,
    )  # fmt: skip


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03), aspect="equal")


def _spread(count: int) -> NDArray[np.intp]:
    """Indices of at most DRAWN points, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, DRAWN)).round().astype(np.intp))


def _envelope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most DRAWN points of a line with its lowest and highest in each stretch, so that no peak is lost."""
    if len(x) <= DRAWN:
        return x, y
    known = np.nan_to_num(y)
    bounds = np.linspace(0, len(x), DRAWN // 2 + 1).astype(int)
    parts = list(pairwise(bounds))
    index = np.unique([(a + known[a:b].argmin(), a + known[a:b].argmax()) for a, b in parts])
    return x[index], y[index]


def _scale(axis: Any, usual: NDArray[np.float64], everything: NDArray[np.float64]) -> None:
    """Logarithmic beyond the usual values where the rest is more than 30 of their spreads away."""
    usual = usual if len(usual) else everything
    low, middle, high = np.quantile(usual, (0.01, 0.5, 0.99))
    spread = max(high - low, 1e-3 * abs(middle), 1e-9)
    if np.abs(everything - middle).max() > 30 * spread:
        linear = float(max(abs(low), abs(high), spread))
        set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
        set_scale("symlog", linthresh=linear, linscale=2)


def _edges(axes: Axes, values: NDArray[np.float64], bins: int = 60) -> NDArray[np.float64]:
    """Edges of bins that look equally wide on the x axis."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        pad = max(0.5, 0.05 * abs(low))
        low, high = low - pad, high + pad
    transform = axes.xaxis.get_transform()
    ends = transform.transform(np.array([low, high]))
    edges = np.array(transform.inverted().transform(np.linspace(ends[0], ends[1], bins + 1)), dtype=float)
    edges[0], edges[-1] = low, high  # rounding must not push the extremes out
    return edges


def _curves(axes: Axes, history: dict[str, list[float]], curves: Sequence[tuple[str, str, str]], **style: Any) -> None:
    for key, label, colour in curves:
        values = np.asarray(history.get(key, ()), dtype=float)
        if len(values):
            marker = "o" if len(values) == 1 else None
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label, marker=marker, **style)


def _rgb(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, H, W) as (H, W, 3): one channel is grey, of more the first three are colours (two: mean)."""
    if picture.shape[0] in (1, 2):
        picture = np.repeat(picture.mean(axis=0, keepdims=True), 3, axis=0)
    return np.asarray(np.clip(np.nan_to_num(picture[:3]), 0, 1).transpose(1, 2, 0))


def _times(times: ArrayLike) -> tuple[NDArray[np.float64], bool]:
    """(T,) positions on the time axis and whether they are dates (days since 1970, as matplotlib counts)."""
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


def _telling(sensors: NDArray[np.float64], flagged: NDArray[np.bool_]) -> list[int]:
    """At most SENSORS columns, in their order: those whose mean where flagged is most unlike elsewhere."""
    count = sensors.shape[1]
    if count <= SENSORS:
        return list(range(count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a sensor without any value comes last
        away = np.nanstd(sensors, axis=0)
        if flagged.any() and not flagged.all():
            shift = np.nanmean(sensors[flagged], axis=0) - np.nanmean(sensors[~flagged], axis=0)
            away = np.abs(shift) / np.maximum(np.nanstd(sensors[~flagged], axis=0), 1e-12)
    return sorted(np.argsort(-np.nan_to_num(away), kind="stable")[:SENSORS].tolist())


def _shade(panels: Sequence[Axes], x: NDArray[np.float64], labels: ArrayLike | None) -> str:
    """Shades the true anomalies over all panels; what the title says of them."""
    if labels is None:
        return ""
    wrong = np.asarray(labels).astype(bool)
    change = np.flatnonzero(np.diff(np.r_[False, wrong, False].astype(np.int8)))
    begins, ends = change[::2], change[1::2]
    if not len(begins):
        return ", no true anomaly in sight"
    step = float(np.median(np.diff(x))) if len(x) > 1 else 1.0
    spans = [(x[a] - step / 2, x[b - 1] - x[a] + step) for a, b in zip(begins, ends, strict=True)]
    for axes in panels:
        last = axes is panels[-1]
        axes.broken_barh(
            spans, (0, 1), transform=axes.get_xaxis_transform(), facecolor=ANOMALOUS, alpha=0.16, linewidth=0,
            zorder=0, label="true anomaly" if last else None,
        )  # fmt: skip
    return ""


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
