"""What every kind of data promises: rows in chunks, and a layout that says what a row is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anomaly_vae.data.images.masks import ImageFiles
    from anomaly_vae.data.spill import ArrayStore


ROWS, PICTURES = 32_768, 256  # read at a time
PICTURE_BYTES = 1 << 26  # of pictures read at a time at most


@dataclass(frozen=True)
class Column:
    """One input column of a table or one sensor of a series."""

    name: str
    categories: tuple[str, ...] | None = None  # None: a number; else the values seen in training, code = position


@dataclass(frozen=True)
class Layout:
    """What a detector knows about its input: found once, on the training rows, and saved with it.

    shape: of one sample: (F,) columns of a row, (C,) sensors of a time step, (C, H, W) pixels of a picture.
    columns: tables and series: one for each element, in order. Pictures: empty.
    conditions: columns that a sample is judged under, in the order of `Chunk.condition`.
    pixels: pixel tables: the names of the pixel columns in order. Else empty.
    pixel_max: what is white in the file: of pixel tables 1 or 255, of images above 255 where they have 16 bits a pixel.
        Chunks hold 0-255 in either case.
    per_day: of a series with a time column that is a clock, how many time steps a day has; else None.
    tile, overlap: of images that are seen in tiles, see `data.tiles.Tiling`; None: seen whole.
    left_out: column name -> why it is no input.
    """

    kind: str
    shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()
    conditions: tuple[Column, ...] = ()
    pixels: tuple[str, ...] = ()
    pixel_max: float = 255.0
    label: str | None = None
    id: str | None = None
    time: str | None = None
    group: str | None = None
    per_day: float | None = None
    tile: int | None = None
    overlap: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of what the network reads at once: a row, or a picture or a tile of it."""
        return self.shape if self.tile is None else (self.shape[0], self.tile, self.tile)

    @property
    def chunk_rows(self) -> int:
        """How many rows, time steps or pictures are read at a time."""
        if len(self.shape) == 1:
            return ROWS
        return max(1, min(PICTURES, PICTURE_BYTES // math.prod(self.shape)))

    def to_json(self) -> dict[str, Any]:
        from dataclasses import asdict

        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Layout:
        columns = {
            key: tuple(
                Column(c["name"], None if c["categories"] is None else tuple(c["categories"])) for c in tree[key]
            )
            for key in ("columns", "conditions")
        }
        return cls(**{**tree, **columns, "shape": tuple(tree["shape"]), "pixels": tuple(tree["pixels"])})


@dataclass(frozen=True)
class CodedText:
    """N texts of which few are distinct, in 4 bytes each; NumPy's functions read it as an array of them.

    values: (V,) the distinct ones, sorted. codes: (N,) places in `values`.
    """

    values: NDArray[np.str_]
    codes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> NDArray[np.str_]:
        texts: NDArray[np.str_] = self.values[self.codes[rows]]
        return texts

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.values[self.codes], dtype)

    @classmethod
    def of(cls, pieces: Iterable[NDArray[np.str_]]) -> CodedText:
        """Of consecutive pieces (n,) of the texts."""
        known: dict[str, int] = {}
        codes = []
        for piece in pieces:
            values, places = np.unique(piece, return_inverse=True)
            here = [known.setdefault(value, len(known)) for value in values.tolist()]
            codes.append(np.array(here, np.int32)[places])
        values = np.array(list(known), np.str_)
        order = np.argsort(values)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        return cls(values[order], rank[np.concatenate(codes)])


@dataclass(frozen=True)
class Chunk:
    """N consecutive rows.

    ids: (N,) what a score is reported against: row number, timestamp, file name or the id column.
    values: (N, *shape). Tables and series: float64, NaN where a cell is missing; a categorical cell holds its code,
        `len(categories)` for a value not seen in training. Pictures: uint8, 0-255.
    groups: (N,) str naming the machine of a series; None for a single one.
    condition: (N, K) cells of the layout's conditions, as those of a table; None where it has none.
    """

    ids: NDArray[Any]
    values: NDArray[Any]
    groups: NDArray[np.str_] | None = None
    condition: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def join(cls, chunks: Iterable[Chunk]) -> Chunk:
        """One chunk of several, at least one, in their order."""
        chunks = list(chunks)
        if len(chunks) == 1:
            return chunks[0]
        optional = {
            name: None if getattr(chunks[0], name) is None else np.concatenate([getattr(c, name) for c in chunks])
            for name in ("groups", "condition")
        }
        return cls(np.concatenate([c.ids for c in chunks]), np.concatenate([c.values for c in chunks]), **optional)

    def take(self, rows: NDArray[np.intp]) -> Chunk:
        """Some of the rows."""
        groups = None if self.groups is None else self.groups[rows]
        condition = None if self.condition is None else self.condition[rows]
        return Chunk(self.ids[rows], self.values[rows], groups, condition)


class Source(Protocol):
    """A file, folder or array that was recognised as one kind of data. It scales nothing and splits nothing."""

    kind: str
    name: str  # of the data, for experiments and runs: the file's stem, the folder's name
    path: str  # as given; "memory" for arrays
    notes: tuple[str, ...]  # what the user should know of how it was read

    @property
    def why(self) -> str:
        """What the data was taken for, and by which sign, e.g. "a table: 12 columns, no time column"."""

    def labels(self) -> CodedText | None:
        """(N,) the label of every row as text, None without a label column."""

    def column(self, name: str) -> NDArray[np.str_]:
        """(N,) the cells of any column as text, empty where one is missing. Raises DataError where there is none."""

    def roles(self) -> NDArray[np.str_] | None:
        """(N,) 'train', 'valid' or 'test' where the data itself says who is who; else None."""

    def groups(self) -> CodedText | None:
        """(N,) the group of every row of a series; else None."""

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(R,) what scores of some rows are reported against, as `Chunk.ids` has it."""

    def preload(self, store: ArrayStore) -> None:
        """Reads into the store, once, what the methods below and above would else read again and again from a file.

        Raises DataError for what cannot be read, AnomalyVAEError where the disk has no place for it.
        """

    def image_files(self) -> ImageFiles | None:
        """The files behind the rows, for data that is image files; else None."""

    def count(self) -> int:
        """The number of rows, time steps or pictures."""

    def learn(self, rows: NDArray[np.intp]) -> Layout:
        """The layout, from the training rows alone: which columns are inputs, and of what type."""

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """The data from its beginning, at most `rows` samples at a time, in constant memory.

        Columns are found by name, in whatever order; columns that the layout does not know are ignored.
        """

    def digest(self) -> str:
        """A short content hash, for the record of a run."""
