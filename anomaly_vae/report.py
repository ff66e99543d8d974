"""What a run shows of a fit: parameters, metrics, data and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.data.base import Source
from anomaly_vae.data.originals import Originals
from anomaly_vae.detector import Detector, Fit
from anomaly_vae.maps import resized
from anomaly_vae.scoring import Scorer, Scores

if TYPE_CHECKING:
    from anomaly_vae.tracking import Run

PICTURES = 8  # shown beside their reconstructions
STEPS = 4_000  # of a series drawn at most


def log_fit(run: Run, source: Source, detector: Detector, metrics: dict[str, float]) -> None:
    """Logs a finished fit: every setting, the test metrics, the dataset and the figures."""
    fitted = detector.fitted
    assert fitted
    run.params({**detector.config.flat(), **{f"changed.{k}": v for k, v in detector.config.changed().items()}})
    run.params({"kind": source.kind, "threshold_policy": detector.threshold.policy})
    run.metrics({**metrics, "threshold": detector.threshold.value, "best_epoch": float(fitted.history.best_epoch)})
    if detector.pixels is not None:
        run.params({"pixel_threshold_policy": detector.pixels.policy})
        run.metrics({"pixel_threshold": detector.pixels.value})
    names = [column.name for column in detector.layout.columns] or list(detector.layout.pixels)
    run.dataset(
        name=source.name, source=source.path, digest=source.digest(), rows=len(fitted.data),
        columns=names or [str(detector.layout.shape)], context="fit",
    )  # fmt: skip
    run.tags(
        {"data": source.path, "data_is": source.why, **({"notes": "\n".join(fitted.notes)} if fitted.notes else {})}
    )
    _figures(run, detector, fitted, source.originals())


def _figures(run: Run, detector: Detector, fitted: Fit, originals: Originals | None) -> None:
    from anomaly_vae import plots

    test, anomalous = fitted.part(fitted.split.test)
    cut = detector.threshold.value
    epochs = fitted.history.epochs
    run.figure(plots.training({key: [epoch[key] for epoch in epochs] for key in epochs[0]}), "training")
    run.figure(plots.kl_per_dimension(fitted.kl), "kl_per_dimension")
    wrong = np.zeros(len(test), bool) if anomalous is None else anomalous
    run.figure(
        plots.score_histogram(test.total[~wrong], test.total[wrong] if wrong.any() else None, cut), "score_histogram"
    )
    if wrong.any() and not wrong.all():
        run.figure(plots.roc(wrong, test.total, cut), "roc")
        run.figure(plots.precision_recall(wrong, test.total, cut), "precision_recall")
    if detector.layout.kind == "series":
        _series(run, detector, fitted)
    elif detector.layout.kind == "table":
        _parts(run, detector, test)
    else:
        _pictures(run, detector, fitted, test, wrong, originals)


def _series(run: Run, detector: Detector, fitted: Fit) -> None:
    from anomaly_vae import plots

    rows = fitted.split.test[-STEPS:]
    scores, anomalous = fitted.part(rows)
    names = [column.name for column in detector.layout.columns]
    run.figure(
        plots.series(scores.ids, fitted.data.values[rows], names, scores.total, detector.threshold.value, anomalous),
        "series",
    )


def _parts(run: Run, detector: Detector, test: Scores) -> None:
    """The columns behind the most anomalous tenth of the test rows."""
    from anomaly_vae import plots

    top = test.take(np.argsort(-test.total)[: max(1, len(test) // 10)])
    names = [column.name for column in detector.layout.columns]
    order, shares = detector.contributions(top, len(names))
    mean = np.zeros(len(names))
    np.add.at(mean, order.ravel(), shares.ravel() / len(top))
    best = np.argsort(-mean)[:15]
    run.figure(plots.table_parts([names[i] for i in best], mean[best]), "columns")


def _pictures(
    run: Run, detector: Detector, fitted: Fit, test: Scores, wrong: NDArray[np.bool_], originals: Originals | None
) -> None:
    """The most anomalous test pictures beside as many typical normal ones, with their reconstructions and maps."""
    from anomaly_vae import plots

    order = np.argsort(-test.total, kind="stable")
    normal = order[~wrong[order]]
    rows = np.r_[order[: PICTURES // 2], normal[len(normal) // 2 :][: PICTURES - PICTURES // 2]]
    values = fitted.data.values[fitted.split.test[rows]]
    scorer = Scorer(detector.net, detector.scaler, detector.layout, None)
    maps, masks = detector.maps(test.take(rows)), None
    if originals is not None and originals.masked:
        own = (originals.mask(int(row)).astype(np.float32) for row in fitted.split.test[rows])
        masks = np.stack([resized(mask, maps.shape[1:]) > 0.5 for mask in own])
    names = ["/".join(str(test.ids[row]).split("/")[-2:])[-20:] for row in rows]
    titles = [
        f"{name}\n{test.total[row]:.0f} nats{', anomaly' if wrong[row] else ''}"
        for name, row in zip(names, rows, strict=True)
    ]
    assert detector.pixels is not None
    pictures = values.astype(np.float32) / 255, scorer.reconstruct(values).clip(0, 1)
    figure = plots.reconstructions(*pictures, maps, titles, detector.pixels.value, masks)
    run.figure(figure, "reconstructions")
