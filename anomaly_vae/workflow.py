"""The main job, top to bottom: fit a detector, score new data with it, evaluate it, choose its threshold again.

Each function is one page: open the data, do the one thing, record it, return what a caller prints.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from anomaly_vae import config as configs
from anomaly_vae import distributed
from anomaly_vae.config import Config
from anomaly_vae.data import open_memory, open_source
from anomaly_vae.data.base import Source
from anomaly_vae.data.conditions import counted
from anomaly_vae.data.split import is_anomalous
from anomaly_vae.detector import Detector
from anomaly_vae.errors import DataError, RunError, UsageError
from anomaly_vae.heatmaps import HeatMaps, NoHeatMaps, PixelMeter, heat_maps
from anomaly_vae.metrics import metrics
from anomaly_vae.output import SCORES, replacing, replacing_folder, require_ending, require_free
from anomaly_vae.record import NoRun, Run
from anomaly_vae.report import log_fit
from anomaly_vae.scoring import numbered, prefetched
from anomaly_vae.serving import explained_names, score_columns
from anomaly_vae.summary import Summary, summarise
from anomaly_vae.threshold import Threshold
from anomaly_vae.writers import batch, open_writer

Progress = Callable[[str, int, int | None], None]  # (what, done, of how many if known)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What a fit or an evaluation came to. metrics: of the test rows; see `metrics.metrics`."""

    run_id: str
    detector: str
    kind: str
    data: str
    threshold: float
    policy: str
    metrics: dict[str, float]
    seconds: float
    rows: dict[str, int]
    notes: tuple[str, ...] = ()
    pixels: Threshold | None = field(default=None, repr=False)
    summary: Summary | None = field(default=None, repr=False)  # of a fit

    def to_json(self) -> str:
        tree = asdict(replace(self, summary=None))
        del tree["summary"], tree["pixels"]
        return json.dumps(tree, ensure_ascii=False)


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
    from anomaly_vae import store

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

        def watch(epoch: int, epochs: int, figures: dict[str, float]) -> None:
            run.epoch(epoch, figures)
            progress("training", epoch + 1, epochs)

        with distributed.together():
            detector = Detector.fit_source(source, config, watch, checkpoint)
        fitted = detector.fitted
        assert fitted
        scores, anomalous = fitted.part(fitted.split.test)
        threshold = detector.threshold
        found = metrics(anomalous, scores.total, threshold.value)
        found["active_units"] = float(fitted.active.sum())
        meter = PixelMeter(detector, source)
        for piece in fitted.pieces(fitted.split.test) if meter.wanted else ():
            meter.add(piece, np.asarray(piece.ids, np.intp))
        found |= meter.metrics()
        seconds = time.perf_counter() - began
        summary = summarise(source, detector, config, found, round(seconds, 2))
        if run.run_id:
            _log_model(run, detector)  # first, so that the metrics are linked to it
            log_fit(run, source, detector, summary, run_name)
        if output and lead:
            detector.save(output)
    if checkpoint:
        shutil.rmtree(checkpoint, ignore_errors=True)
    where = output or (f"runs:/{run.run_id}/detector" if run.run_id else "")
    if run.lost:
        kept, why = run.lost
        where = output or str(kept / "artifacts" / "detector")
    notes = fitted.notes + ((threshold.note,) if threshold.note else ())
    if run.lost:
        notes += (f"{why}; the run is kept in {kept}, and `anomaly-vae runs --sync` sends it",)
    return Result(
        run.run_id, where, source.kind, source.path, threshold.value, threshold.policy, found,
        summary.seconds, dict(summary.rows), notes, detector.pixels, summary,
    )  # fmt: skip


def score(
    path: str,
    detector: Detector,
    *,
    output: str | None = None,
    threshold: float | None = None,
    explain: int = 0,
    maps: str | None = None,
    all_maps: bool = False,
    map_values: bool = False,
    id_column: str | None = None,
    skip_broken: bool = False,
    file: str | None = None,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> tuple[int, int]:
    """Scores every row of a file or folder into a CSV, Parquet or JSON (None: CSV on stdout); (rows, alarms).

    Columns: id, the parts of the score (nats), p_value, is_anomaly. threshold: instead of the detector's (nats).
    explain: so many columns or sensors that contribute most, with their shares of recon. maps: a new folder for maps
    over the pictures at or above the threshold, or over `all_maps`; map_values: and their values, as .npy files (nats).
    skip_broken: leave out, and name, pictures that cannot be decoded. file: a name to stand before every row, where
    the scores of several files will be read as one table.
    """
    if output:
        require_ending(output, SCORES)
    cut = detector.threshold.value if threshold is None else threshold
    source = reopen(path, detector, id_column, skip_broken)
    for note in source.notes:
        say(f"note: {note}")
    names = explained_names(detector, explain)
    rows = alarms = 0
    with _heat_maps(maps, detector, source, all_maps, map_values) as heat:
        unseen = dict.fromkeys((column.name for column in detector.layout.conditions), 0)
        chunks = heat.seen(counted(source.chunks(detector.layout, detector.chunk_rows), detector.layout, unseen))

        def tables() -> Iterator[pa.RecordBatch]:
            nonlocal rows, alarms
            # the next chunk is scored, and the one after it read, while this one is written
            for scores in prefetched(detector.stream(chunks, explain=bool(explain or maps), path=path)):
                alarm = scores.total >= cut
                heat.draw(scores, alarm)
                rows, alarms = rows + len(scores), alarms + int(alarm.sum())
                progress("scoring", rows, None)
                named = {} if file is None else {"file": [file] * len(scores)}
                yield batch(named | score_columns(scores, detector, alarm, names, explain))

        batches = tables()
        first = next(batches, None)  # the first rows are scored before anything is opened for writing
        if first is None:
            raise DataError(f"{path}: holds no rows to score")
        with open_writer(output, first.schema) as write:
            write(first)
            for later in batches:
                write(later)
    for name, count in unseen.items():
        if count:
            say(
                f"note: condition '{name}': {count} of {rows} hold a value that training has not seen, and were judged"
                " as of none of those it has"
            )
    return rows, alarms


def evaluate(
    path: str,
    detector: Detector,
    *,
    label: str | None = None,
    normal: tuple[str, ...] = (),
    skip_broken: bool = False,
    run_id: str = "",
) -> Result:
    """Metrics of a fitted detector on new labelled data; added to its run, if it has one, as `evaluate_*`.

    Of data that names its parts, on the test part alone. label, normal: instead of those it was fitted with.
    """
    began = time.perf_counter()
    config = detector.config.labelled(label, normal, skip_broken)
    source = open_data(path, config)
    labels = source.labels()
    if labels is None:
        raise DataError(f"{path}: has no labels to evaluate by; name their column with --label")
    anomalous = is_anomalous(labels, config, path)
    roles, meter, totals = source.roles(), PixelMeter(detector, source), []
    tested = np.ones(len(labels), bool) if roles is None else roles == "test"
    if not tested.any():
        raise DataError(f"{path}: no row of it is said to be a test; name its part to test on, or one without a split")
    for scores, rows in numbered(detector.score_source(source, explain=meter.wanted)):
        totals.append(scores.total[tested[rows]])
        meter.add(scores.take(np.flatnonzero(tested[rows])), rows[tested[rows]])
    total = np.concatenate(totals)
    found = metrics(anomalous[tested], total, detector.threshold.value) | meter.metrics()
    if run_id:
        from anomaly_vae import tracking

        with tracking.update(run_id, detector.config) as run:
            run.metrics({f"evaluate_{name}": value for name, value in found.items()})
            run.tags({"evaluated_on": path})
    return Result(
        run_id, "", source.kind, source.path, detector.threshold.value, detector.threshold.policy, found,
        round(time.perf_counter() - began, 2), {"test": len(total)}, source.notes, detector.pixels,
    )  # fmt: skip


def rethreshold(model: Model, policy: str) -> Detector:
    """The detector of `model` with its threshold chosen by another policy, in the place where it was found.

    Raises UsageError for a model of the registry: its versions never change.
    """
    if model.name.startswith("models:/"):
        raise UsageError(
            f"{model.name} never changes; choose the threshold of its run (-m {model.run_id or 'RUN_ID'}) and promote"
            " that"
        )
    chosen = model.detector.with_threshold(policy)
    if not model.run_id:
        with replacing_folder(model.name) as folder:
            chosen.save(folder)
        return chosen
    from anomaly_vae import tracking

    with tracking.update(model.run_id, chosen.config, model=MODEL) as run:
        _log_model(run, chosen)
        run.metrics({"threshold": chosen.threshold.value})
        run.tags({"threshold_policy": chosen.threshold.policy})
    return chosen


@dataclass(frozen=True)
class Model:
    """A detector and where it was found: name is its folder, the id of the run that logged it (run_id, else empty) or
    the address of a registered model."""

    detector: Detector
    name: str
    run_id: str


def find(name: str | None, config: Config) -> Model:
    """The detector of a folder, of a run id, of runs:/RUN_ID/..., or of a registered or logged model (models:/...);
    None: of the latest finished run.

    Only the detector's own files are read, and they hold no code. Raises RunError for an unknown run or model,
    DetectorError for a folder that is no detector or was altered.
    """
    if name and name.startswith("runs:/"):  # as MLflow writes it, and `fit --json`
        name = name.removeprefix("runs:/").split("/")[0]
    elif name and not name.startswith("models:/") and (Path(name).is_dir() or "/" in name or name.startswith(".")):
        return Model(Detector.load(name, config.device), name, "")
    from anomaly_vae import tracking

    with tempfile.TemporaryDirectory() as scratch:
        run_id, folder = tracking.find_detector(name, config, scratch)
        return Model(Detector.load(folder, config.device), name if name and ":/" in name else run_id, run_id)


def open_data(path: str | None, config: Config) -> Source:
    """A file or folder as a source; None: the embedded digits."""
    if path is not None:
        return open_source(path, config.opening())
    from anomaly_vae.data.samples import digits

    source = open_memory(digits(), config.data)
    source.name, source.path = "digits", EMBEDDED_DATA
    return source


def _recorded(config: Config, **named: Any) -> AbstractContextManager[Run]:
    """`tracking.start`; where nothing is to be recorded without mlflow, which takes a second or two to import."""
    if not config.tracking.enabled:
        return nullcontext(NoRun())
    from anomaly_vae import tracking

    return tracking.start(config, **named)


def _log_model(run: Run, detector: Detector) -> None:
    """The detector as files, and within an MLflow model that can be served."""
    from anomaly_vae.tracking.model import saved_model

    with saved_model(detector) as folder:
        run.detector(folder / "artifacts" / "detector")
        run.model(folder, MODEL)


def reopen(path: str, detector: Detector, id_column: str | None = None, skip_broken: bool = False) -> Source:
    """New data as the detector's own kind, whatever it would be recognised as."""
    changes = {
        "kind": detector.layout.kind,
        "id": id_column or detector.config.data.id,
        "skip_broken": skip_broken,
    }
    return open_source(path, detector.config.data.model_copy(update=changes))


def _heat_maps(
    folder: str | None, detector: Detector, source: Source, everything: bool, values: bool
) -> AbstractContextManager[HeatMaps | NoHeatMaps]:
    if folder is None:
        if everything or values:
            raise UsageError("--all-maps and --map-values say what --maps DIR writes; name that folder too")
        return nullcontext(NoHeatMaps())
    if detector.layout.kind not in ("images", "pixels"):
        raise UsageError(
            f"--maps draws over pictures, and this detector reads a {detector.layout.kind}; use --explain N"
        )
    return heat_maps(folder, detector, source, everything, values)


MODEL = "model"  # name of the logged model: MLflow finds it as runs:/RUN_ID/model
EMBEDDED_DATA = "scikit-learn's digits"
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
    from anomaly_vae import store, tracking

    run_id = tracking.full_run_id(run, config)
    folder = store.checkpoint_folder(run_id, config)
    try:
        tree = json.loads((folder / RESUME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"run '{run_id}' has nothing to resume: it finished or was started elsewhere; `anomaly-vae runs` lists them"
        ) from error
    return run_id, tree["path"], configs.load(base=tree["config"])


def _untracked(config: Config) -> Config:
    """The same job in a process that records nothing."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"enabled": False})})
