"""A detector read the other way round: what lies where in its latent space, in the units of the data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.core.errors import DataError, DetectorError, UsageError
from anomaly_vae.data.conditions import encode
from anomaly_vae.data.datasets import make_dataset, window_starts
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.detector.detector import Detector

BATCH = 512  # samples of one forward pass
Codes = NDArray[np.float64]  # (N, D)


@dataclass(frozen=True)
class Items:
    """N rows or pictures, or windows of a series, of a source.

    ids: (N,) text; of a window, that of its first step. places: (N, S) their row numbers in the source; S is 1, or the
    T steps of a window. x: (N, *shape) scaled, with their condition. values: in the units of the data, (N, F),
    (N, C, H, W) or (N, T, C).
    """

    ids: NDArray[np.str_]
    places: NDArray[np.intp]
    x: Tensor
    values: NDArray[Any]


@dataclass(frozen=True)
class Axes:
    """The latent dimensions over some data, D of them.

    order: (D,) dimensions, the most used first. use: (D,) what `order` goes by, in words `by`: the mean KL in nats, or,
    where groups of the KL are no single dimensions, the variance of the codes. centre, spread: (D,) mean and standard
    deviation of the aggregate posterior. told: the condition of the first item, as codes end with it; empty without.
    """

    order: NDArray[np.intp]
    use: NDArray[np.float64]
    by: str
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    told: NDArray[np.float64]


class LatentSpace:
    """Codes of data, and data of codes. Everything is deterministic but `draw`, which is seeded."""

    def __init__(self, detector: Detector) -> None:
        """Raises DetectorError for a detector that sees its pictures in tiles or positions, which have a code each."""
        if not detector.score_model.reconstructs:
            raise DetectorError(
                "this detector (model.kind=features) has a code of each position of a picture and none of a whole one;"
                " fit one with model.kind=conv2d to look at codes"
            )
        if detector.layout.tile is not None:
            raise DetectorError(
                f"this detector sees its pictures in tiles of {detector.layout.tile} pixels and has no code of a whole"
                " one; fit one without data.tile to look at codes"
            )
        self.detector, self.model, self.layout = detector, detector.score_model.eval().model, detector.layout
        self.device = next(detector.score_model.parameters()).device
        self.kind = KINDS[self.layout.kind]

    def fingerprint(self) -> str:
        """12 hexadecimal digits that tell this model from another of the same shape."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    def member_of(self, dimensions: NDArray[np.intp]) -> NDArray[np.intp] | None:
        """Which member each dimension belongs to; None where there is only one."""
        return None if self.model.members == 1 else dimensions // (self.model.latent // self.model.members)

    def starts(self, items: Items) -> NDArray[np.float64] | None:
        """(N, C) the first steps of windows, for `decode`; None for rows and pictures."""
        return items.values[:, 0] if self.kind.ordered else None

    # --- from data to codes ------------------------------------------------------------------------------------------

    def pieces(self, source: Source, most: int) -> Iterator[Items]:
        """At most about `most` items of a source, evenly spread over it, as they are read.

        Pictures and rows come in constant memory; a series is read whole, as for training, and gives windows that
        overlap by half.
        """
        if self.kind.ordered:
            yield from self._windows(source, most)
            return
        every, first = max(1, math.ceil(source.count() / most)), 0
        for chunk in source.chunks(self.layout, self.detector.chunk_rows):
            rows = np.arange(-first % every, len(chunk), every)
            yield self._items(chunk.take(rows), (first + rows)[:, None])
            first += len(chunk)

    def spread(self, source: Source, count: int) -> Items:
        """About `count` items, evenly spread over a source."""
        return _joined(list(self.pieces(source, count)))

    def find(self, source: Source, ids: Sequence[str]) -> Items:
        """The items with these ids, in this order. A window begins at its step, or ends with the data.

        Raises DataError for an id that the source does not hold.
        """
        if self.kind.ordered:
            return self._windows_at(source, ids)
        found: dict[str, Items] = {}
        first, ends = 0, [""]
        for chunk in source.chunks(self.layout, self.detector.chunk_rows):
            names = chunk.ids.astype(np.str_)
            ends = [ends[0] if first else names[0], names[-1]]
            for row in np.flatnonzero(np.isin(names, ids)):
                found.setdefault(str(names[row]), self._items(chunk.take(np.array([row])), np.array([[first + row]])))
            first += len(chunk)
            if len(found) == len(set(ids)):
                break
        _require(ids, found, source.path, ends)
        return _joined([found[id_] for id_ in ids])

    @torch.inference_mode()
    def codes(self, x: Tensor) -> Codes:
        """(N, D) of scaled samples x (N, *shape); under a condition, (N, D + told)."""
        return _array(torch.cat([self.model.code(part.to(self.device)) for part in x.split(BATCH)]))

    def codes_of(self, source: Source, most: int) -> tuple[Items, Codes]:
        """Codes of at most about `most` items; the items come without their values."""
        ids, places, codes = [], [], []
        for piece in self.pieces(source, most):
            ids.append(piece.ids)
            places.append(piece.places)
            codes.append(self.codes(piece.x))
        items = Items(np.concatenate(ids), np.concatenate(places), torch.empty(0), np.empty(0))
        return items, np.concatenate(codes)

    @torch.inference_mode()
    def axes(self, source: Source, most: int) -> Axes:
        """Which dimensions the model uses, and where data lies on them."""
        kl: list[Tensor] = []
        mu, variance, told = [], [], np.empty(0)
        for piece in self.pieces(source, most):
            if not kl:
                told = self.codes(piece.x[:1])[0, self.model.latent :]
            for part in piece.x.split(BATCH):
                out = self.model(part.to(self.device))
                kl.append(out.kl)
                mu.append(out.mu)
                variance.append(torch.zeros_like(out.mu) if out.log_var is None else out.log_var.exp())
        codes = torch.cat(mu).double()
        spread = (codes.var(0, correction=0) + torch.cat(variance).double().mean(0)).sqrt()
        if self.model.groups == self.model.latent:
            use, by = torch.cat(kl).double().mean(0) * self.model.members, "KL in nats"
        else:
            use, by = codes.var(0, correction=0), "variance of the codes"
        order = torch.argsort(use, descending=True, stable=True)
        return Axes(order.cpu().numpy(), _array(use), by, _array(codes.mean(0)), _array(spread), told)

    # --- from codes to data ------------------------------------------------------------------------------------------

    def told(self, wanted: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
        """name -> (told,) of every condition that is wanted, as codes end with it: the classes that `wanted` (column ->
        value) leaves open are all combined, numbers that it leaves open are their mean. Empty without a condition.

        Raises UsageError for a column that is no condition, DataError for a class that training has not seen.
        """
        columns, window = self.layout.conditions, self.detector.config.data.window or 1
        unknown = [name for name in wanted if name not in [column.name for column in columns]]
        if unknown:
            known = ", ".join(f"'{column.name}'" for column in columns) or "none: it was fitted without --condition"
            raise UsageError(f"column '{unknown[0]}' is no condition of this detector; its conditions are {known}")
        choices = [[wanted[c.name]] if c.name in wanted else list(c.categories or ("",)) for c in columns]
        found = {}
        for values in product(*choices) if columns else ():
            cells = encode([np.array([value]) for value in values], columns, "--condition")
            assert cells is not None
            for code, column, value in zip(cells[0], columns, values, strict=True):
                if column.categories is not None and code == len(column.categories):
                    known = ", ".join(f"'{name}'" for name in column.categories)
                    raise DataError(f"--condition {column.name}={value}: not seen in training, which had {known}")
            named = ", ".join(f"{c.name}={v}" for c, v in zip(columns, values, strict=True) if v)
            numbers = self.detector.scaler.encode_condition(cells)[0].astype(np.float64)
            found[named] = np.repeat(numbers, window) if self.kind.ordered else numbers
        return found

    def draw(self, n: int, seed: int) -> tuple[Codes, NDArray[np.intp] | None]:
        """n codes of the mixture fitted to the training posteriors where the detector has one (ex-post density
        estimation, Ghosh 2020), else of the model's prior; and which member is to decode each. Neither knows of a
        condition, which is still to be put behind them.

        Members are independent models: a draw of their joint prior is one of each, and the mean of those would be none.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        if self.detector.score_model.prior is not None:
            return _array(self.detector.score_model.prior.sample(n, generator)), None
        with torch.inference_mode():
            z = _array(self.model.prior(n, generator))
        return z, None if self.model.members == 1 else np.arange(n) % self.model.members

    @torch.inference_mode()
    def decode(
        self, z: Codes, members: NDArray[np.intp] | None = None, starts: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Expected data of codes z (N, D) in its own units: (N, F), (N, C, H, W) in 0-255, or (N, T, C).

        members: (N,) the one that decodes each code; None: the mean of all, of a category their majority. starts:
        (N, C) first steps of windows, from which a sensor that is read as its differences goes on.
        """
        pieces = torch.from_numpy(z).float().split(BATCH)
        means = [self.model.decode(piece.to(self.device)).mean for piece in pieces]
        axes = len(self.layout.shape) + self.kind.ordered  # a window has one more than its steps
        if means[0].dim() == axes + 1:
            mean = torch.cat(means)  # (N, *shape)
        else:
            each = torch.cat(means, dim=1)  # (M, N, *shape)
            mean = self._merged(each) if members is None else each[torch.from_numpy(members), torch.arange(len(z))]
        scaled, scaler = _array(mean), self.detector.scaler
        if not self.kind.ordered:
            return scaler.inverse(scaled)
        first = [None] * len(z) if starts is None else list(starts)
        return np.stack([scaler.inverse(window.T, start) for window, start in zip(scaled, first, strict=True)])

    def _merged(self, each: Tensor) -> Tensor:
        mean = each.mean(0)
        rows = self.model.rows
        if rows is not None and len(rows.classes):
            mean[:, rows.named] = each[:, :, rows.named].mode(dim=0).values
        return mean

    # --- reading -----------------------------------------------------------------------------------------------------

    def _items(self, chunk: Chunk, places: NDArray[np.intp]) -> Items:
        x = torch.from_numpy(self.detector.scaler.read(chunk.values, chunk.condition))
        return Items(chunk.ids.astype(np.str_), places, x, chunk.values)

    def _windows(self, source: Source, most: int) -> Iterator[Items]:
        series = _Series(self, source)
        found = np.arange(0, len(series.starts), max(1, series.window // 2))
        found = found[:: max(1, math.ceil(len(found) / most))]
        for part in np.array_split(found, max(1, len(found) // BATCH)):
            yield series.at(part)

    def _windows_at(self, source: Source, ids: Sequence[str]) -> Items:
        series = _Series(self, source)
        names = series.data.ids.astype(np.str_)[series.order]
        places = {name: place for place, name in reversed(list(enumerate(names.tolist())))}  # the first of equal ids
        _require(ids, places, source.path, [str(names[0]), str(names[-1])])
        return series.at(np.array([series.covering(places[id_]) for id_ in ids]))


class _Series:
    """A series held whole, from which windows are cut."""

    def __init__(self, space: LatentSpace, source: Source) -> None:
        detector, self.path = space.detector, source.path
        assert detector.config.data.window
        self.window = detector.config.data.window
        self.data = Chunk.join(source.chunks(detector.layout, detector.chunk_rows))
        everything = np.arange(len(self.data))
        self.order, self.starts = window_starts(everything, self.data.groups, len(self.data), self.window)
        if not len(self.starts):
            raise DataError(f"{source.path}: {len(self.data)} time steps, fewer than the {self.window} of one window")
        cpu = torch.device("cpu")
        self.held = make_dataset(self.data, everything, detector.scaler, detector.layout, cpu, self.window)

    def at(self, which: NDArray[np.intp]) -> Items:
        """Windows by their number among `starts`."""
        places = self.order[self.starts[which][:, None] + np.arange(self.window)]  # (N, T)
        x = self.held.take(torch.from_numpy(which))
        return Items(self.data.ids[places[:, 0]].astype(np.str_), places, x, self.data.values[places])

    def covering(self, step: int) -> int:
        """The number of the window that begins at a step in `order`, or of the last one before that covers it.

        Raises DataError where the step's group is shorter than a window.
        """
        number = int(np.searchsorted(self.starts, step, side="right")) - 1
        if number < 0 or step >= self.starts[number] + self.window:
            id_ = self.data.ids[self.order[step]]
            raise DataError(f"{self.path}: '{id_}' is in a group of fewer than the {self.window} steps of one window")
        return number


# --- geometry --------------------------------------------------------------------------------------------------------


def lerp(a: NDArray[np.float64], b: NDArray[np.float64], t: NDArray[np.float64]) -> Codes:
    """(N, D) on the straight line from a to b (D,), at shares t (N,) of the way."""
    return a + t[:, None] * (b - a)


def slerp(a: NDArray[np.float64], b: NDArray[np.float64], t: NDArray[np.float64]) -> Codes:
    """(N, D) from a to b (D,) at shares t (N,) of their angle (White 2016): the way keeps the lengths that Gaussian
    codes have, where a straight line cuts through the origin. Linear where the angle is 0 or 180 degrees."""
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    angle = math.acos(float(np.clip(a @ b / lengths, -1, 1))) if lengths > 0 else 0.0
    if math.sin(angle) < 1e-6:
        return lerp(a, b, t)
    found: Codes = (np.sin((1 - t) * angle)[:, None] * a + np.sin(t * angle)[:, None] * b) / math.sin(angle)
    return found


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.double().cpu().numpy())


def _joined(items: list[Items]) -> Items:
    return Items(
        np.concatenate([i.ids for i in items]), np.concatenate([i.places for i in items]),
        torch.cat([i.x for i in items]), np.concatenate([i.values for i in items]),
    )  # fmt: skip


def _require(ids: Sequence[str], found: Any, path: str, ends: Sequence[str]) -> None:
    for id_ in ids:
        if id_ not in found:
            raise DataError(f"{path}: no row with the id '{id_}'; its ids run from '{ends[0]}' to '{ends[-1]}'")
