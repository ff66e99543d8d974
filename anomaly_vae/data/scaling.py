"""From the units of the data to those of the network; fitted on training rows only, saved as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Column, Layout

BENT = 300.0  # largest argument of sinh on the way back: beyond, float64 overflows


@dataclass(frozen=True)
class Element:
    """One number that the network reads, made of column `column`: ((f((x - shift) / scale)) - centre) / spread.

    f is the identity (linear), asinh, or the difference to the time step before; a category passes as its code.
    """

    column: int
    how: Literal["linear", "asinh", "difference", "code"]
    shift: float = 0.0
    scale: float = 1.0
    centre: float = 0.0
    spread: float = 1.0


@dataclass(frozen=True)
class Condition:
    """A condition column: `classes` of it one-hot, or, where that is 0, (x - mean) / spread."""

    classes: int
    mean: float = 0.0
    spread: float = 1.0

    @property
    def width(self) -> int:
        return self.classes or 1


class Scaler:
    """The elements that a network reads of a row, in order; pictures have none and are divided by 255.

    A number of a table becomes two elements: standardised, and asinh of its robust z-score, itself standardised. The
    first keeps distances, the second tells values apart in the bulk of a heavy-tailed column. A sensor of a series is
    standardised; one that wanders while training is read as its differences, since its level cannot be trusted later.

    NLLs are therefore densities in scaled units; `log_units` brings them to the units of the data.
    """

    def __init__(self, elements: list[Element], limit: float, conditions: Sequence[Condition] = ()) -> None:
        self.elements, self.limit, self.conditions = elements, limit, tuple(conditions)
        self.n_condition = sum(condition.width for condition in self.conditions)  # channels that hold the condition
        self.column = np.array([e.column for e in elements], np.intp)  # (E,)
        self._shift, self._scale, self._centre, self._spread = (
            np.array([getattr(e, name) for e in elements]) for name in ("shift", "scale", "centre", "spread")
        )
        self._asinh = _run(np.array([e.how == "asinh" for e in elements], bool))
        self._difference = np.array([e.how == "difference" for e in elements], bool)

    @classmethod
    def fit(cls, values: NDArray[Any], layout: Layout, condition: NDArray[np.float64] | None = None) -> Scaler:
        """From training values (N, *shape), in order of time for a series, and condition (N, K); missing cells are
        ignored."""
        return cls.of(values.T if layout.columns else (), layout, condition)

    @classmethod
    def of(
        cls, columns: Iterable[NDArray[Any]], layout: Layout, condition: NDArray[np.float64] | None = None
    ) -> Scaler:
        """The same of columns (N,), one after the other, so that they need not be in memory together."""
        conditions = [] if condition is None else list(map(_condition, layout.conditions, condition.T))
        kind = KINDS[layout.kind]
        return cls(kind.elements(columns, layout), kind.limit, conditions)

    def read(
        self, values: NDArray[Any], condition: NDArray[np.float64] | None, before: NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """What the network reads of rows or pictures: `transform`, and behind it on the first axis their condition
        (N, K), as elements of a row or constant planes of a picture.

        Raises DataError where the detector has a condition and the data has none.
        """
        scaled = self.transform(values, before)
        if not self.conditions:
            return scaled
        encoded = self.encode_condition(condition)
        planes = encoded.reshape(*encoded.shape, *(1,) * (scaled.ndim - 2))
        return np.concatenate([scaled, np.broadcast_to(planes, (*encoded.shape, *scaled.shape[2:]))], axis=1)

    def encode_condition(self, condition: NDArray[np.float64] | None) -> NDArray[np.float32]:
        """(N, n_condition) of condition cells (N, K): numbers standardised, classes one-hot.

        A missing number is the mean; a missing class, or one not seen in training, is none of them.
        """
        if condition is None:
            raise DataError("the detector judges under a condition, and these samples come without one")
        pieces = [np.zeros((len(condition), 0), np.float32)]
        for cells, known in zip(condition.T, self.conditions, strict=True):
            if known.classes:
                pieces.append((cells[:, None] == np.arange(known.classes)).astype(np.float32))
            else:
                pieces.append(np.nan_to_num((cells - known.mean) / known.spread)[:, None].astype(np.float32))
        return np.concatenate(pieces, axis=1)

    def transform(self, values: NDArray[Any], before: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """(N, E) float32 in scaled units of rows (N, F); (N, C, H, W) in 0-1 of pictures.

        before: (F,) the time step that came before the first; None: there was none, its differences are 0.
        """
        if values.dtype == np.uint8:
            return values.astype(np.float32) / np.float32(255)
        scaled = values[:, self.column]
        scaled -= self._shift
        scaled /= self._scale
        bent = scaled[:, self._asinh]
        np.arcsinh(bent, out=bent)
        if self._difference.any():
            which = self.column[self._difference]
            first = values[:1, which] if before is None else before[None, which]
            steps = np.diff(values[:, which], axis=0, prepend=first)
            scaled[:, self._difference] = steps / self._scale[self._difference]
        scaled -= self._centre
        scaled /= self._spread
        return np.clip(scaled, -self.limit, self.limit, out=scaled).astype(np.float32)

    def inverse(self, scaled: NDArray[Any], start: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(N, F) float64 in the units of the data of rows (N, E), in order of time for a series; pictures in 0-255.

        A number that two elements tell is their mean, weighted by how finely each tells it there: an error of one
        scaled unit in an element is |d value / d element| in the data. A category comes back as its code. Differences
        are summed up from `start` (F,), the first row in the units of the data; None: from the mean of training.
        """
        if not self.elements:
            return np.clip(np.asarray(scaled, np.float64), 0, 1) * 255
        inner = np.asarray(scaled, np.float64) * self._spread + self._centre
        value, slope = (
            inner * self._scale + self._shift,
            np.broadcast_to(self._scale * self._spread, inner.shape).copy(),
        )
        bent = np.clip(inner[:, self._asinh], -BENT, BENT)
        value[:, self._asinh] = np.sinh(bent) * self._scale[self._asinh] + self._shift[self._asinh]
        slope[:, self._asinh] *= np.cosh(bent)
        steps = inner[:, self._difference] * self._scale[self._difference]
        first = self._shift[self._difference]
        if start is not None:
            given = start[self.column[self._difference]]
            first = np.where(np.isnan(given), first, given)
        value[:, self._difference] = np.cumsum(np.concatenate([first[None], steps[1:]]), axis=0)
        columns = int(self.column.max()) + 1
        total, weights = np.zeros((len(value), columns)), np.zeros((len(value), columns))
        for element, column in enumerate(self.column):
            weight = slope[:, element] ** -2
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
        """For each element its number of classes, 0 for a number.

        One class more than was seen: a value that is new at scoring time is improbable, not an error.
        """
        found = [layout.columns[index].categories for index in self.column]
        return tuple(0 if names is None else len(names) + 1 for names in found)

    def by_column(self, nats: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, F) sums over the elements (N, E) that each column is made of; pictures pass."""
        if not self.elements or len(np.unique(self.column)) == nats.shape[1]:
            return nats
        columns = np.zeros((len(nats), int(self.column.max()) + 1), nats.dtype)
        for element, index in enumerate(self.column):
            columns[:, index] += nats[:, element]
        return columns

    def to_json(self) -> dict[str, Any]:
        elements, conditions = ([asdict(e) for e in self.elements], [asdict(c) for c in self.conditions])
        return {"limit": self.limit, "elements": elements, "conditions": conditions}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Scaler:
        elements = [Element(**element) for element in tree["elements"]]
        return cls(elements, tree["limit"], [Condition(**condition) for condition in tree["conditions"]])


def _run(chosen: NDArray[np.bool_]) -> slice:
    """The elements that are chosen, which stand one behind the other: a slice of them is no copy."""
    where = np.flatnonzero(chosen)
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0)


def _condition(column: Column, cells: NDArray[np.float64]) -> Condition:
    if column.categories is not None:
        return Condition(len(column.categories))
    return Condition(0, *moments(cells[~np.isnan(cells)]))


def moments(x: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation; 1 for a deviation below the resolution of float64, which is rounding, not signal."""
    mean, deviation = float(np.mean(x)), float(np.std(x))
    return mean, deviation if deviation > 1e-12 * max(1.0, abs(mean)) else 1.0
