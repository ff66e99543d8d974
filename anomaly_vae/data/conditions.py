"""Columns that a sample is judged under, and that are never judged themselves: class, machine, operating mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.source import Chunk, Column, Layout, Source

FEW = 20  # distinct whole numbers up to which a column of them names classes


def learn(source: Source, names: Sequence[str], rows: NDArray[np.intp], most: int) -> tuple[Column, ...]:
    """The condition columns as the training rows have them: text and few whole numbers name classes.

    Raises DataError for a column of one value, and for text of more than `most` distinct ones.
    """
    return tuple(_learn(source, name, most, rows) for name in names)


def encode(texts: Sequence[NDArray[np.str_]], columns: Sequence[Column], path: str) -> NDArray[np.float64] | None:
    """(N, K) cells of condition columns, each (N,) text: numbers, and codes of classes, `len(categories)` for one not
    seen in training; NaN where a cell is missing. None without columns. Raises DataError for text among numbers."""
    if not columns:
        return None
    found = []
    for cells, column in zip(texts, columns, strict=True):
        if column.categories is None:
            numbers = as_numbers(cells)
            if numbers is None:
                raise DataError(f"{path}: condition column '{column.name}' holds a cell that is no finite number")
            found.append(numbers)
        else:
            codes = {name: float(code) for code, name in enumerate(column.categories)} | {"": np.nan}
            values, places = np.unique(cells, return_inverse=True)
            found.append(np.array([codes.get(v, float(len(column.categories))) for v in values.tolist()])[places])
    return np.stack(found, axis=1)


def unseen_classes(chunk: Chunk, layout: Layout) -> Counter[str]:
    """Name of a condition -> rows of the chunk with a class of it that training has not seen."""
    counts: Counter[str] = Counter()
    for place, column in enumerate(layout.conditions):
        if column.categories is not None and chunk.condition is not None:
            counts[column.name] = int((chunk.condition[:, place] == len(column.categories)).sum())
    return counts


def _learn(source: Source, name: str, most: int, rows: NDArray[np.intp]) -> Column:
    cells = source.column(name)[rows]
    values = sorted(set(cells.tolist()) - {""})
    if len(values) < 2:
        held = f"only '{values[0]}'" if values else "nothing"
        raise DataError(f"{source.path}: condition column '{name}' holds {held} in the training rows; leave it out")
    numbers = as_numbers(np.array(values))
    if numbers is not None and (len(values) > FEW or (numbers != np.floor(numbers)).any()):
        return Column(name)
    if len(values) > most:
        raise DataError(
            f"{source.path}: condition column '{name}' holds {len(values)} distinct texts, data.max_categories allows"
            f" {most}"
        )
    return Column(name, tuple(values))


def as_numbers(cells: NDArray[np.str_]) -> NDArray[np.float64] | None:
    """(N,) NaN where a cell is missing; None where one is no finite number."""
    try:
        found = np.where(cells == "", "nan", cells).astype(np.float64)
    except ValueError:
        return None
    return None if np.isinf(found).any() else found
