"""Which image files there are, of which kind and role, and where their masks lie: folders and manifests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.images.decoding import ENDINGS
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import as_labels

ROLES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
MASKS = ("ground_truth", "masks")  # of MVTec's layout: where the anomalies are, not pictures to learn from
MANIFEST = ("path", "image", "label", "mask", "split", "object")  # columns of a manifest; image is VisA's word for path


@dataclass(frozen=True)
class Listing:
    """ids: (N,) paths as written, relative to the folder or manifest, with forward slashes. masks: of each file its
    mask, None where it has none; None where the data has no masks at all. rows: (N,) of each file its row of the
    manifest; None of a folder. name: of the data, where the files tell."""

    files: list[Path]
    ids: NDArray[np.str_]
    labels: NDArray[np.str_] | None
    roles: NDArray[np.str_] | None
    masks: list[Path | None] | None
    why: str
    name: str | None = None
    notes: tuple[str, ...] = ()
    rows: NDArray[np.intp] | None = None

    def keep(self, kept: NDArray[np.bool_], note: str) -> Listing:
        """The same without some files, and a note that says so."""
        rows = np.flatnonzero(kept)
        return replace(
            self,
            files=[self.files[row] for row in rows],
            ids=self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            roles=None if self.roles is None else self.roles[rows],
            masks=None if self.masks is None else [self.masks[row] for row in rows],
            notes=(*self.notes, note),
            rows=None if self.rows is None else self.rows[rows],
        )


def list_folder(root: Path) -> Listing:
    """The images below a folder, in the order of their relative paths. Raises DataError where there is none."""
    found = sorted((file.relative_to(root).as_posix(), file) for file in root.rglob("*") if _is_image(file, root))
    parts = [id_.split("/") for id_, _ in found]
    tops = {part[0].lower() for part in parts if len(part) > 1}
    split = "train" in tops and tops <= {*ROLES, *MASKS}
    kept = [i for i, part in enumerate(parts) if len(part) == 1 or part[0].lower() not in MASKS or tops <= {*MASKS}]
    found, parts = [found[i] for i in kept], [parts[i][1 if split else 0 :] for i in kept]
    if not found:
        raise DataError(f"{root}: no images in this folder; expected files ending in {', '.join(sorted(ENDINGS))}")
    files = [file for _, file in found]
    ids = np.array([id_ for id_, _ in found], dtype=np.str_)
    nested, tops = all(len(part) > 1 for part in parts), {part[0] for part in parts}
    labelled = nested and len(tops) > 1  # a folder `good` alone, or `train`, tells nothing apart
    labels = np.array([part[0] for part in parts], dtype=np.str_) if labelled else None
    roles = np.array([ROLES[id_.split("/")[0].lower()] for id_ in ids], dtype=np.str_) if split else None
    masks = _masks_beside(root, parts) if nested else None
    kinds = f" of {len(tops)} kinds" if labelled else ""
    if split:
        assert roles is not None
        counts = ", ".join(f"{np.sum(roles == role)} {role}" for role in ("train", "valid", "test") if role in roles)
        why = f"images in train and test folders: {len(files)}{kinds} ({counts}){_with(masks)}"
    elif labelled:
        why = f"images, one folder a class: {len(files)}{kinds}{_with(masks)}"
    else:
        why = f"images in one folder: {len(files)}, no labels"
    return Listing(files, ids, labels, roles, masks, why)


def _is_image(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in ENDINGS and not hidden and file.is_file()


def _masks_beside(root: Path, parts: list[list[str]]) -> list[Path | None] | None:
    """The mask of each picture KIND/.../NAME: KIND/.../NAME_mask.* or NAME.* below a folder of masks, which lies in
    `root` or, of a folder `test`, beside it."""
    for name in MASKS:
        for folder in (root / name, root.parent / name):
            if folder.is_dir() and (folder.parent == root or root.name.lower() in ROLES):
                known = {
                    file.relative_to(folder).with_suffix("").as_posix(): file
                    for file in sorted(folder.rglob("*"))
                    if _is_image(file, folder)
                }
                stems = ["/".join([*part[:-1], Path(part[-1]).stem]) for part in parts]
                return [known.get(f"{stem}_mask", known.get(stem)) for stem in stems]
    return None


def _with(masks: list[Path | None] | None) -> str:
    return "" if masks is None else f", {sum(mask is not None for mask in masks)} with a mask"


def is_manifest(reader: Reader) -> bool:
    """Whether a table has a column `path`, or `image`, of names of images."""
    column = _path_column(reader)
    if column is None or not pa.types.is_string(reader.peek[column].type):
        return False
    paths = [path for path in reader.peek[column].to_pylist() if path]
    return bool(paths) and all(Path(path.replace("\\", "/")).suffix.lower() in ENDINGS for path in paths)


def list_manifest(reader: Reader, config: DataConfig) -> Listing:
    """The images a table names in its column `path` (or `image`), in its order, relative to its own folder or, as in
    VisA's split_csv/, to the one above.

    Columns: label, or `config.label`; mask: the image of where the picture is anomalous, empty for none; split; object,
    of which `config.object` chooses one.
    Raises DataError for a missing column `path`, a file that does not exist, an unknown value of `split`, and several
    objects of which none is chosen.
    """
    column = _path_column(reader) or "path"
    reader.require([column], "column")
    label = config.label or ("label" if "label" in reader.columns else None)
    wanted = [name for name in dict.fromkeys((column, label, *MANIFEST[3:])) if name in reader.columns]
    table = pa.concat_tables(list(reader.batches(dict.fromkeys(wanted, pa.string()), 1 << 16)))
    rows = _of_object(reader, config, table)
    written = {name: [_text(table[name][int(row)].as_py()) for row in rows] for name in wanted if name != label}
    base = _base(reader, written[column])
    files = [base / name for name in written[column]]
    masks = [base / name if name else None for name in written["mask"]] if "mask" in written else None
    for name, what in ((column, "image"), ("mask", "mask")):
        for row, cell in zip(rows, written.get(name, []), strict=False):
            if (cell or what == "image") and not (base / cell).is_file():
                raise DataError(
                    f"{reader.path}: {reader.place(int(row))}: no {what} '{cell}'; paths are relative to the folder of"
                    " this file, or to the one above"
                )
    labels = as_labels(table[label])[rows] if label in wanted else None
    roles = _roles(reader, rows, written["split"]) if "split" in written else None
    kinds = "" if labels is None else f", labels in '{label}'"
    unread = [name for name in reader.columns if name not in (*MANIFEST, label, *config.drop)]
    return Listing(
        files,
        np.array(written[column], dtype=np.str_),
        labels,
        roles,
        masks,
        f"a list of {len(files)} images in its column '{column}'{kinds}{_with(masks)}",
        config.object if "object" in written else None,
        (f"not read: column {_quoted(unread)}; known are {_quoted(MANIFEST)}",) if unread else (),
        rows,
    )


def _path_column(reader: Reader) -> str | None:
    return next((name for name in MANIFEST[:2] if name in reader.columns), None)


def _text(cell: str | None) -> str:
    return str(cell or "").strip().replace("\\", "/")


def _quoted(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _of_object(reader: Reader, config: DataConfig, table: pa.Table) -> NDArray[np.intp]:
    """The rows of the object that the settings choose; all rows of a table of one object."""
    rows = np.arange(len(table))
    if "object" not in table.column_names:
        return rows
    objects = np.array([_text(cell) for cell in table["object"].to_pylist()])
    names = list(dict.fromkeys(objects.tolist()))
    if config.object is None and len(names) > 1:
        raise DataError(
            f"{reader.path}: column 'object' holds {len(names)} objects ({_quoted(names[:12])}); choose one, e.g."
            f" --set data.object={names[0]}"
        )
    if config.object is not None and config.object not in names:
        raise DataError(
            f"{reader.path}: column 'object' has no '{config.object}' (data.object); it holds {_quoted(names[:12])}"
        )
    return rows if config.object is None else np.flatnonzero(objects == config.object)


def _base(reader: Reader, names: list[str]) -> Path:
    """The folder that the names are relative to."""
    folder = Path(reader.path).parent
    if names and not (folder / names[0]).is_file() and (folder.absolute().parent / names[0]).is_file():
        return folder.absolute().parent
    return folder


def _roles(reader: Reader, rows: NDArray[np.intp], written: list[str]) -> NDArray[np.str_]:
    for row, cell in zip(rows, written, strict=True):
        if cell.lower() not in ROLES:
            raise DataError(
                f"{reader.path}: {reader.place(int(row))}, column 'split': {cell!r}; expected train, valid or test"
            )
    return np.array([ROLES[cell.lower()] for cell in written], dtype=np.str_)
