"""From a source to a trained network and the scores of what was held out: the steps of a fit, top to bottom.

Rows are read once; arrays above `data.memory` bytes are memory-mapped (`data.spill`), with bit-identical results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_vae.core.callbacks import EpochCallback
from anomaly_vae.core.config import Config
from anomaly_vae.core.device import pick_device
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.datasets import RowDataset, make_dataset
from anomaly_vae.data.images.masks import ImageFiles
from anomaly_vae.data.loaded import LoadedData, load_data
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Layout, Source
from anomaly_vae.data.spill import ArrayStore, release
from anomaly_vae.data.split import Split, split
from anomaly_vae.models import backbone, pretrained
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.compose import build_score_model
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores, gathered
from anomaly_vae.training.loop import JUDGED, History, train
from anomaly_vae.training.objective import active_units


@dataclass(frozen=True)
class Fit:
    """What fitting saw, for the report: the data and its split, the training, and the scores of held-out rows."""

    data: LoadedData
    split: Split
    history: History
    scores: Scores  # of valid and test, of a series of all steps; their ids are row numbers
    kl: NDArray[np.float64]  # (G,) nats of each latent group, mean over held-out normals
    active: NDArray[np.bool_]  # (D,) active units
    notes: tuple[str, ...]

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

    def usual(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """(*shape of a sample) the mean nats of each element over some of the scored rows."""
        assert self.scores.elements is not None
        total = np.zeros(self.scores.elements.shape[1:])
        for piece in self.pieces(rows):
            assert piece.elements is not None
            total += piece.elements.sum(axis=0, dtype=np.float64)
        mean: NDArray[np.float32] = (total / len(rows)).astype(np.float32)
        return mean


@dataclass(frozen=True)
class Learned:
    """A trained network with what it reads data by, and what fitting saw. originals: of pictures from files."""

    config: Config
    layout: Layout
    scaler: Scaler
    score_model: ScoreModule
    fit: Fit
    image_files: ImageFiles | None


def learn(source: Source, config: Config, watch: EpochCallback, checkpoint: Path | None) -> Learned:
    """Splits, learns the layout, scales, trains, and scores what was held out; see `Detector.fit_source`."""
    config = config.resolve(source.kind)
    config = config.model_copy(update={"model": backbone.adapted(pretrained.adapted(config.model))})
    frozen = backbone.open_weights(config.model) if config.model.kind == "features" else None
    store = ArrayStore(config.data.memory, cache_folder(config))
    source.preload(store)
    parts = split(source, config)
    image_files = source.image_files()
    if image_files is not None and parts.anomalous is not None:
        image_files.require(parts.anomalous)
    config = config.with_window(len(parts.train))
    device, window = pick_device(config.device), config.data.window
    layout = source.learn(parts.train)
    data = load_data(source, layout, store)
    scaler = _scaler(data, parts.train)
    normals = parts.valid if parts.anomalous is None else parts.valid[~parts.anomalous[parts.valid]]

    training = make_dataset(data, parts.train, scaler, layout, device, window, store)
    held = make_dataset(data, normals, scaler, layout, device, window, store)
    _require_samples(training, held, source, config)
    net = build_score_model(config, layout, scaler)
    if net.backbone is not None and frozen is not None:
        net.backbone.load(*frozen)
    net.to(device)
    if config.model.pretrained:
        pretrained.load_into(net.model, config.model.pretrained)
    learned, judged = net.prepare(training, held, feature_cache(config), config.seed)
    history = train(net.model, learned, judged, config, watch, checkpoint)
    own = net.fit(learned, held, config.seed)

    scorer = Scorer(net, scaler, layout, window, source.path)
    _fit_level(scorer, data, np.r_[parts.train, normals])
    scores = _scores(scorer, data, parts, normals, own)
    kl, active = _latent_use(net.model, judged)
    notes = (*source.notes, *_notes(config, history, active, layout))
    fit = Fit(data, parts, history, scores, kl, active, notes)
    return Learned(config, layout, scaler, net, fit, image_files)


def cache_folder(config: Config) -> Path | None:
    """Where what a fit computes or converts is kept for the next: beside the runs; nowhere, if nothing is recorded."""
    return Path(config.tracking.folder) / "cache" if config.tracking.enabled else None


def feature_cache(config: Config) -> Path | None:
    """Where feature maps are kept."""
    folder = cache_folder(config)
    return None if folder is None else folder / "features"


def _scaler(data: LoadedData, train: NDArray[np.intp]) -> Scaler:
    condition = None if data.condition is None else data.condition[train]
    return Scaler.of(data.columns(train) if data.layout.columns else (), data.layout, condition)


def _require_samples(training: RowDataset, held: RowDataset, source: Source, config: Config) -> None:
    for name, part in (("training", training), ("validation", held)):
        if len(part) < 2:
            raise DataError(
                f"{source.path}: the {name} rows hold {len(part)} windows of {config.data.window} normal time steps;"
                " more rows, another split or a smaller data.window would work"
            )


def _fit_level(scorer: Scorer, data: LoadedData, normal: NDArray[np.intp]) -> None:
    """Fits the level part, where there is one, to the residuals of a series, machine after machine with a break between
    them; the rows in `normal` are known as such."""
    if scorer.score_model.level is None:
        return
    everything = np.arange(len(data))
    order = everything if data.groups is None else np.argsort(data.groups, kind="stable")
    place = np.empty_like(everything)
    place[order] = everything
    residuals = data.store.empty((len(data), len(scorer.scaler.column)), np.float64)
    first = 0
    for piece in scorer.residuals(chunk for _, chunk in data.pieces(everything)):
        residuals[place[first : first + len(piece)]] = piece
        first += len(piece)
        release(residuals)
    usable = np.zeros(len(data), bool)
    usable[normal] = True
    usable = usable[order]
    if data.groups is not None:
        machines = data.groups[order]
        usable &= ~np.r_[True, machines[1:] != machines[:-1]]
    scorer.score_model.level.fit_residuals(residuals, usable)


def _scores(scorer: Scorer, data: LoadedData, parts: Split, normals: NDArray[np.intp], own: torch.Tensor) -> Scores:
    """The scores of valid and test, of a series of every step. own: see `ScoreModule.fit`, of the rows in `normals`."""
    if data.layout.kind == "series":
        rows = np.arange(len(data))
        return gathered(scorer.stream((chunk for _, chunk in data.pieces(rows)), explain=True), rows, data.store)
    rows, mine = np.sort(np.r_[parts.valid, parts.test]), None
    if (own >= 0).any():  # a held-out row that became a reference is not its own neighbour
        mine = torch.full((len(data),), -1)
        mine[torch.from_numpy(normals)] = own
        mine = mine[torch.from_numpy(rows)]
    scored = (
        scorer.samples(chunk, True, here.start, None if mine is None else mine[here])
        for here, chunk in data.pieces(rows)
    )
    return gathered(scored, rows, data.store)


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


def _notes(config: Config, history: History, active: NDArray[np.bool_], layout: Layout) -> tuple[str, ...]:
    """What the user should know of the fit and could do about it."""
    asked_for = {layout.label, layout.id, layout.time, layout.group, *config.data.drop, *config.data.condition}
    notes = [f"left out column '{name}': {why}" for name, why in layout.left_out.items() if name not in asked_for]
    if not active.any():
        notes.append(
            "posterior collapse: no latent unit is active, so the score is reconstruction alone; a larger"
            f" objective.free_bits (now {config.objective.free_bits:g}), a longer objective.warmup or a smaller"
            f" objective.beta (now {config.objective.beta:g}) would work"
        )
    if history.skipped:
        notes.append(f"{history.skipped} training steps without a finite gradient were skipped")
    if history.halved:
        notes.append(f"memory did not hold a larger batch than {history.batch_size} samples, which was used")
    return tuple(notes)
