"""The files of a detector's folder: JSON, and a manifest of hashes by which a folder is known to be whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from anomaly_vae.errors import DetectorError

FORMAT = 4  # 3: a pixel threshold beside the threshold of pictures; 4: conditions, and the reference of `monitor`
MANIFEST = "detector.json"


def seal(folder: Path, version: str) -> None:
    """Writes the manifest of all files that are in the folder; version: of anomaly-vae."""
    hashes = {path.name: _hash(path) for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"format": FORMAT, "anomaly_vae": version, "sha256": hashes})


def check_seal(folder: Path) -> None:
    """Raises DetectorError unless the folder is a whole, unaltered detector of this format."""
    if not folder.is_dir():
        raise DetectorError(f"{folder}: no such detector folder")
    if not (folder / MANIFEST).is_file():
        raise DetectorError(f"{folder}: not a detector folder ({MANIFEST} is missing)")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DetectorError(
            f"{folder}: detector format {manifest.get('format')} (anomaly-vae {manifest.get('anomaly_vae')}), this"
            f" version reads format {FORMAT}; score with that version of anomaly-vae or fit again"
        )
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or not hashes:
        raise DetectorError(f"{folder}: {MANIFEST} was altered after it was saved; restore it or fit again")
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise DetectorError(f"{folder}: incomplete, {name} is missing; copy the whole folder or fit again")
        if _hash(folder / name) != expected:
            raise DetectorError(f"{folder}: {name} was altered after it was saved; restore it or fit again")


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
