"""The source of image files: a folder in MVTec's layout, one folder for each class, a flat folder, or a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import ConfigError, DataError
from anomaly_vae.core.worries import Gravity, Worry
from anomaly_vae.data import conditions
from anomaly_vae.data.images.decoding import (
    LATER,
    THREADS,
    BrokenImageError,
    as_pixels,
    broken,
    in_colour,
    is_grey,
    is_stored_grey,
    limit_pixels,
    open_upright,
    white_of,
)
from anomaly_vae.data.images.listing import list_file, list_folder, list_manifest
from anomaly_vae.data.images.masks import ImageFiles
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.readers.cells import as_labels
from anomaly_vae.data.source import Chunk, CodedText, Layout
from anomaly_vae.data.spill import ArrayStore

LOOKED_AT = 16  # number of training pictures from which `learn` decides white, and of those stored in colour, grey
GLANCE = (64, 64)  # pixels of a picture stored in colour by which it is told whether it has any
NAMED = 8  # largest number of broken files in one message


class ImageSource:
    """Image files, decoded chunk by chunk.

    Raises DataError if there is no image, and if a manifest names a file that does not exist. With `config.skip_broken`
    every file is decoded once when the source is opened; broken files are left out and named in `notes`. Without it,
    reading a broken file raises an error that names all of them.
    """

    kind: str = "images"
    otherwise: str = ""

    def __init__(self, path: str | Path, config: DataConfig, manifest: Reader | None = None) -> None:
        """manifest: the reader of `path`; None: `path` is a folder, or one picture."""
        self.path = str(path)
        self.config = config
        self._manifest = manifest
        limit_pixels(config.max_pixels)
        if manifest is not None:
            listing = list_manifest(manifest, config)
        else:
            listing = list_folder(Path(path), config) if Path(path).is_dir() else list_file(Path(path))
        if config.skip_broken:
            reasons = broken(listing.files)
            if any(reasons):
                skipped = [f"{id_} ({reason})" for id_, reason in zip(listing.ids, reasons, strict=True) if reason]
                note = f"skipped {plural(len(skipped), 'broken picture')}: {', '.join(skipped)}"
                listing = listing.keep(np.array([reason is None for reason in reasons], bool), note)
                if not listing.files:
                    raise DataError(f"{path}: {note}; none is left")
        self._listing = listing
        self.name = listing.name or (Path(path).resolve().name if manifest is None else manifest.name)
        self.why, self.notes = listing.why, listing.notes

    def labels(self) -> CodedText | None:
        """The names of the class folders, or the labels of the manifest, (N,).

        Raises DataError if the label column does not exist.
        """
        if self._manifest is not None and self.config.label is not None:
            self._manifest.require([self.config.label], "label column")
        return None if self._listing.labels is None else CodedText.of([self._listing.labels])

    def column(self, name: str) -> NDArray[np.str_]:
        """A column of the manifest, (N,); of a folder the column `label`, the names of the class folders."""
        if self._manifest is not None:
            self._manifest.require([name], "column")
            cells = [as_labels(t[name]) for t in self._manifest.batches({name: pa.string()}, 1 << 16)]
            return np.concatenate(cells)[self._listing.rows]
        if name != "label" or self._listing.labels is None:
            raise DataError(
                f"{self.path}: a folder of images has no column '{name}'; 'label', the names of its folders, or a CSV"
                " with a column 'path' would work"
            )
        return self._listing.labels

    def tables(self, rows: int) -> Iterator[pa.Table]:
        if self._manifest is None:
            raise DataError(f"{self.path}: pictures have no columns to copy; leave --keep out")
        yield pa.table({name: self.column(name) for name in self._manifest.columns})

    def roles(self) -> NDArray[np.str_] | None:
        return self._listing.roles

    def groups(self) -> None:
        return None

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[np.str_]:
        return self._listing.ids[rows]

    def preload(self, store: ArrayStore) -> None:
        """Reads nothing: a fit decodes every file once, when it loads the data, and keeps the pictures in the store.

        Decoding for every batch would take longer than training: a JPEG of 256 pixels, resized to 64, takes 1 ms of a
        core; reading the pixels from a mapped file takes 0.02 ms. Raises DataError for one picture, which cannot be
        trained on.
        """
        if self._manifest is None and not Path(self.path).is_dir():
            raise DataError(
                f"{self.path}: one picture; training needs a folder of normal pictures, or a CSV with a column 'path'"
                " that lists them"
            )

    def image_files(self) -> ImageFiles:
        return ImageFiles(self.path, self._listing.files, self._listing.masks)

    def count(self) -> int:
        return len(self._listing.files)

    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """Pictures of `data.size`, grey if none of the training pictures that are looked at has colour.

        Raises DataError for fewer than two pictures, ConfigError for tiles that are not smaller than the pictures.
        """
        if len(rows) < 2:
            raise DataError(f"{self.path}: {plural(len(rows), 'image')} to train on; at least 2 are needed")
        channels, size, tile = self.config.channels, self.config.size, self.config.tile
        assert size, "data.size is filled in before data is opened"
        if tile is not None and tile >= size:
            raise ConfigError(
                f"data.tile={tile}: no smaller than the pictures, which are read at data.size={size}; a larger"
                " data.size, or no data.tile, would work"
            )
        if tile is not None and self.config.condition:
            raise ConfigError("data.condition is of whole pictures, and data.tile cuts them; leave one of them out")
        first = [self._listing.files[row] for row in sorted(rows)[:LOOKED_AT]]
        try:
            if channels is None:
                colour = in_colour([self._listing.files[row] for row in sorted(rows)])
                spread = colour[:: -(-len(colour) // LOOKED_AT) or 1]
                channels = 1 if all(is_grey(open_upright(file)) for file in spread) else 3
            return Layout(
                kind=self.kind,
                shape=(channels, size, size),
                conditions=conditions.learn(self, self.config.condition, rows, self.config.max_categories),
                pixel_max=white_of(first),
                tile=tile,
                overlap=0.0 if tile is None else self.config.overlap,
            )
        except BrokenImageError as error:
            raise self._all_broken(error) from error

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Pictures (N, C, H, W), uint8, resized. Raises DataError with all files that cannot be decoded."""
        from PIL import Image

        channels, height, width = layout.shape
        listing = self._listing
        condition = conditions.encode([self.column(c.name) for c in layout.conditions], layout.conditions, self.path)
        n_other = n_several = 0

        def pixels(file: Path) -> tuple[NDArray[np.uint8], bool, bool]:
            """The pixels, whether they are stored in colour and read as grey or the other way round, and whether the
            file holds more pictures."""
            opened = open_upright(file)
            other = is_stored_grey(opened) != (channels == 1)
            if other and channels == 1:
                other = not is_grey(opened.resize(GLANCE, Image.Resampling.NEAREST))
            return as_pixels(opened, channels, height, width, layout.pixel_max), other, LATER in opened.info

        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, self.count(), rows):
                piece = slice(first, first + rows)
                files = listing.files[piece]
                try:
                    pictures, other, several = zip(*pool.map(pixels, files), strict=True)
                except BrokenImageError as error:
                    raise self._all_broken(error) from error
                n_other, n_several = n_other + sum(other), n_several + sum(several)
                self.notes = (*listing.notes, *self._reading_notes(channels, n_other, n_several))
                yield Chunk(
                    ids=listing.ids[piece],
                    values=np.stack(pictures),
                    condition=None if condition is None else condition[piece],
                )

    def _reading_notes(self, channels: int, n_other: int, n_several: int) -> list[str]:
        """What was found in the files. n_other: pictures in colour where `channels` is 1, else grey ones."""
        notes: list[str] = []
        if n_other and channels == 1:
            told = f"{n_other} of {self.count()} pictures are in colour and are read as grey"
            notes.append(Worry(f"{told}; fit with {setting('data.channels', 3)} if colour tells", Gravity.UNREAD))
        elif 0 < n_other < self.count():
            notes.append(
                f"{n_other} of {self.count()} pictures are grey and are read as colour, as the others are;"
                f" {setting('data.channels', 1)} reads all as grey"
            )
        elif n_other and self.config.channels is None:
            notes.append("all pictures are grey and are read as colour, which pictures of training had")
        if n_several:
            told = f"{n_several} of {self.count()} files hold several pictures, of which the first is read"
            notes.append(Worry(told, Gravity.UNREAD))
        return notes

    def _all_broken(self, error: BrokenImageError) -> DataError:
        """One error for all broken files, so that they can be replaced together; `error` if there is only one."""
        reasons = broken(self._listing.files)
        files = [f"{id_} ({reason})" for id_, reason in zip(self._listing.ids, reasons, strict=True) if reason]
        if len(files) <= 1:
            return error
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        return DataError(
            f"{self.path}: {len(files)} pictures cannot be read: {', '.join(files[:NAMED])}{more}; replace them, or"
            " leave them out with --skip-broken"
        )

    def digest(self) -> str:
        """The digest of the relative paths and of every byte of the files."""
        digest = hashlib.blake2b(digest_size=8)
        for id_, file in zip(self._listing.ids, self._listing.files, strict=True):
            digest.update(f"{id_}\0{file.stat().st_size}\0".encode())
            with open(file, "rb") as content:
                while piece := content.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()
