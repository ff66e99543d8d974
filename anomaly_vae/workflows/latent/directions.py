"""Attributes of rows: as colours of their codes, and as directions in latent space."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.data.conditions import as_numbers


@dataclass(frozen=True)
class Attribute:
    """A column with one number for each row.

    values: (N,), NaN for a missing cell. names: the texts that 0 and 1 stand for; None: the column holds numbers.
    """

    column: str
    values: NDArray[np.float64]
    names: tuple[str, str] | None

    def of(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """The attribute of M items, (M,); item i is made of the rows `places[i]` of `places` (M, S).

        It is 0 or 1 by the majority of the rows, or the standardised mean of their numbers; NaN if every cell is
        missing. Raises DataError if all items have the same value.
        """
        cells = self.values[places]
        is_present = ~np.isnan(cells)
        mean = np.where(is_present, cells, 0).sum(1) / np.where(is_present.any(1), is_present.sum(1), np.nan)
        values = mean if self.names is None else np.where(np.isnan(mean), np.nan, mean >= 0.5)
        present = values[~np.isnan(values)]
        if len(np.unique(present)) < 2:
            raise DataError(f"column '{self.column}': all rows that were looked at are alike, which gives no direction")
        return values if self.names else (values - present.mean()) / present.std()


def attribute(cells: NDArray[np.str_], column: str, value: str | None, label: bool) -> Attribute:
    """The cells (N,) of a column as an attribute.

    value: the text of rows that have the attribute. None: a column of numbers is read as numbers unless `label` is true
    or it has only two values; of two values, the second in sorted order is the attribute.
    Raises UsageError if there is no such choice, DataError if no cell holds `value`.
    """
    present = sorted(set(cells.tolist()) - {""})
    listed = ", ".join(f"'{name}'" for name in present[:12]) + (", ..." if len(present) > 12 else "")
    numbers = None if value is not None or (label or len(present) == 2) else as_numbers(cells)
    if numbers is not None:
        return Attribute(column, numbers, None)
    if value is None and len(present) != 2:
        raise UsageError(f"column '{column}' holds {listed or 'nothing'}; name the value that has it with --value")
    if value is not None and value not in present:
        raise DataError(f"column '{column}' has no value '{value}' (--value); it holds {listed}")
    if value is None:
        names = (present[0], present[1])
    else:
        names = (next(iter(set(present) - {value})) if len(present) == 2 else "others", value)
    return Attribute(column, np.where(cells == "", np.nan, cells == names[1]), names)


def colours(cells: NDArray[np.str_], places: NDArray[np.intp], most: int) -> NDArray[np.str_] | NDArray[np.float64]:
    """The values by which M items are coloured, (M,); item i is made of the rows `places[i]` of `places` (M, S).

    If a column holds more than `most` distinct numbers, a value is the mean of the rows' numbers; else it is the rows'
    most frequent text.
    """
    numbers = as_numbers(cells) if len(set(cells.tolist())) > most else None
    if numbers is not None:
        mean: NDArray[np.float64] = numbers[places].mean(1)
        return mean
    if places.shape[1] == 1:
        return np.asarray(cells[places[:, 0]])
    names, codes = np.unique(cells, return_inverse=True)
    counts = np.stack([(codes[places] == code).sum(1) for code in range(len(names))], axis=1)
    return np.asarray(names[counts.argmax(1)])


@dataclass(frozen=True)
class Direction:
    """The direction of an attribute in latent space.

    column: the attribute's column. vector: (D,). fingerprint: that of the model of the latent space. centre: (D,) the
    mean code of the rows that the direction was fitted on; None if it was read from a file.
    """

    column: str
    vector: NDArray[np.float64]
    fingerprint: str
    centre: NDArray[np.float64] | None = None

    @classmethod
    def fit(
        cls, codes: NDArray[np.float64], attribute: NDArray[np.float64], column: str, fingerprint: str
    ) -> Direction:
        """Cov(z, a) / Var(a), the least-squares slope of codes z (N, D) on an attribute a (N,).

        For an attribute of 0 and 1 this is the attribute vector of Larsen (2016): the mean code of the rows with the
        attribute minus the mean code of the rows without.
        """
        centred = attribute - attribute.mean()
        slope = centred @ (codes - codes.mean(0)) / (centred @ centred)
        return cls(column, slope, fingerprint, codes.mean(0))

    def along(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The coordinates of codes (N, D) along the direction, (N,), from the mean code in multiples of `vector`."""
        assert self.centre is not None
        coordinates: NDArray[np.float64] = (codes - self.centre) @ self.vector
        return coordinates / max(float(self.vector @ self.vector), 1e-12)

    def summary(self, codes: NDArray[np.float64], values: NDArray[np.float64], attribute: Attribute) -> str:
        """How well the direction separates the attribute, in a line. values: (N,) the attribute of codes (N, D)."""
        from sklearn.metrics import roc_auc_score

        along = self.along(codes)
        if attribute.names is None:
            correlation = float(np.corrcoef(along, values)[0, 1])
            return f"'{self.column}' over {len(values)} rows: correlation along its direction {correlation:.3f}"
        auroc = float(roc_auc_score(values, along))
        without, with_ = attribute.names
        counts = f"{values.sum():.0f} '{with_}', {(1 - values).sum():.0f} '{without}'"
        return f"'{self.column}': {counts}; AUROC along its direction {auroc:.3f}"

    def to_columns(self) -> dict[str, Any]:
        """The columns (D,) of the CSV that `read` reads, by name."""
        n = len(self.vector)
        return {
            "dimension": np.arange(n),
            "direction": self.vector,
            "column": [self.column] * n,
            "model": [self.fingerprint] * n,
        }

    @classmethod
    def read(cls, path: str | Path) -> Direction:
        """Reads a direction that `latent direction` wrote. Raises DataError if the file is missing or not one."""
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            vector = np.array([float(row["direction"]) for row in rows])
            return cls(rows[0]["column"], vector, rows[0]["model"])
        except (OSError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no direction as `anomaly-vae latent direction` writes it") from error

    def require(self, fingerprint: str) -> None:
        """Raises UsageError unless the direction belongs to the model with this fingerprint."""
        if self.fingerprint != fingerprint:
            raise UsageError(
                f"the direction of '{self.column}' belongs to another model; find it again with `latent direction` and"
                " the same -m"
            )
