"""The latent space of a detector: codes of data, and decoded data in its own units."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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

BATCH = 512  # number of samples of one forward pass
Codes = NDArray[np.float64]  # (N, D)


@dataclass(frozen=True)
class Items:
    """N rows, pictures or windows of a source.

    ids: (N,) text; the id of a window is that of its first step. places: (N, S) the indices of each item's rows in the
    source; S is 1, or the T steps of a window. x: (N, *shape) scaled samples with their condition. values: in the units
    of the data, (N, F), (N, C, H, W) or (N, T, C).
    """

    ids: NDArray[np.str_]
    places: NDArray[np.intp]
    x: Tensor
    values: NDArray[Any]


@dataclass(frozen=True)
class Axes:
    """Statistics of the D latent dimensions over data.

    order: (D,) the dimensions, the most used first. use: (D,) the measure of use, which `by` names: the mean KL in
    nats, or the variance of the codes if the groups of the KL are not single dimensions. centre, spread: (D,) mean and
    standard deviation of the aggregate posterior. condition: the encoded condition of the first item, as codes end with
    it; empty without a condition.
    """

    order: NDArray[np.intp]
    use: NDArray[np.float64]
    by: str
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    condition: NDArray[np.float64]


class LatentSpace:
    """Encodes data and decodes codes. Everything is deterministic except `draw`, which takes a seed."""

    def __init__(self, detector: Detector) -> None:
        """Raises DetectorError for a detector of tiles or feature maps: it has a code for each tile or position."""
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
        """A digest of the model's weights, as 12 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    def member_of(self, dimensions: NDArray[np.intp]) -> NDArray[np.intp] | None:
        """The member that each dimension belongs to; None for a model of a single member."""
        return None if self.model.members == 1 else dimensions // (self.model.latent // self.model.members)

    def starts(self, items: Items) -> NDArray[np.float64] | None:
        """The first steps of windows, (N, C), for `decode`; None for rows and pictures."""
        return items.values[:, 0] if self.kind.ordered else None

    # --- from data to codes ------------------------------------------------------------------------------------------

    def pieces(self, source: Source, most: int) -> Iterator[Items]:
        """At most about `most` items of a source, evenly spaced, in pieces.

        Pictures and rows are read in constant memory. A series is loaded completely; its windows overlap by half.
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
        """About `count` evenly spaced items of a source."""
        return _joined(list(self.pieces(source, count)))

    def find(self, source: Source, ids: Sequence[str]) -> Items:
        """The items with these ids, in this order. A window starts at the step with the id or, near the end of its
        group, is the last one that covers it.

        Raises DataError for an unknown id.
        """
        if self.kind.ordered:
            return self._windows_at(source, ids)
        items: dict[str, Items] = {}
        first, ends = 0, [""]
        for chunk in source.chunks(self.layout, self.detector.chunk_rows):
            names = chunk.ids.astype(np.str_)
            ends = [ends[0] if first else names[0], names[-1]]
            for row in np.flatnonzero(np.isin(names, ids)):
                items.setdefault(str(names[row]), self._items(chunk.take(np.array([row])), np.array([[first + row]])))
            first += len(chunk)
            if len(items) == len(set(ids)):
                break
        _require(ids, items, source.path, ends)
        return _joined([items[id_] for id_ in ids])

    @torch.inference_mode()
    def codes(self, x: Tensor) -> Codes:
        """The codes of scaled samples x (N, *shape): (N, D), or (N, D + condition) of a conditional model."""
        return _array(torch.cat([self.model.code(part.to(self.device)) for part in x.split(BATCH)]))

    def codes_of(self, source: Source, most: int) -> tuple[Items, Codes]:
        """The codes of at most about `most` evenly spaced items. The items have neither x nor values."""
        ids, places, codes = [], [], []
        for piece in self.pieces(source, most):
            ids.append(piece.ids)
            places.append(piece.places)
            codes.append(self.codes(piece.x))
        items = Items(ids=np.concatenate(ids), places=np.concatenate(places), x=torch.empty(0), values=np.empty(0))
        return items, np.concatenate(codes)

    @torch.inference_mode()
    def axes(self, source: Source, most: int) -> Axes:
        """The statistics of the latent dimensions over at most about `most` items."""
        kl: list[Tensor] = []
        mu, variance, condition = [], [], np.empty(0)
        for piece in self.pieces(source, most):
            if not kl:
                condition = self.codes(piece.x[:1])[0, self.model.latent :]
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
        return Axes(
            order=order.cpu().numpy(),
            use=_array(use),
            by=by,
            centre=_array(codes.mean(0)),
            spread=_array(spread),
            condition=condition,
        )

    # --- from codes to data ------------------------------------------------------------------------------------------

    def conditions(self, chosen: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
        """The encoded conditions to decode under, by name, as codes end with them; empty for a model without.

        chosen: column -> value. All classes of the other columns are combined; their numbers are the mean.
        Raises UsageError for a column that is not a condition, DataError for a class that training did not have.
        """
        columns, window = self.layout.conditions, self.detector.config.data.window or 1
        unknown = [name for name in chosen if name not in [column.name for column in columns]]
        if unknown:
            names = ", ".join(f"'{column.name}'" for column in columns) or "none: it was fitted without --condition"
            raise UsageError(f"column '{unknown[0]}' is no condition of this detector; its conditions are {names}")
        choices = [[chosen[c.name]] if c.name in chosen else list(c.categories or ("",)) for c in columns]
        encoded = {}
        for values in product(*choices) if columns else ():
            cells = encode([np.array([value]) for value in values], columns, "--condition")
            assert cells is not None
            for code, column, value in zip(cells[0], columns, values, strict=True):
                if column.categories is not None and code == len(column.categories):
                    names = ", ".join(f"'{name}'" for name in column.categories)
                    raise DataError(f"--condition {column.name}={value}: not seen in training, which had {names}")
            name = ", ".join(f"{c.name}={v}" for c, v in zip(columns, values, strict=True) if v)
            numbers = self.detector.scaler.encode_condition(cells)[0].astype(np.float64)
            encoded[name] = np.repeat(numbers, window) if self.kind.ordered else numbers
        return encoded

    def draw(self, n: int, seed: int) -> tuple[Codes, NDArray[np.intp] | None]:
        """n random codes (n, D), and the member that decodes each, (n,) or None; the condition is to be appended.

        The codes are drawn from the mixture fitted to the training posteriors if the detector has one (ex-post density
        estimation, Ghosh 2020), else from the model's prior. Members are independent models, so a draw from the prior
        is decoded by one of them: the mean of all would not be a sample.
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
        """The decoded means of codes z (N, D) in the units of the data: (N, F), (N, C, H, W) in 0-255, or (N, T, C).

        members: (N,) the member that decodes each code; None: the mean of all members, of a category their majority.
        starts: (N, C) the first steps of windows, from which differences are summed; None: the training means.
        """
        pieces = torch.from_numpy(z).float().split(BATCH)
        means = [self.model.decode(piece.to(self.device)).mean for piece in pieces]
        n_axes = len(self.layout.shape) + self.kind.ordered  # a window has one axis more than a step
        if means[0].dim() == n_axes + 1:
            mean = torch.cat(means)  # (N, *shape)
        else:
            by_member = torch.cat(means, dim=1)  # (M, N, *shape)
            if members is None:
                mean = self._merged(by_member)
            else:
                mean = by_member[torch.from_numpy(members), torch.arange(len(z))]
        scaled, scaler = _array(mean), self.detector.scaler
        if not self.kind.ordered:
            return scaler.inverse(scaled)
        first_steps = [None] * len(z) if starts is None else list(starts)
        return np.stack([scaler.inverse(window.T, step) for window, step in zip(scaled, first_steps, strict=True)])

    def _merged(self, by_member: Tensor) -> Tensor:
        """The mean (N, E) over the members of rows (M, N, E); of categories the majority."""
        mean = by_member.mean(0)
        rows = self.model.rows
        if rows is not None and len(rows.classes):
            mean[:, rows.named] = by_member[:, :, rows.named].mode(dim=0).values
        return mean

    # --- reading -----------------------------------------------------------------------------------------------------

    def _items(self, chunk: Chunk, places: NDArray[np.intp]) -> Items:
        x = torch.from_numpy(self.detector.scaler.read(chunk.values, chunk.condition))
        return Items(
            ids=chunk.ids.astype(np.str_), places=places, x=x, values=chunk.values[..., : len(self.layout.read) or None]
        )

    def _windows(self, source: Source, most: int) -> Iterator[Items]:
        series = _Series(self, source)
        numbers = np.arange(0, len(series.starts), max(1, series.window // 2))
        numbers = numbers[:: max(1, math.ceil(len(numbers) / most))]
        for part in np.array_split(numbers, max(1, len(numbers) // BATCH)):
            yield series.at(part)

    def _windows_at(self, source: Source, ids: Sequence[str]) -> Items:
        series = _Series(self, source)
        names = series.data.ids.astype(np.str_)[series.order]
        places = {name: place for place, name in reversed(list(enumerate(names.tolist())))}  # the first of equal ids
        _require(ids, places, source.path, [str(names[0]), str(names[-1])])
        return series.at(np.array([series.covering(places[id_]) for id_ in ids]))


class _Series:
    """A series in memory, from which windows are cut."""

    def __init__(self, space: LatentSpace, source: Source) -> None:
        detector, self.path = space.detector, source.path
        assert detector.config.data.window
        self.window = detector.config.data.window
        self.data, self.sensors = (
            Chunk.join(source.chunks(detector.layout, detector.chunk_rows)),
            len(space.layout.read),
        )
        rows = np.arange(len(self.data))
        self.order, self.starts = window_starts(
            rows, self.data.groups, len(self.data), self.window, self.data.after_gap
        )
        if not len(self.starts):
            raise DataError(f"{source.path}: {len(self.data)} time steps, fewer than the {self.window} of one window")
        cpu = torch.device("cpu")
        self.windows = make_dataset(self.data, rows, detector.scaler, detector.layout, cpu, self.window)
        profile, condition = detector.layout.profile, self.data.condition
        if profile is not None and condition is not None:  # what is decoded are departures from it
            self.data = replace(self.data, values=self.data.values - profile.at(condition[:, -1]))

    def at(self, numbers: NDArray[np.intp]) -> Items:
        """The windows with these indices into `starts`."""
        places = self.order[self.starts[numbers][:, None] + np.arange(self.window)]  # (N, T)
        return Items(
            ids=self.data.ids[places[:, 0]].astype(np.str_),
            places=places,
            x=self.windows.take(torch.from_numpy(numbers)),
            values=self.data.values[places][..., : self.sensors],
        )

    def covering(self, step: int) -> int:
        """The index of the window that starts at place `step` of `order`, or of the last one before that covers it.

        Raises DataError if the step's group is shorter than a window.
        """
        number = int(np.searchsorted(self.starts, step, side="right")) - 1
        if number < 0 or step >= self.starts[number] + self.window:
            id_ = self.data.ids[self.order[step]]
            raise DataError(f"{self.path}: '{id_}' is in a group of fewer than the {self.window} steps of one window")
        return number


# --- geometry --------------------------------------------------------------------------------------------------------


def lerp(a: NDArray[np.float64], b: NDArray[np.float64], t: NDArray[np.float64]) -> Codes:
    """Points (N, D) on the straight line from a to b (D,), at the fractions t (N,) of the way."""
    return a + t[:, None] * (b - a)


def slerp(a: NDArray[np.float64], b: NDArray[np.float64], t: NDArray[np.float64]) -> Codes:
    """Points (N, D) from a to b (D,) at the fractions t (N,) of the angle between them (White 2016).

    The points keep the length that is typical of Gaussian codes, while a straight line passes near the origin. At an
    angle of 0 or 180 degrees the interpolation is linear.
    """
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    angle = math.acos(float(np.clip(a @ b / lengths, -1, 1))) if lengths > 0 else 0.0
    if math.sin(angle) < 1e-6:
        return lerp(a, b, t)
    points: Codes = (np.sin((1 - t) * angle)[:, None] * a + np.sin(t * angle)[:, None] * b) / math.sin(angle)
    return points


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.double().cpu().numpy())


def _joined(items: list[Items]) -> Items:
    return Items(
        ids=np.concatenate([i.ids for i in items]),
        places=np.concatenate([i.places for i in items]),
        x=torch.cat([i.x for i in items]),
        values=np.concatenate([i.values for i in items]),
    )


def _require(ids: Sequence[str], by_id: Container[str], path: str, ends: Sequence[str]) -> None:
    """Raises DataError for the first of `ids` that is not in `by_id`. ends: the first and the last id of the data."""
    for id_ in ids:
        if id_ not in by_id:
            raise DataError(f"{path}: no row with the id '{id_}'; its ids run from '{ends[0]}' to '{ends[-1]}'")
