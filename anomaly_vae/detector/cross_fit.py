"""Rows scored out of sample without holding any back: each by models of the folds that it is not in.

Two uses. Where rows are few, the scores of all folds together calibrate the final detector, which trains on every row
(cross-conformal prediction, Vovk 2015). Compared with each row by the model of that row's fold, a fresh normal reaches
the threshold for the rate a with a probability of at most 2 a + sqrt(2 / n), whatever the models (CV+, Barber et al.
2021, Theorem 4), and in practice of about a. The final detector takes the place of those models here, which assumes
that it scores a fresh row as they do: it has seen a few rows more, so a little lower rather than higher.

And where nothing is known of the rows, they are ranked by models of the least suspicious of them, so that groups of
anomalies do not vouch for each other. Only the columns and their scale are learned from all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_vae.core.callbacks import EpochCallback
from anomaly_vae.core.config import Config
from anomaly_vae.data.datasets import RowDataset, make_dataset
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.detector.suspicion import BULK, bulk, suspicion
from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores, in_order
from anomaly_vae.scoring.surprise import cross_fitted, factors
from anomaly_vae.training.loop import train

RANKING = 0.25  # of the optimiser steps of a fit, that a model which ranks takes; it has one member


@dataclass(frozen=True)
class CrossFit:
    """What every fold is made with. untrained: builds a score. cache: folder that computed features are kept in."""

    untrained: Callable[[Config], ScoreModule]
    data: LoadedData
    scaler: Scaler
    config: Config
    device: torch.device
    cache: Path | None

    def scores(
        self, rows: NDArray[np.intp], folds: NDArray[np.intp], kept: NDArray[np.bool_], on_epoch: EpochCallback,
        checkpoint: Path | None = None,
    ) -> tuple[Scores, float, dict[str, torch.Tensor]]:  # fmt: skip
        """Raw parts of rows (n,), in their order, and how long each fold trained: the share of the epochs after which
        the first had the best held-out bound. Models of other lengths would score on other scales. Last, what only
        held-out normals tell of a score (`ScoreModule.held_state`), the mean over folds: a fit on all rows has none.

        folds: (n,) of each row. kept: (n,) which rows the models of other folds are fitted to.
        """
        found: list[Scores] = []
        share: float | None = None
        count, held_state = int(folds.max()) + 1, dict[str, torch.Tensor]()
        for fold in range(count):
            mine = folds == fold
            score_model, inside = self.untrained(self.config), kept[mine]
            learned, held = self.samples(rows[~mine & kept]), self.samples(rows[mine & kept])
            learned, judged = score_model.prepare(learned, held if len(held) else learned, self.cache, self.config.seed)
            folder = None if checkpoint is None else checkpoint / f"fold{fold}"
            history = train(score_model.model, learned, judged, self.config, on_epoch, folder, share)
            share = share or (history.best_epoch + 1) / history.planned
            own = torch.full((len(inside),), -1)
            own[torch.from_numpy(inside)] = score_model.fit(learned, held, self.config.seed)
            for name, buffer in score_model.held_state().items():
                held_state[name] = held_state.get(name, 0.0) + buffer / count
            scorer = Scorer(score_model, self.scaler, self.data.layout, None, self.data.source.path, raw=True)
            pieces = self.data.pieces(rows[mine])
            found += [scorer.samples(chunk, True, here.start, own[here]) for here, chunk in pieces]
        assert share is not None
        return in_order(found, self.data.store), share, held_state

    def samples(self, rows: NDArray[np.intp]) -> RowDataset:
        return make_dataset(self.data, rows, self.scaler, self.data.layout, self.device, None, self.data.store)


@dataclass(frozen=True)
class Ranked:
    """Unlabelled rows, by models of the least suspicious of the others.

    raw: their raw parts, by row number. parts: the same as surprises, each by a fit to others than itself. evidence:
    (n,) what they are ranked by: the sum of the parts and, of a first look, the suspicion. suspects: sorted row numbers
    of the highest share of `data.contamination`, which no detector should be trained on; without it none: on real
    tables, clean ones have as many rows far out as contaminated ones, and to leave them out costs a detector more than
    anomalies among its training rows do. trimmed: row numbers, the most suspicious first, of those that a first look
    kept out of the models that rank.
    """

    raw: Scores
    parts: dict[str, NDArray[np.float64]]
    evidence: NDArray[np.float64]
    suspects: NDArray[np.intp]
    trimmed: NDArray[np.intp]


def rank(cross_fit: CrossFit, rows: NDArray[np.intp], folds: NDArray[np.intp], on_epoch: EpochCallback) -> Ranked:
    """Of rows (n,), in order. folds: (n,) of each. Of tables, unless `data.contamination` says that none is an
    anomaly, the models are of the bulk."""
    config, layout = cross_fit.config, cross_fit.data.layout
    kept, rate, looks = np.ones(len(rows), bool), config.data.contamination, np.zeros(len(rows))
    if layout.columns and rate != 0:
        inputs, samples = RowInputs(cross_fit.scaler.categories(layout)), cross_fit.samples(rows)
        looks = suspicion(samples.take(samples.spaced(len(rows))).cpu(), inputs, config.seed)
        kept = bulk(looks, min(BULK, 1 - (rate or 0.0)))
    raw, _, _ = replace(cross_fit, config=_quick(config)).scores(rows, folds, kept, on_epoch)
    names = [name for name in raw.parts if name != "constant"]  # every row made the columns that are watched
    surprises = cross_fitted(np.stack([raw.parts[name] for name in names]), int("missing" in names), factors(names))
    parts = raw.parts | dict(zip(names, surprises, strict=True))
    evidence = surprises.sum(0) + looks
    highest = np.argsort(-evidence, kind="stable")[: round((rate or 0.0) * len(rows))]
    trimmed = rows[[place for place in np.argsort(-looks, kind="stable") if not kept[place]]]
    return Ranked(raw, parts, evidence, np.sort(rows[highest]), trimmed)


def _quick(config: Config) -> Config:
    """The configuration of models that rank."""
    training = config.training
    lengths = {"steps": training.steps, "epochs": training.epochs}
    update = {name: max(1, round(RANKING * length)) for name, length in lengths.items() if length}
    model = config.model.model_copy(update={"members": config.model.members and 1})
    return config.model_copy(update={"training": training.model_copy(update=update), "model": model})
