"""Image files: a folder in MVTec's layout, one folder a class, a flat folder, or a manifest CSV."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.config import DataConfig, DataKind
from anomaly_vae.data.base import Chunk, Layout
from anomaly_vae.data.files import Reader, as_labels, plural
from anomaly_vae.errors import DataError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
ROLES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
MASKS = frozenset({"ground_truth", "masks"})  # of MVTec's layout: where the anomalies are, not pictures to learn from
LOOKED_AT = 16  # training pictures that tell grey from colour
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Listing:
    """Which files there are. ids: (N,) paths relative to the folder or manifest, with forward slashes."""

    files: list[Path]
    ids: NDArray[np.str_]
    labels: NDArray[np.str_] | None
    roles: NDArray[np.str_] | None
    why: str


class Images:
    """Image files, decoded when their chunk is asked for.

    Raises DataError where there is no image, and where a manifest names a file that does not exist.
    """

    kind: DataKind = "images"

    def __init__(self, path: str | Path, config: DataConfig, manifest: Reader | None = None) -> None:
        """manifest: the table at `path`, where `path` is no folder."""
        self.path = str(path)
        self.config = config
        self.name = Path(path).resolve().name if manifest is None else manifest.name
        self._manifest = manifest
        self._listing = list_folder(Path(path)) if manifest is None else list_manifest(manifest, config)
        self.why = self._listing.why

    def labels(self) -> NDArray[np.str_] | None:
        """(N,) names of the folders, or labels of the manifest. Raises DataError where its column does not exist."""
        if self._manifest is not None and self.config.label is not None:
            self._manifest.require([self.config.label], "label column")
        return self._listing.labels

    def roles(self) -> NDArray[np.str_] | None:
        return self._listing.roles

    def groups(self) -> NDArray[np.str_] | None:
        return None

    def count(self) -> int:
        return len(self._listing.files)

    def learn(self, rows: NDArray[np.intp]) -> Layout:
        """Pictures of data.size, grey where the first training pictures are. Raises DataError for fewer than two."""
        if len(rows) < 2:
            raise DataError(f"{self.path}: {plural(len(rows), 'image')} to train on; at least 2 are needed")
        channels = self.config.channels
        if channels is None:
            first = [self._listing.files[row] for row in sorted(rows)[:LOOKED_AT]]
            channels = 1 if all(is_grey(file) for file in first) else 3
        return Layout("images", (channels, self.config.size, self.config.size))

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Pictures (N, C, H, W), uint8, resized. Raises DataError naming the file that cannot be decoded."""
        channels, height, width = layout.shape
        listing = self._listing
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, self.count(), rows):
                files = listing.files[first : first + rows]
                pictures = pool.map(lambda file: decode(file, channels, height, width), files)
                labels = None if listing.labels is None else listing.labels[first : first + rows]
                yield Chunk(listing.ids[first : first + rows], np.stack(list(pictures)), labels)

    def digest(self) -> str:
        """Of the relative paths and of every byte of the files."""
        digest = hashlib.blake2b(digest_size=8)
        for id_, file in zip(self._listing.ids, self._listing.files, strict=True):
            content = file.read_bytes()
            digest.update(f"{id_}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


def list_folder(root: Path) -> Listing:
    """The images below a folder, in the order of their relative paths. Raises DataError where there is none."""
    found = sorted((file.relative_to(root).as_posix(), file) for file in root.rglob("*") if _is_image(file, root))
    parts = [id_.split("/") for id_, _ in found]
    tops = {part[0].lower() for part in parts if len(part) > 1}
    split = "train" in tops and tops <= ROLES.keys() | MASKS
    if split:
        kept = [i for i, part in enumerate(parts) if part[0].lower() in ROLES]
        found, parts = [found[i] for i in kept], [parts[i][1:] for i in kept]
    if not found:
        raise DataError(f"{root}: no images in this folder; expected files ending in {', '.join(sorted(ENDINGS))}")
    files = [file for _, file in found]
    ids = np.array([id_ for id_, _ in found], dtype=np.str_)
    labelled = all(len(part) > 1 for part in parts)
    labels = np.array([part[0] for part in parts], dtype=np.str_) if labelled else None
    roles = np.array([ROLES[id_.split("/")[0].lower()] for id_, _ in found], dtype=np.str_) if split else None
    kinds = "" if labels is None else f" of {len(set(labels.tolist()))} kinds"
    if split:
        assert roles is not None
        counts = ", ".join(f"{np.sum(roles == role)} {role}" for role in ("train", "valid", "test") if role in roles)
        why = f"images in train and test folders: {len(files)}{kinds} ({counts})"
    elif labelled:
        why = f"images, one folder a class: {len(files)}{kinds}"
    else:
        why = f"images in one folder: {len(files)}, no labels"
    return Listing(files, ids, labels, roles, why)


def _is_image(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in ENDINGS and not hidden and file.is_file()


def is_manifest(reader: Reader) -> bool:
    """Whether a table has a column `path` of names of images."""
    if "path" not in reader.columns or not pa.types.is_string(reader.peek["path"].type):
        return False
    paths = [path for path in reader.peek["path"].to_pylist() if path]
    return bool(paths) and all(Path(path.replace("\\", "/")).suffix.lower() in ENDINGS for path in paths)


def list_manifest(reader: Reader, config: DataConfig) -> Listing:
    """The images a table names in its column `path`, relative to its own folder, in its order.

    Raises DataError for a missing column `path`, a file that does not exist or an unknown value of `split`.
    """
    reader.require(["path"], "column")
    label = config.label or ("label" if "label" in reader.columns else None)
    wanted = [name for name in ("path", label, "split") if name is not None and name in reader.columns]
    tables = list(reader.batches(dict.fromkeys(wanted, pa.string()), 1 << 16))
    table = pa.concat_tables(tables)
    written = [str(cell or "").strip() for cell in table["path"].to_pylist()]
    ids = np.array([cell.replace("\\", "/") for cell in written], dtype=np.str_)
    files = [Path(reader.path).parent / id_ for id_ in ids]
    for row, file in enumerate(files):
        if not file.is_file():
            raise DataError(
                f"{reader.path}: {reader.place(row)}: no image '{written[row]}'; paths are relative to"
                " the folder of this file"
            )
    labels = as_labels(table[label]) if label in wanted else None
    roles = _roles(reader, table["split"]) if "split" in wanted else None
    kinds = "" if labels is None else f", labels in '{label}'"
    return Listing(files, ids, labels, roles, f"a list of {len(files)} images in its column 'path'{kinds}")


def _roles(reader: Reader, cells: pa.ChunkedArray) -> NDArray[np.str_]:
    written = [str(cell or "").strip() for cell in cells.to_pylist()]
    for row, cell in enumerate(written):
        if cell.lower() not in ROLES:
            raise DataError(
                f"{reader.path}: {reader.place(row)}, column 'split': {cell!r}; expected train, valid or test"
            )
    return np.array([ROLES[cell.lower()] for cell in written], dtype=np.str_)


def decode(file: Path, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """One picture (C, H, W). Raises DataError where it cannot be decoded.

    Pillow decodes, which torchvision depends on: torchvision's own decoders are deprecated since 0.29 and read
    neither BMP nor TIFF. torchvision resizes.
    """
    import torch
    from torchvision.transforms.v2 import functional

    picture = _open(file)
    array = np.array(picture.convert("L" if channels == 1 else "RGB"))
    tensor = torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)  # (C, H, W)
    if tensor.shape[1:] != (height, width):
        tensor = functional.resize(tensor, [height, width], antialias=True)
    resized: NDArray[np.uint8] = tensor.contiguous().numpy()
    return resized


def is_grey(file: Path) -> bool:
    """Whether a picture is stored as grey, or as colour of which all channels are equal."""
    picture = _open(file)
    if picture.mode in ("1", "L", "LA"):
        return True
    array = np.asarray(picture.convert("RGB"))  # (H, W, 3)
    return bool((array == array[..., :1]).all())


def _open(file: Path) -> Any:
    """A decoded Pillow image, upright, of at most 8 bits a channel."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{file}: not a readable image, or its end is missing; replace the file or take it out of the folder"
        ) from error
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255 instead of scaling
        return Image.fromarray(np.clip(np.asarray(picture) // 257, 0, 255).astype(np.uint8))
    if picture.mode == "P":  # a palette: its colours, not its numbers
        return picture.convert("RGBA")
    if picture.mode == "F":
        raise DataError(f"{file}: an image of floating-point numbers; save it with 8 or 16 bits a pixel")
    return picture
