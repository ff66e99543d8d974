"""Condition columns, such as class, machine or operating mode: the model reads them, and the score excludes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError
from anomaly_vae.data.source import Chunk, Column, Layout, Source

FEW = 20  # largest number of distinct integers that are read as classes


def learn(source: Source, names: Sequence[str], rows: NDArray[np.intp], most: int) -> tuple[Column, ...]:
    """The condition columns, from the training rows. Text and up to FEW distinct integers are classes.

    most: the largest number of classes. Raises DataError for a column of a single value, and for text of more than
    `most` distinct values.
    """
    return tuple(_learn(source, name, most, rows) for name in names)


def encode(texts: Sequence[NDArray[np.str_]], columns: Sequence[Column], path: str) -> NDArray[np.float64] | None:
    """The cells of K condition columns, each (N,) text, as numbers (N, K); None without columns.

    A class becomes its code, `len(categories)` if training did not show it; a missing cell becomes NaN. path: of the
    data, for messages. Raises DataError for text in a column of numbers.
    """
    if not columns:
        return None
    encoded = []
    for cells, column in zip(texts, columns, strict=True):
        if column.categories is None:
            numbers = as_numbers(cells)
            if numbers is None:
                raise DataError(f"{path}: condition column '{column.name}' holds a cell that is no finite number")
            encoded.append(numbers)
        else:
            codes = {name: float(code) for code, name in enumerate(column.categories)} | {"": np.nan}
            values, indices = np.unique(cells, return_inverse=True)
            encoded.append(np.array([codes.get(v, float(len(column.categories))) for v in values.tolist()])[indices])
    return np.stack(encoded, axis=1)


def unseen_classes(chunk: Chunk, layout: Layout) -> Counter[str]:
    """The number of rows of a chunk with a class that training did not show, by the name of the condition."""
    counts: Counter[str] = Counter()
    for index, column in enumerate(layout.conditions):
        if column.categories is not None and chunk.condition is not None:
            counts[column.name] = int((chunk.condition[:, index] == len(column.categories)).sum())
    return counts


def _learn(source: Source, name: str, most: int, rows: NDArray[np.intp]) -> Column:
    cells = source.column(name)[rows]
    values = sorted(set(cells.tolist()) - {""})
    if len(values) < 2:
        content = f"only '{values[0]}'" if values else "nothing"
        raise DataError(f"{source.path}: condition column '{name}' holds {content} in the training rows; leave it out")
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
    """Cells of text as numbers, (N,), NaN for a missing one; None if a cell is not a finite number."""
    try:
        numbers = np.where(cells == "", "nan", cells).astype(np.float64)
    except ValueError:
        return None
    return None if np.isinf(numbers).any() else numbers
