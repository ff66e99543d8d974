"""Worries: their order and number on the terminal, and the rules that find them in a test and in new data."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from anomaly_vae.core.worries import Gravity, Worry, lines
from anomaly_vae.data.open import open_memory
from anomaly_vae.detector.detector import Detector
from anomaly_vae.reporting.worries import NewData, worries_of_test


def test_the_gravest_are_printed_first_and_the_rest_is_counted() -> None:
    four = [Worry(f"w{gravity}", Gravity(gravity)) for gravity in (3, 0, 4, 1)]
    told = ["note: sorted", "worry: w0", "worry: w1", "worry: w3", "worry: w4"]
    assert lines(["sorted", *four, four[0]], "the report") == told
    many = [Worry(f"c{i}", Gravity.UNREAD) for i in range(4)]
    expected = ["worry: w0", "worry: w1", "worry: w3", "worry: c0", "worry: and 4 more: the report"]
    assert lines([*four, *many], "the report") == expected


def test_a_worry_keeps_its_gravity_on_its_way_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(Worry("w", Gravity.BROKEN)))
    assert (sent, sent.gravity) == ("w", Gravity.BROKEN)


def frame(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame({"a": a, "b": a + rng.normal(size=n), "mode": rng.choice(["on", "off"], n)})


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.fit(frame(300, 0), training__steps=20, model__hidden=[8])


def told(detector: Detector, data: pd.DataFrame) -> list[tuple[str, Gravity]]:
    source, new_data = open_memory(data, detector.config.data), NewData(detector)
    for _ in new_data.watch(detector.score_source(source)):
        pass
    return [(str(worry), worry.gravity) for worry in [*new_data.alarm_worry(), *new_data.worries(source)]]


def test_data_like_that_of_training_is_no_worry(detector: Detector) -> None:
    assert told(detector, frame(200, 1)) == []
    assert told(detector, frame(1, 2) * 1) == []


def test_what_training_did_not_have_is_told(detector: Detector) -> None:
    new = frame(200, 1)
    new.loc[:9, "mode"], new.loc[10:12, "mode"] = "idle", "x"
    new.loc[100:159, "b"] = np.nan
    unseen = "values that training has not seen, judged as none of those it has: 'mode' in 13 of 200 ('idle' 10, 'x' 3)"
    missing = "missing cells: 'b' 30% (training 0%)"
    assert told(detector, new) == [(unseen, Gravity.UNLIKE), (missing, Gravity.UNLIKE)]


def test_far_more_alarms_than_promised_are_told(detector: Detector) -> None:
    new = frame(200, 1)
    new.loc[:149, "a"] += 1000
    (worry,) = told(detector, new)
    promised = f"{100 * detector.threshold.false_alarm_rate:.2g} %"
    assert worry[0].startswith(f"150 of 200 rows are alarms where {promised} of normal ones were promised: is this")
    assert worry[1] == Gravity.BROKEN
    few = frame(200, 1)
    few.loc[:29, "a"] += 1000  # as many as may be anomalies
    assert told(detector, few) == []


@pytest.mark.parametrize(
    ("auroc", "word"), [(0.3, "normals score above"), (0.55, "hardly tell"), (0.61, None), (None, None)]
)
def test_an_auroc_near_chance_is_the_gravest(detector: Detector, auroc: float | None, word: str | None) -> None:
    found = worries_of_test(detector, detector.normal, {} if auroc is None else {"auroc": auroc})
    useless = [worry for worry in found if isinstance(worry, Worry) and worry.gravity == Gravity.USELESS]
    assert [word in worry for worry in useless if word] == ([True] if word else [])
    assert len(useless) == (word is not None)
