"""A detector: model, scaler, layout and threshold, built complete by `fit`, saved as a folder a person can read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from anomaly_vae import backbones, models
from anomaly_vae.config import NO_TEST, Config
from anomaly_vae.config import load as load_config
from anomaly_vae.data import open_memory
from anomaly_vae.data.base import Chunk, Layout, Source
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.split import Split, split
from anomaly_vae.data.tensors import Samples, samples, tiling_of
from anomaly_vae.drift import Reference
from anomaly_vae.errors import ConfigError, DataError, DetectorError
from anomaly_vae.featuremaps import FeatureMaps
from anomaly_vae.maps import excess_maps, pixel_threshold
from anomaly_vae.models import VAE, pretrained
from anomaly_vae.objective import active_units
from anomaly_vae.output import new_folder
from anomaly_vae.priors import MixturePrior
from anomaly_vae.scorenet import ScoreNet
from anomaly_vae.scoring import Scorer, Scores, join, prefetched
from anomaly_vae.sealed import check_seal, read_json, seal, write_json
from anomaly_vae.threshold import Threshold, choose, p_values
from anomaly_vae.training import History, Watch, pick_device, train
from anomaly_vae.watched import load_references, references, save_references

PIXELS = "pixel_threshold.json"
ROWS, PICTURES = 65_536, 1_024  # read at a time
PICTURE_BYTES = 1 << 26  # of pictures read at a time at most
PICTURE_KINDS = ("pixels", "images")
FROZEN = "positions.features.backbone."  # what the network calls weights that it did not learn


@dataclass(frozen=True)
class Fit:
    """What fitting saw, for the report: the data and its split, the training, and the scores of held-out rows."""

    data: Chunk
    split: Split
    history: History
    scores: Scores  # of the rows in `scored`, in their order
    scored: NDArray[np.intp]
    kl: NDArray[np.float64]  # (G,) nats of each latent group, mean over held-out normals
    active: NDArray[np.bool_]  # (D,) active units
    notes: tuple[str, ...]

    def part(self, rows: NDArray[np.intp]) -> tuple[Scores, NDArray[np.bool_] | None]:
        """Scores of some of the scored rows, and which of them are anomalous (None: nothing is labelled)."""
        chosen = np.searchsorted(self.scored, rows)
        return self.scores.take(chosen), None if self.split.anomalous is None else self.split.anomalous[rows]


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
    net: ScoreNet
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
        cls, source: Source, config: Config, watch: Watch = lambda *_: None, checkpoint: Path | None = None
    ) -> Detector:
        """Splits, learns the layout, scales, trains, scores what was held out and chooses the threshold.

        watch: called after each epoch. checkpoint: folder to keep the state of training in, and to continue from.
        Raises DataError for data that cannot train a detector, TrainingError where training fails.
        """
        config = config.resolve(source.kind)
        config = config.model_copy(update={"model": backbones.adapted(pretrained.adapted(config.model))})
        frozen = backbones.open_weights(config.model) if config.model.kind == "features" else None
        parts = split(source, config)
        originals = source.originals()
        if originals is not None and parts.anomalous is not None:
            originals.require(parts.anomalous)
        config = config.with_window(len(parts.train))
        device = pick_device(config.device)
        layout = source.learn(parts.train)
        data = read_whole(source, layout)
        condition = None if data.condition is None else data.condition[parts.train]
        scaler = Scaler.fit(data.values[parts.train], layout, condition)

        training = samples(data, parts.train, scaler, layout, device, config.data.window)
        normals = parts.valid if parts.anomalous is None else parts.valid[~parts.anomalous[parts.valid]]
        held = samples(data, normals, scaler, layout, device, config.data.window)
        _require_samples(training, held, source, config)
        config = _with_supported(config, layout, scaler, len(training), len(held))
        net = new_net(config, layout, scaler)
        if net.positions is not None and frozen is not None:
            net.positions.features.backbone.load(*frozen)
        net.to(device)
        if config.model.pretrained:
            pretrained.load_into(net.model, config.model.pretrained)
        learned, judged = net.prepare(training, held, feature_cache(config), config.seed)
        history = train(net.model, learned, judged, config, watch, checkpoint)
        own = net.fit(learned, held, config.seed)

        scorer = Scorer(net, scaler, layout, config.data.window, source.path)
        if net.level is not None:
            net.level.fit(*_known_normal(scorer, data, np.r_[parts.train, normals]))
        scored = np.arange(len(data)) if source.kind == "series" else np.sort(np.r_[parts.valid, parts.test])
        if net.neighbours is not None:  # a held-out row that became a reference is not its own neighbour
            mine = torch.full((len(data),), -1)
            mine[torch.from_numpy(normals)] = own
            scores = scorer.samples(data.take(scored), explain=True, own=mine[torch.from_numpy(scored)])
        else:
            scores = join(scorer.stream([data.take(scored)], explain=True))
        kl, active = _latent_use(net.model, judged)
        fit = Fit(
            data, parts, history, scores, scored, kl, active, (*source.notes, *_notes(config, history, active, layout))
        )

        valid, anomalous = fit.part(parts.valid)
        wrong = np.zeros(len(valid), bool) if anomalous is None else anomalous
        assert valid.elements is not None
        normal, anomalies = np.sort(valid.total[~wrong]), np.sort(valid.total[wrong])
        threshold = _choose(config, config.threshold.policy, normal, anomalies)
        usual = valid.elements[~wrong].mean(axis=0)
        if net.positions is not None:  # its maps are scores as they stand
            usual = np.zeros_like(usual)
        pixels = None
        if layout.kind in PICTURE_KINDS:
            maps = excess_maps(valid, usual)
            pixels = pixel_threshold(config.threshold, maps, parts.valid, wrong, originals, net.positions is None)
        watched = references(data.take(parts.train), valid.take(np.flatnonzero(~wrong)), layout, scaler)
        return cls(config, layout, scaler, net, threshold, normal, anomalies, usual, pixels, watched, fit)

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
        scorer = Scorer(self.net, self.scaler, self.layout, self.config.data.window, path)
        return scorer.stream(prefetched(chunks), explain)

    def score_source(self, source: Source, explain: bool = False) -> Iterator[Scores]:
        """Scores of a whole source in order, in constant memory."""
        return self.stream(source.chunks(self.layout, self.chunk_rows), explain, source.path)

    @property
    def chunk_rows(self) -> int:
        """How many samples are read at a time."""
        return _chunk_rows(self.layout)

    def parts(self, X: Any, explain: bool = False) -> Scores:
        """Scores of a DataFrame or array with the columns or shape of the training data, split into their parts."""
        return join(self.score_source(open_memory(X, self.config.data), explain))

    def score(self, X: Any) -> NDArray[np.float64]:
        """(N,) negative ELBO in nats: higher is more anomalous."""
        return self.parts(X).total

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
            weights = {k: v.contiguous().cpu() for k, v in self.net.state_dict().items() if not k.startswith(FROZEN)}
            (new / "weights.safetensors").write_bytes(save(weights))  # save_file hides what the disk says
            reference = {"normal": self.normal, "anomalous": self.anomalous, "usual": self.usual}
            tensors = {k: torch.from_numpy(v) for k, v in reference.items()}
            (new / "validation.safetensors").write_bytes(save(tensors))
            (new / "config.yaml").write_text(self.config.to_yaml(), encoding="utf-8")
            if self.net.positions is not None:
                backbones.write(new, self.net.positions.features.backbone, self.config.model.carry_backbone)
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
        net = new_net(config, layout, scaler)
        frozen: dict[str, torch.Tensor] = {}
        if net.positions is not None:
            backbones.read_into(folder, net.positions.features.backbone, config.model)
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


def new_net(config: Config, layout: Layout, scaler: Scaler) -> ScoreNet:
    """The untrained network of a resolved configuration, its weights drawn from the configuration's seed alone."""
    if config.model.kind == "features":
        return _feature_net(config, layout)
    shape = layout.sample if not layout.columns else (len(scaler.column),)
    if layout.kind == "series":
        assert config.data.window
        shape = (*shape, config.data.window)  # (C, T)
    categories = scaler.categories(layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        read = (shape[0] + scaler.given, *shape[1:])
        model = models.build(config.model, read, categories if any(categories) else (), scaler.given)
    return ScoreNet(model, config.scoring, shape, tiling_of(layout))


def _feature_net(config: Config, layout: Layout) -> ScoreNet:
    """`new_net` of a model that reads a backbone's maps of pictures."""
    if layout.kind not in PICTURE_KINDS:
        raise ConfigError(
            f"model.kind=features reads pictures, and this is a {layout.kind}; model.kind=None, the default, would work"
        )
    assert config.model.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        features = FeatureMaps(backbones.Backbone(config.model.backbone, config.model.layers), *layout.sample[1:])
        model = models.build(config.model, (features.channels,))
    return ScoreNet(model, config.scoring, layout.sample, tiling_of(layout), features)


def feature_cache(config: Config) -> Path | None:
    """Where feature maps are kept: beside the runs; nowhere, if nothing is to be recorded."""
    return Path(config.tracking.folder) / "cache" / "features" if config.tracking.enabled else None


def _with_supported(config: Config, layout: Layout, scaler: Scaler, rows: int, held: int) -> Config:
    """The configuration with no more reference rows and mixture components than there is data for."""
    if config.model.kind == "features":
        each = new_net(config, layout, scaler).each
        rows, held = rows * each, 0
    if config.model.kind != "features" and not any(column.categories is None for column in layout.columns):
        neighbours = 0  # no numbers to measure distances in
    else:
        neighbours = min(config.scoring.neighbours or 0, rows + held)
    changes = {"neighbours": neighbours}
    if config.scoring.prior == "mixture":
        model = new_net(config, layout, scaler).model
        changes["components"] = MixturePrior.supported(config.scoring.components, rows, model.latent)
    return config.model_copy(update={"scoring": config.scoring.model_copy(update=changes)})


def _known_normal(scorer: Scorer, data: Chunk, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(residuals (N, C), usable (N,)) of a series, group after group, a break between groups; `rows` are normal."""
    usable = np.zeros(len(data), bool)
    usable[rows] = True
    residuals = scorer.residuals([data])
    if data.groups is None:
        return residuals, usable
    order = np.argsort(data.groups, kind="stable")
    first = np.r_[True, data.groups[order][1:] != data.groups[order][:-1]]
    return residuals[order], usable[order] & ~first


def _choose(config: Config, policy: str, normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> Threshold:
    """The threshold of a policy; what `auto` is without anomalies stands in the resolved configuration alone."""
    assert config.threshold.unlabelled
    return choose(policy, normal, anomalous, config.threshold.unlabelled)


def _chunk_rows(layout: Layout) -> int:
    if len(layout.shape) == 1:
        return ROWS
    return max(1, min(PICTURES, PICTURE_BYTES // math.prod(layout.shape)))


def read_whole(source: Source, layout: Layout) -> Chunk:
    """The whole source in one chunk."""
    return Chunk.join(source.chunks(layout, _chunk_rows(layout)))


def _require_samples(training: Samples, held: Samples, source: Source, config: Config) -> None:
    for name, part in (("training", training), ("validation", held)):
        if len(part) < 2:
            raise DataError(
                f"{source.path}: the {name} rows hold {len(part)} windows of {config.data.window} normal time steps;"
                " more rows, another split or a smaller data.window would work"
            )


@torch.no_grad()
def _latent_use(model: VAE, held: Samples) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(G,) mean KL of each latent group in nats and (D,) active units, over held-out normals."""
    index = torch.arange(len(held), device="cpu" if held.pinned else held.device)
    outs = [model(held.take(part)) for part in index.split(1024)]
    kl = torch.cat([out.kl for out in outs]).double().mean(0)
    return kl.cpu().numpy(), active_units(torch.cat([out.mu for out in outs])).cpu().numpy()


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
