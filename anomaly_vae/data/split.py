"""Who trains, who chooses the threshold, who reports: normal rows only in training, seeded, never across time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.advice import option, setting
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import DataError
from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.readers.base import plural
from anomaly_vae.data.readers.cells import NORMAL_WORDS
from anomaly_vae.data.source import CodedText, Source

TAKE_AS_NORMAL = setting("data.unlabelled", "normal")
LEAST = 2  # normal rows of train and of valid
CROSSED_LEAST = 8  # rows: four folds then leave six to train
FEW = 2_000  # normal rows below which they are cross-fitted to calibrate: of more, a part held out says enough
RANKED_MOST = 200_000  # unlabelled rows that are each scored out of fold


@dataclass(frozen=True)
class Split:
    """Row numbers, each sorted. train holds normal rows only; anomalous is None where nothing is labelled.

    A row without a label belongs to no class: it is in no part, unless `data.unlabelled` takes it as normal. note: what
    the user should know of the split, else empty. folds: (N,) the fold
    of each row that is scored by models of the other folds, -1 of others; None where none is. Few rows calibrate so
    too: valid then holds the rows of train.
    """

    train: NDArray[np.intp]
    valid: NDArray[np.intp]
    test: NDArray[np.intp]
    anomalous: NDArray[np.bool_] | None  # (N,) of all rows of the source
    note: str = ""
    folds: NDArray[np.intp] | None = None

    @property
    def calibrated_by_folds(self) -> bool:
        return self.folds is not None and len(self.valid) >= len(self.train)

    @property
    def parts(self) -> dict[str, NDArray[np.intp]]:
        """The rows of each part, each in one: those that train, and calibrate by folds, are of train."""
        return {"train": self.train, "valid": np.setdiff1d(self.valid, self.train), "test": self.test}

    @property
    def ranked(self) -> NDArray[np.intp]:
        """The unlabelled rows that are scored out of fold, for nobody knows which of them are anomalies."""
        unlabelled = self.folds is not None and self.anomalous is None
        return np.flatnonzero(self.folds >= 0) if unlabelled and self.folds is not None else self.train[:0]

    @property
    def reported(self) -> NDArray[np.intp]:
        """The rows whose scores are reported: those of test or, where nothing can be tested, all that have some."""
        return self.test if len(self.test) else self.ranked if len(self.ranked) else self.valid


def split(source: Source, config: Config, every_row: bool = False) -> Split:
    """The split of a source. every_row: each normal row is scored by models that never saw it, however many there are.

    Raises DataError where a part would be left without normal rows, and where not every row can be.
    """
    labels, roles, n = source.labels(), source.roles(), source.count()
    anomalous, labelled = np.zeros(n, bool), np.ones(n, bool)
    if labels is not None:
        anomalous, labelled = is_anomalous(labels, config, source.path), is_labelled(labels, config)
    elif roles is not None and config.data.label:
        raise DataError(f"{source.path}: there is no label '{config.data.label}'")
    normal = labelled & ~anomalous
    if not n:
        raise DataError(f"{source.path}: no {KINDS[source.kind].noun}; training needs at least two")
    if not normal.any():
        raise DataError(
            f"{source.path}: all {labelled.sum()} rows are anomalous by '{config.data.label or 'label'}'; training"
            " needs normal rows (is --normal right?)"
        )
    if KINDS[source.kind].ordered:
        parts = _by_time(source.groups(), normal, labelled, config)
    elif roles is not None:
        parts = _by_role(roles, normal, anomalous, config)
    else:
        parts = _at_random(normal, anomalous, config)
    train, valid, test = (np.sort(part) for part in parts)
    note = left_out_note(labelled, config, KINDS[source.kind].noun)
    found = Split(train, valid, test, None if labels is None else anomalous, note)
    if every_row and (roles is not None or KINDS[source.kind].ordered):
        what = "steps of a series train in order" if roles is None else "its own parts train and test"
        raise DataError(f"{source.path}: {what}, so none is cross-fitted; leave --scores out, and score it afterwards")
    if (config.split.folds or every_row) and roles is None and not KINDS[source.kind].ordered:
        found = _crossed(found, normal, config.split.folds or 4, config.seed, every_row)
    for name in ("train", "valid"):
        rows = getattr(found, name)
        if normal[rows].sum() < LEAST:
            of = plural(int(normal.sum()), "normal row")
            raise DataError(
                f"{source.path}: {of} leave{'s' if normal.sum() == 1 else ''} {normal[rows].sum()} for {name}"
                f" (split.train={config.split.train:g}, split.valid={config.split.valid:g}); more normal rows or"
                " another split would work"
            )
    return found


def is_anomalous(labels: CodedText, config: Config, path: str) -> NDArray[np.bool_]:
    """(N,) which rows are anomalies, by the values that count as normal; a row without a label is none.

    A column of normal values alone says that no anomaly is known. Raises DataError where the label column cannot tell:
    no value, or one or several of which none is known as normal.
    """
    column, wanted = config.data.label or "label", config.data.normal
    counts = np.bincount(labels.codes, minlength=len(labels.values))
    present = counts > 0
    present &= (labels.values != "") | ("" in wanted)
    values = labels.values[present]
    listed = ", ".join(f"'{value}'" for value in values[:12]) + (", ..." if len(values) > 12 else "")
    empty = int(len(labels) - counts[present].sum())
    beside = f" beside {plural(empty, 'empty cell')}" if empty else ""
    taken = f"; {TAKE_AS_NORMAL} takes rows without a label as normal" if empty else ""
    if wanted:
        absent = [value for value in wanted if value not in values]
        if absent:
            raise DataError(f"{path}: column '{column}' has no value '{absent[0]}' (--normal); it holds {listed}")
        normal = list(wanted)
    else:
        normal = [value for value in values if value.strip().lower() in NORMAL_WORDS]
        likely = option("--normal", str(values[counts[present].argmax()])) if len(values) else ""
        told = bool(normal) or (empty > 0 and config.data.unlabelled == "normal")  # then other values are anomalies
        if len(values) > 2 and not (told and len(normal) < 2 and not "".join(normal).isdigit()):
            raise DataError(
                f"{path}: column '{column}' holds {len(values)} values ({listed}); name the normal ones, e.g. {likely}"
            )
        if not told and len(values) == 0:
            raise DataError(f"{path}: column '{column}' holds no label at all; leave --label out{taken}")
        if not told and len(values) == 1:
            raise DataError(
                f"{path}: column '{column}' holds only {listed}{beside}, which is not known as normal; leave --label"
                f" out if it is, else add normal rows{taken}"
            )
        if not told:
            raise DataError(f"{path}: column '{column}' holds {listed}; name the normal one, e.g. {likely}")
    return (present & ~np.isin(labels.values, normal))[labels.codes]


def is_labelled(labels: CodedText, config: Config) -> NDArray[np.bool_]:
    """(N,) which rows belong to a class; all of them where rows without a label are taken as normal."""
    taken = config.data.unlabelled == "normal" or "" in config.data.normal
    known: NDArray[np.bool_] = ((labels.values != "") | taken)[labels.codes]
    return known


def left_out_note(labelled: NDArray[np.bool_], config: Config, noun: str) -> str:
    """How many rows (N,) were left out for they have no label; empty where none was."""
    if labelled.all():
        return ""
    return (
        f"{(~labelled).sum()} of {len(labelled)} {noun} have no label in '{config.data.label or 'label'}' and were left"
        f" out; {TAKE_AS_NORMAL} takes them as normal"
    )


def _at_random(normal: NDArray[np.bool_], anomalous: NDArray[np.bool_], config: Config) -> tuple[NDArray[np.intp], ...]:
    """Normals by the shares of the split; anomalies between valid and test in the same proportion."""
    rng = np.random.default_rng(config.seed)
    rows = rng.permutation(np.flatnonzero(normal))
    anomalies = rng.permutation(np.flatnonzero(anomalous))
    train, valid = _sizes(config, len(rows))
    rest = len(rows) - train
    cut = round(len(anomalies) * (valid / rest)) if rest else 0
    return (
        rows[:train],
        np.r_[rows[train : train + valid], anomalies[:cut]],
        np.r_[rows[train + valid :], anomalies[cut:]],
    )


def _crossed(held_out: Split, normal: NDArray[np.bool_], count: int, seed: int, every_row: bool) -> Split:
    """The split of rows that are scored out of fold: where no anomaly is known nothing can be tested, and no row is
    kept for it; few rows are not held out to calibrate by either."""
    tested = held_out.anomalous is not None and bool(held_out.anomalous.any())
    unlabelled, rng = held_out.anomalous is None, np.random.default_rng(seed)
    rows = np.setdiff1d(np.flatnonzero(normal), held_out.test) if tested else np.flatnonzero(normal)
    few = len(rows) < FEW or (every_row and not unlabelled)
    if len(rows) < CROSSED_LEAST or not (few or (unlabelled and (every_row or len(rows) <= RANKED_MOST))):
        return held_out
    folds, shuffled = np.full(len(normal), -1), rng.permutation(rows)
    folds[shuffled] = np.arange(len(rows)) % max(2, min(count, len(rows) // 2))
    if few:
        valid = np.union1d(rows, held_out.valid) if tested else rows
        return replace(held_out, train=rows, valid=valid, test=held_out.test if tested else rows[:0], folds=folds)
    train, valid = (np.sort(part) for part in np.split(shuffled, [round(NO_TEST["train"] * len(rows))]))
    return replace(held_out, train=train, valid=valid, test=rows[:0], folds=folds)


def _by_role(
    roles: NDArray[np.str_], normal: NDArray[np.bool_], anomalous: NDArray[np.bool_], config: Config
) -> tuple[NDArray[np.intp], ...]:
    """The data's own train rows train; without valid rows of its own, some of them and a share of test choose."""
    rng = np.random.default_rng(config.seed)
    train = rng.permutation(np.flatnonzero((roles == "train") & normal))
    valid, test = (np.flatnonzero((roles == role) & (normal | anomalous)) for role in ("valid", "test"))
    if len(valid) == 0:
        _, held = _sizes(config, len(train))
        if len(train) >= 2 * LEAST and (config.split.valid or 1) < 1:
            held = max(held, LEAST)
        train, valid = train[held:], train[:held]
        for kind in (True, False):  # both parts keep the share of anomalies
            rows = rng.permutation(test[normal[test] == kind])
            valid = np.r_[valid, rows[: int(len(rows) * config.split.test_share)]]
        test = np.setdiff1d(test, valid)
    return train, valid, test


def _by_time(
    groups: CodedText | None, normal: NDArray[np.bool_], labelled: NDArray[np.bool_], config: Config
) -> tuple[NDArray[np.intp], ...]:
    """In each group the first labelled rows train (their anomalous rows left out), the next choose, the last report.

    What is left out leaves a gap, which no window spans.
    """
    machines = np.zeros(len(normal), np.int32) if groups is None else groups.codes
    parts: tuple[list[NDArray[np.intp]], ...] = ([], [], [])
    for machine in range(int(machines.max()) + 1):
        rows = np.flatnonzero((machines == machine) & labelled)
        train, valid = _sizes(config, len(rows))
        for part, piece in zip(parts, np.split(rows, [train, train + valid]), strict=True):
            part.append(piece)
    train_rows = np.concatenate(parts[0])
    return train_rows[normal[train_rows]], np.concatenate(parts[1]), np.concatenate(parts[2])


def _sizes(config: Config, n: int) -> tuple[int, int]:
    """Rows of train and valid out of n; a setting below 1 is a share, otherwise a number."""
    first, second = config.split.train, config.split.valid
    assert first and second
    train = round(n * first) if first < 1 else min(int(first), n)
    valid = round(n * second) if second < 1 else int(second)
    return train, min(valid, n - train)
