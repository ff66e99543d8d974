"""The figures of a run, as functions from arrays to a Figure, and the heat maps of `score --maps`.

Only the modules of this package import matplotlib.
"""

from anomaly_vae.reporting.plots.curves import (
    kl_per_dimension,
    precision_recall,
    roc,
    score_histogram,
    table_parts,
    training,
)
from anomaly_vae.reporting.plots.overlays import overlay, save_png
from anomaly_vae.reporting.plots.pictures import SENSORS, reconstructions, series
from anomaly_vae.reporting.plots.review import calibration, kl_by_epoch, parts
from anomaly_vae.reporting.plots.row import Panel, row
from anomaly_vae.reporting.plots.style import DRAWN, png

__all__ = [
    "DRAWN",
    "Panel",
    "SENSORS",
    "calibration",
    "kl_by_epoch",
    "kl_per_dimension",
    "overlay",
    "parts",
    "png",
    "precision_recall",
    "reconstructions",
    "roc",
    "row",
    "save_png",
    "score_histogram",
    "series",
    "table_parts",
    "training",
]
