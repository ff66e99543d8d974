"""The record of a fit in its run: parameters, metrics, data, figures, tables, the note and the report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from anomaly_vae.data.source import Layout, Source
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import Event
from anomaly_vae.detector.fit import Fit
from anomaly_vae.reporting import figures
from anomaly_vae.reporting.scored_rows import ScoredRows
from anomaly_vae.reporting.slider import Slider
from anomaly_vae.reporting.summary import Summary
from anomaly_vae.tracking.run import Run
from anomaly_vae.workflows.page import Page

# figures of an epoch that are of held-out samples -> their names without that
HELD_OUT = {"valid_loss": "loss", "active_units": "active_units", "perplexity": "perplexity"}


def log_fit(
    run: Run, source: Source, detector: Detector, fit: Fit, scored: ScoredRows, summary: Summary, title: str,
    events: Sequence[Event] | None = None,
) -> None:  # fmt: skip
    """Logs a finished fit: every setting, the test metrics, the data, figures, tables, the note and the report.

    scored: the test rows. title: the name of the run from now on, and the title of the report. events: among the test
    steps of a series.
    """
    run.params(
        {**detector.config.flat(), **{f"changed.{key}": value for key, value in (summary.changed or {}).items()}}
    )
    run.params({"data.path": source.path, "kind": source.kind, "threshold_policy": detector.threshold.policy})
    latent = fit.latent_metrics()
    tested = {name: value for name, value in summary.metrics.items() if name not in latent}
    run.metrics(tested, "test" if len(fit.split.test) else "valid")
    run.metrics({"seconds": summary.seconds, "best_epoch": float(fit.history.best_epoch)}, "train")
    model = {**latent, "threshold": detector.threshold.value}
    if detector.pixels is not None:
        run.params({"pixel_threshold_policy": detector.pixels.policy})
        model["pixel_threshold"] = detector.pixels.value
    weights = {f"weight_{name}": weight for name, weight in (detector.score_model.weights or {}).items()}
    run.metrics({**model, **weights}, "model")
    _log_data(run, source, detector.layout, fit)
    run.tags({"data": source.path, "data_is": source.why, **({"notes": "\n".join(fit.notes)} if fit.notes else {})})
    run.name(title)
    run.text(_kl_csv(fit), "kl_by_epoch.csv")
    slider = Slider.of(detector, run.run_id, scored.drawn[:, 0], "the test" if summary.tested else "the data")
    Page(summary, title, figures.pictures(scored, summary, fit), figures.tables(scored, events), slider).log(run)


def curves(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of an epoch (`training.loop`) under the names that a run has them by."""
    return {f"valid/{HELD_OUT[name]}" if name in HELD_OUT else f"train/{name}": x for name, x in figures.items()}


def _log_data(run: Run, source: Source, layout: Layout, fit: Fit) -> None:
    """Logs each part of the split as an MLflow dataset, with a digest of the data's content and the part's rows."""
    content = source.digest()
    contexts = {"train": "training", "valid": "validation", "test": "testing"}
    for part, rows in fit.split.parts.items():
        run.dataset(
            name=source.name,
            source=source.path,
            digest=hashlib.sha256(content.encode() + rows.astype("<i8").tobytes()).hexdigest()[:16],
            rows=len(rows),
            columns=_schema(layout),
            context=contexts[part],
        )


def _schema(layout: Layout) -> Mapping[str, str]:
    """The name of each input -> its MLflow type."""
    if layout.columns:
        return {column.name: "double" if column.categories is None else "string" for column in layout.columns}
    if layout.pixels:
        return dict.fromkeys(layout.pixels, "integer")
    return {f"picture {'x'.join(map(str, layout.shape))}": "binary"}


def _kl_csv(fit: Fit) -> str:
    """The held-out KL in nats as CSV: one row for each epoch, one column for each latent dimension."""
    import pandas as pd

    frame = pd.DataFrame(fit.history.kl)
    frame.index.name = "epoch"
    text: str = frame.round(6).to_csv()
    return text
