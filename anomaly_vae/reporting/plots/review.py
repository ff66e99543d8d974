"""The parts of the scores of a fit, the KL of its epochs, and the calibration of its p-values."""

from __future__ import annotations

import numpy as np
from matplotlib import ticker
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from anomaly_vae.reporting.plots.style import ANOMALOUS, DRAWN, FAINT, INK, NORMAL, new_figure, say, set_scale, styled

LINES = 64  # latent dimensions drawn, at most: those with most KL
EXACT = 1_000  # test rows, at most, for which the band is computed from the exact distribution
LOWEST = 1e-3  # nats; lower values get the same colour


@styled
def parts(recon: ArrayLike, kl: ArrayLike, anomalous: ArrayLike | None, threshold: float | None) -> Figure:
    """Scatter of reconstruction against KL (N,), in nats. anomalous: (N,) whether each sample is an anomaly;
    None: that is not known.

    threshold: of their sum, drawn as a line; None if the score has further parts.
    """
    x, y = np.asarray(recon, dtype=float), np.asarray(kl, dtype=float)
    is_anomaly = np.zeros(len(x), bool) if anomalous is None else np.asarray(anomalous).astype(bool)
    figure, axes = new_figure(7, 4.6)
    for mask, colour, name, size in (
        (~is_anomaly, NORMAL, "all" if anomalous is None else "normal", 12),
        (is_anomaly, ANOMALOUS, "anomalous", 12),
    ):
        some = _some(np.flatnonzero(mask))
        if len(some):
            label = f"{name}: {int(mask.sum()):,}" + (f", {len(some):,} drawn" if len(some) < mask.sum() else "")
            axes.scatter(x[some], y[some], s=size, color=colour, alpha=0.5, linewidths=0, label=label, zorder=2)
    for axis, values in ((axes.xaxis, x), (axes.yaxis, y)):
        usual = values[~is_anomaly] if (~is_anomaly).any() else values
        set_scale(axis, usual[np.isfinite(usual)], values[np.isfinite(values)])
    if threshold is not None:
        low, high = axes.get_xlim()
        bottom, top = axes.get_ylim()
        at = np.linspace(low, high, 400)
        axes.plot(at, threshold - at, color=INK, linewidth=1.3, linestyle=(0, (4, 2)), label=f"sum {threshold:.4g}")
        axes.set(xlim=(low, high), ylim=(bottom, top))
    axes.set(title="Reconstruction and KL", xlabel="reconstruction (nats)", ylabel="KL (nats)")
    if len(x):
        axes.legend(loc="best")
    return figure


@styled
def kl_by_epoch(kl: ArrayLike) -> Figure:
    """Held-out KL (E, G), nats, of each latent dimension in each epoch; dimensions by their KL in the last epoch."""
    nats = np.nan_to_num(np.asarray(kl, dtype=float))
    figure, axes = new_figure(7, 4.2)
    if nats.ndim != 2 or not nats.size:
        return say(figure, axes, "no epochs")
    order = np.argsort(-nats[-1], kind="stable")[:LINES]
    shown = np.clip(nats[:, order].T, LOWEST, None)  # (G, E)
    extent = (0.5, len(nats) + 0.5, len(order) - 0.5, -0.5)
    scale = LogNorm(LOWEST, max(float(shown.max()), 10 * LOWEST))
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", cmap="viridis", norm=scale, extent=extent)
    if len(order) <= 20:
        axes.set_yticks(np.arange(len(order)), [str(dimension) for dimension in order])
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=8))
    left_out = f", the largest {len(order)} of {nats.shape[1]}" if len(order) < nats.shape[1] else ""
    axes.set(title=f"KL of each latent dimension by epoch{left_out}", xlabel="epoch", ylabel="latent dimension")
    axes.grid(False)
    figure.colorbar(image, ax=axes, pad=0.02).set_label("KL (nats, held out)", fontsize=9)
    return figure


@styled
def calibration(p_values: ArrayLike, calibrated: int, are_normal: bool = True) -> Figure:
    """Share of p-values (N,) at or below each level, beside the diagonal of calibrated p-values of normals.

    are_normal: whether the rows are known to be normal. calibrated: number of held-out normals that the p-values come
    from. The band holds 95 % of such curves at each level
    if calibration and test rows are exchangeable: the count at or below level k/(n+1) is then beta-binomial (Vovk
    2012).
    """
    values = np.sort(np.asarray(p_values, dtype=float))
    figure, axes = new_figure(5.6, 5.2)
    if not len(values) or calibrated < 1:
        return say(figure, axes, "no normal rows")
    ranks = np.unique(np.linspace(1, calibrated, min(calibrated, 200)).round().astype(int))
    level = ranks / (calibrated + 1)
    low, high = _band(len(values), ranks, calibrated + 1)
    axes.fill_between(level, low, high, color=FAINT, alpha=0.2, linewidth=0, label="95 % of kept promises")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    some = np.unique(np.linspace(0, len(values) - 1, min(len(values), DRAWN)).round().astype(int))
    share = np.searchsorted(values, values[some], side="right") / len(values)
    axes.step(
        np.r_[0, values[some], 1],
        np.r_[0, share, 1],
        where="post",
        color=NORMAL,
        label=f"{len(values):,} rows",
    )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03), aspect="equal")
    what = "normals" if are_normal else "rows"
    axes.set(title=f"Are the p-values of {what} uniform?", xlabel="p-value", ylabel=f"share of {what} at or below")
    axes.legend(loc="lower right")
    return figure


def _band(rows: int, ranks: NDArray[np.int_], of: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 2.5 % and 97.5 % quantiles of beta-binomial counts with parameters (rank, of - rank), as shares of `rows`.

    For more than EXACT rows, those of the beta distribution with the same mean and variance: the exact ones take time
    in proportion to the rows, and differ by less than one row.
    """
    from scipy.stats import beta, betabinom

    if rows <= EXACT:
        low, high = (betabinom.ppf(q, rows, ranks, of - ranks) / rows for q in (0.025, 0.975))
    else:
        total = rows * (of + 1) / (rows + of) - 1  # sum of the beta distribution's parameters
        low, high = (beta.ppf(q, ranks / of * total, (1 - ranks / of) * total) for q in (0.025, 0.975))
    return low, high


def _some(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most DRAWN of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), DRAWN)).round().astype(np.intp)] if len(rows) else rows
