"""Scores from the same terms as the loss: deterministic, in nats, each the exact sum of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_vae.data.base import Chunk, Layout
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.errors import DataError
from anomaly_vae.folding import Folder
from anomaly_vae.models import VAE
from anomaly_vae.objective import elements

BLOCK = 256  # samples of every forward pass, the last one padded: a row's bits do not depend on its neighbours
DECIMALS = 6  # scores are given to a millionth of a nat, so that a printed line adds up exactly


@dataclass(frozen=True)
class Scores:
    """Scores of N samples.

    parts: name -> (N,) float64 nats, `recon` and `kl` first; the score is their sum. elements: (N, *shape) float32
    nats of reconstruction, the share of each column, sensor or pixel in recon; None where it was not asked for.
    """

    ids: NDArray[np.generic]
    parts: dict[str, NDArray[np.float64]]
    elements: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def total(self) -> NDArray[np.float64]:
        """(N,) the score: higher is more anomalous."""
        return np.round(np.sum(list(self.parts.values()), axis=0), DECIMALS)

    def take(self, rows: NDArray[np.intp]) -> Scores:
        parts = {name: part[rows] for name, part in self.parts.items()}
        return Scores(self.ids[rows], parts, None if self.elements is None else self.elements[rows])


def join(pieces: Iterable[Scores]) -> Scores:
    """One Scores of several, in their order."""
    pieces = [piece for piece in pieces if len(piece)]
    parts = {name: np.concatenate([p.parts[name] for p in pieces]) for name in pieces[0].parts}
    found = [p.elements for p in pieces if p.elements is not None]
    return Scores(np.concatenate([p.ids for p in pieces]), parts, np.concatenate(found) if found else None)


class Scorer:
    """A trained model with what it needs to read raw values."""

    def __init__(self, model: VAE, scaler: Scaler, layout: Layout, window: int | None) -> None:
        self.model, self.scaler, self.layout, self.window = model, scaler, layout, window
        model.eval()

    def stream(self, chunks: Iterable[Chunk], explain: bool = False) -> Iterator[Scores]:
        """Scores of every row, time step or picture, in the order of the chunks and in constant memory.

        Raises DataError where a group of a series is shorter than one window.
        """
        if self.layout.kind == "series":
            yield from self._steps(chunks, explain)
            return
        for chunk in chunks:
            parts, maps = self._samples(self.scaler.transform(chunk.values), explain)
            yield Scores(chunk.ids, _rounded(parts), maps)

    @torch.inference_mode()
    def _samples(
        self, x: NDArray[np.float32], explain: bool
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32] | None]:
        """Parts (N,) and elements (N, *shape) of scaled samples x (N, *shape), in blocks of one fixed size."""
        device = next(self.model.parameters()).device
        recon, kl = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
        maps = np.empty(x.shape, np.float32) if explain else None
        for start in range(0, len(x), BLOCK):
            block = torch.from_numpy(x[start : start + BLOCK])
            n = len(block)
            if n < BLOCK:
                block = torch.cat([block, block.new_zeros(BLOCK - n, *block.shape[1:])])
            block = block.to(device)
            out = self.model(block)
            nats = elements(block, out)
            recon[start : start + n] = nats.flatten(1).sum(1)[:n].cpu().numpy()
            kl[start : start + n] = out.kl.sum(1)[:n].cpu().numpy()
            if maps is not None:
                maps[start : start + n] = nats[:n].cpu().numpy()
        return {"recon": recon, "kl": kl}, maps

    def _steps(self, chunks: Iterable[Chunk], explain: bool) -> Iterator[Scores]:
        assert self.window
        folder = Folder(self.window)
        for chunk in chunks:
            folder.push(chunk.ids, self.scaler.transform(chunk.values), chunk.groups)
            yield from self._fold(folder, explain)
        folder.close()
        yield from self._fold(folder, explain)
        if folder.short:
            name, steps = folder.short
            where = f"group '{name}' has" if name else "there are"
            raise DataError(
                f"{where} {steps} time steps, fewer than the {self.window} of one window; longer data, or a detector"
                " fitted with a smaller data.window, would work"
            )

    def _fold(self, folder: Folder, explain: bool) -> Iterator[Scores]:
        for windows in folder.windows(BLOCK):  # (B, C, T)
            parts, maps = self._samples(windows, explain=True)
            assert maps is not None
            folder.add(maps, parts["kl"])
        ids, elements, kl = folder.finished()
        if len(ids):
            parts = _rounded({"recon": elements.sum(axis=1), "kl": kl})
            yield Scores(ids, parts, elements.astype(np.float32) if explain else None)

    def reconstruct(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """The expected x of raw values (N, *shape), or of windows (N, T, C) of a series, in scaled units."""
        x = self.scaler.transform(values)
        if self.layout.kind == "series":
            x = x.transpose(0, 2, 1)
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            pieces = [self.model(part.to(device)).px.mean.cpu() for part in torch.from_numpy(x.copy()).split(BLOCK)]
        mean: NDArray[np.float32] = torch.cat(pieces).numpy()
        return mean


def _rounded(parts: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
    """Finite float64 nats: a sample beyond float32's range is as anomalous as can be said, never a NaN."""
    big = float(np.finfo(np.float32).max)
    return {k: np.round(np.nan_to_num(v.astype(np.float64), nan=big, posinf=big), DECIMALS) for k, v in parts.items()}
