"""The files of a detector's folder: JSON, and a manifest of hashes by which a folder is known to be whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from anomaly_vae.core.errors import DetectorError
from anomaly_vae.core.settings import ModelConfig
from anomaly_vae.models.backbone import Backbone, open_weights

FORMAT = 5  # 4: conditions, and the reference of `monitor`; 5: weights by the columns of the score
READABLE = (4, FORMAT)
MANIFEST = "detector.json"
CARRIED, RECORD = "backbone.safetensors", "backbone.json"  # of a frozen backbone


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
