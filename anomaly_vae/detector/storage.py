"""A detector as a folder: safetensors, YAML and JSON, and a manifest of hashes by which it is known to be whole.

The hashes tell damage, not malice: whoever can write the folder can write the manifest too. Nothing in it is code, and
what is read is checked against the settings before anything is computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.overrides import TorchFunctionMode

from anomaly_vae.core.config import Config
from anomaly_vae.core.device import pick_device
from anomaly_vae.core.errors import AnomalyVAEError, DetectorError
from anomaly_vae.core.files import file_sha256, new_folder
from anomaly_vae.core.settings import STRICT, ModelConfig
from anomaly_vae.core.version import __version__
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Layout
from anomaly_vae.detector.calibration import Calibration
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import Reference
from anomaly_vae.detector.event_rate import HeldOutSteps
from anomaly_vae.detector.feedback import Before, Verdicts
from anomaly_vae.detector.thresholds import Threshold
from anomaly_vae.detector.trained_rows import TrainedRows
from anomaly_vae.detector.training_scores import TrainingScores
from anomaly_vae.models.backbone import Backbone, open_weights
from anomaly_vae.scoring.compose import build_score_model
from anomaly_vae.scoring.score_model import ScoreModule, renamed_format_4

FORMAT = 5  # 4: conditions, and the reference of `monitor`; 5: weights by the columns of the score
READABLE = (4, FORMAT)
MANIFEST = "detector.json"
REFERENCE_VALUES, REFERENCES = "reference.safetensors", "reference.json"  # of `monitor`
TRAINED_ROWS = "trained_rows.safetensors"
TRAINING_SCORES = "training_scores.safetensors"
CALIBRATION = "calibration.safetensors"  # the rows that `feedback` weighs parts by
STEPS = "held_out_steps.safetensors"  # of a series
VERDICTS, BEFORE = "verdicts.safetensors", "verdicts.json"  # of `feedback`
PIXELS = "pixel_threshold.json"
NORMAL_MEAN = "usual"  # what the file of validation calls it, since format 2
SLACK = 1 << 30  # elements that a network may be built with beyond its weights: a backbone, and what building needs
FACTORIES = (torch.empty, torch.eye, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros)
AGAIN = "restore it or fit again"
MOST = 1 << 28  # bytes of a JSON file, and elements of a sample: more are an altered file
CARRIED, RECORD = "backbone.safetensors", "backbone.json"  # of a frozen backbone


def save_detector(detector: Detector, folder: str | Path) -> None:
    """Writes the detector as a new folder; nothing that exists is overwritten."""
    with new_folder(folder) as new:
        weights = {k: v.contiguous().cpu() for k, v in detector.score_model.learned_state().items()}
        (new / "weights.safetensors").write_bytes(save(weights))  # save_file hides what the disk says
        reference = {"normal": detector.normal, "anomalous": detector.anomalous, NORMAL_MEAN: detector.normal_mean}
        tensors = {k: torch.from_numpy(v) for k, v in reference.items()}
        (new / "validation.safetensors").write_bytes(save(tensors))
        (new / "config.yaml").write_text(detector.config.to_yaml(), encoding="utf-8")
        if detector.score_model.backbone is not None:
            write_backbone(new, detector.score_model.backbone, detector.config.model.carry_backbone)
        write_json(new / "layout.json", detector.layout.to_json())
        write_json(new / "scaler.json", detector.scaler.to_json())
        write_json(new / "threshold.json", detector.threshold.to_json())
        if detector.pixels is not None:
            write_json(new / PIXELS, detector.pixels.to_json())
        save_references(new, detector.references)
        if detector.trained_rows is not None:
            rows = detector.trained_rows
            tensors = {
                "hashes": torch.from_numpy(rows.hashes.view(np.int64)),
                "repeated": torch.tensor([rows.repeated, rows.held]),
            }
            (new / TRAINED_ROWS).write_bytes(save(tensors))
        if detector.training is not None:
            _write_arrays(new / TRAINING_SCORES, detector.training.arrays())
        if detector.calibration is not None:
            _write_arrays(new / CALIBRATION, detector.calibration.arrays())
        if detector.steps is not None:
            _write_arrays(new / STEPS, asdict(detector.steps))
        if detector.verdicts:
            arrays: dict[str, NDArray[Any]] = {}
            for number, verdicts in enumerate(detector.verdicts):
                kept = verdicts.rows.arrays() | {"normal": verdicts.normal, "former": verdicts.anomalous}
                arrays |= {f"{number}.{name}": array for name, array in kept.items()}
            _write_arrays(new / VERDICTS, arrays)
            write_json(new / BEFORE, {"verdicts": [verdicts.before.model_dump() for verdicts in detector.verdicts]})
        seal(new, __version__)


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    path.write_bytes(save({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}))


def load_detector(folder: str | Path, device: str) -> Detector:
    """Reads a folder. Raises DetectorError where it is missing, incomplete, altered or of another format, and where its
    files do not go together."""
    files = open_folder(Path(folder))
    try:
        return _read(files, device)
    except DetectorError:
        raise
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise DetectorError(f"{folder}: its {error.title} is not one ({where}: {problem['msg']}); {AGAIN}") from error
    except Exception as error:  # whoever altered the files and their hashes may have written anything
        line = str(error) if isinstance(error, AnomalyVAEError) else f"{type(error).__name__}: {error}"
        line = " ".join(line.split())[:500]
        raise DetectorError(f"{folder}: its files do not go together ({line}); {AGAIN}") from error


def _read(files: Files, device: str) -> Detector:
    config = load(files.path("config.yaml"))
    if config.threshold.unlabelled is None:
        raise ValueError("config.yaml lacks threshold.unlabelled")
    layout = Layout.from_json(files.json("layout.json"))
    scaler = Scaler.from_json(files.json("scaler.json"), layout.profile)
    require_consistent(config, layout, scaler)
    weights, validation = files.tensors("weights.safetensors"), files.tensors("validation.safetensors")
    score_model = _build(config, layout, scaler, weights, files.format)
    if score_model.backbone is not None:
        read_backbone(files, score_model.backbone, config.model)
    _require_finite(score_model.eval(), config, layout, scaler)
    if not all(0 <= weight < math.inf for weight in (score_model.weights or {}).values()):
        raise ValueError("a part of the score counts less than nothing, or infinitely much")
    normal, anomalous, normal_mean = (validation[name].numpy() for name in ("normal", "anomalous", NORMAL_MEAN))
    for scores in (normal, anomalous):
        if scores.dtype != np.float64 or scores.ndim != 1 or (np.diff(scores) < 0).any():
            raise ValueError("the scores of validation are not numbers in order")
    if normal_mean.dtype != np.float32 or np.broadcast_shapes(normal_mean.shape, layout.shape) != layout.shape:
        raise ValueError(f"mean nats of shape {normal_mean.shape} for samples of shape {layout.sample}")
    return Detector(
        config=config,
        layout=layout,
        scaler=scaler,
        score_model=score_model.to(pick_device(device)).eval(),
        threshold=Threshold.from_json(files.json("threshold.json")),
        normal=normal,
        anomalous=anomalous,
        normal_mean=normal_mean,
        pixels=Threshold.from_json(files.json(PIXELS)) if KINDS[layout.kind].pictures else None,
        references=load_references(files),
        trained_rows=load_trained_rows(files),
        training=load_training_scores(files, score_model.part_names),
        calibration=_load_calibration(files, score_model.part_names),
        verdicts=_load_verdicts(files, score_model.part_names),
        steps=HeldOutSteps(**_arrays(files, STEPS)) if STEPS in files.names else None,
    )


def _build(
    config: Config, layout: Layout, scaler: Scaler, weights: dict[str, torch.Tensor], saved_format: int
) -> ScoreModule:
    """The score with its weights. Raises RuntimeError where their names, shapes or types do not fit the settings, or
    the settings ask for far more memory than the weights take."""
    with _Budget(8 * sum(tensor.numel() for tensor in weights.values()) + SLACK):
        score_model = build_score_model(config, layout, scaler)
    types = {name: tensor.dtype for name, tensor in score_model.learned_state().items()}
    if saved_format == 4:
        weights = renamed_format_4(weights, types)
    other = [name for name, tensor in weights.items() if name in types and tensor.dtype != types[name]]
    if other:
        raise RuntimeError(f"weights {other[0]} of type {weights[other[0]].dtype}, expected {types[other[0]]}")
    score_model.load_learned(weights)
    return score_model


class _Budget(TorchFunctionMode):
    """Lets a network be built with so many elements, and refuses to allocate more. Building it on torch's device `meta`
    would count without a limit, but imports a compiler for a second."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.left = elements

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES:
            sizes = [
                size for arg in (*args, kwargs.get("size", ())) for size in (arg if isinstance(arg, tuple) else (arg,))
            ]
            whole = [size for size in sizes if isinstance(size, int)]
            self.left -= math.prod(whole) * (whole[0] if func is torch.eye else 1)
        elif func is torch.Tensor.repeat:
            self.left -= args[0].numel() * math.prod(args[1:] if isinstance(args[1], int) else args[1])
        if self.left < 0:
            raise RuntimeError("its settings ask for far more memory than its weights take")
        return func(*args, **kwargs)


@torch.inference_mode()
def _require_finite(score_model: ScoreModule, config: Config, layout: Layout, scaler: Scaler) -> None:
    """Raises an error where one sample of zeros cannot be scored: buffers whose sizes a fit chooses need not go
    together, and weights may be infinite."""
    first, *others = (len(scaler.elements) or layout.shape[0], *layout.shape[1:])
    if KINDS[layout.kind].ordered:
        assert config.data.window
        others.append(config.data.window)
    elements, parts = score_model(torch.zeros(1, first + scaler.n_condition, *others))
    if not all(nats.isfinite().all() for nats in (elements, *parts.values())):
        raise ValueError("a sample of zeros has no finite score")


def require_consistent(config: Config, layout: Layout, scaler: Scaler) -> None:
    """Raises ValueError where a layout says other things than the settings or the scaler, or sizes that nobody
    computes."""
    kind, width = layout.kind, len(layout.columns) or len(layout.pixels)
    if kind not in KINDS or kind != config.data.kind:
        raise ValueError(f"a layout of kind {kind!r}, settings of kind {config.data.kind!r}")
    if (
        len(layout.shape) != (3 if KINDS[kind].pictures else 1)
        or min(layout.shape) < 1
        or math.prod(layout.shape) > MOST
    ):
        raise ValueError(f"samples of shape {layout.shape}")
    if layout.tile is not None and not 1 <= layout.tile <= min(layout.shape[1:], default=0):
        raise ValueError(f"tiles of {layout.tile} pixels of pictures of shape {layout.shape}")
    if not 0 <= layout.overlap < 1 or layout.pixel_max <= 0:
        raise ValueError(f"an overlap of {layout.overlap} and a white of {layout.pixel_max}")
    if (width or not KINDS[kind].pictures) and width != math.prod(layout.shape):
        raise ValueError(f"{width} columns for samples of shape {layout.shape}")
    if not {element.column for element in scaler.elements} <= set(range(len(layout.columns))):
        raise ValueError("the scaler reads columns that there are not")
    if any((e.how == "code") != (layout.columns[e.column].categories is not None) for e in scaler.elements):
        raise ValueError("the scaler reads numbers of a category, or the other way round")
    if layout.columns and not scaler.elements:
        raise ValueError("the scaler reads no column")
    if any(not e.scale or not e.spread for e in scaler.elements) or any(not c.spread for c in scaler.conditions):
        raise ValueError("the scaler divides by zero")
    classes = [0 if column.categories is None else len(column.categories) for column in layout.conditions]
    if [condition.classes for condition in scaler.conditions] != classes:
        raise ValueError("the scaler's conditions are not those of the layout")
    profile = layout.profile
    if profile is not None and (
        not KINDS[kind].ordered
        or profile.days not in (1, 7)
        or not profile.usual
        or len(profile.usual) % profile.days
        or {len(row) for row in profile.usual} != {width}
    ):
        raise ValueError("a profile of other columns than the layout's, or of no day or week")


def seal(folder: Path, version: str) -> None:
    """Writes the manifest of all files that are in the folder; version: of anomaly-vae."""
    hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"format": FORMAT, "anomaly_vae": version, "sha256": hashes})


class Manifest(BaseModel):
    """What a folder must hold: the SHA-256 of each file by its name."""

    format: int
    anomaly_vae: str = ""
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class Files:
    """The files of a detector's folder that its manifest lists and whose hashes agree; no other file is read.

    format: of the folder.
    """

    folder: Path
    format: int
    names: frozenset[str]

    def path(self, name: str) -> Path:
        """Raises DetectorError where the manifest does not list the file."""
        if name not in self.names:
            raise DetectorError(f"{self.folder}: incomplete, {MANIFEST} does not list {name}; {AGAIN}")
        return self.folder / name

    def json(self, name: str) -> dict[str, Any]:
        """Raises DetectorError where it is no JSON object."""
        return read_json(self.path(name))

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Raises DetectorError where they cannot be read, or hold NaN."""
        try:
            tensors: dict[str, torch.Tensor] = load_file(self.path(name))
        except (OSError, SafetensorError) as error:
            raise DetectorError(f"{self.folder}: its {name} cannot be read ({error}); {AGAIN}") from error
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.isnan().any():
                raise DetectorError(f"{self.folder}: '{key}' in its {name} holds NaN, which is no number; {AGAIN}")
        return tensors


def open_folder(folder: Path) -> Files:
    """The files of a detector's folder. Raises DetectorError unless it is whole, unaltered and of a format that this
    version reads."""
    if not folder.is_dir():
        raise DetectorError(f"{folder}: no such detector folder")
    if not (folder / MANIFEST).is_file():
        raise DetectorError(f"{folder}: not a detector folder ({MANIFEST} is missing)")
    try:
        manifest = Manifest.model_validate(read_json(folder / MANIFEST))
    except ValidationError as error:
        raise DetectorError(f"{folder}: {MANIFEST} was altered after it was saved; {AGAIN}") from error
    if manifest.format not in READABLE:
        raise DetectorError(
            f"{folder}: detector format {manifest.format} (anomaly-vae {manifest.anomaly_vae}), this version reads"
            f" formats {READABLE[0]} and {FORMAT}; score with that version of anomaly-vae or fit again"
        )
    for name, expected in manifest.sha256.items():
        if Path(name).name != name:
            raise DetectorError(f"{folder}: {MANIFEST} lists {name!r}, which is no name of a file in it; {AGAIN}")
        if not (folder / name).is_file():
            raise DetectorError(f"{folder}: incomplete, {name} is missing; copy the whole folder or fit again")
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise DetectorError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if found != expected:
            raise DetectorError(f"{folder}: {name} was altered after it was saved; {AGAIN}")
    return Files(folder, manifest.format, frozenset(manifest.sha256))


def write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Raises DetectorError where there is no JSON object, or one of more than MOST bytes."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MOST else None
        json.JSONEncoder(ensure_ascii=False).encode(tree).encode()  # raises where half of a surrogate pair is written
    except (OSError, ValueError, RecursionError) as error:
        raise DetectorError(f"{path}: cannot be read as JSON; {AGAIN}") from error
    if not isinstance(tree, dict):
        raise DetectorError(f"{path}: holds no JSON object; {AGAIN}")
    return tree


class BackboneRecord(BaseModel):
    """Which frozen network a detector reads features of; `carried`: its folder holds the weights."""

    model_config = STRICT

    name: str
    layers: tuple[str, ...]
    sha256: str
    carried: bool


def write_backbone(folder: Path, backbone: Backbone, carry: bool) -> None:
    """Records the backbone in a detector's folder; to `carry`, its weights too."""
    record = BackboneRecord(name=backbone.name, layers=backbone.layers, sha256=backbone.digest(), carried=carry)
    write_json(folder / RECORD, record.model_dump())
    if carry:
        state = {name: tensor.contiguous().cpu() for name, tensor in backbone.net.state_dict().items()}
        (folder / CARRIED).write_bytes(save(state))


def read_backbone(files: Files, backbone: Backbone, config: ModelConfig) -> None:
    """Loads the weights that a detector's folder carries or refers to.

    Raises DetectorError where they are not those that it was fitted with, ConfigError where there are none.
    """
    record = BackboneRecord.model_validate(files.json(RECORD))
    if record.carried:
        weights, where = files.tensors(CARRIED), str(files.path(CARRIED))
    else:
        weights, where = open_weights(config)
    backbone.load(weights, where)
    if backbone.digest() != record.sha256:
        raise DetectorError(
            f"{files.folder}: was fitted with other weights of {backbone.name} (SHA-256 {record.sha256[:12]}) than"
            f" {where} holds ({backbone.digest()[:12]}); restore those, or fit again"
        )


def save_references(folder: Path, references: tuple[Reference, ...]) -> None:
    tensors = {str(i): torch.from_numpy(reference.values) for i, reference in enumerate(references)}
    (folder / REFERENCE_VALUES).write_bytes(save(tensors))
    write_json(folder / REFERENCES, {"quantities": [reference.to_json() for reference in references]})


def load_references(files: Files) -> tuple[Reference, ...]:
    tensors, trees = files.tensors(REFERENCE_VALUES), files.json(REFERENCES)["quantities"]
    return tuple(Reference.from_json(tree, tensors[str(i)].numpy()) for i, tree in enumerate(trees))


def load_trained_rows(files: Files) -> TrainedRows | None:
    """None for a detector of many rows, and for one that was saved before they were recorded."""
    if TRAINED_ROWS not in files.names:
        return None
    tensors = files.tensors(TRAINED_ROWS)
    return TrainedRows(tensors["hashes"].numpy().view(np.uint64), *tensors["repeated"].tolist())


def load_training_scores(files: Files, part_names: Sequence[str]) -> TrainingScores | None:
    """None where rows were held out instead, and for a detector that was saved before there were any."""
    if TRAINING_SCORES not in files.names:
        return None
    return TrainingScores.from_arrays(_arrays(files, TRAINING_SCORES), part_names)


def _load_calibration(files: Files, part_names: Sequence[str]) -> Calibration | None:
    """None of kinds of data whose parts are not weighted, and of a detector that was saved before they were."""
    return Calibration.from_arrays(_arrays(files, CALIBRATION), part_names) if CALIBRATION in files.names else None


def _load_verdicts(files: Files, part_names: Sequence[str]) -> tuple[Verdicts, ...]:
    if VERDICTS not in files.names:
        return ()
    arrays, found = _arrays(files, VERDICTS), []
    for number, tree in enumerate(files.json(BEFORE)["verdicts"]):
        mine = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{number}.")}
        rows = Calibration.from_arrays(mine, part_names)
        found.append(Verdicts(rows, Before.model_validate(tree), mine["normal"], mine["former"]))
    return tuple(found)


def _arrays(files: Files, name: str) -> dict[str, NDArray[Any]]:
    return {key: tensor.numpy() for key, tensor in files.tensors(name).items()}
