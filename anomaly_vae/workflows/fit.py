"""The main job, top to bottom: fit a detector, score new data with it, evaluate it, choose its threshold again.

Each function is one page: open the data, do the one thing, record it, return what a caller prints.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_vae.core import distributed
from anomaly_vae.core.callbacks import Progress, Say
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import RunError
from anomaly_vae.core.files import replacing, require_free
from anomaly_vae.detector.anomaly_maps import PixelMeter
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.fit import fit as fit_detector
from anomaly_vae.detector.metrics import metrics
from anomaly_vae.reporting.summary import Result, summarise
from anomaly_vae.tracking.run import MODEL, NoRun, Run
from anomaly_vae.workflows.opening import open_data
from anomaly_vae.workflows.record import log_fit


def fit(
    path: str | None,
    config: Config,
    *,
    output: str | None = None,
    resume: str | None = None,
    parent: str | None = None,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> Result:
    """Trains a detector on a file, folder or, with path None, the embedded digits; records it as one run.

    output: also save the detector there. resume: continue the killed run of this id with its own data and settings.
    parent: the run of the study that this fit is part of.
    Raises AnomalyVAEError subclasses for whatever a user can mend.
    """
    from anomaly_vae.tracking import store

    began, lead = time.perf_counter(), distributed.is_lead()
    if output and lead:
        require_free(output)
    if resume:
        resume, path, config = distributed.from_lead(partial(_remembered, resume, config))
    source = open_data(path, config)
    say(f"{source.path} is {source.why}")
    run_name = config.tracking.name or f"{config.model.kind or source.kind}-{source.name}-seed{config.seed}"
    recorded = config if lead else _untracked(config)
    with _recorded(
        recorded, data_name=source.name, run_name=run_name, resume=resume, parent=parent, model=MODEL
    ) as run:
        checkpoint = store.checkpoint_folder(run.run_id, config) if run.run_id else None
        _remember(checkpoint, path, config)

        def on_epoch(epoch: int, epochs: int, figures: dict[str, float]) -> None:
            run.epoch(epoch, figures)
            progress("training", epoch + 1, epochs)

        with distributed.together():
            detector, seen = fit_detector(source, config, on_epoch, checkpoint)
        scores, anomalous = seen.part(seen.split.test)
        threshold = detector.threshold
        found = metrics(anomalous, scores.total, threshold.value)
        found |= seen.latent_metrics()
        meter = PixelMeter(detector, source)
        for piece in seen.pieces(seen.split.test) if meter.wanted else ():
            meter.add(piece, np.asarray(piece.ids, np.intp))
        found |= meter.metrics()
        seconds = time.perf_counter() - began
        summary = summarise(source, detector, seen, config, found, round(seconds, 2))
        if run.run_id:
            from anomaly_vae.tracking.model import log_model

            log_model(run, detector)  # first, so that the metrics are linked to it
            log_fit(run, source, detector, seen, summary, run_name)
        if output and lead:
            detector.save(output)
    if checkpoint:
        shutil.rmtree(checkpoint, ignore_errors=True)
    where = output or (f"runs:/{run.run_id}/detector" if run.run_id else "")
    if run.lost:
        kept, why = run.lost
        where = output or str(kept / "artifacts" / "detector")
    notes = seen.notes + ((threshold.note,) if threshold.note else ())
    if run.lost:
        notes += (f"{why}; the run is kept in {kept}, and `anomaly-vae runs --sync` sends it",)
    return Result(
        run.run_id, where, source.kind, source.path, threshold.value, threshold.policy, found,
        summary.seconds, dict(summary.rows), notes, detector.pixels, summary,
    )  # fmt: skip


def _recorded(config: Config, **named: Any) -> AbstractContextManager[Run]:
    """`tracking.start`; where nothing is to be recorded without mlflow, which takes a second or two to import."""
    if not config.tracking.enabled:
        return nullcontext(NoRun())
    from anomaly_vae import tracking

    return tracking.start(config, **named)


RESUME = "run.json"


def _remember(folder: Path | None, path: str | None, config: Config) -> None:
    """Keeps beside the checkpoint what `--resume` needs: the data's path and the settings."""
    if folder is not None and not (folder / RESUME).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tree = {"path": None if path is None else str(Path(path).absolute()), "config": config.model_dump(mode="json")}
        with replacing(folder / RESUME) as beside:
            beside.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")


def _remembered(run: str, config: Config) -> tuple[str, str | None, Config]:
    """The id, the data's path and the settings of a killed run."""
    from anomaly_vae import tracking
    from anomaly_vae.tracking import store

    run_id = tracking.full_run_id(run, config)
    folder = store.checkpoint_folder(run_id, config)
    try:
        tree = json.loads((folder / RESUME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"run '{run_id}' has nothing to resume: it finished or was started elsewhere; `anomaly-vae runs` lists them"
        ) from error
    return run_id, tree["path"], load(base=tree["config"])


def _untracked(config: Config) -> Config:
    """The same job in a process that records nothing."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"enabled": False})})
