"""A detector: model, scaler, layout and threshold, built complete by `fit`, saved as a folder a person can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from anomaly_vae.core.callbacks import EpochCallback
from anomaly_vae.core.config import NO_TEST, Config
from anomaly_vae.core.config import load as load_config
from anomaly_vae.core.device import pick_device
from anomaly_vae.core.errors import DetectorError
from anomaly_vae.core.files import new_folder
from anomaly_vae.core.threads import prefetched
from anomaly_vae.data.open import open_memory
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Chunk, Layout, Source
from anomaly_vae.detector.anomaly_maps import excess_maps, pixel_threshold
from anomaly_vae.detector.drift import Reference, load_references, references, save_references
from anomaly_vae.detector.fit import Fit, learn
from anomaly_vae.detector.storage import check_seal, read_backbone, read_json, seal, write_backbone, write_json
from anomaly_vae.detector.thresholds import Threshold, choose, p_values
from anomaly_vae.scoring.score_model import PICTURE_KINDS, ScoreModel, build_score_model
from anomaly_vae.scoring.scorer import Scorer
from anomaly_vae.scoring.scores import Scores, join

if TYPE_CHECKING:
    import pandas as pd

PIXELS = "pixel_threshold.json"
FROZEN = "positions.features.backbone."  # what the network calls weights that it did not learn


@dataclass(frozen=True)
class Detector:
    """A fitted detector.

    normal, anomalous: sorted scores (nats) of validation's normals and anomalies: the reference of p-values, and what
    another threshold is chosen from without training again. usual: (*shape of a sample; of images (1, H, W)) mean nats
    of each element over validation's normals, against which a sample's own nats are explained. pixels: of pictures, the
    nats above the usual from which a pixel of a map is anomalous. references: what `monitor` compares new data with.
    """

    config: Config
    layout: Layout
    scaler: Scaler
    score_model: ScoreModel
    threshold: Threshold
    normal: NDArray[np.float64]
    anomalous: NDArray[np.float64]
    usual: NDArray[np.float32]
    pixels: Threshold | None = None
    references: tuple[Reference, ...] = field(default=(), repr=False)
    fitted: Fit | None = field(default=None, repr=False, compare=False)  # None in a loaded detector

    # --- fitting ---------------------------------------------------------------------------------------------------

    @classmethod
    def fit_source(
        cls, source: Source, config: Config, watch: EpochCallback = lambda *_: None, checkpoint: Path | None = None
    ) -> Detector:
        """Splits, learns the layout, scales, trains, scores what was held out and chooses the threshold.

        watch: called after each epoch. checkpoint: folder to keep the state of training in, and to continue from.
        Raises DataError for data that cannot train a detector, TrainingError where training fails.
        """
        found = learn(source, config, watch, checkpoint)
        config, layout, fit, positions = found.config, found.layout, found.fit, found.score_model.positions
        valid, anomalous = fit.part(fit.split.valid)
        wrong = np.zeros(len(valid), bool) if anomalous is None else anomalous
        normal, anomalies = np.sort(valid.total[~wrong]), np.sort(valid.total[wrong])
        threshold = _choose(config, config.threshold.policy, normal, anomalies)
        usual = fit.usual(fit.split.valid[~wrong])
        if positions is not None:  # its maps are scores as they stand
            usual = np.zeros_like(usual)
        pixels = None
        if layout.kind in PICTURE_KINDS:
            maps = (heat for piece in fit.pieces(fit.split.valid) for heat in excess_maps(piece, usual))
            rows, centred = fit.split.valid, positions is None
            pixels = pixel_threshold(config.threshold, maps, rows, wrong, found.image_files, centred)
        watched = references(fit.data, fit.split.train, valid.take(np.flatnonzero(~wrong)), found.scaler)
        return cls(
            config, layout, found.scaler, found.score_model, threshold, normal, anomalies, usual, pixels, watched, fit
        )  # fmt: skip

    @classmethod
    def fit(cls, X: Any, y: ArrayLike | None = None, *, config: Config | None = None, **settings: Any) -> Detector:
        """Fits on a DataFrame or array in memory.

        X: (N, F) a table (the default), a series or flat pixels (`kind=`), (N, H, W) or (N, C, H, W) pictures. y: (N,)
        0 normal, 1 anomaly; without it all rows are taken as normal. settings: `kind="series"` and dotted names with
        `__` for the dot, e.g. `training__epochs=20`; `config` is what they change.
        Without y no row is kept for a test: the split is `config.NO_TEST`.
        """
        base = config if config is not None else Config()
        if config is None and y is None:
            base = load_config(base={"split": NO_TEST})
        if "kind" in settings:
            settings["data__kind"] = settings.pop("kind")
        overrides = [f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in settings.items()]
        chosen = load_config(overrides=overrides, base=base.model_dump())
        labels = None if y is None else np.asarray(y).astype(int).astype(str)
        return cls.fit_source(open_memory(X, chosen.data, labels), chosen)

    # --- scoring ---------------------------------------------------------------------------------------------------

    def stream(self, chunks: Iterable[Chunk], explain: bool = False, path: str = "memory") -> Iterator[Scores]:
        """Scores of chunks in order, in constant memory; `explain` adds the nats of each element.

        path: where the chunks come from, for messages.
        """
        scorer = Scorer(self.score_model, self.scaler, self.layout, self.config.data.window, path)
        return scorer.stream(prefetched(chunks, self.chunk_rows), explain)

    def score_source(self, source: Source, explain: bool = False) -> Iterator[Scores]:
        """Scores of a whole source in order, in constant memory."""
        return self.stream(source.chunks(self.layout, self.chunk_rows), explain, source.path)

    @property
    def chunk_rows(self) -> int:
        """How many samples are read at a time."""
        return self.layout.chunk_rows

    def parts(self, X: Any, explain: bool = False) -> Scores:
        """Scores of a DataFrame or array with the columns or shape of the training data, split into their parts."""
        return join(self.score_source(open_memory(X, self.config.data), explain))

    def score(self, X: Any) -> NDArray[np.float64]:
        """(N,) negative ELBO in nats: higher is more anomalous."""
        return self.parts(X).total

    def score_frame(self, frame: pd.DataFrame, threshold: float | None = None, explain: int = 0) -> pd.DataFrame:
        """The columns of `anomaly-vae score` for the rows of a DataFrame; see `dataframe.score_frame`."""
        from anomaly_vae.detector.dataframe import score_frame

        return score_frame(self, frame, threshold=threshold, explain=explain)

    def predict(self, X: Any) -> NDArray[np.bool_]:
        """(N,) whether each sample is an anomaly: its score is at or above the threshold."""
        return self.score(X) >= self.threshold.value

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) conformal p-values of scores against the held-out normals."""
        return p_values(scores, self.normal)

    def contributions(self, scores: Scores, most: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The columns, sensors or pixels behind scores made with `explain`: (N, most) positions and their shares.

        A share is of the nats by which all elements of the sample exceed what they usually have in normal samples.
        """
        assert scores.elements is not None
        excess = np.clip((scores.elements - self.usual).reshape(len(scores), -1).astype(np.float64), 0, None)
        most = min(most, excess.shape[1])
        order = np.argsort(-excess, axis=1, kind="stable")[:, :most]
        shares = np.take_along_axis(excess, order, axis=1) / np.maximum(excess.sum(axis=1, keepdims=True), 1e-12)
        return order, shares

    def maps(self, scores: Scores) -> NDArray[np.float32]:
        """(N, H, W) nats above the usual of each pixel, from scores of pictures made with `explain`.

        H, W: as the network reads pictures; `anomaly_vae.maps.resized` gives a picture's own size.
        """
        return excess_maps(scores, self.usual)

    def with_threshold(self, policy: str) -> Detector:
        """The same detector with its threshold chosen again from the validation scores."""
        threshold = _choose(self.config, policy, self.normal, self.anomalous)
        tree = self.config.model_dump()
        tree["threshold"]["policy"] = policy
        return replace(self, threshold=threshold, config=Config.model_validate(tree))

    # --- on disk ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes the detector as a new folder; nothing that exists is overwritten."""
        from anomaly_vae import __version__

        with new_folder(folder) as new:
            weights = {
                k: v.contiguous().cpu() for k, v in self.score_model.state_dict().items() if not k.startswith(FROZEN)
            }
            (new / "weights.safetensors").write_bytes(save(weights))  # save_file hides what the disk says
            reference = {"normal": self.normal, "anomalous": self.anomalous, "usual": self.usual}
            tensors = {k: torch.from_numpy(v) for k, v in reference.items()}
            (new / "validation.safetensors").write_bytes(save(tensors))
            (new / "config.yaml").write_text(self.config.to_yaml(), encoding="utf-8")
            if self.score_model.positions is not None:
                write_backbone(new, self.score_model.positions.features.backbone, self.config.model.carry_backbone)
            write_json(new / "layout.json", self.layout.to_json())
            write_json(new / "scaler.json", self.scaler.to_json())
            write_json(new / "threshold.json", self.threshold.to_json())
            if self.pixels is not None:
                write_json(new / PIXELS, self.pixels.to_json())
            save_references(new, self.references)
            seal(new, __version__)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Detector:
        """Reads a folder. Raises DetectorError where it is missing, incomplete, altered or of another format."""
        folder = Path(folder)
        check_seal(folder)
        config = load_config(folder / "config.yaml")
        layout = Layout.from_json(read_json(folder / "layout.json"))
        scaler = Scaler.from_json(read_json(folder / "scaler.json"))
        net = build_score_model(config, layout, scaler)
        frozen: dict[str, torch.Tensor] = {}
        if net.positions is not None:
            read_backbone(folder, net.positions.features.backbone, config.model)
            frozen = {name: tensor for name, tensor in net.state_dict().items() if name.startswith(FROZEN)}
        try:
            net.load_state_dict(load_file(folder / "weights.safetensors") | frozen)
            reference = load_file(folder / "validation.safetensors")
        except (SafetensorError, RuntimeError) as error:
            raise DetectorError(f"{folder}: its weights do not fit its configuration; fit again") from error
        return cls(
            config,
            layout,
            scaler,
            net.to(pick_device(device)).eval(),
            Threshold(**read_json(folder / "threshold.json")),
            **{name: tensor.numpy() for name, tensor in reference.items()},
            pixels=Threshold(**read_json(folder / PIXELS)) if layout.kind in PICTURE_KINDS else None,
            references=load_references(folder),
        )


def _choose(config: Config, policy: str, normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> Threshold:
    """The threshold of a policy; what `auto` is without anomalies stands in the resolved configuration alone."""
    assert config.threshold.unlabelled
    return choose(policy, normal, anomalous, config.threshold.unlabelled)
