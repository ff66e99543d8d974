"""Scaling of raw values to the network's inputs and back; fitted on training rows only, saved as JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import STRICT
from anomaly_vae.data.daily_profile import Profile
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Column, Layout
from anomaly_vae.data.units import moments, unit_of

NAMED = 5  # columns that a message names
Step = tuple[NDArray[Any], NDArray[np.float64] | None]  # values (F,) and condition (K,)
SINH_LIMIT = 300.0  # largest argument of sinh in `inverse`; far larger ones overflow float64


@dataclass(frozen=True)
class Element:
    """One input of the network, computed from column number `column`: (f((x - shift) / scale) - centre) / spread.

    f is the identity (linear), asinh, or the difference from the previous time step; a category passes as its code.
    """

    __pydantic_config__ = STRICT
    column: int
    how: Literal["linear", "asinh", "difference", "code"]
    shift: float = 0.0
    scale: float = 1.0
    centre: float = 0.0
    spread: float = 1.0


@dataclass(frozen=True)
class Condition:
    """The encoding of a condition column: one-hot with `classes` classes, or (x - mean) / spread if that is 0."""

    __pydantic_config__ = STRICT
    classes: int
    mean: float = 0.0
    spread: float = 1.0

    @property
    def width(self) -> int:
        return self.classes or 1


@dataclass(frozen=True)
class Floor:
    """The training median of a column that matters only when it is high (`data.only_high`): a lower value counts as
    this one, wherever it is scaled or scored."""

    __pydantic_config__ = STRICT
    column: int
    value: float


@dataclass(frozen=True)
class SavedScaler:
    """The scaler in a detector's folder."""

    __pydantic_config__ = STRICT
    elements: list[Element]
    limit: float
    conditions: list[Condition] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)


class Scaler:
    """The elements that a network reads of a row, in order. Pictures have none and are divided by 255.

    A number of a table becomes two elements: the standardised value, and the standardised asinh of its robust z-score.
    The first keeps distances, the second resolves values in the bulk of a heavy-tailed column. A sensor of a series is
    standardised; a sensor that drifts within the training rows is read as its differences, because its later level is
    not comparable. What is usual at its time of day is taken off first, where the layout has a profile.

    NLLs are therefore densities in scaled units; `log_units` brings them to the units of the data.
    """

    def __init__(
        self,
        elements: list[Element],
        limit: float,
        conditions: Sequence[Condition] = (),
        floors: Sequence[Floor] = (),
        profile: Profile | None = None,
    ) -> None:
        """profile: that of the layout."""
        self.elements, self.limit, self.conditions, self.profile = elements, limit, tuple(conditions), profile
        self.floors = tuple(floors)
        self.n_condition = sum(condition.width for condition in self.conditions)  # number of channels of the condition
        self.column = np.array([e.column for e in elements], np.intp)  # (E,) the column of each element
        self._shift, self._scale, self._centre, self._spread = (
            np.array([getattr(e, name) for e in elements]) for name in ("shift", "scale", "centre", "spread")
        )
        self._asinh = _run(np.array([e.how == "asinh" for e in elements], bool))
        self._difference = np.array([e.how == "difference" for e in elements], bool)

    @classmethod
    def fit(
        cls,
        columns: Iterable[NDArray[Any]],
        layout: Layout,
        condition: NDArray[np.float64] | None = None,
        after_gap: NDArray[np.bool_] | None = None,
        only_high: Collection[str] = (),
    ) -> Scaler:
        """The scaler of training data; missing cells are ignored.

        columns: the F columns (N,) of the layout, read one after the other so that they need not be in memory together;
        of a series in order of time; of pictures none. condition: (N, K) cells of the layout's conditions. after_gap:
            (N,) see `Chunk`. only_high: names of columns whose values below the median count as the median.
        Raises DataError where one of these is no number that is an input.
        """
        profile = layout.profile
        if profile is not None:
            phase = cls._phase(condition)
            columns = (x - profile.at(phase, slice(f, f + 1))[:, 0] for f, x in enumerate(columns))
        conditions = [] if condition is None else list(map(_condition, layout.conditions, condition.T))
        kind, numbers, floors = KINDS[layout.kind], [c.name for c in layout.columns if c.categories is None], []
        for name in only_high:
            if name not in numbers:
                why = layout.left_out.get(name, "no input" if not numbers else f"none of {', '.join(numbers[:NAMED])}")
                raise DataError(f"data.only_high: '{name}' is no column of numbers that is read ({why})")

        def raised() -> Iterator[NDArray[Any]]:
            for index, (column, cells) in enumerate(zip(layout.columns, columns, strict=False)):
                if column.name in only_high and not np.isnan(cells).all():
                    floor = Floor(index, float(np.nanmedian(cells)))
                    floors.append(floor)
                    cells = np.where(cells < floor.value, floor.value, cells)
                yield cells

        elements = kind.elements(raised() if only_high else columns, layout, after_gap)
        return cls(elements, kind.limit, conditions, floors, profile)

    def raised(self, values: NDArray[Any]) -> NDArray[Any]:
        """Rows (N, F) with low values of columns that matter only when high at the median; missing ones stay so."""
        if not self.floors:
            return values
        values = values.copy()
        for floor in self.floors:
            cells = values[:, floor.column]
            cells[cells < floor.value] = floor.value
        return values

    def read(
        self, values: NDArray[Any], condition: NDArray[np.float64] | None, before: Step | None = None
    ) -> NDArray[np.float32]:
        """The network's inputs: `transform`, followed on axis 1 by the condition (N, K), encoded.

        The condition of a row becomes further elements, that of a picture constant planes. What the profile says is
        taken off. before: values (F,) and condition (K,) of the time step before the first row; None: there is none.
        Raises DataError if the detector has a condition and the data has none.
        """
        last = None if before is None else before[0]
        if self.profile is not None:
            values = values - self.profile.at(self._phase(condition))
            if before is not None and before[1] is not None:
                last = before[0] - self.profile.at(before[1][-1:])[0]
            condition = None if condition is None else condition[:, :-1]
        scaled = self.transform(values, last)
        if not self.conditions:
            return scaled
        encoded = self.encode_condition(condition)
        planes = encoded.reshape(*encoded.shape, *(1,) * (scaled.ndim - 2))
        return np.concatenate([scaled, np.broadcast_to(planes, (*encoded.shape, *scaled.shape[2:]))], axis=1)

    @staticmethod
    def _phase(condition: NDArray[np.float64] | None) -> NDArray[np.float64]:
        if condition is None:
            raise DataError("the detector judges by the time of day, and these samples come without one")
        return condition[:, -1]

    def encode_condition(self, condition: NDArray[np.float64] | None) -> NDArray[np.float32]:
        """Condition cells (N, K) as (N, n_condition): numbers standardised, classes one-hot.

        A missing number counts as the mean. A class that is missing or was not seen in training has zeros only.
        """
        if condition is None:
            raise DataError("the detector judges under a condition, and these samples come without one")
        pieces = [np.zeros((len(condition), 0), np.float32)]
        for cells, column in zip(condition.T, self.conditions, strict=True):
            if column.classes:
                pieces.append((cells[:, None] == np.arange(column.classes)).astype(np.float32))
            else:
                pieces.append(np.nan_to_num((cells - column.mean) / column.spread)[:, None].astype(np.float32))
        return np.concatenate(pieces, axis=1)

    def transform(self, values: NDArray[Any], before: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """Rows (N, F) in scaled units, (N, E) float32; pictures (N, C, H, W) in 0-1.

        before: (F,) the time step before the first row; None: there is none, and the first differences are 0.
        """
        if values.dtype == np.uint8:
            return values.astype(np.float32) / np.float32(255)
        values, before = self.raised(values), None if before is None else self.raised(before[None])[0]
        scaled = values.take(self.column, axis=1)  # rows in memory, which an index by columns would not give
        scaled -= self._shift
        scaled /= self._scale
        tails = scaled[:, self._asinh]
        np.arcsinh(tails, out=tails)
        if self._difference.any():
            columns = self.column[self._difference]
            first = values[:1, columns] if before is None else before[None, columns]
            differences = np.diff(values[:, columns], axis=0, prepend=first)
            scaled[:, self._difference] = differences / self._scale[self._difference]
        scaled -= self._centre
        scaled /= self._spread
        return np.clip(scaled, -self.limit, self.limit, out=scaled).astype(np.float32)

    def inverse(self, scaled: NDArray[Any], start: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Scaled rows (N, E) in the units of the data, (N, F) float64, of a series in order of time; pictures in 0-255.

        A number with two elements is the mean of both, each weighted by |d value / d element| ** -2, its precision at
        that value. A category is returned as its code. Differences are summed from `start` (F,), the first row in the
        units of the data; None: from the training mean.
        """
        if not self.elements:
            return np.clip(np.asarray(scaled, np.float64), 0, 1) * 255
        inner = np.asarray(scaled, np.float64) * self._spread + self._centre
        value, slope = (
            inner * self._scale + self._shift,
            np.broadcast_to(self._scale * self._spread, inner.shape).copy(),
        )
        tails = np.clip(inner[:, self._asinh], -SINH_LIMIT, SINH_LIMIT)
        value[:, self._asinh] = np.sinh(tails) * self._scale[self._asinh] + self._shift[self._asinh]
        slope[:, self._asinh] *= np.cosh(tails)
        differences = inner[:, self._difference] * self._scale[self._difference]
        first = self._shift[self._difference]
        if start is not None:
            start_values = start[self.column[self._difference]]
            first = np.where(np.isnan(start_values), first, start_values)
        value[:, self._difference] = np.cumsum(np.concatenate([first[None], differences[1:]]), axis=0)
        n_columns = int(self.column.max()) + 1
        total, weights = np.zeros((len(value), n_columns)), np.zeros((len(value), n_columns))
        units = np.array([unit_of(self._scale[self.column == column]) for column in range(n_columns)])
        for element, column in enumerate(self.column):
            weight = (slope[:, element] / units[column]) ** -2
            total[:, column] += weight * value[:, element]
            weights[:, column] += weight
        return total / weights

    def log_units(self) -> NDArray[np.float64]:
        """(E,) log of the units of the data that one scaled unit of each element is, 0 of a category: its NLL plus this
        is that of a density in the units of the data.

        NaN for an element that tells once more what another one tells (asinh): a density counts a number once.
        """
        repeats = np.array([element.how == "asinh" for element in self.elements], bool)
        return np.where(repeats, np.nan, np.log(self._scale * self._spread))

    def categories(self, layout: Layout) -> tuple[int, ...]:
        """The number of classes of each element; 0 for a number.

        A category has one class more than training showed, for values that first appear at scoring time.
        """
        categories = [layout.columns[index].categories for index in self.column]
        return tuple(0 if names is None else len(names) + 1 for names in categories)

    def by_column(self, nats: NDArray[np.float32]) -> NDArray[np.float32]:
        """Nats of elements (N, E), summed for each column that is read, (N, F); those of pictures as they are."""
        if not self.elements or len(np.unique(self.column)) == nats.shape[1]:
            return nats
        columns = np.zeros((len(nats), int(self.column.max()) + 1), nats.dtype)
        for element, index in enumerate(self.column):
            columns[:, index] += nats[:, element]
        return columns

    def to_json(self) -> dict[str, Any]:
        elements, conditions = [asdict(e) for e in self.elements], [asdict(c) for c in self.conditions]
        tree: dict[str, Any] = {"limit": self.limit, "elements": elements, "conditions": conditions}
        return tree | ({"floors": [asdict(f) for f in self.floors]} if self.floors else {})

    @classmethod
    def from_json(cls, tree: dict[str, Any], profile: Profile | None = None) -> Scaler:
        """profile: that of the layout. Raises pydantic's ValidationError for other keys or types."""
        saved = TypeAdapter(SavedScaler).validate_python(tree)
        return cls(saved.elements, saved.limit, saved.conditions, saved.floors, profile)


def _run(chosen: NDArray[np.bool_]) -> slice:
    """The slice of the true values, which are adjacent; indexing with a slice does not copy."""
    indices = np.flatnonzero(chosen)
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)


def _condition(column: Column, cells: NDArray[np.float64]) -> Condition:
    if column.categories is not None:
        return Condition(len(column.categories))
    return Condition(0, *moments(cells[~np.isnan(cells)]))
