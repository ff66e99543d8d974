"""A detector: model, scaler, layout and threshold, built complete by `fit`, saved as a folder a person can read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import UsageError
from anomaly_vae.core.threads import prefetched
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.samples import open_samples
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Chunk, Layout, Source
from anomaly_vae.detector.anomaly_maps import excess_maps
from anomaly_vae.detector.calibration import Calibration
from anomaly_vae.detector.configuration import require_steps, unlabelled
from anomaly_vae.detector.drift import Reference
from anomaly_vae.detector.event_rate import HeldOutSteps
from anomaly_vae.detector.thresholds import Threshold, alarm_interval, choose, p_values
from anomaly_vae.detector.trained_rows import TrainedRows
from anomaly_vae.detector.training_scores import TrainingScores
from anomaly_vae.scoring.parts.sensor_level import AHEAD
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores, join, weighted

if TYPE_CHECKING:
    import pandas as pd

    from anomaly_vae.detector.feedback import Verdicts
    from anomaly_vae.detector.stream import Stream


@dataclass(frozen=True, repr=False)
class Detector:
    """A fitted detector.

    normal, anomalous: sorted scores (nats) of validation's normals and anomalies: the reference of p-values, and what
    another threshold is chosen from without training again; of a series, normals as a level that has not seen them
    scores them. normal_mean: (*shape of a sample; of images (1, H, W)) mean
    nats of each element over validation's normals, against which a sample's own nats are explained. pixels: of
    pictures, the nats above the usual from which a pixel of a map is anomalous. references: what `monitor` compares new
    data with. trained_rows: hashes of the training rows; None of more than a million, and of detectors that were saved
    before there were any. training: the out-of-sample scores of cross-fitted training rows, before parts are weighted;
    None of others. calibration: the rows of normal and anomalous, for `feedback` to weigh parts by; None where that is
    not done. verdicts: what `feedback` was given, the latest last. steps: of a series, the normals in order of
    time; None of detectors that were saved before they were kept.
    """

    config: Config
    layout: Layout
    scaler: Scaler
    score_model: ScoreModule
    threshold: Threshold
    normal: NDArray[np.float64]
    anomalous: NDArray[np.float64]
    normal_mean: NDArray[np.float32]
    pixels: Threshold | None = None
    references: tuple[Reference, ...] = field(default=(), repr=False)
    trained_rows: TrainedRows | None = field(default=None, repr=False)
    training: TrainingScores | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    verdicts: tuple[Verdicts, ...] = field(default=(), repr=False)
    steps: HeldOutSteps | None = field(default=None, repr=False)

    @classmethod
    def fit(cls, X: Any, y: ArrayLike | None = None, *, config: Config | None = None, **settings: Any) -> Detector:
        """Fits on a DataFrame or array in memory.

        X: a DataFrame, recognised as a file is; (N, F) a table (the default), a series or flat pixels (`kind=`);
        (N, H, W), (N, C, H, W) or (N, H, W, C) pictures. y: (N,)
        0 normal, 1 anomaly, NaN not known (see `data.unlabelled`); without it all rows are taken as normal. settings:
        `kind="series"` and dotted names with `__` for the dot, e.g. `training__epochs=20`; `config` is what they
        change.
        Without y no row is kept for a test, and `training_scores` has that of every row, by models that never saw it.
        """
        from anomaly_vae.detector.fit import fit_memory

        detector, _ = fit_memory(X, y, config, **settings)
        return detector

    def __repr__(self) -> str:
        layout, threshold = self.layout, self.threshold
        what = f"{len(layout.columns)} columns" if layout.columns else f"shape {layout.shape}"
        weights = self.score_model.weights or {}
        parts = [f"{weights[name]:g} {name}" if name in weights else name for name in self.score_model.part_names]
        unit = "surprises" if self.score_model.surprise is not None else "raw nats"
        return (
            f"Detector of a {layout.kind}, {what}; model {self.config.model.kind}\n"
            f"score: {' + '.join(parts)}, {unit}\n"
            f"threshold: {threshold.value:.6g} nats ({threshold.policy}, {threshold.normals} normals)"
        )

    # --- scoring ---------------------------------------------------------------------------------------------------

    def stream(self) -> Stream:
        """What takes one row, picture or step at a time and answers each; see `detector.stream.Stream`."""
        from anomaly_vae.detector.stream import Stream

        return Stream(self)

    def score_chunks(
        self, chunks: Iterable[Chunk], explain: bool = False, path: str = "memory"
    ) -> Iterator[tuple[Chunk, Scores]]:
        """Samples and their scores, in order and in constant memory; `explain` adds the nats of each element.

        path: where the chunks come from, for messages.
        """
        scorer = Scorer(self.score_model, self.scaler, self.layout, self.window, path)
        stream = scorer.stream(prefetched(chunks, self.chunk_rows), explain)
        if self.training is None or (scores_of_fit := self.training_scores) is None:
            return stream
        training = replace(self.training, scores=scores_of_fit)
        return ((chunk, training.recall(chunk, scores)) for chunk, scores in stream)

    @property
    def training_scores(self) -> Scores | None:
        """The scores of the training rows, whose ids are their row numbers, each by models that never saw it; None
        where rows were held out instead (`split.folds`).

        The detector gives a training row the same score again. They rank the rows by models of the least suspicious
        three quarters of the others, so that groups of anomalies do not hide each other, unless `data.contamination`
        is 0; in nats of the detector's own score.
        """
        if self.training is None or self.score_model.weights is None:
            return None if self.training is None else self.training.scores
        return replace(self.training.scores, parts=weighted(self.training.scores.parts, self.score_model.weights))

    def score_source(self, source: Source, explain: bool = False) -> Iterator[tuple[Chunk, Scores]]:
        """The same of a whole source."""
        return self.score_chunks(source.chunks(self.layout, self.chunk_rows), explain, source.path)

    @property
    def window(self) -> int | None:
        """The steps of a series that are read together; None: samples are read alone."""
        return self.config.data.window if KINDS[self.layout.kind].ordered else None

    @property
    def delay(self) -> int:
        """How many later steps of a series the score of a step depends on, at most: an alarm comes so much later."""
        if self.window is None:
            return 0
        return self.window - 1 + (0 if self.score_model.level is None else AHEAD)

    @property
    def chunk_rows(self) -> int:
        """How many samples are read at a time."""
        return self.layout.chunk_rows

    def parts(self, X: Any, explain: bool = False) -> Scores:
        """Scores of a DataFrame or array with the columns or shape of the training data, split into their parts."""
        return join(self.score_source(self.opened(X), explain))

    def opened(self, X: Any) -> Source:
        """Samples, or one alone, as a source of the kind that the detector was fitted on; see `open_samples`."""
        return open_samples(X, self.layout, self.config.data)

    def score(self, X: Any) -> NDArray[np.float64]:
        """(N,) nats: reconstruction given the posterior mean, plus KL, plus the further parts; higher is more
        anomalous. Each further part counts by its raw nats or, by `scoring.combine`, all parts by their surprises.

        X: as `fit` takes it; one sample alone, a row as a Series or dict, a picture as an array or image; or a path.

        The posterior mean is decoded, and nothing is sampled: reconstruction plus KL is a plug-in estimate, no bound on
        -log p(x). It leaves out what the spread of the posterior costs, and so is below the negative ELBO, which
        `elbo` estimates.
        """
        return self.parts(X).total

    def elbo(self, X: Any, draws: int = 100) -> NDArray[np.float64]:
        """(N,) negative ELBO of each sample in nats: on average an upper bound on -log p(x); higher is less probable.

        draws: draws of z from the posterior that it is the mean over. Their noise comes from the detector's seed and is
        the same for all samples, so that a sample's number depends on no other, and not on their order.
        Of rows, p(x) is a density in the units of the data, which counts each number once, although the network reads
        it twice; of pictures one of pixels from 0 to 1, or a probability of pixels under a Bernoulli. It is of the
        model with its own prior: the further parts of the score, and a mixture prior, have no share in it.
        Raises UsageError for a series, for pictures read in tiles and for no draw, DataError for features of pictures.
        """
        from anomaly_vae.detector.likelihood import elbo_measure, elbos

        elbo_measure(self)
        return elbos(self, self.opened(X).chunks(self.layout, self.chunk_rows), draws)

    def score_frame(self, frame: pd.DataFrame, *, threshold: float | None = None, explain: int = 0) -> pd.DataFrame:
        """The columns of `anomaly-vae score` for the rows of a DataFrame; see `dataframe.score_frame`."""
        from anomaly_vae.detector.dataframe import score_frame

        return score_frame(self, frame, threshold=threshold, explain=explain)

    def explain(self, X: Any, most: int = 3) -> pd.DataFrame:
        """The reasons of the score of each sample, at most so many, the largest first; see `detector.reasons`.

        Columns: row (its number in X), column, value (a number in the units of the data, a category, "missing"), usual
        (training's usual values, as text), nats of the score, share (of the nats above the median of held-out normals).
        A sample whose score is usual has no line. Raises UsageError for pictures, which have maps.
        """
        from anomaly_vae.detector.dataframe import explanation

        return explanation(self, X, most)

    def events(self, X: Any, *, threshold: float | None = None, **rules: Any) -> pd.DataFrame:
        """The events of a series: stretches of alarms that follow each other, one line each, in the order of X.

        Columns: group (where there are several), start, end, peak, score and p_value of the peak, steps, alarms, and
        the sensors most responsible with their shares. threshold: nats, instead of the detector's. rules: settings of
        `events` instead of the detector's, e.g. `gap=0`. Raises UsageError for data that is no series.
        """
        import pandas as pd

        from anomaly_vae.core.config import EventsConfig
        from anomaly_vae.detector.events import EventMeter, event_columns

        chosen = EventsConfig(**{**self.config.events.model_dump(), **rules})
        meter = EventMeter(self, self.alarm_threshold(threshold), chosen)
        for _ in meter.watch(self.score_source(self.opened(X), explain=True)):
            pass
        return pd.DataFrame(event_columns(meter.events(), self))

    def predict(self, X: Any) -> NDArray[np.bool_]:
        """(N,) whether each sample is an anomaly: its score is at or above the threshold."""
        return self.score(X) >= self.threshold.value

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) conformal p-values of scores against the held-out normals."""
        return p_values(scores, self.normal)

    def alarm_interval(self, rows: int, level: float) -> tuple[float, float]:
        """The interval, with probability `level`, of the share of alarms among `rows` normal rows, from the scores of
        the held-out normal rows. Steps of a series are not independent: one window counts as one observation."""
        window = self.window or 1
        n_above = int((self.normal >= self.threshold.value).sum())
        n_held_out, n_new = max(1, len(self.normal) // window), max(1, rows // window)
        return alarm_interval(min(n_held_out, 1 + n_above // window), n_held_out, n_new, level)

    def contributions(self, scores: Scores, most: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The columns, sensors or pixels behind scores made with `explain`: (N, most) positions and their shares.

        A share is of the nats by which all elements of the sample exceed what they usually have in normal samples.
        """
        assert scores.elements is not None
        excess = np.clip((scores.elements - self.normal_mean).reshape(len(scores), -1).astype(np.float64), 0, None)
        return largest_shares(excess, most)

    def maps(self, scores: Scores) -> NDArray[np.float32]:
        """(N, H, W) nats above the usual of each pixel, from scores of pictures made with `explain`.

        H, W: as the network reads pictures; `anomaly_vae.maps.resized` gives a picture's own size.
        """
        return excess_maps(scores, self.normal_mean)

    def alarm_threshold(self, instead: float | None = None) -> float:
        """The score (nats) from which a sample is an anomaly. instead: of the detector's own. Raises UsageError for one
        that is not finite, at which nothing, or everything, would be an alarm."""
        value = self.threshold.value if instead is None else instead
        if not math.isfinite(value):
            raise UsageError(f"threshold {value}: not a finite number of nats")
        return value

    def at_threshold(self, value: float | None) -> Detector:
        """The same detector with a threshold of so many nats, which promises what its p-value is; None: as it is."""
        if value is None:
            return self
        rate = float(self.p_values(np.array([value]))[0])
        chosen = Threshold(value, f"--threshold {value:g}", False, rate, len(self.normal), 0)
        return replace(self, threshold=replace(chosen, per_day=self.threshold.per_day, folds=self.threshold.folds))

    def with_threshold(self, policy: str) -> Detector:
        """The same detector with its threshold chosen again from the validation scores."""
        tree = self.config.model_dump()
        tree["threshold"]["policy"] = policy
        config = Config.model_validate(tree)
        require_steps(config, self.layout.kind)
        return replace(self, threshold=self.threshold_by(policy), config=config)

    def threshold_by(self, policy: str) -> Threshold:
        """The threshold that a policy chooses from the validation scores."""
        independent = self.threshold.independent
        if independent is None and self.window is not None:  # a folder of an older version: a window counts as one
            independent = max(1.0, len(self.normal) / self.window)
        policies = (policy, self.normal, self.anomalous, unlabelled(self.config))
        chosen = choose(*policies, independent, self.layout.per_day, self.steps, self.config.events)
        return replace(chosen, folds=self.threshold.folds)

    def feedback(self, X: Any, y: ArrayLike) -> Detector:
        """The same detector with the threshold, and what each part counts, chosen again with verdicts on samples.

        X: as `score` takes it. y: (N,) 0 normal (a false alarm), 1 anomaly (a right one), NaN no verdict. Nothing is
        trained; `without_feedback` takes the latest back. Raises DataError where no sample has a verdict.
        """
        from anomaly_vae.data.open import open_memory
        from anomaly_vae.detector.feedback import give, judged, verdicts_of
        from anomaly_vae.detector.fit import as_labels

        source = open_memory(X, self.config.data.model_copy(update={"label": None}), as_labels(y))
        labels = source.labels()
        assert labels is not None
        detector, _ = give(self, judged(self, source, verdicts_of(labels, "memory", "y")), "memory")
        return detector

    def without_feedback(self) -> Detector:
        """The detector as it was before the latest `feedback`. Raises UsageError where there was none."""
        from anomaly_vae.detector.feedback import undo

        return undo(self)

    # --- on disk ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes the detector as a new folder; nothing that exists is overwritten."""
        from anomaly_vae.detector.storage import save_detector

        save_detector(self, folder)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Detector:
        """Reads a folder. Raises DetectorError where it is missing, incomplete, altered or of another format."""
        from anomaly_vae.detector.storage import load_detector

        return load_detector(folder, device)


def largest_shares(excess: NDArray[np.float64], most: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(N, most) positions of the largest of the nats above the usual (N, E), and their shares of the sum."""
    order = np.argsort(-excess, axis=1, kind="stable")[:, :most]
    shares = np.take_along_axis(excess, order, axis=1) / np.maximum(excess.sum(axis=1, keepdims=True), 1e-12)
    return order, shares
