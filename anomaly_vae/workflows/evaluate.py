"""How probable a fitted model finds data it has not seen: one page, beside `workflow`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_vae.core.callbacks import Progress
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.files import REPORTS, require_apart, require_ending
from anomaly_vae.core.worries import Gravity, Worry
from anomaly_vae.data.datasets import make_dataset
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.open import open_source
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.data.split import is_anomalous, is_labelled, left_out_note
from anomaly_vae.detector.anomaly_maps import PixelMeter
from anomaly_vae.detector.auroc import auroc
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import EventMeter
from anomaly_vae.detector.likelihood import measure_of
from anomaly_vae.detector.metrics import metrics
from anomaly_vae.detector.trained_rows import RowHasher
from anomaly_vae.reporting.summary import Result
from anomaly_vae.reporting.worries import NewData, worries_of_test
from anomaly_vae.scoring.importance import Bound, weigh
from anomaly_vae.scoring.scores import numbered
from anomaly_vae.workflows.opening import open_data

if TYPE_CHECKING:
    from anomaly_vae.workflows.page import Page


def evidence(
    path: str,
    detector: Detector,
    *,
    draws: int,
    rows: int,
    label: str | None = None,
    normal: tuple[str, ...] = (),
    skip_broken: bool = False,
    unlabelled: str = "leave_out",
    written: Mapping[str, Any] | None = None,
    run_id: str = "",
    progress: Progress = lambda *_: None,
) -> Bound:
    """The importance-weighted bound of a fitted detector's model on a file or folder; added to its run, if it has one.

    Of rows and windows it is one on a density in the units of the data, which counts each number of a row once.
    draws: posterior samples of each row (K). rows: at most so many, drawn with the detector's seed; windows of a
    series. label, normal: instead of those it was fitted with. unlabelled: "normal" takes rows without a label as
    normal, as `data.unlabelled` of the fit does. written: settings
    of how the file is written. Of labelled data only the normal rows count.
    """
    config = detector.config.labelled(label, normal, skip_broken, unlabelled, written)
    found = bound(open_source(path, config.data), detector, config, draws=draws, rows=rows, progress=progress)
    if run_id:
        from anomaly_vae import tracking

        with tracking.update(run_id, detector.config) as run:
            likelihood = {f"nll_{draws}": found.nll, f"nll_{draws}_error": found.error, "bits_per_pixel": found.bits}
            run.metrics(likelihood, "evaluate")
            run.tags({"nll_of": path})
    return found


def bound(
    source: Source,
    detector: Detector,
    config: Config,
    *,
    draws: int,
    rows: int,
    progress: Progress = lambda *_: None,
) -> Bound:
    """The same of an open source, without a record. config: of the detector, but for how the source was opened."""
    measure = measure_of(detector)
    layout, kind = detector.layout, KINDS[detector.layout.kind]
    device = next(detector.score_model.parameters()).device
    labels = source.labels()
    normal = np.ones(source.count(), bool)
    if labels is not None:
        normal = is_labelled(labels, config) & ~is_anomalous(labels, config, source.path)
    chosen, rng = np.flatnonzero(normal), np.random.default_rng(config.seed)
    if kind.ordered:  # every step is read, for a window lies within normal steps that follow each other
        data = Chunk.join(source.chunks(layout, detector.chunk_rows))
    else:
        data = _picked(source, detector, np.sort(rng.permutation(chosen)[:rows]))
        chosen = np.arange(len(data))
    held = make_dataset(data, chosen, detector.scaler, layout, device, config.data.window)
    if len(held) == 0:
        raise DataError(f"{source.path}: holds no normal {'window' if kind.ordered else 'row'} to weigh")
    index = torch.from_numpy(np.sort(rng.permutation(len(held))[:rows]))
    nll, elbo, model = [], [], detector.score_model.model
    for batch_nll, batch_elbo in weigh(model, held, index, measure.drawn, draws, config.seed, measure.log_units):
        nll.append(batch_nll)
        elbo.append(batch_elbo)
        progress("weighing", sum(map(len, nll)), len(index))
    pixels = int(np.prod(layout.shape)) if measure.drawn == "dequantised" else None
    return Bound.of(torch.cat(nll).cpu().numpy(), torch.cat(elbo).cpu().numpy(), draws, pixels, measure.unit)


def _picked(source: Source, detector: Detector, rows: NDArray[np.intp]) -> Chunk:
    """Some rows (sorted) of a source, read in chunks."""
    pieces, seen = [], 0
    for chunk in source.chunks(detector.layout, detector.chunk_rows):
        here = rows[(rows >= seen) & (rows < seen + len(chunk))] - seen
        seen += len(chunk)
        if len(here):
            pieces.append(chunk.take(here))
    if not pieces:
        raise DataError(f"{source.path}: holds no normal rows to weigh")
    return Chunk.join(pieces)


def evaluate(
    path: str,
    detector: Detector,
    *,
    label: str | None = None,
    normal: tuple[str, ...] = (),
    skip_broken: bool = False,
    unlabelled: str = "leave_out",
    written: Mapping[str, Any] | None = None,
    run_id: str = "",
    report: str | None = None,
    model: str = "",
) -> Result:
    """Metrics of a fitted detector on new labelled data; added to its run, if it has one, as `evaluate/*`, with a run
    under it that has what a fit reports: figures, tables of the worst rows, of mistakes and of drift.

    Of data that names its parts, on the test part alone. label, normal, unlabelled, written: as in `evidence`. report:
    HTML file of what a fit reports too. model: the name of the detector, for the report.
    """
    if report:
        require_ending(report, REPORTS)
        require_apart(path, report)
    began = time.perf_counter()
    config = detector.config.labelled(label, normal, skip_broken, unlabelled, written)
    source = open_data(path, config)
    labels = source.labels()
    if labels is None:
        folders = ", or the folder of the normal pictures with --normal" if KINDS[source.kind].folders else ""
        raise DataError(f"{path}: has no labels to evaluate by; name their column with --label{folders}")
    anomalous, labelled = is_anomalous(labels, config, path), is_labelled(labels, config)
    roles, meter, totals = source.roles(), PixelMeter(detector, source, anomalous), []
    masks_note = meter.image_files.require(anomalous) if meter.wanted and meter.image_files is not None else ""
    tested = labelled if roles is None else labelled & (roles == "test")
    if not tested.any():
        raise DataError(
            f"{path}: no row with a label is said to be a test; name its part to test on, or one without a split"
        )
    hasher, new_data = RowHasher(detector.layout), NewData(detector)
    seen = None
    if run_id or report:
        from anomaly_vae.workflows.page import Seen

        seen = Seen(detector, source, labelled=True)
    with_elements = meter.wanted or seen is not None
    stream = new_data.watch(detector.score_source(source, explain=with_elements))
    stream = stream if seen is None else seen.watch(stream, tested, anomalous)
    events = EventMeter(detector, detector.threshold.value) if KINDS[source.kind].ordered else None
    if events is not None:
        stream = events.watch(stream, tested, anomalous)
    for _, scores, rows in numbered(hasher.watch(stream) if detector.trained_rows else stream):
        totals.append(scores.total[tested[rows]])
        meter.add(scores.take(np.flatnonzero(tested[rows])), rows[tested[rows]])
    total = np.concatenate(totals)
    found = metrics(anomalous[tested], total, detector.threshold.value, detector.window) | meter.metrics()
    if events is not None:
        found |= events.metrics()
    noun, trained_on = KINDS[source.kind].noun, None
    if detector.trained_rows is not None:
        trained_on = int(detector.trained_rows.contains(hasher.hashes()[tested]).sum())
    notes = (
        left_out_note(labelled, config, noun),
        masks_note,
        _trained_note(detector, trained_on, len(total), noun),
        *worries_of_test(detector, total[~anomalous[tested]], found),
        *new_data.worries(source),
    )
    notes, seconds = (*source.notes, *filter(None, notes)), round(time.perf_counter() - began, 2)
    if seen is not None:
        page = seen.page(found, notes, seconds, model or run_id, None if events is None else events.events())
        if report:
            page.write(report)
        if run_id:
            _log(run_id, detector, source, page)
    return Result(
        run_id, "", source.kind, source.path, detector.threshold.value, detector.threshold.policy, found,
        seconds, {"test": len(total)}, notes, detector.pixels, trained_on=trained_on,
        area=auroc(anomalous[tested], total, detector.window),
    )  # fmt: skip


def _log(run_id: str, detector: Detector, source: Source, page: Page) -> None:
    """Adds the metrics to the run of the detector, and logs the evaluation as a run under it."""
    from anomaly_vae import tracking

    metrics = page.summary.metrics
    with tracking.update(run_id, detector.config) as run:
        run.metrics(metrics, "evaluate")
        run.tags({"evaluated_on": source.path})
    _, experiment, _ = tracking.run_facts(run_id, detector.config)
    settings = detector.config.tracking.model_copy(update={"experiment": experiment})
    config = detector.config.model_copy(update={"tracking": settings})
    name = f"evaluate-{source.name}"
    with tracking.start(config, data_name=source.name, run_name=name, parent=run_id) as run:
        run.params({"kind": source.kind, "model.kind": detector.config.model.kind, "evaluates": run_id})
        run.metrics(metrics, "test")
        run.metrics({"seconds": page.summary.seconds}, "evaluate")
        run.tags({"data": source.path, "data_is": source.why})
        page.log(run)


def _trained_note(detector: Detector, trained_on: int | None, rows: int, noun: str) -> str:
    """What the user should know of the rows that the detector was trained on; empty where it was on none."""
    if detector.trained_rows is None or trained_on is None:
        return (
            f"whether the detector was trained on these {noun} cannot be checked: it records no training rows"
            " (fitted by an earlier version, or on too many)"
        )
    if not trained_on:
        return ""
    if detector.trained_rows.more_than_chance(trained_on, rows):
        text = f"{trained_on} of {rows} {noun} were trained on: the metrics of new {noun} will be worse"
        return Worry(text, Gravity.BROKEN)
    return (
        f"{trained_on} of {rows} {noun} equal a training one, no more than by chance: of held-out normals"
        f" {detector.trained_rows.chance:.1%} do"
    )
