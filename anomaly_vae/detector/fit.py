"""From a source to a detector: the whole story of a fit, top to bottom.

Rows are read once; arrays above `data.memory` bytes are memory-mapped (`data.spill`), with bit-identical results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from anomaly_vae.core.advice import option, setting
from anomaly_vae.core.callbacks import EpochCallback, Say
from anomaly_vae.core.config import Config
from anomaly_vae.core.device import pick_device
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.core.worries import Gravity, Worry
from anomaly_vae.data.columns import constancy
from anomaly_vae.data.datasets import RowDataset, make_dataset
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.loaded import LoadedData, load_data
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Layout, Source
from anomaly_vae.data.spill import ArrayStore, release
from anomaly_vae.data.split import Split, split
from anomaly_vae.detector.alarms import add_alarms, fit_missing, fit_usual, set_alarms
from anomaly_vae.detector.anomaly_maps import excess_maps, pixel_threshold
from anomaly_vae.detector.calibration import Calibration
from anomaly_vae.detector.configuration import load, resolve, unlabelled
from anomaly_vae.detector.cost import FEW, priced
from anomaly_vae.detector.cross_fit import CrossFit, Ranked, rank
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import monitoring_references
from anomaly_vae.detector.event_rate import HeldOutSteps, require_clock
from anomaly_vae.detector.step_residuals import step_residuals
from anomaly_vae.detector.tails import independent_scores
from anomaly_vae.detector.thresholds import choose
from anomaly_vae.detector.trained_rows import MOST, TrainedRows
from anomaly_vae.detector.training_scores import TrainingScores, matched
from anomaly_vae.models import backbone, pretrained
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.compose import build_score_model
from anomaly_vae.scoring.parts.sensor_level import SMOOTH
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores, gathered, in_order, weighted
from anomaly_vae.training.loop import JUDGED, History, train
from anomaly_vae.training.objective import active_units

USED = 0.1  # nats from which a latent dimension is counted as used
NAMED = 12  # columns named in one note
LISTED = 10  # rows that a note names
WIDE = 500  # columns of a table above which it is not fitted several times
COLLAPSED = 1.0  # nats of KL in all below which the posterior has collapsed, whatever free bits grant


@dataclass(frozen=True)
class Fit:
    """What fitting saw, for the report: the data and its split, the training, and the scores of held-out rows."""

    data: LoadedData
    split: Split
    history: History
    scores: Scores  # of valid and test, of a series of all steps; their ids are row numbers
    kl: NDArray[np.float64]  # (G,) nats of each latent group, mean over held-out normals
    active: NDArray[np.bool_]  # (D,) active units
    members: int  # that share each group's nats evenly, see `models.base.Output`
    notes: tuple[str, ...]

    def latent_metrics(self) -> dict[str, float]:
        """active_units; kl_total, the nats of all groups together; kl_dimensions, how many groups have more than 0.1:
        units stay active long after the code has stopped telling samples apart (beta = 10: 16 of 16 with 1.7 nats)."""
        dimensions = int((self.kl * self.members > USED).sum())
        return {
            "active_units": float(self.active.sum()),
            "kl_total": float(self.kl.sum()),
            "kl_dimensions": float(dimensions),
        }

    def part(self, rows: NDArray[np.intp]) -> tuple[Scores, NDArray[np.bool_] | None]:
        """Scores, without elements, of some of the scored rows, and which of them are anomalous (None: nothing is
        labelled)."""
        scores = replace(self.scores, elements=None).take(np.searchsorted(self.scores.ids, rows))
        return scores, None if self.split.anomalous is None else self.split.anomalous[rows]

    def pieces(self, rows: NDArray[np.intp]) -> Iterator[Scores]:
        """The scores of some of the scored rows with their elements, a chunk at a time."""
        step = self.data.layout.chunk_rows
        for first in range(0, len(rows), step):
            yield self.scores.take(np.searchsorted(self.scores.ids, rows[first : first + step]))
            release(self.scores.elements)

    def shown(self, rows: NDArray[np.intp]) -> Scores:
        """The scores of a few of the scored rows with their elements, and with the ids that a person knows them by."""
        chosen = self.scores.take(np.searchsorted(self.scores.ids, rows))
        return replace(chosen, ids=self.data.ids(rows))

    def normal_mean(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """(*shape of a sample) the mean nats of each element over some of the scored rows."""
        assert self.scores.elements is not None
        total = np.zeros(self.scores.elements.shape[1:])
        for piece in self.pieces(rows):
            assert piece.elements is not None
            total += piece.elements.sum(axis=0, dtype=np.float64)
        mean: NDArray[np.float32] = (total / len(rows)).astype(np.float32)
        return mean


def fit(
    source: Source,
    config: Config,
    on_epoch: EpochCallback = lambda *_: None,
    checkpoint: Path | None = None,
    every_row: bool = False,
    say: Say = lambda _: None,
) -> tuple[Detector, Fit]:
    """Trains a detector on a source: the detector, and what was seen on the way.

    on_epoch: called after each epoch. checkpoint: folder to keep the state of training in, and to continue from. say:
    called with lines for the user. every_row: score every row by models that never saw it, however many there are.
    Raises DataError for data that cannot train a detector, TrainingError where training fails.
    """
    # Settings, rows, columns.
    kind = KINDS[source.kind]
    if every_row and (config.split.train or config.split.valid):
        raise UsageError("--scores needs every row cross-fitted; leave split.train and split.valid out")
    by_default = not config.training.steps and not config.training.epochs
    config = resolve(config, source.kind)
    frozen = backbone.open_weights(config.model) if config.model.kind == "features" else None
    store = ArrayStore(config.data.memory, cache_folder(config))
    source.preload(store)
    parts, layout = _split_and_learn(source, config, every_row)
    if config.threshold.asks_for_events():
        require_clock(layout.per_day)
    image_files = source.image_files()
    masks_note = "" if image_files is None or parts.anomalous is None else image_files.require(parts.anomalous)
    config = resolve(config, source.kind, len(parts.train))
    device, window = pick_device(config.device), config.data.window
    learned_from, held_normals = _learned_from(parts), parts.valid[~_wrong(parts)]
    data = load_data(source, layout, store)
    scaler = _scaler(data, learned_from, config)

    def samples(rows: NDArray[np.intp]) -> RowDataset:
        return make_dataset(data, rows, scaler, layout, device, window, store)

    if frozen is None and len(few := samples(learned_from[:FEW])):  # what reads features brings its own steps
        model = build_score_model(config, layout, scaler).model.to(device)
        config = priced(model, few, config, by_default, parts, say)

    def untrained(config: Config = config) -> ScoreModule:
        score_model = build_score_model(config, layout, scaler)
        if score_model.backbone is not None and frozen is not None:
            score_model.backbone.load(*frozen)
        score_model.to(device)
        if config.model.pretrained:
            pretrained.load_into(score_model.model, config.model.pretrained)
        fit_missing(score_model, data, learned_from, held_normals)
        return score_model

    # Unlabelled rows are ranked, each by models of the least suspicious others; what is suspect is in no part.
    cache, ranked, folded, suspects = feature_cache(config), None, None, parts.train[:0]
    cross_fit = CrossFit(untrained, data, scaler, config, device, cache)

    def silent(epoch: int, epochs: int, _: dict[str, float]) -> None:
        on_epoch(epoch, epochs, {})

    if len(parts.ranked):
        assert parts.folds is not None
        ranked = rank(cross_fit, parts.ranked, parts.folds[parts.ranked], silent)
        suspects = ranked.suspects
        parts = replace(parts, train=np.setdiff1d(parts.train, suspects), valid=np.setdiff1d(parts.valid, suspects))
    wrong = _wrong(parts)
    normals = parts.valid[~wrong]

    # The model, and what is fitted to it once it is trained: on some rows, while others are held out, or on all.
    score_model = untrained()
    if not parts.calibrated_by_folds:
        training, held = samples(parts.train), samples(normals)
        _require_samples(training, held, source, config)
        learned, judged = score_model.prepare(training, held, cache, config.seed)
        history = train(score_model.model, learned, judged, config, on_epoch, checkpoint)
    else:
        assert parts.folds is not None
        all_kept = np.ones(len(normals), bool)
        folded, share, held_state = cross_fit.scores(normals, parts.folds[normals], all_kept, silent, checkpoint)
        training, held = samples(normals), samples(normals[:0])
        learned, judged = score_model.prepare(training, training, cache, config.seed)
        final = None if checkpoint is None else checkpoint / "final"
        history = train(score_model.model, learned, judged, config, on_epoch, final, share)
    own = score_model.fit(learned, held, config.seed)
    if folded is not None:
        score_model.load_state_dict(held_state, strict=False)
    for name, learned_values in score_model.learned_state().items():
        if learned_values.isnan().any():  # no folder with it could be read
            raise ArithmeticError(f"the fitted score holds NaN in '{name}'")
    scorer = Scorer(score_model, scaler, layout, window, source.path, raw=True)
    residuals = None if score_model.level is None else step_residuals(scorer, data, _before_test(data, parts, window))
    if score_model.level is not None and residuals is not None:
        residuals.fit(score_model.level, np.r_[parts.train, normals])
    fit_usual(score_model, held if len(held) else training, scaler)

    # Scores of what was held out, and the thresholds that validation's choose.
    raw = _scores(scorer, data, parts, normals, own, folded)
    scores = _surprised(score_model, raw, normals)
    kl, active = _latent_use(score_model.model, judged)
    seen = Fit(data, parts, history, scores, kl, active, score_model.model.members, ())
    notes = (*source.notes, *filter(None, (parts.note, masks_note)), *_notes(config, seen, layout))
    notes += tuple(_ranking_notes(ranked, data, config))
    seen = replace(seen, notes=notes)
    valid, _ = seen.part(parts.valid)
    plain, calibration, weighing = seen, None, None
    if config.scoring.weights is not None:
        calibration = Calibration.of(score_model, data, valid, wrong)
        weighing = calibration.weighed(config.scoring.weights)
        score_model.set_weights(weighing.weights)
        seen = replace(seen, notes=(*seen.notes, *filter(None, [weighing.note])))
    valid = valid.take(np.flatnonzero(~wrong))
    unseen, independent, steps = valid.total, None, None
    if weighing is not None and weighing.weights is not None:
        seen = replace(seen, scores=replace(seen.scores, parts=weighted(seen.scores.parts, weighing.weights)))
        unseen = weighing.totals[~wrong]
    if kind.ordered:
        # A level that was calibrated on these very steps would make their scores, and the threshold, too small.
        if score_model.level is not None and residuals is not None and score_model.surprise is None:
            unseen = residuals.cross_scores(score_model.level, parts.train, normals, valid)
        steps = HeldOutSteps.of(data, normals, unseen)
        independent = independent_scores(steps.scores, 1 if residuals is None else SMOOTH)
    normal = np.sort(unseen)
    if score_model.cells:
        policy = unlabelled(config)
        alone = choose(policy, normal, normal[:0], policy, independent, layout.per_day, steps, config.events)
        set_alarms(score_model, len(np.union1d(parts.train, normals)), normal, alone.value)
        add_alarms(score_model, data, seen.scores)
    anomalous = np.sort(seen.part(parts.valid)[0].total[wrong])
    if calibration is not None and weighing is not None and weighing.weights is not None:
        anomalous = calibration.anomalous_scores(weighing, score_model)
    policies = (config.threshold.policy, normal, anomalous, unlabelled(config))
    threshold = choose(*policies, independent, layout.per_day, steps, config.events)
    if folded is not None and parts.folds is not None:
        threshold = replace(threshold, folds=int(parts.folds.max()) + 1)
    normal_mean = seen.normal_mean(normals)
    if score_model.maps_are_scores:
        normal_mean = np.zeros_like(normal_mean)
    pixels = None
    if kind.pictures:
        maps = (heat for piece in seen.pieces(parts.valid) for heat in excess_maps(piece, normal_mean))
        centred = not score_model.maps_are_scores
        pixels = pixel_threshold(config.threshold, maps, parts.valid, wrong, image_files, centred)
    trained_rows = TrainedRows.of(data, parts.train, normals)
    training_scores = None
    if ranked is not None:
        own_parts = ranked.raw.parts
        if score_model.surprise is not None:
            own_parts = matched(ranked.parts, ranked.evidence, normal, ~np.isin(parts.ranked, suspects))
        seen = replace(seen, scores=replace(ranked.raw, parts=own_parts, raw=ranked.raw.parts))
    if parts.folds is not None:
        rows = parts.ranked if len(parts.ranked) else parts.train
        own_scores = (seen if ranked is not None else plain).part(rows)[0]
        training_scores = TrainingScores.of(data, own_scores, suspects)
    if trained_rows is None:
        note = (
            f"{len(parts.train)} training rows are more than the {MOST} whose hashes are kept, so `promote` and"
            " `evaluate` cannot check whether this detector was trained on the rows that they are given"
        )
        seen = replace(seen, notes=(*seen.notes, note))
    references = monitoring_references(data, parts.train, valid, scaler)
    detector = Detector(
        config=config,
        layout=layout,
        scaler=scaler,
        score_model=score_model,
        threshold=threshold,
        normal=normal,
        anomalous=anomalous,
        normal_mean=normal_mean,
        pixels=pixels,
        references=references,
        trained_rows=trained_rows,
        training=training_scores,
        calibration=calibration,
        steps=steps,
    )
    return detector, seen


def _split_and_learn(source: Source, config: Config, every_row: bool) -> tuple[Split, Layout]:
    """The split, and the layout that its rows tell. A table of many columns is not fitted several times unasked."""
    parts = split(source, config, every_row)
    layout = source.learn(_learned_from(parts), parts.valid[~_wrong(parts)])
    if parts.folds is None or every_row or len(layout.columns) <= WIDE:
        return parts, layout
    parts = split(source, config.model_copy(update={"split": config.split.model_copy(update={"folds": 0})}))
    note = f"{len(layout.columns)} columns: rows are held out, for to fit each fold takes long; --scores FILE does"
    parts = replace(parts, note="; ".join(filter(None, (parts.note, note))))
    return parts, source.learn(_learned_from(parts), parts.valid[~_wrong(parts)])


def _wrong(parts: Split) -> NDArray[np.bool_]:
    """Which rows of valid are anomalies."""
    return np.zeros(len(parts.valid), bool) if parts.anomalous is None else parts.anomalous[parts.valid]


def _learned_from(parts: Split) -> NDArray[np.intp]:
    """The rows that tell columns and scale, which is nothing of any single row."""
    return np.union1d(parts.train, parts.ranked)


def fit_memory(
    X: Any, y: ArrayLike | None = None, config: Config | None = None, **settings: Any
) -> tuple[Detector, Fit]:
    """The same of a DataFrame or array in memory; see `Detector.fit`."""
    base = config if config is not None else load()
    if "kind" in settings:
        settings["data__kind"] = settings.pop("kind")
    overrides = [f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in settings.items()]
    chosen = load(overrides=overrides, base=base.model_dump())
    source = open_memory(X, chosen.data, None if y is None else as_labels(y))
    return fit(source, without_test(chosen, source) if y is None else chosen)


def without_test(config: Config, source: Source) -> Config:
    """The configuration with no row kept for a test, unless a split was chosen."""
    folds = config.split.folds
    crossed = KINDS[source.kind].defaults["split"].get("folds") if folds is None else folds
    if config.split.train or config.split.valid or crossed:
        return config
    return config.model_copy(update={"split": config.split.model_copy(update=NO_TEST)})


def as_labels(y: ArrayLike) -> NDArray[np.str_]:
    """y (N,), 0, 1 or NaN for not known, as the texts of a label column."""
    numbers = np.asarray(y, np.float64)
    texts: NDArray[np.str_] = np.nan_to_num(numbers).astype(int).astype(str)
    return np.where(np.isnan(numbers), "", texts)


def cache_folder(config: Config) -> Path | None:
    """Where what a fit computes or converts is kept for the next: beside the runs; nowhere, if nothing is recorded."""
    return Path(config.tracking.folder) / "cache" if config.tracking.enabled else None


def feature_cache(config: Config) -> Path | None:
    """Where feature maps are kept."""
    folder = cache_folder(config)
    return None if folder is None else folder / "features"


def _scaler(data: LoadedData, train: NDArray[np.intp], config: Config) -> Scaler:
    condition = None if data.condition is None else data.condition[train]
    after_gap = None if data.after_gap is None else data.after_gap[train]
    columns = data.columns(train) if data.layout.columns else ()
    return Scaler.fit(columns, data.layout, condition, after_gap, config.data.only_high)


def _require_samples(training: RowDataset, held: RowDataset, source: Source, config: Config) -> None:
    for name, part in (("training", training), ("validation", held)):
        if len(part) < 2:
            raise DataError(
                f"{source.path}: the {name} rows hold {len(part)} windows of {config.data.window} normal time steps;"
                " more rows, another split or a smaller data.window would work"
            )


def _before_test(data: LoadedData, parts: Split, window: int | None) -> NDArray[np.intp]:
    """The rows of train and valid: of a series the steps before those of test, which their scores must not see, for a
    step's score is made of windows that reach beyond it. Of a machine with less than a window of them, all steps."""
    before = np.ones(len(data), bool)
    before[parts.test] = False
    machines = np.zeros(len(data), np.int32) if data.groups is None else data.groups
    too_short = np.bincount(machines[before], minlength=int(machines.max()) + 1) < (window or 0)
    return np.flatnonzero(before | too_short[machines])


def _scores(
    scorer: Scorer, data: LoadedData, parts: Split, normals: NDArray[np.intp], own: torch.Tensor,
    folded: Scores | None,
) -> Scores:  # fmt: skip
    """The raw parts of valid and test, of a series of every step, those before test without it. own: of the rows in
    `normals`, see `ScoreModel.fit`. folded: of the normals, where
    these were cross-fitted."""
    if KINDS[data.layout.kind].ordered:
        rows = np.arange(len(data))
        scores = gathered(_steps(scorer, data, rows), rows, data.store)
        before, first = _before_test(data, parts, scorer.window), 0
        for piece in _steps(scorer, data, before) if len(before) < len(rows) else ():
            here = before[first : first + len(piece)]
            first += len(piece)
            for name, part in piece.parts.items():
                scores.parts[name][here] = part
            assert scores.elements is not None
            scores.elements[here] = piece.elements
            release(scores.elements)
        return scores
    rows, mine = np.union1d(parts.valid, parts.test), None
    if folded is not None:
        others = np.setdiff1d(rows, folded.ids)
        rest = [scorer.samples(chunk, True, here.start) for here, chunk in data.pieces(others)]
        return in_order([folded, *rest], data.store)
    if (own >= 0).any():  # a held-out row that became a reference is not its own neighbour
        mine = torch.full((len(data),), -1)
        mine[torch.from_numpy(normals)] = own
        mine = mine[torch.from_numpy(rows)]
    scored = (
        scorer.samples(chunk, True, here.start, None if mine is None else mine[here])
        for here, chunk in data.pieces(rows)
    )
    return gathered(scored, rows, data.store)


def _steps(scorer: Scorer, data: LoadedData, rows: NDArray[np.intp]) -> Iterator[Scores]:
    """The scores of steps of a series, as if there were no others."""
    return (scores for _, scores in scorer.stream((chunk for _, chunk in data.pieces(rows)), explain=True))


def _surprised(score_model: ScoreModule, raw: Scores, normals: NDArray[np.intp]) -> Scores:
    """Fits the surprises, where the score is their sum, to the rows in `normals`; the scores of raw parts."""
    if score_model.surprise is None:
        return raw
    rows = np.searchsorted(raw.ids, normals)
    of_normals = score_model.surprise.fit({name: nats[rows] for name, nats in raw.parts.items()})
    parts = score_model.surprise.parts(raw.parts)
    for name, nats in of_normals.items():
        parts[name][rows] = nats
    return replace(raw, parts=parts, raw=raw.parts)


def _ranking_notes(ranked: Ranked | None, data: LoadedData, config: Config) -> Iterator[str]:
    """Which rows trained nothing, or no model that ranks, the most suspicious first."""
    noun, rate = KINDS[data.layout.kind].noun, config.data.contamination
    if ranked is None:
        if rate:
            why = f"data.contamination={rate:g} kept nothing out of training: only {noun} that are cross-fitted"
            yield Worry(f"{why} without labels (split.folds) are ranked", Gravity.UNREAD)
        return

    def listed(rows: NDArray[np.intp]) -> str:
        return ", ".join(map(str, data.ids(rows[:LISTED]))) + (", ..." if len(rows) > LISTED else "")

    zero = option("--contamination", "0")
    if len(ranked.suspects):
        evidence = ranked.evidence[np.searchsorted(ranked.raw.ids, ranked.suspects)]
        highest = ranked.suspects[np.argsort(-evidence, kind="stable")]
        many = f"{len(highest)} of {len(ranked.raw)} {noun}"
        yield f"{many} score highest, and trained nothing: id {listed(highest)}; {zero} trains on all"
    elif len(ranked.trimmed):
        yield (
            f"{len(ranked.trimmed)} of {len(ranked.raw)} {noun} look most suspicious at first, and are in no model that"
            f" ranks the others, though in the detector: id {listed(ranked.trimmed)}; {zero} takes them into all"
        )


@torch.no_grad()
def _latent_use(model: VAE, held: RowDataset) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(G,) mean KL of each latent group in nats and (D,) active units, over the held-out normals that training was
    judged by."""
    kls, mus = [], []
    for part in held.spaced(JUDGED).split(1024):
        out = model(held.take(part))
        kls.append(out.kl)
        mus.append(out.mu)
    kl = torch.cat(kls).double().mean(0)
    return kl.cpu().numpy(), active_units(torch.cat(mus)).cpu().numpy()


def _notes(config: Config, seen: Fit, layout: Layout) -> tuple[str, ...]:
    """What the user should know of the fit and could do about it."""
    history, objective = seen.history, config.objective
    asked_for = {layout.label, layout.id, layout.time, layout.group, *config.data.drop, *config.data.condition}
    left_out = [f"'{name}': {why}" for name, why in layout.left_out.items() if name not in asked_for]
    notes: list[str] = []
    if left_out:
        named = "; ".join(left_out[:NAMED]) + (f"; and {len(left_out) - NAMED} more" if len(left_out) > NAMED else "")
        what = "column" if len(left_out) == 1 else f"{len(left_out)} columns:"
        notes.append(Worry(f"left out {what} {named}", Gravity.UNREAD))
    watched = [f"'{column.name}', {constancy(column)} in training" for column in layout.watched]
    if watched:
        names = ", ".join(watched[:NAMED]) + (f" and {len(watched) - NAMED} more" if len(watched) > NAMED else "")
        drop = setting("data.drop", [*config.data.drop, *(column.name for column in layout.watched[:NAMED])])
        notes.append(f"watched for another value, which is an alarm: {names}; {drop} leaves them out")
    latent = seen.latent_metrics()
    free = max(objective.free_bits_total, objective.free_bits * len(seen.kl)) if objective.capacity is None else 0.0
    if not seen.active.any() or not latent["kl_dimensions"] or latent["kl_total"] < max(free, COLLAPSED):
        granted = f", no more than the {free:g} that free bits grant" if COLLAPSED <= latent["kl_total"] < free else ""
        text = (
            f"posterior collapse: the latent code carries {latent['kl_total']:.2g} nats in all{granted}"
            f" ({latent['active_units']:.0f} active units, {latent['kl_dimensions']:.0f} of {len(seen.kl)} dimensions"
            f" with more than {USED:g}), so the score is nearly reconstruction alone; a smaller objective.beta (now"
            f" {objective.beta:g}), a longer objective.warmup or larger free bits (objective.free_bits_total, now"
            f" {objective.free_bits_total:g}) would work"
        )
        notes.append(Worry(text))
    if history.skipped:
        notes.append(Worry(f"{history.skipped} training steps without a finite gradient were skipped"))
    if history.halved:
        notes.append(f"memory did not hold a larger batch than {history.batch_size} samples, which was used")
    return tuple(notes)
