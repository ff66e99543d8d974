"""Image files: a folder in MVTec's layout, one folder a class, a flat folder, or a manifest CSV."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import ConfigError, DataError
from anomaly_vae.data import conditions
from anomaly_vae.data.images.decoding import THREADS, BrokenImageError, broken, decode, is_grey, white_of
from anomaly_vae.data.images.listing import list_folder, list_manifest
from anomaly_vae.data.images.masks import ImageFiles
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.readers.cells import as_labels
from anomaly_vae.data.source import Chunk, CodedText, Layout
from anomaly_vae.data.spill import ArrayStore

LOOKED_AT = 16  # training pictures that tell grey from colour, and what is white of 16 bits a pixel
NAMED = 8  # broken files in one message at most


class ImageSource:
    """Image files, decoded when their chunk is asked for.

    Raises DataError where there is no image, and where a manifest names a file that does not exist. With
    `config.skip_broken` every file is decoded once more beforehand, and those that cannot be are left out and named in
    `notes`; without, the first one met ends in an error that names them all.
    """

    kind: str = "images"

    def __init__(self, path: str | Path, config: DataConfig, manifest: Reader | None = None) -> None:
        """manifest: the table at `path`, where `path` is no folder."""
        self.path = str(path)
        self.config = config
        self._manifest = manifest
        listing = list_folder(Path(path)) if manifest is None else list_manifest(manifest, config)
        if config.skip_broken:
            why = broken(listing.files)
            if any(why):
                lost = [f"{id_} ({reason})" for id_, reason in zip(listing.ids, why, strict=True) if reason]
                note = f"skipped {plural(len(lost), 'broken picture')}: {', '.join(lost)}"
                listing = listing.keep(np.array([reason is None for reason in why], bool), note)
                if not listing.files:
                    raise DataError(f"{path}: {note}; none is left")
        self._listing = listing
        self.name = listing.name or (Path(path).resolve().name if manifest is None else manifest.name)
        self.why, self.notes = listing.why, listing.notes

    def labels(self) -> CodedText | None:
        """(N,) names of the folders, or labels of the manifest. Raises DataError where its column does not exist."""
        if self._manifest is not None and self.config.label is not None:
            self._manifest.require([self.config.label], "label column")
        return None if self._listing.labels is None else CodedText.of([self._listing.labels])

    def column(self, name: str) -> NDArray[np.str_]:
        """(N,) a column of the manifest; of a folder `label`, the names of its folders."""
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

    def roles(self) -> NDArray[np.str_] | None:
        return self._listing.roles

    def groups(self) -> None:
        return None

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[np.str_]:
        return self._listing.ids[rows]

    def preload(self, store: ArrayStore) -> None:
        """Nothing: a fit decodes every file once, when it reads all of them, and keeps the pictures in the store.

        To decode anew for every batch would take longer than training: a JPEG of 256 pixels, to be seen at 64, takes
        1 ms of a core, and its bytes from a mapped file 0.02 ms.
        """

    def image_files(self) -> ImageFiles:
        return ImageFiles(self.path, self._listing.files, self._listing.masks)

    def count(self) -> int:
        return len(self._listing.files)

    def learn(self, rows: NDArray[np.intp]) -> Layout:
        """Pictures of data.size, grey where the first training pictures are.

        Raises DataError for fewer than two, ConfigError for tiles that are no smaller than the pictures.
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
                channels = 1 if all(is_grey(file) for file in first) else 3
            known = conditions.learn(self, self.config.condition, rows, self.config.max_categories)
            shape, overlap = (channels, size, size), 0.0 if tile is None else self.config.overlap
            return Layout("images", shape, conditions=known, pixel_max=white_of(first), tile=tile, overlap=overlap)
        except BrokenImageError as error:
            raise self._all_broken(error) from error

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Pictures (N, C, H, W), uint8, resized. Raises DataError naming all files that cannot be decoded."""
        channels, height, width = layout.shape
        listing = self._listing
        given = conditions.encode([self.column(c.name) for c in layout.conditions], layout.conditions, self.path)
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, self.count(), rows):
                files = listing.files[first : first + rows]
                try:
                    pictures = list(pool.map(lambda f: decode(f, channels, height, width, layout.pixel_max), files))
                except BrokenImageError as error:
                    raise self._all_broken(error) from error
                condition = None if given is None else given[first : first + rows]
                yield Chunk(listing.ids[first : first + rows], np.stack(pictures), condition=condition)

    def _all_broken(self, error: BrokenImageError) -> DataError:
        """The error of one file, or that of all if there are more: they are mended together."""
        lost = [
            f"{id_} ({why})" for id_, why in zip(self._listing.ids, broken(self._listing.files), strict=True) if why
        ]
        if len(lost) <= 1:
            return error
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        return DataError(
            f"{self.path}: {len(lost)} pictures cannot be read: {', '.join(lost[:NAMED])}{more}; replace them, or leave"
            " them out with --skip-broken"
        )

    def digest(self) -> str:
        """Of the relative paths and of every byte of the files."""
        digest = hashlib.blake2b(digest_size=8)
        for id_, file in zip(self._listing.ids, self._listing.files, strict=True):
            content = file.read_bytes()
            digest.update(f"{id_}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()
