"""Lists of the image files of a folder or manifest, with their labels, roles and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.images.decoding import ENDINGS
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import as_labels

ROLES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
MASKS = ("ground_truth", "masks")  # folders of masks, e.g. in MVTec's layout; their files are not samples
MANIFEST = ("path", "image", "label", "mask", "split", "object")  # columns of a manifest; VisA has image for path


@dataclass(frozen=True)
class Listing:
    """N image files.

    ids: (N,) paths relative to the folder or manifest, with forward slashes. labels, roles: (N,) or None. masks: the
    mask of each file, None for a file without; None if the data has no masks at all. why: what the data was recognised
    as, and why. name: the name of the data, if the files tell it. rows: (N,) the row index of each file in the
    manifest; None for a folder.
    """

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
        """The files where `kept` (N,) is true, with a further note."""
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
    """The images below a folder, in the order of their relative paths. Raises DataError if there is none."""
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if _is_image(file, root)}
    parts = {id_: id_.split("/") for id_ in sorted(files)}
    tops = {part[0].lower() for part in parts.values() if len(part) > 1}
    is_split = "train" in tops and tops <= {*ROLES, *MASKS}
    if not tops <= {*MASKS}:
        parts = {id_: part for id_, part in parts.items() if len(part) == 1 or part[0].lower() not in MASKS}
    if not parts:
        raise DataError(f"{root}: no images in this folder; expected files ending in {', '.join(sorted(ENDINGS))}")
    ids = np.array(list(parts), dtype=np.str_)
    roles = np.array([ROLES[part[0].lower()] for part in parts.values()], dtype=np.str_) if is_split else None
    below = [part[1 if is_split else 0 :] for part in parts.values()]  # the parts of the paths below train, test, ...
    is_nested, tops = all(len(part) > 1 for part in below), {part[0] for part in below}
    is_labelled = is_nested and len(tops) > 1  # a single folder, e.g. `good`, is no label
    labels = np.array([part[0] for part in below], dtype=np.str_) if is_labelled else None
    masks = _masks_beside(root, below) if is_nested else None
    kinds = f" of {len(tops)} kinds" if is_labelled else ""
    if is_split:
        assert roles is not None
        counts = ", ".join(f"{np.sum(roles == role)} {role}" for role in ("train", "valid", "test") if role in roles)
        why = f"images in train and test folders: {len(ids)}{kinds} ({counts}){_with(masks)}"
    elif is_labelled:
        why = f"images, one folder a class: {len(ids)}{kinds}{_with(masks)}"
    else:
        why = f"images in one folder: {len(ids)}, no labels"
    return Listing(files=[files[id_] for id_ in parts], ids=ids, labels=labels, roles=roles, masks=masks, why=why)


def has_images(root: Path) -> bool:
    """Whether there is an image below a folder."""
    return any(_is_image(file, root) for file in root.rglob("*"))


def _is_image(file: Path, root: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in ENDINGS and not is_hidden and file.is_file()


def _masks_beside(root: Path, parts: list[list[str]]) -> list[Path | None] | None:
    """The mask of each picture KIND/.../NAME; None if there is no folder of masks.

    Its path is KIND/.../NAME_mask.* or KIND/.../NAME.* below a folder of masks in `root` or, if `root` is itself a
    folder like `test`, beside it. parts: the parts of each picture's path.
    """
    for name in MASKS:
        for folder in (root / name, root.parent / name):
            if folder.is_dir() and (folder.parent == root or root.name.lower() in ROLES):
                masks = {
                    file.relative_to(folder).with_suffix("").as_posix(): file
                    for file in sorted(folder.rglob("*"))
                    if _is_image(file, folder)
                }
                stems = ["/".join([*part[:-1], Path(part[-1]).stem]) for part in parts]
                return [masks.get(f"{stem}_mask", masks.get(stem)) for stem in stems]
    return None


def _with(masks: list[Path | None] | None) -> str:
    return "" if masks is None else f", {sum(mask is not None for mask in masks)} with a mask"


def is_manifest(reader: Reader) -> bool:
    """Whether a table has a column `path`, or `image`, that holds names of image files."""
    column = _path_column(reader)
    if column is None or not pa.types.is_string(reader.peek[column].type):
        return False
    paths = [path for path in reader.peek[column].to_pylist() if path]
    return bool(paths) and all(Path(path.replace("\\", "/")).suffix.lower() in ENDINGS for path in paths)


def list_manifest(reader: Reader, config: DataConfig) -> Listing:
    """The images that a table names in its column `path` (or `image`), in the table's order.

    Paths are relative to the table's folder or, as in VisA's split_csv/, to the folder above it. Further columns:
    label, or `config.label`; mask, the file of the mask, empty for none; split; object, chosen by `config.object`.
    Raises DataError for a missing column `path`, a file that does not exist, an unknown value of `split`, and several
    objects without a choice.
    """
    column = _path_column(reader) or "path"
    reader.require([column], "column")
    label = config.label or ("label" if "label" in reader.columns else None)
    names = [name for name in dict.fromkeys((column, label, *MANIFEST[3:])) if name in reader.columns]
    table = pa.concat_tables(list(reader.batches(dict.fromkeys(names, pa.string()), 1 << 16)))
    rows = _of_object(reader, config, table)
    cells = {name: [_text(table[name][int(row)].as_py()) for row in rows] for name in names if name != label}
    base = _base(reader, cells[column])
    files = [base / path for path in cells[column]]
    masks = [base / path if path else None for path in cells["mask"]] if "mask" in cells else None
    for name, what in ((column, "image"), ("mask", "mask")):
        for row, path in zip(rows, cells.get(name, []), strict=False):
            if (path or what == "image") and not (base / path).is_file():
                raise DataError(
                    f"{reader.path}: {reader.place(int(row))}: no {what} '{path}'; paths are relative to the folder of"
                    " this file, or to the one above"
                )
    labels = as_labels(table[label])[rows] if label in names else None
    kinds = "" if labels is None else f", labels in '{label}'"
    unread = [name for name in reader.columns if name not in (*MANIFEST, label, *config.drop)]
    return Listing(
        files=files,
        ids=np.array(cells[column], dtype=np.str_),
        labels=labels,
        roles=_roles(reader, rows, cells["split"]) if "split" in cells else None,
        masks=masks,
        why=f"a list of {len(files)} images in its column '{column}'{kinds}{_with(masks)}",
        name=config.object if "object" in cells else None,
        notes=(f"not read: column {_quoted(unread)}; known are {_quoted(MANIFEST)}",) if unread else (),
        rows=rows,
    )


def _path_column(reader: Reader) -> str | None:
    return next((name for name in MANIFEST[:2] if name in reader.columns), None)


def _text(cell: str | None) -> str:
    return str(cell or "").strip().replace("\\", "/")


def _quoted(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _of_object(reader: Reader, config: DataConfig, table: pa.Table) -> NDArray[np.intp]:
    """The indices of the rows of the object that `config.object` chooses; without a choice those of all rows.

    Raises DataError for several objects without a choice, and for an object that is not in the table.
    """
    rows = np.arange(len(table))
    if "object" not in table.column_names:
        return rows
    objects = np.array([_text(cell) for cell in table["object"].to_pylist()])
    names = list(dict.fromkeys(objects.tolist()))
    if config.object is None and len(names) > 1:
        raise DataError(
            f"{reader.path}: column 'object' holds {len(names)} objects ({_quoted(names[:12])}); choose one, e.g."
            f" {setting('data.object', names[0])}"
        )
    if config.object is not None and config.object not in names:
        raise DataError(
            f"{reader.path}: column 'object' has no '{config.object}' (data.object); it holds {_quoted(names[:12])}"
        )
    return rows if config.object is None else np.flatnonzero(objects == config.object)


def _base(reader: Reader, names: list[str]) -> Path:
    """The folder that the paths `names` are relative to."""
    folder = Path(reader.path).parent
    if names and not (folder / names[0]).is_file() and (folder.absolute().parent / names[0]).is_file():
        return folder.absolute().parent
    return folder


def _roles(reader: Reader, rows: NDArray[np.intp], cells: list[str]) -> NDArray[np.str_]:
    """The roles in the column `split`. Raises DataError for a cell that is not one of ROLES."""
    for row, cell in zip(rows, cells, strict=True):
        if cell.lower() not in ROLES:
            raise DataError(
                f"{reader.path}: {reader.place(int(row))}, column 'split': {cell!r}; expected train, valid or test"
            )
    return np.array([ROLES[cell.lower()] for cell in cells], dtype=np.str_)
