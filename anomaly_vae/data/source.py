"""The interface of all data sources: rows in chunks, and a layout that describes a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from anomaly_vae.core.settings import STRICT
from anomaly_vae.data.daily_profile import Profile
from anomaly_vae.data.readers.cells import NumberFormat

if TYPE_CHECKING:
    import pyarrow as pa

    from anomaly_vae.data.images.masks import ImageFiles
    from anomaly_vae.data.spill import ArrayStore


ROWS, PICTURES = 32_768, 256  # number of rows, and largest number of pictures, read at a time
PICTURE_BYTES = 1 << 26  # largest size of the pictures read at a time, as uint8
OPTIONAL = ("groups", "condition", "after_gap", "places")  # arrays (N, ...) of a chunk that may be None


@dataclass(frozen=True)
class Column:
    """One input column of a table or one sensor of a series.

    categories: the values seen in training, in the order of their codes; None: numbers. constant: the only value that
    normal rows had, -1, which is no code, where they had none; the model does not read such a column, which is watched
    for another value (`parts.constant`). None: it varies.
    """

    __pydantic_config__ = STRICT
    name: str
    categories: tuple[str, ...] | None = None
    constant: float | None = None
    format: NumberFormat | None = None  # how numbers are written where that is not plain; None: as programs write them


@dataclass(frozen=True)
class Layout:
    """The description of a detector's input, learned from the training rows and saved with the detector.

    kind: the kind of data.
    shape: the shape of one row: (F,) columns of a table, (C,) sensors of a time step, (C, H, W) of a picture.
    columns: the F or C columns of tables and series, in order, those that are watched last; empty for pictures.
    conditions: the condition columns, in the order of `Chunk.condition`.
    pixels: the pixel columns of a pixel table, in order; else empty.
    pixel_max: the value of white in the file: 1 or 255 in pixel tables, 255 or, with 16 bits a pixel, more in images.
        Chunks hold 0-255 in every case.
    label, id, time, group: the names of these columns; None: there is none.
    time_of_day: the second time column, where a date and a time of day stand in two.
    per_day: the time steps of a day, of a series whose time column is a clock; else None.
    profile: what is usual at a time of day and of week, which the network reads a step's departure from; None: nothing.
    step, gap: seconds, or units of a time column of numbers: the usual time from a step to the next, and the longest
        one within a window; None where steps are irregular.
    tile, overlap: how images are cut into tiles, see `tiles.Tiling`; tile None: they are not cut.
    left_out: column name -> the reason why it is not an input.
    """

    __pydantic_config__ = STRICT
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
    time_of_day: str | None = None
    per_day: float | None = None
    step: float | None = None
    gap: float | None = None
    profile: Profile | None = None
    tile: int | None = None
    overlap: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def read(self) -> tuple[Column, ...]:
        """The columns that the model reads, the first ones."""
        return tuple(column for column in self.columns if column.constant is None)

    @property
    def watched(self) -> tuple[Column, ...]:
        """The columns behind them, which were constant or empty in all normal rows that the fit saw."""
        return self.columns[len(self.read) :]

    @property
    def sample(self) -> tuple[int, ...]:
        """The shape of one sample of the network: a row, a picture, or a tile of a picture."""
        return self.shape if self.tile is None else (self.shape[0], self.tile, self.tile)

    @property
    def chunk_rows(self) -> int:
        """The number of rows, time steps or pictures that are read at a time."""
        if len(self.shape) == 1:
            return ROWS
        return max(1, min(PICTURES, PICTURE_BYTES // math.prod(self.shape)))

    def to_json(self) -> dict[str, Any]:
        from dataclasses import asdict

        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Layout:
        """Raises pydantic's ValidationError for other keys or types."""
        return TypeAdapter(cls).validate_python(tree)


@dataclass(frozen=True)
class CodedText:
    """N texts, of which few are distinct, in 4 bytes each. NumPy's functions accept it as an array of text.

    values: (V,) the distinct texts, sorted. codes: (N,) indices into `values`.
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
        """The coded text of consecutive pieces (n,)."""
        code_of: dict[str, int] = {}  # in order of first appearance
        codes = []
        for piece in pieces:
            values, indices = np.unique(piece, return_inverse=True)
            value_codes = [code_of.setdefault(value, len(code_of)) for value in values.tolist()]
            codes.append(np.array(value_codes, np.int32)[indices])
        values = np.array(list(code_of), np.str_)
        order = np.argsort(values)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        return cls(values[order], rank[np.concatenate(codes)])


@dataclass(frozen=True)
class Chunk:
    """N consecutive rows.

    ids: (N,) what a score is reported with: the row index, the timestamp, the file name or the id column.
    values: (N, *shape). Tables and series: float64, NaN for a missing cell; a categorical cell is its code,
        `len(categories)` for a value not seen in training. Pictures: uint8, 0-255.
    groups: (N,) the name of each step's group, e.g. a machine; None for a single one.
    after_gap: (N,) whether time jumped before this step of its group, see `Layout.gap`; None: it never did.
    places: (N,) the row of the file that each step is; None: rows come in the order of the file.
    condition: (N, K) cells of the layout's conditions, coded like those of a table, and behind them, where the layout
        has a profile, the phase of each step in it; None if it has neither.
    """

    ids: NDArray[Any]
    values: NDArray[Any]
    groups: NDArray[np.str_] | None = None
    condition: NDArray[np.float64] | None = None
    after_gap: NDArray[np.bool_] | None = None
    places: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def join(cls, chunks: Iterable[Chunk]) -> Chunk:
        """The concatenation of one or more chunks."""
        chunks = list(chunks)
        if len(chunks) == 1:
            return chunks[0]
        optional = {
            name: None if getattr(chunks[0], name) is None else np.concatenate([getattr(c, name) for c in chunks])
            for name in OPTIONAL
        }
        return cls(np.concatenate([c.ids for c in chunks]), np.concatenate([c.values for c in chunks]), **optional)

    def take(self, rows: NDArray[np.intp]) -> Chunk:
        """The rows with the indices `rows`."""
        optional = {name: None if (x := getattr(self, name)) is None else x[rows] for name in OPTIONAL}
        return Chunk(self.ids[rows], self.values[rows], **optional)


class Source(Protocol):
    """A file, folder or array of one kind of data. A source neither scales nor splits.

    kind: the kind of data.
    name: the name of the data in experiments and runs: the stem of a file, the name of a folder.
    path: the path as the user wrote it; "memory" for arrays.
    notes: what the user should know about how the data was read; some are known only after all chunks were read.
    otherwise: the option that reads the data as the kind that it fits second best, and what that does; else empty.
    """

    kind: str
    name: str
    path: str
    notes: tuple[str, ...]
    otherwise: str

    @property
    def why(self) -> str:
        """What the data was recognised as, and why, e.g. "a table: 12 columns, no time column"."""

    def labels(self) -> CodedText | None:
        """The label of every row as text, (N,); None without a label column."""

    def column(self, name: str) -> NDArray[np.str_]:
        """The cells of any column as text, (N,), empty for a missing one. Raises DataError for an unknown column."""

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """All columns as the data has them, those of text files as text, in tables of at most `rows` rows, in the order
        of `chunks`. Raises DataError for data without columns."""

    def roles(self) -> NDArray[np.str_] | None:
        """The part that the data itself assigns every row to, (N,): 'train', 'valid' or 'test'; else None."""

    def groups(self) -> CodedText | None:
        """The group of every step of a series, (N,); None without a group column."""

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        """The ids of the rows with the indices `rows`, (R,), as `Chunk.ids` defines them."""

    def preload(self, store: ArrayStore) -> None:
        """Reads into the store, once, what the other methods would otherwise read from a file at every call.

        Raises DataError for what cannot be read, AnomalyVAEError if the disk has no space for it.
        """

    def image_files(self) -> ImageFiles | None:
        """The image files of the rows; None for other data."""

    def count(self) -> int:
        """The number of rows, time steps or pictures."""

    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """The layout, learned from the training rows alone. rows: their indices. held: those of held-out normals, in
        which a column that is constant in training must be constant too to be watched."""

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """All data in chunks of at most `rows` rows, in constant memory.

        Columns are matched by name, in any order; columns that are not in the layout are ignored.
        """

    def digest(self) -> str:
        """A short hash of the content, which a run records."""
