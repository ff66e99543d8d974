"""The kind of series: one row is one time step, one column one sensor, one group one machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from anomaly_vae.core.advice import option, setting
from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.worries import Gravity, Worry
from anomaly_vae.data import daily_profile, time_column, timestamps
from anomaly_vae.data.daily_profile import Profile
from anomaly_vae.data.datasets import RowDataset, WindowDataset, by_run, scaled_rows, window_starts
from anomaly_vae.data.frames import column_chunks, column_example, column_fields
from anomaly_vae.data.kinds.kind import Kind
from anomaly_vae.data.loaded import LoadedData
from anomaly_vae.data.matrix import matrix, types_of
from anomaly_vae.data.readers.base import Reader, plural
from anomaly_vae.data.readers.cells import NumberFormat, as_labels, is_number, is_truth_pair
from anomaly_vae.data.readers.reordered import ReorderedReader
from anomaly_vae.data.scaling import Element, Scaler
from anomaly_vae.data.source import ROWS, Chunk, CodedText, Column, Layout
from anomaly_vae.data.spill import ArrayStore
from anomaly_vae.data.tabular import TabularSource, as_text, column_names, column_values, reader_of
from anomaly_vae.data.units import RESOLUTION, moments, smallest_step, unit_of

BLOCKS, SLOW = 8, 0.4  # number of blocks of `_slow_share`, and the share above which a sensor is read as differences
KEPT = 1 << 23  # number of rows whose time steps are kept in memory; of a longer file they are read again
USUAL = 2 / 3  # smallest share of steps within half of the median step, with which it is the usual step
# A step is a gap if it is longer than GAP usual ones, and than all but the longest GAP_SHARE of training's steps: where
# weekends are left out of daily values they belong to the series.
GAP, GAP_SHARE = 3.0, 1 / 64
RATE = 1.5  # ratio of usual steps from which a file is sampled otherwise than training
REPEATED = 0.2  # share of steps at the time of the one before, from which a file holds several machines
LONGEST, SHORTEST = 32, 8  # steps of a window
SIDE_BY_SIDE = 20  # number of windows without overlap that the training rows should hold
# Training rows from which parts know what is normal of changes, and of windows: what fewer have not shown would be an
# alarm.
ENOUGH, ENOUGH_WINDOWS = 1000, 3000
REFERENCES = 300  # windows of each sensor that distances are measured to


class SeriesSource(TabularSource):
    """Time steps in order of time. Without a time column the order of the file counts as the order of time.

    The time column is read once when the source is opened: its format is the one that reads every cell, and rows that
    are not in order of time are put in order. Raises DataError if the configured time column does not exist or does not
    hold times, for a cell that is no time, and where steps of several machines go back in time.
    """

    kind: str = "series"
    rows_are_steps = True

    def __init__(self, reader: Reader, config: DataConfig, labels: NDArray[np.str_] | None = None) -> None:
        if config.time is not None:
            reader.require([config.time], "time column")
        found = time_column.evidence(reader, config) if config.group is None else None
        best = found.time if found else time_column.find(reader, config)
        if config.time is not None and best is None:
            cell = reader.peek[config.time][0].as_py()
            raise DataError(
                f"{reader.path}: column '{config.time}' holds no times (row 1: {cell!r}); name another with data.time"
            )
        super().__init__(reader, config, labels)
        self.clock = None if best is None else best.clock
        self._usual = None if best is None else timestamps.usual_step(best.times)
        self._since: NDArray[np.float64] | None = None  # (N,) see `Steps.read`; None of more rows than are kept
        self._order: NDArray[np.intp] | None = None  # (N,) the row of the file that each step is
        if self.clock is not None:
            if found is not None and found.group is not None:
                self._tell_apart(found.group)
            self._scan()

    @property
    def time(self) -> str | None:
        """The time column, or the first of two."""
        return None if self.clock is None else self.clock.columns[0]

    @cached_property
    def why(self) -> str:
        schema = self.reader.peek.schema
        sensors = [c for c in self.reader.columns if c not in self._special and is_number(schema.field(c).type)]
        clock = "no time column, in the order of the file"
        if self.clock is not None:
            since = np.concatenate(list(self._pieces()))
            step = self._step(since[since > 0])
            clock = f"{self.clock.name}, {'irregular steps' if step is None else f'a step each {self._words(step)}'}"
        machines = f", group column '{self.config.group}'" if self.config.group else ""
        return f"a series: {plural(self.count(), 'time step')} of {plural(len(sensors), 'sensor')}, {clock}{machines}"

    def preload(self, store: ArrayStore) -> None:
        self.load(self._special, store)

    def learn(self, rows: NDArray[np.intp], held: NDArray[np.intp] | None = None) -> Layout:
        """The sensors: columns of numbers and of truth values, such as on and off (1, 0). Constant ones are watched,
        text is left out.

        Raises DataError for fewer than two rows, infinite values or text in a column of numbers, and if no sensor is
        left.
        """
        columns, watched, left_out = self.inputs(rows, self._special, held)
        sensors: list[Column] = []
        for column in columns:
            if column.categories is None:
                sensors.append(column)
            elif is_truth_pair(set(column.categories) - {""}):
                sensors.append(Column(column.name, format=NumberFormat(truths=True)))
            else:
                left_out[column.name] = "text; a series is made of numbers"
        self.need_columns(sensors, watched, left_out)
        per_day = step = gap = None
        if self.clock is not None:
            since = np.concatenate(list(self._pieces()))[rows]
            since = since[since > 0]
            step = self._step(since)
            if step is not None:
                gap = max(GAP * step, float(np.quantile(since, 1 - GAP_SHARE, method="higher")) / 1e6)
            if self.clock.dated and len(since):
                per_day = float(timestamps.DAY / np.median(since))
        read = (*sensors, *watched)
        return Layout(
            kind=self.kind,
            shape=(len(sensors) + len(watched),),
            columns=read,
            conditions=self.conditions(rows),
            label=self.config.label,
            id=self.config.id,
            time=self.time,
            group=self.config.group,
            left_out=left_out,
            time_of_day=None if self.clock is None or len(self.clock.columns) < 2 else self.clock.columns[1],
            per_day=per_day,
            step=step,
            gap=gap,
            profile=self._profile(rows, read, len(sensors), step),
        )

    def _profile(
        self, rows: NDArray[np.intp], columns: Sequence[Column], sensors: int, step: float | None
    ) -> Profile | None:
        """What is usual of the columns, the first of which are sensors, at a time of day and of week."""
        wanted, clock = self.config.calendar, self.clock
        chosen = wanted not in ("auto", "none")
        if wanted == "none" or clock is None or not clock.dated or step is None:
            if chosen:
                raise DataError(
                    f"{self.path}: data.calendar={wanted} needs a time column of regular steps whose times are on a"
                    " calendar; name one with data.time, or leave data.calendar out"
                )
            return None
        pieces = timestamps.pieces(self.reader, clock, None, ROWS)
        local = np.concatenate([timestamps.local(texts, clock.format) for texts, _ in pieces])[rows]
        groups = self.groups()

        def cells() -> Iterator[NDArray[np.float64]]:
            for column in columns[:sensors]:
                tables = self.reader.batches(types_of(self.reader, [column]), ROWS)
                yield np.concatenate([matrix(self.reader, table, [column], 0) for table in tables])[rows, 0]

        longest = 1 if wanted == "day" or not clock.weekly else 7
        machines = None if groups is None else groups.codes[rows]
        profile, shares = daily_profile.learn(cells(), local, machines, step * 1e6, longest, chosen)
        if profile is None:
            if chosen:
                raise DataError(
                    f"{self.path}: data.calendar={wanted} finds nothing that follows the clock in the training rows,"
                    f" which should span {daily_profile.CYCLES} cycles; leave data.calendar out"
                )
            return None
        best = int(np.argmax(shares))
        self._note(
            f"what is usual at a time of {'day' if profile.days == 1 else 'week'} is taken off the sensors that follow"
            " it"
            + (
                f" (it explains {shares[best]:.0%} of how '{columns[best].name}' varies within a day)"
                if shares.any()
                else ""
            )
            + f"; {setting('data.calendar', 'none')} judges steps whatever their time"
        )
        return replace(profile, usual=tuple(row + (0.0,) * (len(columns) - sensors) for row in profile.usual))

    def ids(self, layout: Layout, rows: NDArray[np.intp]) -> NDArray[Any]:
        id_ = self.id_of(layout)
        if id_ is not None or self.clock is None:
            return self.cells(id_, rows)
        parts = [self.cells(name, rows) for name in self.clock.columns]
        return parts[0] if len(parts) == 1 else np.char.add(np.char.add(parts[0], " "), parts[1])

    @property
    def _special(self) -> dict[str, str]:
        """Columns that are never a sensor, each with the reason."""
        times = () if self.clock is None else self.clock.columns
        return self.special | dict.fromkeys(times, "the time column")

    def chunks(self, layout: Layout, rows: int) -> Iterator[Chunk]:
        """Time steps (N, C) in order of time."""
        columns = () if self.clock is None else self.clock.columns
        steps = None if self.clock is None else self.clock.steps(self._usual)
        gaps, medians = [np.empty(0)], []
        if layout.profile is not None and self.clock is None:
            raise DataError(
                f"{self.path}: no time column, and the detector judges by the time of day, which '{layout.time}' told"
                f" it in training; {setting('data.calendar', 'none')} fits one that does not"
            )
        for first, table, chunk in self.matrices(layout, rows, self.id_of(layout) or self.time, columns):
            if self.clock is not None and steps is not None:
                texts = self.clock.cells(table)
                if len(columns) > 1 and self.id_of(layout) is None:
                    chunk = replace(chunk, ids=as_text(texts))
                since = None if self._since is None else self._since[first : first + len(chunk)]
                if since is None:
                    since = steps.read(timestamps.read(texts, self.clock.format), chunk.groups)[1]
                after_gap = since > np.inf if layout.gap is None else since > layout.gap * 1e6
                gaps.append(since[after_gap])
                medians += [np.median(since[since > 0])] if (since > 0).any() else []
                places = None if self._order is None else self._order[first : first + len(chunk)]
                chunk = replace(chunk, after_gap=after_gap, places=places)
                if layout.profile is not None:
                    phase = layout.profile.phase(timestamps.local(texts, self.clock.format))[:, None]
                    known = () if chunk.condition is None else (chunk.condition,)
                    chunk = replace(chunk, condition=np.concatenate([*known, phase], axis=1))
            yield chunk
        self._compare(layout, np.concatenate(gaps), medians)

    def _compare(self, layout: Layout, gaps: NDArray[np.float64], medians: Sequence[float]) -> None:
        """Notes of the gaps (microseconds), and of steps of another length than training had."""
        if len(gaps):
            longest = f"longest {self._words(gaps.max() / 1e6)}" if len(gaps) > 1 else self._words(gaps[0] / 1e6)
            self._worry(f"{plural(len(gaps), 'gap')} in time ({longest}) cut the series: no window spans one")
        if layout.step is not None and medians:
            step = float(np.median(medians)) / 1e6
            if not 1 / RATE <= step / layout.step <= RATE:
                self._worry(
                    f"steps come every {self._words(step)} where training had {self._words(layout.step)}: scores mean"
                    " little; sample the file as the training data was, or fit on such files"
                )

    # --- time

    def _scan(self) -> None:
        """Reads the time column: decides its format, and the order of the rows."""
        assert self.clock is not None
        group, reader, labels = self.config.group, self.reader, self._labels
        tried = {f: _Scan(self.clock.steps(self._usual), len(self.clock.formats) > 1) for f in self.clock.formats}
        for texts, table in timestamps.pieces(self.reader, self.clock, group, ROWS):
            groups = None if group is None else as_labels(table[group])
            for format_, scan in tried.items():
                scan.add(timestamps.read(texts, format_), groups)
        format_, scan = min(tried.items(), key=lambda item: item[1].faults)
        self.clock = replace(self.clock, formats=(format_,))
        if scan.unread is not None:
            problem = (
                "is no time in the format of the rows above; correct it, or name another time column with data.time"
            )
            raise self._bad_time(scan.unread, problem)
        repeats = self._sort() if scan.back else scan.repeats
        if repeats >= REPEATED * scan.rows and group is None:
            # the first rows are of one machine, later ones of several
            peek, names = self.reader.peek, [name for name in self.reader.columns if name not in self._special]
            names = [name for name in names if not pa.types.is_floating(peek[name].type)]
            types = dict.fromkeys((*names, *self.clock.columns), pa.string())
            table = pa.concat_tables(self.reader.batches(types, ROWS))
            times = timestamps.read(self.clock.cells(table), format_)
            apart = time_column.tells_apart(table, times, names)
            if apart is not None:
                self.reader, self._labels, self._order, self.notes = reader, labels, None, ()
                self._tell_apart(apart)
                self._scan()
                return
            if self._order is not None:
                raise DataError(
                    f"{self.path}: '{self.time}' goes back, and {repeats} of {scan.rows} steps have the time of"
                    " another, as of several machines; name the column that tells them apart with --group"
                )
        if not scan.back:
            self._since = scan.kept()
            if scan.steps.summer_ends:
                self._note(
                    f"the clock of '{self.time}' goes back by an hour, as at the end of summer time"
                    f" ({scan.steps.summer_ends} x); steps stay in the order of the file, and times with an offset"
                    " (+01:00) would be certain"
                )
        if repeats:
            several = "; --group names the column that tells machines apart" if repeats >= REPEATED * scan.rows else ""
            self._worry(
                f"{plural(repeats, 'step')} {'has' if repeats == 1 else 'have'} the time of the step before" + several
            )
        if "%Y" not in format_ and format_.startswith("%b %d"):
            self._note(f"the times of '{self.time}' name no year: they are read as if from one year on")

    def _tell_apart(self, group: str) -> None:
        """Takes a column as the group, for it tells apart the rows of the same time."""
        self.config = self.config.model_copy(update={"group": group})
        other = [name for name in self.reader.columns if name not in self._special]
        numbers = [name for name in other if is_number(self.reader.peek[name].type)]
        if len(numbers) == 1 and not is_number(self.reader.peek[group].type):
            self._note(
                f"long form: '{group}' says what '{numbers[0]}' is; each of its values is a series of its own, as"
                f" {option('--group', group)} says, of one sensor that all share: a value that is usual of another"
                f" '{group}' is no anomaly. With a column for each, as pandas makes them by pivot(index={self.time!r},"
                f" columns={group!r}, values={numbers[0]!r}), they are judged together"
            )
            return
        self._note(
            f"the times of '{self.time}' repeat, and '{group}' tells the rows of a time apart: each of its values is a"
            f" series of its own, as {option('--group', group)} says; --group names another column"
        )

    def _sort(self) -> int:
        """Puts the steps of each group in order of time, in the places that the group's steps have in the file. Returns
        how many then have the time of the step before."""
        assert self.clock is not None
        group = self.config.group
        pieces, labels = [], []
        for texts, table in timestamps.pieces(self.reader, self.clock, group, ROWS):
            pieces.append(timestamps.read(texts, self.clock.format))
            labels += [] if group is None else [as_labels(table[group])]
        times, groups = np.concatenate(pieces), np.concatenate(labels) if labels else None
        codes = np.zeros(len(times), np.int32) if groups is None else CodedText.of([groups]).codes
        order, n_moved, newest_first = np.arange(len(times)), 0, 0
        since = np.empty(len(times))
        for code in range(int(codes.max()) + 1):
            rows = np.flatnonzero(codes == code)
            own = times[rows]
            is_reversed = (np.diff(own) < 0).sum() > (np.diff(own) > 0).sum()
            read = rows[::-1] if is_reversed else rows
            clock, steps = self.clock.steps(self._usual).read(times[read], None)
            place = np.arange(len(read)) if (steps[1:] >= 0).all() else np.argsort(clock, kind="stable")
            order[rows] = read[place]
            since[rows] = np.diff(clock[place], prepend=np.nan)
            late = np.maximum.accumulate(clock) > clock
            n_moved, newest_first = n_moved + int(late.sum()), newest_first + bool(is_reversed)
        if newest_first:
            self._note(f"the newest steps come first: they are read from the oldest on, by '{self.time}'")
        if n_moved:
            self._note(
                f"{plural(n_moved, 'step')} of {len(times)} came after a later one; all were put in order of"
                f" '{self.time}'; scores stay in the order of the file"
            )
        self._order, self._since = order, since
        self.reader = ReorderedReader(self.reader, order)
        if self._labels is not None:
            self._labels = CodedText.of([self._labels[order]])
        return int((since == 0).sum())

    def _pieces(self) -> Iterator[NDArray[np.float64]]:
        """Microseconds from each step to the one before in its group, piece after piece."""
        assert self.clock is not None
        if self._since is not None:
            yield self._since
            return
        group, steps = self.config.group, self.clock.steps(self._usual)
        for texts, table in timestamps.pieces(self.reader, self.clock, group, ROWS):
            groups = None if group is None else as_labels(table[group])
            yield steps.read(timestamps.read(texts, self.clock.format), groups)[1]

    def _step(self, since: NDArray[np.float64]) -> float | None:
        """The usual step in seconds, of positive steps in microseconds; None where there is none."""
        if not len(since):
            return None
        median = float(np.median(since))
        usual = (np.abs(since - median) <= median / 2).mean() >= USUAL
        return median / 1e6 if usual else None

    def _words(self, step: float) -> str:
        assert self.clock is not None
        return timestamps.duration(step) if self.clock.dated else f"{step:g}"

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes += (text,)

    def _worry(self, text: str) -> None:
        self._note(Worry(text, Gravity.UNLIKE))

    def _bad_time(self, row: int, problem: str) -> DataError:
        columns = () if self.clock is None else self.clock.columns
        cell = " ".join(str(self.cells(name, np.array([row]))[0]) for name in columns)
        names = " and ".join(f"'{name}'" for name in columns)
        return DataError(f"{self.path}: {self.reader.place(row)}, column {names}: {cell!r} {problem}")


class _Scan:
    """What a pass over the times finds in one format.

    unread: the first row that holds no time. back, ahead, repeats: number of steps that go back, go on, stand still.
    """

    def __init__(self, steps: timestamps.Steps, compared: bool) -> None:
        """compared: with other formats, by how regular the steps are."""
        self.steps, self._compared = steps, compared
        self.unread: int | None = None
        self.n_unread = self.back = self.ahead = self.repeats = self.rows = 0
        self.irregular = 0.0
        self._kept: list[NDArray[np.float64]] = []

    def add(self, times: NDArray[np.float64], groups: NDArray[np.str_] | None) -> None:
        unread = np.isnan(times)
        if unread.any() and self.unread is None:
            self.unread = self.rows + int(np.argmax(unread))
        _, since = self.steps.read(times, groups)
        self.n_unread, self.rows = self.n_unread + int(unread.sum()), self.rows + len(times)
        self.back, self.ahead = self.back + int((since < 0).sum()), self.ahead + int((since > 0).sum())
        self.repeats += int((since == 0).sum())
        self.irregular += timestamps.irregular(times) * len(times) if self._compared else 0.0
        if self.rows <= KEPT:
            self._kept.append(since)

    def kept(self) -> NDArray[np.float64] | None:
        """(N,) microseconds from each step to the one before; None of more rows than are kept."""
        return np.concatenate(self._kept) if self.rows <= KEPT else None

    @property
    def faults(self) -> tuple[int, int, float]:
        return self.n_unread, min(self.back, self.ahead), self.irregular


def _recognises(data: Path | Reader, config: DataConfig) -> float:
    if not isinstance(data, Reader):
        return 0.0
    return 0.7 if config.time is not None or config.group is not None else time_column.evidence(data, config).fit


def _open(data: Path | Reader, config: DataConfig, labels: NDArray[np.str_] | None) -> SeriesSource:
    return SeriesSource(reader_of(data, "series"), config, labels)


def _dataset(
    data: Chunk | LoadedData,
    rows: NDArray[np.intp],
    scaler: Scaler,
    layout: Layout,
    device: torch.device,
    window: int | None,
    store: ArrayStore,
) -> RowDataset:
    """Every window whose steps are all among the rows; see `datasets.make_dataset`."""
    assert window is not None
    order, starts = window_starts(rows, data.groups, len(data), window, data.after_gap)
    scaled = scaled_rows(data, by_run(order, data.groups, rows, data.after_gap), scaler, layout, store)
    return WindowDataset(scaled, device, starts, window)


def _by_rows(train_rows: int, window: int | None) -> dict[str, dict[str, Any]]:
    """The default length of a window: LONGEST, halved until the training rows hold SIDE_BY_SIDE windows; and the parts
    that know windows of training and keep their nats local, where its rows are ENOUGH."""
    length = window or LONGEST
    while window is None and length > SHORTEST and length > train_rows / SIDE_BY_SIDE:
        length //= 2
    parts = ("variation", "missing") if train_rows >= ENOUGH else ("missing",)
    neighbours = REFERENCES if train_rows >= ENOUGH_WINDOWS else 0
    # With fewer rows the level alone tells a mild shift, and is not cut: SKAB's files, of 400, lose by it.
    scoring = {"neighbours": neighbours, "parts": parts, "local": train_rows >= ENOUGH}
    return {"data": {"window": length}, "scoring": scoring}


def _elements(columns: Iterable[NDArray[Any]], layout: Layout, after_gap: NDArray[np.bool_] | None) -> list[Element]:
    read = zip(layout.columns, columns, strict=True)
    return [_sensor(x, index, after_gap) for index, (column, x) in enumerate(read) if column.constant is None]


def _sensor(x: NDArray[np.float64], index: int, after_gap: NDArray[np.bool_] | None = None) -> Element:
    """The element of sensor number `index` with training values x (N,): linear, or differences if it drifts."""
    present = x[~np.isnan(x)]
    mean, deviation = moments(present)
    # a sensor that is almost always the same and sometimes a step off: a later step is no more than one unit
    scale = max(deviation, smallest_step(present))
    if _slow_share(present / unit_of(present)) <= SLOW:
        return Element(index, "linear", mean, scale)
    differences = np.diff(present, prepend=present[0]) / scale
    if after_gap is not None:
        differences = differences[~after_gap[~np.isnan(x)]]
    centre, spread = moments(differences)
    return Element(index, "difference", mean, scale, centre, max(spread, 1e-3))


def _slow_share(x: NDArray[np.float64]) -> float:
    """The share of a sensor's variance that is between the means of BLOCKS consecutive blocks of the training rows.

    It is near 0 for a stationary sensor and near 1 for one that drifts, whose later values leave the training range.
    """
    length, variance = len(x) // BLOCKS, float(x.var())
    if length == 0 or variance <= RESOLUTION**2:
        return 0.0
    return float(x[len(x) - BLOCKS * length :].reshape(BLOCKS, length).mean(1).var()) / variance


SERIES = Kind(
    name="series",
    noun="time steps",
    view="curves",
    defaults={
        "split": {"train": 0.4, "valid": 0.3},
        "model": {
            "kind": "conv1d",
            "latent": 8,
            "channels": (32, 32),
            "hidden": (),
            "blocks": 0,
            "likelihood": "gaussian",
            "sigma": "element",
            "sigma_min": 0.08,
            "sigma_value": 1.0,
            "members": 1,
        },
        "training": {"steps": 1500, "batch_size": 64, "lr": 2e-3, "bf16": False, "noise": 0.0, "jitter": 0.0},
        "scoring": {"combine": "sum", "recon": "level", "prior": "normal"},
        "threshold": {"unlabelled": "tail=0.001"},
    },
    reads="reads rows as time steps in order",
    recognises=_recognises,
    open=_open,
    elements=_elements,
    limit=30.0,
    dataset=_dataset,
    monitored=column_names,
    quantities=column_values,
    frame_fields=column_fields,
    frame_chunks=column_chunks,
    frame_example=column_example,
    ordered=True,
    by_rows=_by_rows,
    nearest="windows",
)
