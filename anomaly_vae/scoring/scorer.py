"""Scores of raw values: deterministic, in nats, each the exact sum of its parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.core.device import full_precision
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.threads import workers
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.source import Chunk, Layout
from anomaly_vae.scoring.batching import BLOCK, Block, block_sizes, blocks, padded
from anomaly_vae.scoring.score_model import ScoreModule
from anomaly_vae.scoring.scores import DECIMALS, Scores, weighted
from anomaly_vae.scoring.windows import Arrays, Finished, Residuals, Stage, WindowFolder


class Scorer:
    """A score model with what it needs to read raw values."""

    def __init__(
        self,
        score_model: ScoreModule,
        scaler: Scaler,
        layout: Layout,
        window: int | None,
        path: str = "memory",
        raw: bool = False,
    ) -> None:
        """path: of what is scored, for messages. raw: the parts stay raw nats, neither surprises nor weighted."""
        self.kind = KINDS[layout.kind]
        self.score_model, self.scaler, self.layout = score_model.eval(), scaler, layout
        self.window, self.path = window, path
        self.surprise, self.weights = (None, None) if raw else (score_model.surprise, score_model.weights)

    @property
    def _shape(self) -> tuple[int, ...]:
        """The shape of a sample as the model reads it, without its condition."""
        if not self.kind.ordered:
            return self.layout.shape
        assert self.window
        return (len(self.layout.read), self.window)  # (C, T)

    def stream(self, chunks: Iterable[Chunk], explain: bool = False) -> Iterator[tuple[Chunk, Scores]]:
        """Samples and their scores, in the order of the chunks and in constant memory. Steps of a series come when
        their scores are complete, in chunks of other lengths.

        Raises DataError where a group of a series is shorter than one window.
        """
        if self.kind.ordered:
            yield from self._steps(chunks, explain)
            return
        seen = 0
        for chunk in chunks:
            yield chunk, self.samples(chunk, explain, first=seen)
            seen += len(chunk)

    def samples(self, chunk: Chunk, explain: bool, first: int = 0, own: Tensor | None = None) -> Scores:
        """Scores of rows or pictures, the first of which is number `first` of its source; own: see
        `ScoreModule.fit`."""

        def read(rows: slice) -> NDArray[np.float32]:
            return self.scaler.read(chunk.values[rows], None if chunk.condition is None else chunk.condition[rows])

        parts, nats = self._forward(read, len(chunk), explain, first, own)
        return self._combined(chunk, parts, None if nats is None else self.scaler.by_column(nats))

    @full_precision()
    def _forward(
        self, read: Callable[[slice], NDArray[np.float32]], n: int, keep: bool, first: int, own: Tensor | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32] | None]:
        """Parts (N,) and, to `keep`, elements (N, *shape), of images (N, 1, H, W), of n samples, the first being number
        `first`, in padded blocks.

        read: scaled samples (B, *shape) of some of the rows; called for a block at a time, whose numbers then stay in
        the cache of the core that goes on with them.
        """
        device = next(self.score_model.parameters()).device
        sizes = block_sizes(self.score_model, self._shape, device)

        @torch.inference_mode()
        def run(block: Block) -> tuple[dict[str, Tensor], Tensor | None]:
            some, here = slice(block.start, block.start + block.rows), slice(block.place, block.place + block.rows)
            x = padded(torch.from_numpy(read(some)), block)
            mine = None if own is None else own[some]
            if mine is not None and block.rows < block.size:
                mine = torch.cat([mine, mine.new_full((block.size - block.rows,), -1)]).roll(block.place)
            found, parts = self.score_model(x.to(device), None if mine is None else mine.to(device))
            if keep and not self.kind.keeps_channels:
                found = found.sum(1, keepdim=True)
            return {name: part[here] for name, part in parts.items()}, found[here] if keep else None

        pieces = blocks(first, n, sizes)
        done = list(workers().map(run, pieces) if device.type == "cpu" else map(run, pieces))
        joined = {name: torch.cat([d[0][name] for d in done]).cpu().numpy() for name in (done[0][0] if done else {})}
        kept = [d[1] for d in done if d[1] is not None]
        return joined, torch.cat(kept).cpu().numpy() if kept else None

    @torch.inference_mode()
    def _combined(
        self, chunk: Chunk, parts: Mapping[str, NDArray[Any]], elements: NDArray[np.float32] | None
    ) -> Scores:
        """Scores of the model's raw parts, with those of the cells."""
        missing, alarms, added = self.score_model.missing, {}, []
        if self.score_model.cells:
            values, parts = torch.from_numpy(chunk.values).to(next(self.score_model.parameters()).device), dict(parts)
            if missing is not None:
                added.append(missing.charge(values))
                parts["recon"] = parts["recon"] + added[0].sum(1).cpu().numpy()
            for name, part in self.score_model.cell_parts.items():
                alarm = part.alarm * part.alarms(values)
                parts[name], alarms[name] = part.nats(values).cpu().numpy(), alarm.sum(1).cpu().numpy()
                if elements is not None:
                    added += [part.elements(values), alarm]
        if elements is not None and added:
            by_cell = torch.stack(added).sum(0).cpu().numpy()
            by_cell[:, : elements.shape[1]] += elements
            elements = by_cell.astype(np.float32)
        raw = _rounded(parts)
        scores = Scores(chunk.ids, raw, elements)
        if self.surprise is not None or self.weights is not None:
            parts = raw if self.surprise is None else self.surprise.parts(raw)
            scores = Scores(chunk.ids, weighted(parts, self.weights), elements, raw)
        for name, nats in alarms.items():
            scores.add(name, nats)
        return scores

    # --- series ----------------------------------------------------------------------------------------------------

    def residuals(self, chunks: Iterable[Chunk]) -> Iterator[NDArray[np.float64]]:
        """(n, C) mean residual of each time step over the windows that cover it, in scaled units, piece after piece."""
        return (arrays[0] for _, arrays, _ in self._fold(chunks, self._residuals) if arrays)

    def _residuals(self) -> Stage:
        return Residuals(len(self.scaler.column))

    def _steps(self, chunks: Iterable[Chunk], explain: bool) -> Iterator[tuple[Chunk, Scores]]:
        waiting: deque[Chunk] = deque()

        def kept() -> Iterator[Chunk]:
            for chunk in chunks:
                waiting.append(chunk)
                yield chunk

        for ids, arrays, shares in self._fold(kept(), self.stage):
            if len(ids):
                yield self.step_scores(first_of(waiting, len(ids)), arrays, shares, explain)

    def step_scores(
        self, chunk: Chunk, arrays: Arrays, shares: NDArray[np.float64], explain: bool = False
    ) -> tuple[Chunk, Scores]:
        """Time steps and their scores, from what `pushed` or `closed` returned for them."""
        net = self.score_model
        by_name = dict(zip(net.step_columns, (nats.sum(axis=1) for nats in arrays), strict=True))
        by_name |= dict(zip(net.shared_columns, shares.T, strict=True))
        parts = {name: by_name[name] for name in net.model_parts}
        by_sensor = self.scaler.by_column(np.sum(arrays, axis=0).astype(np.float32)) if explain else None
        return chunk, self._combined(chunk, parts, by_sensor)

    def _fold(self, chunks: Iterable[Chunk], stage: Callable[[], Stage]) -> Iterator[Finished]:
        """The results of `WindowFolder.finished` after each chunk and at the end."""
        folder = self.folder(stage)
        for chunk in chunks:
            yield self.pushed(folder, chunk)
        yield self.closed(folder)

    def stage(self) -> Stage:
        """What turns residuals of steps into their nats."""
        level = self.score_model.level
        return self._residuals() if level is None else level.stream()

    def folder(self, stage: Callable[[], Stage]) -> WindowFolder:
        """What cuts steps into windows and folds their results back, for `pushed` and `closed`."""
        assert self.window
        sensors = self.layout.shape[0]

        def prepare(raw: NDArray[np.float64], before: NDArray[np.float64] | None) -> NDArray[np.float32]:
            return self.scaler.read(raw[:, :sensors], raw[:, sensors:], None if before is None else before[:sensors])

        net = self.score_model
        layers = len(net.step_columns) - (0 if net.level is None else len(net.level.further_columns))
        return WindowFolder(self.window, prepare, stage, self.scaler.n_condition, len(net.shared_columns), layers)

    def pushed(self, folder: WindowFolder, chunk: Chunk) -> Finished:
        """What is complete of the steps so far, after those of a chunk."""
        condition = np.empty((len(chunk), 0)) if chunk.condition is None else chunk.condition
        folder.push(chunk.ids, np.concatenate([chunk.values, condition], axis=1), chunk.groups, chunk.after_gap)
        self._windows(folder)
        return folder.finished()

    def closed(self, folder: WindowFolder) -> Finished:
        """The rest, for there are no more steps. Raises DataError where a group is shorter than one window."""
        folder.close()
        self._windows(folder)
        if folder.short:
            name, steps = folder.short
            where = f"group '{name}' has" if name else "holds"
            raise DataError(
                f"{self.path}: {where} {steps} time steps, fewer than the {self.window} of one window; longer data, or"
                " a detector fitted with a smaller data.window, would work"
            )
        return folder.finished()

    def _windows(self, folder: WindowFolder) -> None:
        device = next(self.score_model.parameters()).device
        at_once = max(BLOCK, *block_sizes(self.score_model, self._shape, device))
        for number, windows in folder.windows(at_once):  # (B, C, T)
            parts, elements = self._forward(windows.__getitem__, len(windows), True, number)
            assert elements is not None
            parts.pop("recon", None)  # of a window; steps have theirs from the folded elements
            folder.add(elements, np.stack(list(parts.values()), axis=1))

    @full_precision()
    @torch.inference_mode()
    def reconstruct(self, chunk: Chunk) -> NDArray[np.float32]:
        """(N, C, H, W) the expected x of pictures, in 0-1, where the score reconstructs."""
        device = next(self.score_model.parameters()).device
        (size,) = block_sizes(self.score_model, self._shape, device)
        pieces = torch.from_numpy(self.scaler.read(chunk.values, chunk.condition)).split(size)
        mean: NDArray[np.float32] = torch.cat([self.score_model.mean(x.to(device)).cpu() for x in pieces]).numpy()
        return mean


def first_of(waiting: deque[Chunk], count: int) -> Chunk:
    """The first `count` samples of the chunks that wait, which they leave."""
    pieces = []
    while count:
        chunk = waiting.popleft()
        if len(chunk) > count:
            waiting.appendleft(chunk.take(np.arange(count, len(chunk))))
            chunk = chunk.take(np.arange(count))
        pieces.append(chunk)
        count -= len(chunk)
    return Chunk.join(pieces)


def _rounded(parts: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Finite float64 nats: a sample beyond float32's range gets its largest number, never a NaN."""
    big = float(np.finfo(np.float32).max)
    finite = {name: np.nan_to_num(np.asarray(v, np.float64), nan=big, posinf=big) for name, v in parts.items()}
    return {name: v.round(DECIMALS) for name, v in finite.items()}
