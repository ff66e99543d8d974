"""Who trains, chooses and reports; and which labels can tell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.datasets import window_starts
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import CodedText, Source
from anomaly_vae.data.split import Split, is_anomalous, split
from anomaly_vae.detector.configuration import load


@dataclass
class Stub:
    """As much of a Source as a split looks at."""

    n: int
    found: Any = None  # labels
    kind: str = "table"
    role: Any = None
    group: Any = None
    path: str = "file.csv"

    def count(self) -> int:
        return self.n

    def labels(self) -> CodedText | None:
        return None if self.found is None else CodedText.of([np.asarray(self.found)])

    def roles(self) -> NDArray[np.str_] | None:
        return None if self.role is None else np.asarray(self.role)

    def groups(self) -> CodedText | None:
        return None if self.group is None else CodedText.of([np.asarray(self.group)])


def settings(
    train: float = 0.6, valid: float = 0.2, normal: tuple[str, ...] = (), test_share: float = 0.5, **top: Any
) -> Config:
    parts = {"train": train, "valid": valid, "test_share": test_share}
    return load(base={"split": parts, "data": {"label": "y", "normal": normal}, **top})


def made(source: Stub, config: Config | None = None) -> Split:
    return split(cast(Source, source), config or settings())


def refused(source: Stub, config: Config | None = None) -> str:
    with pytest.raises(DataError) as caught:
        made(source, config)
    assert str(caught.value).startswith("file.csv: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


LABELS = np.array(["0"] * 100 + ["1"] * 30)[np.random.default_rng(0).permutation(130)]
NORMAL = LABELS == "0"


def test_every_row_has_one_part_and_only_normal_rows_train() -> None:
    found = made(Stub(130, LABELS))
    assert sorted(chain(found.train, found.valid, found.test)) == list(range(130))
    assert NORMAL[found.train].all()
    assert found.anomalous is not None
    np.testing.assert_array_equal(found.anomalous, ~NORMAL)
    for part in (found.train, found.valid, found.test):
        assert (np.diff(part) > 0).all()


@pytest.mark.parametrize(
    ("train", "valid", "sizes", "anomalies"),
    [(0.6, 0.2, (60, 20, 20), (15, 15)), (50, 0.1, (50, 10, 40), (6, 24)), (0.5, 40, (50, 40, 10), (24, 6))],
)
def test_sizes_are_shares_or_numbers_and_anomalies_go_in_proportion(
    train: float, valid: float, sizes: tuple[int, ...], anomalies: tuple[int, ...]
) -> None:
    found = made(Stub(130, LABELS), settings(train, valid))
    assert tuple(int(NORMAL[part].sum()) for part in (found.train, found.valid, found.test)) == sizes
    assert tuple(int((~NORMAL[part]).sum()) for part in (found.valid, found.test)) == anomalies


def test_the_seed_alone_decides() -> None:
    first, again, other = (made(Stub(130, LABELS), settings(seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, again.train)
    assert set(first.train) != set(other.train)


def test_without_labels_all_rows_are_normal() -> None:
    found = made(Stub(50))
    assert found.anomalous is None
    assert [len(part) for part in (found.train, found.valid, found.test)] == [30, 10, 10]


def test_a_series_is_split_by_time() -> None:
    labels = np.array(["0"] * 20)
    labels[[3, 14, 19]] = "1"
    found = made(Stub(20, labels, "series"), settings(0.5, 0.25))
    assert found.train.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]  # without the anomaly
    assert found.valid.tolist() == list(range(10, 15))  # with it
    assert found.test.tolist() == list(range(15, 20))


def test_a_number_of_time_steps() -> None:
    found = made(Stub(20, kind="series"), settings(12, 3))
    assert (found.train.tolist(), found.valid.tolist()) == (list(range(12)), [12, 13, 14])


def test_every_machine_is_split_by_its_own_time() -> None:
    group = np.array(["a", "b"] * 10)
    found = made(Stub(20, kind="series", group=group), settings(0.5, 0.3))
    assert found.train.tolist() == list(range(10))
    for part, sizes in ((found.train, (5, 5)), (found.valid, (3, 3)), (found.test, (2, 2))):
        assert tuple(int((group[part] == name).sum()) for name in "ab") == sizes


def test_the_data_says_who_trains() -> None:
    role = np.array(["train"] * 40 + ["test"] * 40)
    labels = np.array(["good"] * 60 + ["crack"] * 20)
    found = made(Stub(80, labels, "images", role), settings(0.6, 0.25))
    assert set(found.train) < set(range(40))
    assert len(found.train) == 30  # a quarter of train's rows chooses, with half of test's of either kind
    assert [(labels[part] == "good").sum() for part in (found.valid, found.test)] == [10 + 10, 10]
    assert [(labels[part] == "crack").sum() for part in (found.valid, found.test)] == [10, 10]
    assert sorted(chain(found.train, found.valid, found.test)) == list(range(80))


def test_the_data_says_who_chooses() -> None:
    role = np.array(["train"] * 10 + ["valid"] * 5 + ["test"] * 5)
    found = made(Stub(20, role=role), load(base={"split": {"train": 0.6, "valid": 0.2}}))
    assert [part.tolist() for part in (found.train, found.valid, found.test)] == [
        list(range(10)), list(range(10, 15)), list(range(15, 20))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "normal", "said"),
    [
        (["1"] * 10, (), "which is not known as normal"),
        (["1"] * 10 + [""] * 5, (), "holds only '1' beside 5 empty cells, which is not known as normal"),
        (["1"] * 10 + [""] * 5, (), "--set data.unlabelled=normal takes rows without a label as normal"),
        ([""] * 10, (), "holds no label at all; leave --label out"),
        (["good", "ok", "bad", ""] * 5, (), "holds 3 values ('bad', 'good', 'ok'); name the normal ones"),
        (["a", "b", "c"] * 5, (), "holds 3 values ('a', 'b', 'c'); name the normal ones, e.g. --normal a"),
        (["0", "1", "2"] * 5, (), "holds 3 values ('0', '1', '2'); name the normal ones"),
        (["a", "b"] * 5, (), "holds 'a', 'b'; name the normal one, e.g. --normal a"),
        (["a", "b"] * 5, ("z",), "column 'y' has no value 'z' (--normal); it holds 'a', 'b'"),
    ],
)
def test_labels_that_cannot_tell(labels: list[str], normal: tuple[str, ...], said: str) -> None:
    assert said in refused(Stub(len(labels), labels), settings(normal=normal))


@pytest.mark.parametrize(
    ("labels", "normal", "anomalous"),
    [
        (["0", "1"], (), [False, True]),
        (["False", "True"], (), [False, True]),
        (["good", "crack", "hole"], (), [False, True, True]),
        ([" Normal ", "attack"], (), [False, True]),
        (["3", "5", "7"], ("3", "7"), [False, True, False]),
        (["0", "1"], ("1",), [True, False]),
        (["0", "0"], (), [False, False]),
        (["a", "a"], ("a",), [False, False]),
        (["", "0", "1"], (), [False, False, True]),
        (["", "normal", "dos", "probe"], (), [False, False, True, True]),
        (["", "1"], ("",), [False, True]),
    ],
)
def test_labels_that_can(labels: list[str], normal: tuple[str, ...], anomalous: list[bool]) -> None:
    assert is_anomalous(CodedText.of([np.array(labels)]), settings(normal=normal), "file.csv").tolist() == anomalous


def unlabelled(kind: str = "table", role: Any = None) -> Stub:
    """120 of 160 rows without a label; of the others 10 are anomalies."""
    labels = np.array(["0"] * 30 + ["1"] * 10 + [""] * 120)[np.random.default_rng(1).permutation(160)]
    return Stub(160, labels, kind, role)


@pytest.mark.parametrize("kind", ["table", "series", "images"])
def test_rows_without_a_label_are_in_no_part_and_it_is_said(kind: str) -> None:
    source = unlabelled(kind, np.array(["train", "test"] * 80) if kind == "images" else None)
    found = made(source, settings(0.5, 0.25))
    parts = np.concatenate([found.train, found.valid, found.test])
    assert (source.found[parts] != "").all()
    assert found.anomalous is not None and found.anomalous.sum() == 10, "an empty cell is no anomaly"
    assert found.note.startswith(f"120 of 160 {KINDS[kind].noun} have no label in 'y' and were left out")
    if kind == "table":
        assert sorted(parts) == np.flatnonzero(source.found != "").tolist()


def test_rows_without_a_label_train_where_they_are_taken_as_normal() -> None:
    source, config = unlabelled(), load(base={"split": {"train": 0.6, "valid": 0.2}, "data": {"label": "y"}})
    found = made(source, config.model_copy(update={"data": config.data.model_copy(update={"unlabelled": "normal"})}))
    assert (len(found.train), found.note) == (90, ""), "0.6 of 150"
    assert len(found.valid) + len(found.test) == 60 + 10
    only = load(base={"split": {"train": 0.6, "valid": 0.2}, "data": {"label": "y", "unlabelled": "normal"}})
    source.found = np.where(source.found == "0", "", source.found)
    again = made(source, only)
    assert again.anomalous is not None and (again.anomalous.sum(), len(again.train)) == (10, 90)
    source.found = np.where(source.found == "1", np.array(["dos", "probe"] * 80), source.found)
    assert made(source, only).train.tolist() == again.train.tolist(), "whatever the anomalies are called"


def test_steps_that_are_left_out_of_a_series_leave_a_gap_that_no_window_spans() -> None:
    labels = np.array(["0"] * 40)
    labels[[10, 11]] = ""
    found = made(Stub(40, labels, "series"), settings(20, 10))
    assert found.train.tolist() == [*range(10), *range(12, 22)]
    _, starts = window_starts(found.train, None, 40, 4)
    assert starts.tolist() == [*range(7), *range(12, 19)]


def test_a_label_that_is_always_normal_says_that_no_anomaly_is_known() -> None:
    found = made(Stub(50, ["0"] * 50))
    assert found.anomalous is not None and not found.anomalous.any()
    assert [len(part) for part in (found.train, found.valid, found.test)] == [30, 10, 10]


def test_four_training_rows_of_the_datas_own_leave_two_to_choose_the_threshold() -> None:
    def roles(train: int) -> Stub:
        return Stub(train + 10, ["0"] * (train + 5) + ["1"] * 5, "images", ["train"] * train + ["test"] * 10)

    config = settings(test_share=0.0)
    assert [len(part) for part in made(roles(4), config).parts.values()] == [2, 2, 10]
    assert [len(part) for part in made(roles(50), config).parts.values()] == [40, 10, 10]
    assert "leave 1 for valid" in refused(roles(3), config)


def test_too_few_normal_rows_say_how_many_are_left() -> None:
    said = refused(Stub(6, ["0", "0", "0", "1", "1", "1"]))
    assert "3 normal rows leave 1 for valid (split.train=0.6, split.valid=0.2)" in said
    assert "0 for valid" in refused(Stub(50), settings(50, 10))
    assert "leave 1 for train" in refused(Stub(50), settings(1, 10))


def test_a_series_without_normal_steps_at_its_beginning() -> None:
    said = refused(Stub(20, ["1"] * 12 + ["0"] * 8, "series"))
    assert "8 normal rows leave 0 for train" in said
