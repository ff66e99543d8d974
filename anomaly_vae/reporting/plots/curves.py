"""Curves and distributions: ROC, precision and recall, scores, training, KL of the latent dimensions, columns.

Large inputs are thinned for drawing; numbers in titles and legends are computed from all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from anomaly_vae.reporting.plots.style import (
    ANOMALOUS,
    DRAWN,
    FAINT,
    GOOD,
    INK,
    NORMAL,
    new_figure,
    say,
    set_scale,
    short,
    styled,
)

Labels = NDArray[np.bool_]  # (N,), true for anomalous
Scores = NDArray[np.float64]  # (N,) nats


@styled
def roc(labels: ArrayLike, scores: ArrayLike, threshold: float, others: Mapping[str, float] | None = None) -> Figure:
    """ROC curve of labels (N,) (1: anomalous) and scores (N,), with the chosen point marked.

    others: policy -> the threshold (nats) that it chooses, marked too.
    """
    return _square(labels, scores, threshold, partial(_draw_roc, others=others or {}))


@styled
def precision_recall(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Figure:
    """Precision against recall of labels (N,) (1: anomalous) and scores (N,), with the chosen point marked."""
    return _square(labels, scores, threshold, _draw_precision_recall)


@styled
def score_histogram(normal_scores: ArrayLike, anomalous_scores: ArrayLike | None, threshold: float) -> Figure:
    """Histograms of scores (N,) and (M,; None: no anomaly is known), nats, each a share of its class; the threshold."""
    figure, axes = new_figure(7, 4)
    groups = [("all" if anomalous_scores is None else "normal", _finite(normal_scores), NORMAL)]
    if anomalous_scores is not None:
        groups.append(("anomalous", _finite(anomalous_scores), ANOMALOUS))
    groups = [group for group in groups if len(group[1])]
    if not groups:
        return say(figure, axes, "no finite scores")
    everything = np.concatenate([scores for _, scores, _ in groups] + [np.array([threshold])])
    set_scale(axes.xaxis, groups[0][1], everything)
    edges = _edges(axes, everything)
    for name, scores, colour in groups:
        above = (scores >= threshold).mean()
        label = f"{name}: {len(scores):,} samples, {above:.1%} at or above the threshold"
        weights = np.full(len(scores), 100 / len(scores))
        axes.hist(scores, edges, weights=weights, color=colour, alpha=0.6, label=label)
    axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)), label=f"threshold {threshold:.4g}")
    axes.set(title="Scores", xlabel="score (nats)", ylabel="share of the class (%)")
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.set_ylim(0, axes.dataLim.y1 * 1.35)  # space for the legend
    axes.legend(loc="upper left", ncols=1)
    return figure


@styled
def training(history: dict[str, list[float]]) -> Figure:
    """Curves by epoch, one value each: loss, valid_loss, recon and kl (nats a sample), beta, active_units.

    A key that is absent is left out.
    """
    figure, (bound, recon, kl) = new_figure(10.5, 3.5, columns=3)
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


@styled
def kl_per_dimension(kl: ArrayLike, active: ArrayLike | None = None) -> Figure:
    """Mean KL (nats) of each latent dimension (G,), the largest first. active: mask (G,); None: above 0.01 nats."""
    nats = np.nan_to_num(np.asarray(kl, dtype=float)).reshape(-1)
    used = nats > 0.01 if active is None else np.asarray(active, dtype=bool)
    order = np.argsort(-nats, kind="stable")
    figure, axes = new_figure(7, 3.6)
    place = np.arange(len(nats))
    for mask, colour, name in ((used, NORMAL, "active"), (~used, "#C3C7CD", "not active")):
        chosen = mask[order]
        if chosen.any():
            axes.bar(place[chosen], nats[order][chosen], color=colour, width=0.8, label=f"{name}: {chosen.sum()}")
    if not used.all():  # their bars are too low to be visible
        axes.plot(place[~used[order]], np.zeros((~used).sum()), "x", color=FAINT, markersize=5, clip_on=False)
    if len(nats) <= 32:
        axes.set_xticks(place, [str(dimension) for dimension in order])
    axes.set(xlabel="latent dimension, by its KL", ylabel="KL (nats)")
    axes.set_title(f"KL of each latent dimension: {nats.sum():.4g} nats in all")
    axes.grid(False, axis="x")
    if len(nats):
        axes.legend(loc="upper right")
    return figure


@styled
def table_parts(names: Sequence[str], shares: ArrayLike, title: str = "Columns behind the highest scores") -> Figure:
    """Bars of the columns that contribute most, with shares (G,), 0-1; the largest on top, 20 at most."""
    share = np.nan_to_num(np.asarray(shares, dtype=float))
    order = np.argsort(-share, kind="stable")[:20]
    figure, axes = new_figure(7, 1.3 + 0.28 * max(len(order), 2))
    bars = axes.barh(np.arange(len(order)), 100 * share[order], color=NORMAL, height=0.72)
    axes.bar_label(bars, [f"{100 * value:.1f}" for value in share[order]], padding=3, fontsize=8, color=INK)
    axes.set_yticks(np.arange(len(order)), [short(str(names[i]), 40) for i in order])
    axes.invert_yaxis()
    axes.set(title=title, xlabel="share of the nats above the usual (%)")
    axes.margins(x=0.1, y=0.02)
    axes.grid(False, axis="y")
    return figure


def _square(
    labels: ArrayLike, scores: ArrayLike, threshold: float, draw: Callable[[Axes, Labels, Scores, float], None]
) -> Figure:
    """Unit axes with what `draw` draws of the samples with a finite score; a message if these are of one class."""
    figure, axes = new_figure(5.6, 5.2)
    score = np.asarray(scores, dtype=float)
    keep = np.isfinite(score)
    is_anomaly, score = np.asarray(labels).astype(bool)[keep], score[keep]
    if is_anomaly.all() or not is_anomaly.any():
        counts = f"found {(~is_anomaly).sum():,} normal and {is_anomaly.sum():,} anomalous"
        return say(figure, axes, f"needs normal and anomalous samples;\n{counts}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03), aspect="equal")
    draw(axes, is_anomaly, score, threshold)
    return figure


def _draw_roc(axes: Axes, is_anomaly: Labels, score: Scores, threshold: float, others: Mapping[str, float]) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    fpr, tpr, _ = roc_curve(is_anomaly, score)
    point = _rates(is_anomaly, score, threshold)
    keep = _spread(len(fpr))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.fill_between(fpr[keep], tpr[keep], color=NORMAL, alpha=0.08, linewidth=0)
    axes.plot(fpr[keep], tpr[keep], color=NORMAL, label=f"AUROC {roc_auc_score(is_anomaly, score):.3f}")
    _mark(axes, point, f"threshold {threshold:.4g}: FPR {point[0]:.3f}, TPR {point[1]:.3f}")
    for (policy, other), shape in zip(others.items(), "s^vDP*Xph", strict=False):
        axes.plot(
            *_rates(is_anomaly, score, other),
            shape,
            color=INK,
            markersize=5,
            markerfacecolor="white",
            clip_on=False,
            zorder=4,
            label=policy,
        )
    axes.set(title="ROC", xlabel="false-positive rate", ylabel="true-positive rate (recall)")
    axes.legend(loc="lower right")


def _rates(is_anomaly: Labels, score: Scores, threshold: float) -> tuple[float, float]:
    """False-positive and true-positive rate of a threshold."""
    alarm = score >= threshold
    return float(alarm[~is_anomaly].mean()), float(alarm[is_anomaly].mean())


def _draw_precision_recall(axes: Axes, is_anomaly: Labels, score: Scores, threshold: float) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(is_anomaly, score)
    keep = _spread(len(recall))
    alarms, share = score >= threshold, float(is_anomaly.mean())
    axes.axhline(share, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label=f"chance {share:.3f}")
    label = f"AUPRC {average_precision_score(is_anomaly, score):.3f} (average precision)"
    axes.step(recall[keep], precision[keep], where="post", color=NORMAL, label=label)
    if alarms.any():
        point = (float(alarms[is_anomaly].mean()), float(is_anomaly[alarms].mean()))
        _mark(axes, point, f"threshold {threshold:.4g}: recall {point[0]:.3f}, precision {point[1]:.3f}")
    axes.set(title="Precision and recall", xlabel="recall", ylabel="precision")
    axes.legend(loc="lower left")


def _finite(scores: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(scores, dtype=float).reshape(-1)
    finite: NDArray[np.float64] = array[np.isfinite(array)]
    return finite


def _mark(axes: Axes, point: tuple[float, float], label: str) -> None:
    axes.plot(
        *point,
        "o",
        color=ANOMALOUS,
        markersize=9,
        markeredgecolor="white",
        markeredgewidth=1.5,
        clip_on=False,
        zorder=5,
        label=label,
    )


def _spread(count: int) -> NDArray[np.intp]:
    """Indices of at most DRAWN of `count` points, evenly spread, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, DRAWN)).round().astype(np.intp))


def _edges(axes: Axes, values: NDArray[np.float64], bins: int = 60) -> NDArray[np.float64]:
    """Edges of bins of equal width on the scale of the x axis."""
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
