"""A detector as a folder: safetensors, YAML and JSON, and a manifest of hashes by which it is known to be whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from anomaly_vae.core.device import pick_device
from anomaly_vae.core.errors import DetectorError
from anomaly_vae.core.files import new_folder
from anomaly_vae.core.settings import ModelConfig
from anomaly_vae.core.version import __version__
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Layout
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.drift import Reference
from anomaly_vae.detector.thresholds import Threshold
from anomaly_vae.detector.trained_rows import TrainedRows
from anomaly_vae.detector.training_scores import TrainingScores
from anomaly_vae.models.backbone import Backbone, open_weights
from anomaly_vae.scoring.compose import build_score_model
from anomaly_vae.scoring.score_model import renamed_format_4

FORMAT = 5  # 4: conditions, and the reference of `monitor`; 5: weights by the columns of the score
READABLE = (4, FORMAT)
MANIFEST = "detector.json"
REFERENCE_VALUES, REFERENCES = "reference.safetensors", "reference.json"  # of `monitor`
TRAINED_ROWS = "trained_rows.safetensors"
TRAINING_SCORES = "training_scores.safetensors"
PIXELS = "pixel_threshold.json"
NORMAL_MEAN = "usual"  # what the file of validation calls it, since format 2
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
            tensors = {name: torch.from_numpy(array) for name, array in detector.training.arrays().items()}
            (new / TRAINING_SCORES).write_bytes(save(tensors))
        seal(new, __version__)


def load_detector(folder: str | Path, device: str) -> Detector:
    """Reads a folder. Raises DetectorError where it is missing, incomplete, altered or of another format."""
    folder = Path(folder)
    saved_format = check_seal(folder)
    config = load(folder / "config.yaml")
    layout = Layout.from_json(read_json(folder / "layout.json"))
    scaler = Scaler.from_json(read_json(folder / "scaler.json"))
    score_model = build_score_model(config, layout, scaler)
    if score_model.backbone is not None:
        read_backbone(folder, score_model.backbone, config.model)
    try:
        weights = load_file(folder / "weights.safetensors")
        if saved_format == 4:
            weights = renamed_format_4(weights, score_model.learned_state())
        score_model.load_learned(weights)
        validation = {name: tensor.numpy() for name, tensor in load_file(folder / "validation.safetensors").items()}
    except (SafetensorError, RuntimeError) as error:
        raise DetectorError(f"{folder}: its weights do not fit its configuration; fit again") from error
    return Detector(
        config=config,
        layout=layout,
        scaler=scaler,
        score_model=score_model.to(pick_device(device)).eval(),
        threshold=Threshold(**read_json(folder / "threshold.json")),
        normal=validation["normal"],
        anomalous=validation["anomalous"],
        normal_mean=validation[NORMAL_MEAN],
        pixels=Threshold(**read_json(folder / PIXELS)) if KINDS[layout.kind].pictures else None,
        references=load_references(folder),
        trained_rows=load_trained_rows(folder),
        training=load_training_scores(folder, score_model.part_names),
    )


def seal(folder: Path, version: str) -> None:
    """Writes the manifest of all files that are in the folder; version: of anomaly-vae."""
    hashes = {path.name: _hash(path) for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"format": FORMAT, "anomaly_vae": version, "sha256": hashes})


def check_seal(folder: Path) -> int:
    """The format of a detector's folder. Raises DetectorError unless it is whole, unaltered and of a format that this
    version reads."""
    if not folder.is_dir():
        raise DetectorError(f"{folder}: no such detector folder")
    if not (folder / MANIFEST).is_file():
        raise DetectorError(f"{folder}: not a detector folder ({MANIFEST} is missing)")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") not in READABLE:
        raise DetectorError(
            f"{folder}: detector format {manifest.get('format')} (anomaly-vae {manifest.get('anomaly_vae')}), this"
            f" version reads formats {READABLE[0]} and {FORMAT}; score with that version of anomaly-vae or fit again"
        )
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or not hashes:
        raise DetectorError(f"{folder}: {MANIFEST} was altered after it was saved; restore it or fit again")
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise DetectorError(f"{folder}: incomplete, {name} is missing; copy the whole folder or fit again")
        if _hash(folder / name) != expected:
            raise DetectorError(f"{folder}: {name} was altered after it was saved; restore it or fit again")
    return int(manifest["format"])


def write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Raises DetectorError where there is no JSON object."""
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DetectorError(f"{path}: cannot be read as JSON; restore it or fit again") from error
    return tree


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_backbone(folder: Path, backbone: Backbone, carry: bool) -> None:
    """Records the backbone in a detector's folder; to `carry`, its weights too."""
    record = {"name": backbone.name, "layers": backbone.layers, "sha256": backbone.digest(), "carried": carry}
    write_json(folder / RECORD, record)
    if carry:
        state = {name: tensor.contiguous().cpu() for name, tensor in backbone.net.state_dict().items()}
        (folder / CARRIED).write_bytes(save(state))


def read_backbone(folder: Path, backbone: Backbone, config: ModelConfig) -> None:
    """Loads the weights that a detector's folder carries or refers to.

    Raises DetectorError where they are not those that it was fitted with, ConfigError where there are none.
    """
    record = read_json(folder / RECORD)
    if record["carried"]:
        try:
            weights, where = load_file(folder / CARRIED), str(folder / CARRIED)
        except (OSError, SafetensorError) as error:
            raise DetectorError(f"{folder}: its {CARRIED} cannot be read; restore it or fit again") from error
    else:
        weights, where = open_weights(config)
    backbone.load(weights, where)
    if backbone.digest() != record["sha256"]:
        raise DetectorError(
            f"{folder}: was fitted with other weights of {backbone.name} (SHA-256 {record['sha256'][:12]}) than"
            f" {where} holds ({backbone.digest()[:12]}); restore those, or fit again"
        )


def save_references(folder: Path, references: tuple[Reference, ...]) -> None:
    tensors = {str(i): torch.from_numpy(reference.values) for i, reference in enumerate(references)}
    (folder / REFERENCE_VALUES).write_bytes(save(tensors))
    write_json(folder / REFERENCES, {"quantities": [reference.to_json() for reference in references]})


def load_references(folder: Path) -> tuple[Reference, ...]:
    """Empty for a detector that was saved before there were any."""
    if not (folder / REFERENCES).is_file():
        return ()
    tensors = load_file(folder / REFERENCE_VALUES)
    trees = read_json(folder / REFERENCES)["quantities"]
    return tuple(Reference.from_json(tree, tensors[str(i)].numpy()) for i, tree in enumerate(trees))


def load_trained_rows(folder: Path) -> TrainedRows | None:
    """None for a detector of many rows, and for one that was saved before they were recorded."""
    if not (folder / TRAINED_ROWS).is_file():
        return None
    tensors = load_file(folder / TRAINED_ROWS)
    return TrainedRows(tensors["hashes"].numpy().view(np.uint64), *tensors["repeated"].tolist())


def load_training_scores(folder: Path, part_names: Sequence[str]) -> TrainingScores | None:
    """None where rows were held out instead, and for a detector that was saved before there were any."""
    if not (folder / TRAINING_SCORES).is_file():
        return None
    arrays = {name: tensor.numpy() for name, tensor in load_file(folder / TRAINING_SCORES).items()}
    return TrainingScores.from_arrays(arrays, part_names)
