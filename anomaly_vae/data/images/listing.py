"""Lists of the image files of a folder or manifest, with their labels, roles and masks."""

from __future__ import annotations

import calendar
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.core.advice import option, setting
from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.worries import Gravity, Worry
from anomaly_vae.data.images.decoding import ENDINGS
from anomaly_vae.data.readers.base import Reader
from anomaly_vae.data.readers.cells import NORMAL_WORDS, as_labels

ROLES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
MASKS = ("ground_truth", "masks")  # folders of masks, e.g. in MVTec's layout; their files are not samples
SIDECARS = frozenset(  # files beside pictures that are none
    {".txt", ".md", ".json", ".xml", ".csv", ".yaml", ".yml", ".html", ".log", ".ini", ".db", ".py"}
)
MANIFEST = ("path", "image", "label", "mask", "split", "object")  # columns of a manifest; VisA has image for path
# Words in names of folders that tell when or where pictures were taken, beside dates and numbers. A word that all names
# share, each with a number, is one too (bottle1, bottle2), unless it is one of CLASS_WORDS.
PLACES = frozenset((
    "t", "h", "z", "utc", "am", "pm", "st", "nd", "rd", "th", "week", "cw", "kw", "day", "month", "year", "shift",
    "night", "morning", "evening", "camera", "cam", "line", "machine", "station", "view", "angle", "position", "pos",
    "left", "right", "top", "bottom", "side", "front", "back", "batch", "lot", "part", "set", "folder", "session",
    "run", "site", "new", "copy", "image", "images", "img", "photo", "photos", "picture", "pictures",
    *(word.lower() for words in (calendar.month_name, calendar.month_abbr) for word in words),
    *(word.lower() for words in (calendar.day_name, calendar.day_abbr) for word in words),
))  # fmt: skip
CLASS_WORDS = frozenset((
    "class", "type", "kind", "category", "label", "cluster", "defect", "error", "fault", "damage", "anomaly",
    "anomalous", "bad", "ng", "nok", "outlier", "scratch", "crack", "hole", "stain", "dent",
))  # fmt: skip


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


def list_folder(root: Path, config: DataConfig) -> Listing:
    """The images below a folder, in the order of their relative paths. Raises DataError if there is none.

    Folders whose names tell classes label the pictures in them; with `config.label` or `config.normal` any do. A
    picture beside such folders has no label.
    """
    below_root = sorted(file for file in root.rglob("*") if _is_visible(file, root))
    files = {file.relative_to(root).as_posix(): file for file in below_root if file.suffix.lower() in ENDINGS}
    parts = {id_: id_.split("/") for id_ in sorted(files)}
    tops = {part[0].lower() for part in parts.values() if len(part) > 1}
    is_split = "train" in tops and tops <= {*ROLES, *MASKS}
    if not tops <= {*MASKS}:
        parts = {id_: part for id_, part in parts.items() if len(part) == 1 or part[0].lower() not in MASKS}
    unread = _unread(file for file in below_root if file.relative_to(root).parts[0].lower() not in MASKS)
    if not parts:
        beside = f", and it holds {unread}" if unread else ""
        expected = ", ".join(sorted(ENDINGS))
        raise DataError(f"{root}: no images in this folder{beside}; expected files ending in {expected}")
    ids = np.array(list(parts), dtype=np.str_)
    roles = np.array([ROLES[part[0].lower()] for part in parts.values()], dtype=np.str_) if is_split else None
    below = [part[1 if is_split else 0 :] for part in parts.values()]  # the parts of the paths below train, test, ...
    level, passed = _class_level(below, bool(config.label or config.normal))
    labels = None
    if level is not None:
        labels = np.array([part[level] if len(part) > level + 1 else "" for part in below], dtype=np.str_)
    masks = _masks_beside(root, below) if all(len(part) > 1 for part in below) else None
    kinds = "" if labels is None else f" of {len(set(labels.tolist()) - {''})} kinds"
    notes: list[str] = []
    if passed:
        notes.append(
            f"{_quoted(passed[:4])}{f' and {len(passed) - 4} more' if len(passed) > 4 else ''}: names of folders that"
            f" tell no classes, so all pictures are taken as normal; {option('--normal', passed[0])} makes them classes"
            " of which that one is normal"
        )
    if unread:
        notes.append(Worry(f"not read: {unread}; pictures end in {', '.join(sorted(ENDINGS))}", Gravity.UNREAD))
    if is_split:
        assert roles is not None
        counts = ", ".join(f"{np.sum(roles == role)} {role}" for role in ("train", "valid", "test") if role in roles)
        why = f"images in train and test folders: {len(ids)}{kinds} ({counts}){_with(masks)}"
    elif labels is not None:
        why = f"images, one folder a class: {len(ids)}{kinds}{_with(masks)}"
    elif passed:
        why = f"images in {len(passed)} folders: {len(ids)}, no labels"
    else:
        why = f"images in one folder: {len(ids)}, no labels"
    paths = [files[id_] for id_ in parts]
    return Listing(files=paths, ids=ids, labels=labels, roles=roles, masks=masks, why=why, notes=tuple(notes))


def list_file(file: Path) -> Listing:
    """One picture alone."""
    return Listing([file], np.array([file.name], np.str_), None, None, None, "one picture")


def _class_level(paths: list[list[str]], asked: bool) -> tuple[int | None, list[str]]:
    """Which part of the paths of pictures is the name of a class, None if none is; and, then, the first names of
    folders that tell no classes.

    paths: the parts of each path, the last is the file. asked: whether the user takes the first folders as classes.
    """
    passed: list[str] = []
    for level in range(max(map(len, paths)) - 1):
        nested = [path for path in paths if len(path) > level + 1]
        names = sorted({path[level] for path in nested})
        words = {name.strip().lower() for name in names}
        tells_normal = len(words) > 1 and bool(words & {*NORMAL_WORDS}) and not _is_neutral(words)
        if level == 0 and len(names) > 1:
            if asked or tells_normal or (len(nested) == len(paths) and not _is_neutral(words)):
                return level, []
            passed = names if _is_neutral(words) else []
        elif tells_normal:
            return level, []
    return None, passed


def _is_neutral(names: set[str]) -> bool:
    """Whether lower-case names of folders tell when, where or in which order pictures were taken, not of which class
    they are. 0 and 1 alone are classes."""
    if names == {"0", "1"}:
        return False
    words = {name: set(re.findall(r"[^\W\d_]+", name)) for name in names}
    shared = set.intersection(*words.values()) - CLASS_WORDS
    if not all(re.search(r"\d", name) for name in names):
        shared = set()
    return all(found <= PLACES | shared or re.fullmatch(r"[0-9a-f-]{8,}", name) for name, found in words.items())


def has_images(root: Path) -> bool:
    """Whether there is an image below a folder."""
    return any(_is_image(file, root) for file in root.rglob("*"))


def _is_image(file: Path, root: Path) -> bool:
    return file.suffix.lower() in ENDINGS and _is_visible(file, root)


def _is_visible(file: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(root).parts) and file.is_file()


def _unread(files: Iterable[Path]) -> str:
    """How many of the files are no pictures that are read, by their endings; empty if none is."""
    counts = Counter(file.suffix.lower() or "without an ending" for file in files)
    return ", ".join(f"{n} {ending}" for ending, n in counts.items() if ending not in ENDINGS | SIDECARS)


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


def is_picture(path: str | Path) -> bool:
    """Whether a path ends like one of an image file."""
    return Path(str(path).replace("\\", "/")).suffix.lower() in ENDINGS


def is_manifest(reader: Reader) -> bool:
    """Whether a table has a column `path`, or `image`, that mostly holds names of image files."""
    column = _path_column(reader)
    if column is None or not pa.types.is_string(reader.peek[column].type):
        return False
    paths = [path for path in reader.peek[column].to_pylist() if path]
    return 2 * sum(is_picture(path) for path in paths) > len(paths)


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
