"""Fits a detector on a file or folder, and records the fit as a run."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from anomaly_vae.core import distributed
from anomaly_vae.core.callbacks import Progress, Say
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import AnomalyVAEError, RunError
from anomaly_vae.core.files import SCORES, replacing, require_apart, require_ending, require_free
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.source import Source
from anomaly_vae.data.writers import batch, open_writer
from anomaly_vae.detector.anomaly_maps import PixelMeter
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.dataframe import score_columns
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import Event, EventMeter
from anomaly_vae.detector.fit import Fit
from anomaly_vae.detector.fit import fit as fit_detector
from anomaly_vae.detector.metrics import metrics
from anomaly_vae.reporting.scored_rows import Rows, ScoredRows
from anomaly_vae.reporting.summary import Result, summarise
from anomaly_vae.scoring.scores import in_order
from anomaly_vae.tracking.run import MODEL, NoRun, Run
from anomaly_vae.workflows.fit_record import curves, log_fit
from anomaly_vae.workflows.opening import open_data

RESUME = "run.json"  # file beside the checkpoint with what `--resume` needs


def fit(
    path: str | None,
    config: Config,
    *,
    output: str | None = None,
    scores: str | None = None,
    resume: str | None = None,
    parent: str | None = None,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> Result:
    """Train a detector and record the fit as one run.

    Parameters
    ----------
    path : str or None
        File or folder to train on; None: the embedded digits.
    config : Config
        The settings.
    output : str, optional
        New folder in which the detector is saved too.
    scores : str, optional
        File (.csv, .parquet, .json) for the scores of every row, each by models that never saw it: the columns of
        `score`.
    resume : str, optional
        Id, or its first characters, of an interrupted run, which is continued with its own data and settings; `path`
        and the other settings of `config` are then ignored.
    parent : str, optional
        Id of the run that the new run is nested under, e.g. that of a study.
    progress, say : callable
        Called with the progress of the training, and with lines for the user.

    Returns
    -------
    Result
        The run's id, where the detector is, its threshold and the metrics on the test rows.

    Raises
    ------
    AnomalyVAEError
        Or a subclass, for everything that a user can correct: settings, data, folders, the tracking store.
    """
    from anomaly_vae.tracking import store

    start, lead = time.perf_counter(), distributed.is_lead()
    if output and lead:
        require_free(output)
    if scores:
        require_ending(scores, SCORES)
    if resume:
        resume, path, config = distributed.from_lead(partial(_remembered, resume, config))
    source = open_data(path, config)
    require_apart(source.path, scores)
    say(f"{source.path} is {source.why}" + (f"; {source.otherwise}" if source.otherwise else ""))
    run_name = config.tracking.name or "-".join(
        (source.name, config.model.kind or source.kind, *([f"seed{config.seed}"] if config.seed else []))
    )
    recorded = config if lead else _untracked(config)
    with _recorded(
        recorded, data_name=source.name, run_name=run_name, resume=resume, parent=parent, model=MODEL
    ) as run:
        checkpoint = store.checkpoint_folder(run.run_id, config) if run.run_id else None
        _remember(checkpoint, path, config)

        def on_epoch(epoch: int, epochs: int, figures: dict[str, float]) -> None:
            run.epoch(epoch, curves(figures))
            progress("training", epoch + 1, epochs)

        with distributed.together():
            detector, fit_result = fit_detector(source, config, on_epoch, checkpoint, every_row=bool(scores), say=say)
        reported, anomalous = fit_result.part(fit_result.split.reported)
        threshold = detector.threshold
        test_metrics = metrics(anomalous, reported.total, threshold.value, detector.window)
        test_metrics |= fit_result.latent_metrics()
        meter = PixelMeter(detector, source, fit_result.split.anomalous)
        for piece in fit_result.pieces(fit_result.split.reported) if meter.wanted else ():
            meter.add(piece, np.asarray(piece.ids, np.intp))
        test_metrics |= meter.metrics()
        scored, events = _scored_rows(source, detector, fit_result)
        test_metrics |= {} if events is None else events.metrics()
        seconds = time.perf_counter() - start
        summary = summarise(source, detector, fit_result, config, test_metrics, round(seconds, 2))
        if run.run_id:
            from anomaly_vae.tracking.model import log_model

            log_model(run, detector)  # before the metrics, so that MLflow links them to the model
            scored.rename(fit_result.data.ids)
            found = None if events is None else _with_ids(events.events(), fit_result.data)
            title = config.tracking.name or _title(run_name, detector, fit_result.split.anomalous is not None)
            log_fit(run, source, detector, fit_result, scored, summary, title, found)
        if scores and lead:
            _write_scores(scores, detector, fit_result)
    if output and lead:
        _save(detector, output, run.run_id)
    if checkpoint:
        shutil.rmtree(checkpoint, ignore_errors=True)
    location = output or (f"runs:/{run.run_id}/detector" if run.run_id else "")
    notes = summary.notes
    if run.lost:
        folder, reason = run.lost
        location = output or str(folder / "artifacts" / "detector")
        notes += (f"{reason}; the run is kept in {folder}, and `anomaly-vae runs --sync` sends it",)
    return Result(
        run_id=run.run_id,
        detector=location,
        kind=source.kind,
        data=source.path,
        threshold=threshold.value,
        policy=threshold.policy,
        metrics=test_metrics,
        seconds=summary.seconds,
        rows=dict(summary.rows),
        notes=notes,
        pixels=detector.pixels,
        summary=summary,
    )


def _title(name: str, detector: Detector, labelled: bool) -> str:
    """The name of a run with what tells it from others on the same data: its label, and the policy of its threshold,
    which `replace_detector` keeps true."""
    label = (detector.config.data.label or "labelled") if labelled else "unlabelled"
    return f"{name}-{label}-{detector.threshold.policy}"


def _scored_rows(source: Source, detector: Detector, fit_result: Fit) -> tuple[ScoredRows, EventMeter | None]:
    """What the report shows of the test rows and, of a series, the events among them. Ids are row numbers."""
    split, data = fit_result.split, fit_result.data
    scored = ScoredRows(detector, split.anomalous is not None, source.image_files())
    events, rows = None, split.reported
    if KINDS[detector.layout.kind].ordered:
        events, rows = EventMeter(detector, detector.threshold.value), np.arange(len(data))
    is_tested = np.isin(rows, split.reported)
    for (here, chunk), scores in zip(data.pieces(rows), fit_result.pieces(rows), strict=True):
        anomalous = None if split.anomalous is None else split.anomalous[rows[here]]
        if events is not None:
            events.add(chunk, scores, is_tested[here], anomalous)
        at = np.flatnonzero(is_tested[here])
        if len(at):
            flags = np.zeros(len(at), bool) if anomalous is None else anomalous[at]
            scored.add(Rows(rows[here][at], chunk.take(at), scores.take(at), flags))
    return scored, events


def _with_ids(events: list[Event], data: LoadedData) -> list[Event]:
    """Events whose ids are row numbers with the ids that a person knows the steps by, which are read once."""
    rows, places = np.unique([[event.start, event.end, event.peak] for event in events], return_inverse=True)
    names = data.ids(rows.astype(np.intp))[places].reshape(-1, 3)
    return [
        replace(event, start=start, end=end, peak=peak) for event, (start, end, peak) in zip(events, names, strict=True)
    ]


def _save(detector: Detector, output: str, run_id: str) -> None:
    """Saves the detector in its new folder. Raises AnomalyVAEError where that is not possible any more, which says
    where the detector is."""
    try:
        detector.save(output)
    except AnomalyVAEError as error:
        if run_id:
            raise AnomalyVAEError(f"{error}. The fit is finished, and its detector is in run {run_id}") from error
        other = Path(output).absolute()
        other = other.with_name(f"{other.name}-{uuid4().hex[:8]}")
        detector.save(other)
        raise AnomalyVAEError(f"{error}. The fit is finished, and its detector is in {other}") from error


def _write_scores(path: str, detector: Detector, fit_result: Fit) -> None:
    """Writes the scores of every row in order, as `score` would; rows that were in no part of the split are new to the
    detector."""
    data, scored = fit_result.data, replace(fit_result.scores, elements=None)
    rest = np.setdiff1d(np.arange(len(data)), scored.ids)
    new = [scores for _, scores in detector.score_chunks(chunk for _, chunk in data.pieces(rest))] if len(rest) else []
    scored = in_order([scored, *new], data.store)
    scored = replace(scored, ids=data.ids(scored.ids.astype(np.intp)))
    table = batch(score_columns(scored, detector, scored.total >= detector.threshold.value))
    with open_writer(path, table.schema) as write:
        write(table)


def _recorded(config: Config, **named: Any) -> AbstractContextManager[Run]:
    """`tracking.start`; without tracking a run that ignores every call, which avoids the slow import of mlflow."""
    if not config.tracking.enabled:
        return nullcontext(NoRun())
    from anomaly_vae import tracking

    return tracking.start(config, **named)


def _remember(folder: Path | None, path: str | None, config: Config) -> None:
    """Writes what `--resume` needs, the path of the data and the settings, into the folder of the checkpoint."""
    if folder is not None and not (folder / RESUME).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tree = {"path": None if path is None else str(Path(path).absolute()), "config": config.model_dump(mode="json")}
        with replacing(folder / RESUME) as beside:
            beside.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")


def _remembered(run: str, config: Config) -> tuple[str, str | None, Config]:
    """The id, the path of the data and the settings of an interrupted run. Raises RunError if it cannot be resumed."""
    from anomaly_vae import tracking
    from anomaly_vae.tracking import store

    run_id = tracking.full_run_id(run, config)
    folder = store.checkpoint_folder(run_id, config)
    try:
        tree = json.loads((folder / RESUME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        others = sorted(path.parent.name for path in folder.parent.glob(f"*/{RESUME}"))
        offer = f"the runs that can be resumed here: {', '.join(others)}" if others else "no run can be resumed here"
        raise RunError(
            f"run '{run_id}' has nothing to resume: it finished or was started elsewhere; {offer}"
        ) from error
    return run_id, tree["path"], load(base=tree["config"])


def _untracked(config: Config) -> Config:
    """The configuration without tracking, for processes other than the lead."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"enabled": False})})
