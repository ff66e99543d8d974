"""The quantities by which data is compared with training: columns, sensors or light, and the parts of the score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from anomaly_vae.data.base import Chunk, Layout
from anomaly_vae.data.room import release
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.whole import Whole
from anomaly_vae.drift import Reference
from anomaly_vae.scoring import Scores
from anomaly_vae.sealed import read_json, write_json

AT_ONCE = 16  # pictures that are floats at a time, which take many times their bytes
LIGHT = ("brightness", "contrast", "sharpness")  # of a picture, each 0-1
VALUES, REST = "reference.safetensors", "reference.json"


class Readings:
    """Chunks as quantities (N, Q); a sensor that is read as differences is watched as differences too."""

    def __init__(self, layout: Layout, scaler: Scaler) -> None:
        self.layout = layout
        self.names = [column.name for column in layout.columns] or list(LIGHT)
        self.differences = np.array([e.column for e in scaler.elements if e.how == "difference"], np.intp)
        self.last: dict[str, NDArray[np.float64]] = {}  # of each group, the latest step

    def of(self, chunk: Chunk) -> NDArray[np.float64]:
        """(N, Q) of consecutive chunks."""
        if not self.layout.columns:
            return _light(chunk.values)
        if not len(self.differences):
            return chunk.values
        read = chunk.values.copy()
        groups = np.full(len(chunk), "") if chunk.groups is None else chunk.groups
        for name in dict.fromkeys(groups.tolist()):
            rows = np.flatnonzero(groups == name)
            steps = chunk.values[rows][:, self.differences]
            before = self.last.get(name, steps[0])  # nothing came before: a difference of 0, as the network reads it
            read[np.ix_(rows, self.differences)] = np.diff(steps, axis=0, prepend=before[None])
            self.last[name] = steps[-1]
        return read


def references(data: Whole, train: NDArray[np.intp], normal: Scores, scaler: Scaler) -> tuple[Reference, ...]:
    """The quantities of the training rows, in order, and of the scores of held-out normals."""
    layout = data.layout
    readings, ordered = Readings(layout, scaler), layout.kind == "series"
    read = data.room.empty((len(train), len(readings.names)), np.float64, "F")
    for here, chunk in data.pieces(train):
        read[here] = readings.of(chunk)
        release(read)
    categories = [column.categories or () for column in layout.columns] or [()] * len(readings.names)
    columns = []
    for i, name in enumerate(readings.names):
        columns.append(Reference.of(name, read[:, i], categories[i], ordered))
        release(read)
    parts = [Reference.of(f"score: {name}", part, ordered=ordered) for name, part in normal.parts.items()]
    return (*columns, *parts)


def save_references(folder: Path, references: tuple[Reference, ...]) -> None:
    tensors = {str(i): torch.from_numpy(reference.values) for i, reference in enumerate(references)}
    (folder / VALUES).write_bytes(save(tensors))
    write_json(folder / REST, {"quantities": [reference.to_json() for reference in references]})


def load_references(folder: Path) -> tuple[Reference, ...]:
    """Empty for a detector that was saved before there were any."""
    if not (folder / REST).is_file():
        return ()
    tensors = load_file(folder / VALUES)
    trees = read_json(folder / REST)["quantities"]
    return tuple(Reference.from_json(tree, tensors[str(i)].numpy()) for i, tree in enumerate(trees))


def _light(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, 3) mean, standard deviation and mean step between neighbouring pixels of pictures (N, C, H, W)."""
    found = np.empty((len(pictures), 3))
    for first in range(0, len(pictures), AT_ONCE):
        x = pictures[first : first + AT_ONCE].astype(np.float32) / 255
        steps = np.abs(np.diff(x, axis=-1)).mean((1, 2, 3)) + np.abs(np.diff(x, axis=-2)).mean((1, 2, 3))
        found[first : first + AT_ONCE] = np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), steps / 2], axis=1)
    return found
