"""Columns beside the codes of their rows: as colours, and as directions in latent space."""

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
    """A column as a number a row.

    values: (N,) NaN where a cell is missing. names: of those with 0 and with 1; None: the column holds numbers.
    """

    column: str
    values: NDArray[np.float64]
    names: tuple[str, str] | None

    def of(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """(M,) of items made of the rows `places` (M, S): 0 or 1, by the majority of their rows, or the standardised
        mean of their numbers. NaN where every cell is missing. Raises DataError where all items are alike."""
        cells = self.values[places]
        known = ~np.isnan(cells)
        mean = np.where(known, cells, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)
        found = mean if self.names is None else np.where(np.isnan(mean), np.nan, mean >= 0.5)
        present = found[~np.isnan(found)]
        if len(np.unique(present)) < 2:
            raise DataError(f"column '{self.column}': all rows that were looked at are alike, which gives no direction")
        return found if self.names else (found - present.mean()) / present.std()


def attribute(cells: NDArray[np.str_], column: str, value: str | None, label: bool) -> Attribute:
    """The cells (N,) of a column as an attribute.

    value: what those with it hold. Without, numbers count as such unless the column is a label, and of two values the
    second in order is the one with it. Raises UsageError where there are several, DataError where `value` is not there.
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
    found = np.where(cells == "", np.nan, cells == names[1])
    return Attribute(column, found, names)


def colours(
    cells: NDArray[np.str_], places: NDArray[np.intp], most: int
) -> NDArray[np.str_] | NDArray[np.float64]:  # fmt: skip
    """(M,) what items made of the rows `places` (M, S) are coloured by: numbers, their mean, where a column holds more
    than `most` distinct ones; else text, the most frequent."""
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
    """Where an attribute points in latent space. vector: (D,). fingerprint: of the model whose space it is."""

    column: str
    vector: NDArray[np.float64]
    fingerprint: str
    centre: NDArray[np.float64] | None = None  # (D,) mean code of the rows it was found on

    @classmethod
    def fit(
        cls, codes: NDArray[np.float64], attribute: NDArray[np.float64], column: str, fingerprint: str
    ) -> Direction:
        """Cov(z, a) / Var(a): how codes z (N, D) change with one unit of an attribute a (N,).

        The least-squares slope of z on a; for an attribute of 0 and 1 exactly the attribute vector of Larsen (2016),
        the mean code of those with it less the mean of those without.
        """
        centred = attribute - attribute.mean()
        slope = centred @ (codes - codes.mean(0)) / (centred @ centred)
        return cls(column, slope, fingerprint, codes.mean(0))

    def along(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) where codes lie along the direction, in units of strength from the mean code."""
        assert self.centre is not None
        place: NDArray[np.float64] = (codes - self.centre) @ self.vector / max(float(self.vector @ self.vector), 1e-12)
        return place

    def said(self, codes: NDArray[np.float64], found: NDArray[np.float64], attribute: Attribute) -> str:
        """How well the direction tells the attribute, on the rows it was found on."""
        from sklearn.metrics import roc_auc_score

        along = self.along(codes)
        if attribute.names is None:
            correlation = float(np.corrcoef(along, found)[0, 1])
            return f"'{self.column}' over {len(found)} rows: correlation along its direction {correlation:.3f}"
        auroc = float(roc_auc_score(found, along))
        without, with_ = attribute.names
        counts = f"{found.sum():.0f} '{with_}', {(1 - found).sum():.0f} '{without}'"
        return f"'{self.column}': {counts}; AUROC along its direction {auroc:.3f}"

    def to_columns(self) -> dict[str, Any]:
        """name -> (D,) of the CSV that `read` reads."""
        n = len(self.vector)
        return {
            "dimension": np.arange(n), "direction": self.vector, "column": [self.column] * n,
            "model": [self.fingerprint] * n,
        }  # fmt: skip

    @classmethod
    def read(cls, path: str | Path) -> Direction:
        """A direction that `latent direction` wrote. Raises DataError where the file is missing or something else."""
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            vector = np.array([float(row["direction"]) for row in rows])
            return cls(rows[0]["column"], vector, rows[0]["model"])
        except (OSError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no direction as `anomaly-vae latent direction` writes it") from error

    def require(self, fingerprint: str) -> None:
        """Raises UsageError unless this is a direction of the model with that fingerprint."""
        if self.fingerprint != fingerprint:
            raise UsageError(
                f"the direction of '{self.column}' belongs to another model; find it again with `latent direction` and"
                " the same -m"
            )
