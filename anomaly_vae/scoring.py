"""Scores from the same terms as the loss: deterministic, in nats, each the exact sum of its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.data.base import Chunk, Layout
from anomaly_vae.data.room import Room, release
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.errors import DataError
from anomaly_vae.folding import Arrays, Folder, Residuals, Stage
from anomaly_vae.level import LevelStream
from anomaly_vae.scorenet import ScoreNet

# Samples of every forward pass. A matrix product's last bit depends on its size and on a row's place in it, so row i
# is always at the same place of a padded block: its score depends neither on its neighbours nor on the chunks.
BLOCK = 256
FEATURE_BLOCK = {"cpu": 1, "cuda": 16}  # pictures that go through a backbone at once: a block is computed whole
BLOCK_ELEMENTS = 3 << 20  # of a block at most: 256 pictures of 3 x 64 x 64, 16 of 3 x 256 x 256
DECIMALS = 6  # scores are given to a millionth of a nat, so that a printed line adds up exactly


@dataclass(frozen=True)
class Scores:
    """Scores of N samples.

    parts: name -> (N,) float64 nats, `recon` and `kl` first; the score is their sum. elements: (N, *shape) float32
    nats of reconstruction, the share of each column, sensor or pixel in recon, of images summed over channels
    (N, 1, H, W); None where it was not asked for.
    """

    ids: NDArray[np.generic]
    parts: dict[str, NDArray[np.float64]]
    elements: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def total(self) -> NDArray[np.float64]:
        """(N,) the score: higher is more anomalous."""
        total: NDArray[np.float64] = np.round(np.sum(list(self.parts.values()), axis=0), DECIMALS)
        return total

    def take(self, rows: NDArray[np.intp]) -> Scores:
        parts = {name: part[rows] for name, part in self.parts.items()}
        return Scores(self.ids[rows], parts, None if self.elements is None else self.elements[rows])


@cache
def workers() -> ThreadPoolExecutor:
    """One thread a core, each computing whole blocks alone: cores wait for each other once a chunk instead of in every
    operation, and a score's bits do not depend on how many there are."""
    return ThreadPoolExecutor(torch.get_num_threads(), "score", lambda: torch.set_num_threads(1))


def block_size(net: ScoreNet, shape: tuple[int, ...], device: torch.device) -> int:
    """Samples of one forward pass: BLOCK, or fewer of large pictures and of those that a backbone sees."""
    if net.positions is not None:
        return FEATURE_BLOCK[device.type]
    return max(1, min(BLOCK, BLOCK_ELEMENTS // math.prod(shape)))


def prefetched(chunks: Iterable[Chunk], rows: int) -> Iterator[Chunk]:
    """The same chunks, the next one being read in another thread while one is scored.

    rows: of every chunk but the last. One that has fewer is the last, and no thread is started to find that out.
    """
    source = iter(chunks)
    first = next(source, None)
    if first is None:
        return
    if len(first) < rows:
        yield first
        yield from source
        return
    with ThreadPoolExecutor(1, "read") as reader:
        coming = reader.submit(next, source, None)
        yield first
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, source, None)
            yield chunk


def numbered(pieces: Iterable[Scores]) -> Iterator[tuple[Scores, NDArray[np.intp]]]:
    """Each piece of a stream with the row numbers (N,) that it has in its source."""
    first = 0
    for piece in pieces:
        yield piece, np.arange(first, first + len(piece))
        first += len(piece)


def join(pieces: Iterable[Scores]) -> Scores:
    """One Scores of several, in their order."""
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        raise DataError("there are no rows to score; give at least one")
    parts = {name: np.concatenate([p.parts[name] for p in pieces]) for name in pieces[0].parts}
    found = [p.elements for p in pieces if p.elements is not None]
    return Scores(np.concatenate([p.ids for p in pieces]), parts, np.concatenate(found) if found else None)


def gathered(pieces: Iterable[Scores], rows: NDArray[np.intp], room: Room) -> Scores:
    """One Scores of several, in their order, of the rows with these numbers (N,), which are its ids; its elements live
    in the room."""
    parts: dict[str, list[NDArray[np.float64]]] = {}
    elements, first = None, 0
    for piece in pieces:
        for name, part in piece.parts.items():
            parts.setdefault(name, []).append(part)
        if piece.elements is not None:
            if elements is None:
                elements = room.empty((len(rows), *piece.elements.shape[1:]), np.float32)
            elements[first : first + len(piece)] = piece.elements
            release(elements)
        first += len(piece)
    return Scores(rows, {name: np.concatenate(found) for name, found in parts.items()}, elements)


class Scorer:
    """A ScoreNet with what it needs to read raw values."""

    def __init__(self, net: ScoreNet, scaler: Scaler, layout: Layout, window: int | None, path: str = "memory") -> None:
        """path: of what is scored, for messages."""
        self.net, self.scaler, self.layout, self.window, self.path = net.eval(), scaler, layout, window, path

    def stream(self, chunks: Iterable[Chunk], explain: bool = False) -> Iterator[Scores]:
        """Scores of every row, time step or picture, in the order of the chunks and in constant memory.

        Raises DataError where a group of a series is shorter than one window.
        """
        if self.layout.kind == "series":
            yield from self._steps(chunks, explain)
            return
        seen = 0
        for chunk in chunks:
            yield self.samples(chunk, explain, first=seen)
            seen += len(chunk)

    def samples(self, chunk: Chunk, explain: bool, first: int = 0, own: Tensor | None = None) -> Scores:
        """Scores of rows or pictures, the first of which is number `first` of its source; own: see ScoreNet.fit."""
        parts, nats = self._forward(self.scaler.read(chunk.values, chunk.condition), explain, first, own)
        return Scores(chunk.ids, _rounded(parts), None if nats is None else self.scaler.by_column(nats))

    def _forward(
        self, x: NDArray[np.float32], keep: bool, first: int, own: Tensor | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32] | None]:
        """Parts (N,) and, to `keep`, elements (N, *shape), of images (N, 1, H, W), of scaled samples x (N, *shape), the
        first being number `first`, in blocks of one fixed size."""
        device = next(self.net.parameters()).device
        size = block_size(self.net, x.shape[1:], device)

        @torch.inference_mode()
        def run(start: int) -> tuple[dict[str, Tensor], Tensor | None]:
            place = (first + start) % size
            some = slice(start, start + size - place)
            block = torch.from_numpy(x[some])
            mine = None if own is None else own[some]
            n = len(block)
            if n < size:
                whole = block.new_zeros(size, *block.shape[1:])
                whole[place : place + n] = block
                block = whole
                mine = None if mine is None else torch.cat([mine, mine.new_full((size - n,), -1)]).roll(place)
            found, parts = self.net(block.to(device), None if mine is None else mine.to(device))
            here = slice(place, place + n)
            if keep and self.layout.kind == "images":  # a map needs no channels, and a third of the memory
                found = found.sum(1, keepdim=True)
            return {name: part[here] for name, part in parts.items()}, found[here] if keep else None

        starts = [0, *range(size - first % size, len(x), size)] if len(x) else []
        done = list(workers().map(run, starts) if device.type == "cpu" else map(run, starts))
        joined = {name: torch.cat([d[0][name] for d in done]).cpu().numpy() for name in (done[0][0] if done else {})}
        kept = [d[1] for d in done if d[1] is not None]
        return joined, torch.cat(kept).cpu().numpy() if kept else None

    # --- series ----------------------------------------------------------------------------------------------------

    def residuals(self, chunks: Iterable[Chunk]) -> Iterator[NDArray[np.float64]]:
        """(n, C) mean residual of each time step over the windows that cover it, in scaled units, piece after piece."""
        return (arrays[0] for _, arrays, _ in self._fold(chunks, Residuals) if arrays)

    def _steps(self, chunks: Iterable[Chunk], explain: bool) -> Iterator[Scores]:
        level = self.net.level

        def stage() -> Stage:
            return Residuals() if level is None else LevelStream(*level.variances())

        for ids, arrays, kl in self._fold(chunks, stage):
            if len(ids):
                names = ("recon", "level")[: len(arrays)]
                parts = {name: nats.sum(axis=1) for name, nats in zip(names, arrays, strict=True)}
                by_sensor = self.scaler.by_column(np.sum(arrays, axis=0).astype(np.float32)) if explain else None
                yield Scores(ids, _rounded({"recon": parts.pop("recon"), "kl": kl, **parts}), by_sensor)

    def _fold(
        self, chunks: Iterable[Chunk], stage: Callable[[], Stage]
    ) -> Iterator[tuple[NDArray[np.generic], Arrays, NDArray[np.float64]]]:
        """What `Folder.finished` gives, as chunks come and at their end."""
        assert self.window
        sensors = self.layout.shape[0]

        def prepare(raw: NDArray[np.float64], before: NDArray[np.float64] | None) -> NDArray[np.float32]:
            return self.scaler.read(raw[:, :sensors], raw[:, sensors:], None if before is None else before[:sensors])

        folder = Folder(self.window, prepare, stage, self.scaler.given)
        for chunk in chunks:
            condition = np.empty((len(chunk), 0)) if chunk.condition is None else chunk.condition
            folder.push(chunk.ids, np.concatenate([chunk.values, condition], axis=1), chunk.groups)
            self._windows(folder)
            yield folder.finished()
        folder.close()
        self._windows(folder)
        yield folder.finished()
        if folder.short:
            name, steps = folder.short
            where = f"group '{name}' has" if name else "holds"
            raise DataError(
                f"{self.path}: {where} {steps} time steps, fewer than the {self.window} of one window; longer data, or"
                " a detector fitted with a smaller data.window, would work"
            )

    def _windows(self, folder: Folder) -> None:
        for number, windows in folder.windows(BLOCK):  # (B, C, T)
            parts, found = self._forward(windows, True, number)
            assert found is not None
            folder.add(found, parts["kl"])

    @torch.inference_mode()
    def reconstruct(self, chunk: Chunk) -> NDArray[np.float32]:
        """(N, C, H, W) the expected x of pictures, in 0-1, where the model reads pictures."""
        device = next(self.net.parameters()).device
        size = block_size(self.net, chunk.values.shape[1:], device)
        pieces = torch.from_numpy(self.scaler.read(chunk.values, chunk.condition)).split(size)
        mean: NDArray[np.float32] = torch.cat([self.net.mean(x.to(device)).cpu() for x in pieces]).numpy()
        return mean


def _rounded(parts: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Finite float64 nats: a sample beyond float32's range is as anomalous as can be said, never a NaN."""
    big = float(np.finfo(np.float32).max)
    finite = {name: np.nan_to_num(np.asarray(v, np.float64), nan=big, posinf=big) for name, v in parts.items()}
    return {name: v.round(DECIMALS) for name, v in finite.items()}
