"""A stream answers one sample at a time, with the bits of the batch score of the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomaly_vae.core.errors import DataError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.stream import Answer

QUICK = {"device": "cpu", "training__steps": 4, "model__latent": 2}


def same_bits(answers: list[Answer], detector: Detector, X: Any) -> None:
    whole = detector.parts(X)
    assert [answer.row for answer in answers] == list(range(len(whole)))
    np.testing.assert_array_equal([answer.score for answer in answers], whole.total)
    np.testing.assert_array_equal([str(answer.id) for answer in answers], whole.ids.astype(str))
    np.testing.assert_array_equal([list(a.parts.values()) for a in answers], np.stack(list(whole.parts.values()), 1))
    np.testing.assert_array_equal([answer.is_anomaly for answer in answers], detector.predict(X))
    np.testing.assert_array_equal([answer.p_value for answer in answers], detector.p_values(whole.total))


@pytest.fixture(scope="module")
def table() -> tuple[Detector, pd.DataFrame]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=70), "y": rng.normal(size=70), "k": rng.choice(["a", "b"], 70)})
    frame.loc[::9, "x"] = np.nan
    frame.loc[5, "k"] = None
    detector = Detector.fit(frame[:50], **QUICK, model__hidden=[8], split__folds=2)  # the others are new
    frame.loc[60, "k"] = "new"
    return detector, frame


@pytest.mark.parametrize(
    "row", [lambda frame, i: frame.iloc[i].to_dict(), lambda frame, i: frame.iloc[i], lambda frame, i: frame.iloc[[i]]]
)
def test_rows_with_text_and_missing_cells(table: tuple[Detector, pd.DataFrame], row: Any) -> None:
    detector, frame = table
    stream, answers = detector.stream(), []
    for place in range(len(frame)):
        answer = stream.push(row(frame, place))
        assert stream.settled == [answer]
        answers.append(answer)
    same_bits(answers, detector, frame)
    assert stream.close() == []


def test_rows_of_an_array_and_pictures(digits: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 4))
    for data in (X, digits[0][:40]):
        detector = Detector.fit(data, **QUICK, split__folds=0)
        stream = detector.stream()
        same_bits([stream.push(sample) for sample in data], detector, data)


def machines(n: int = 80) -> pd.DataFrame:
    """Steps of two machines, with a gap of three hours and missing cells, interleaved in time."""
    parts = []
    for seed, name in enumerate("pq"):
        rng = np.random.default_rng(seed)
        time = pd.date_range("2024-01-01", periods=n, freq="min") + pd.to_timedelta(np.arange(n) // 40 * 3, unit="h")
        wave = np.sin(np.arange(n) / 5) + 0.1 * rng.normal(size=n)
        parts.append(pd.DataFrame({"time": time, "machine": name, "a": wave, "b": rng.normal(size=n)}))
    frame = pd.concat(parts).sort_values("time", kind="stable", ignore_index=True)
    frame.loc[50:55, "a"] = np.nan
    return frame


@pytest.fixture(scope="module")
def series() -> Detector:
    settings = {"data__group": "machine", "data__window": 8, "model__channels": [4]}
    return Detector.fit(machines(), kind="series", **QUICK, **settings)


def test_steps_of_two_machines_with_a_gap(series: Detector) -> None:
    frame, stream = machines(), series.stream()
    now, settled = [], []
    for place, row in frame.iterrows():
        now.append(stream.push(row))
        settled += stream.settled
        late = 2 * (series.delay + 1 + (7 if 80 <= place < 96 else 0))  # of two machines; a gap holds them up
        assert all(place - answer.row <= late for answer in stream.settled)
        assert all(len(machine.folder.groups[""].segment.values) <= 16 for machine in stream._machines.values())
    same_bits(sorted(settled + stream.close(), key=lambda answer: answer.row), series, frame)
    assert [answer is None for answer in now] == [place < 14 for place in range(len(frame))]  # 7 of each machine
    for place in (15, 60, 81, 90, 96, 159):  # the gap is before step 80
        so_far = series.parts(frame[: place + 1])
        assert now[place].score == so_far.total[place]
        assert now[place].parts == {name: part[place] for name, part in so_far.parts.items()}


@pytest.mark.parametrize(("style", "other"), [("%d.%m.%Y", "%H:%M:%S"), ("%Y-%m-%d %H:%M", None)])
def test_the_time_in_words_and_in_two_columns(style: str, other: str | None) -> None:
    frame = machines()[lambda table: table.machine == "p"].drop(columns="machine").reset_index(drop=True)
    if other:
        frame.insert(1, "clock", frame.time.dt.strftime(other))
    frame["time"] = frame.time.dt.strftime(style)
    detector = Detector.fit(frame, kind="series", **QUICK, data__window=8, model__channels=[4])
    assert detector.layout.gap is not None
    stream, settled = detector.stream(), []
    for row in frame.to_dict("records"):
        stream.push(row)
        settled += stream.settled
    same_bits(settled + stream.close(), detector, frame)


def test_what_a_stream_refuses_changes_nothing(series: Detector) -> None:
    frame, stream, settled = machines()[:60], series.stream(), []
    for place, row in frame.iterrows():
        if place == 40:
            with pytest.raises(DataError, match="before that of the last step; a stream takes steps in order"):
                stream.push(row.to_dict() | {"time": row.time - pd.Timedelta("1h")})
            with pytest.raises(DataError, match="2 samples; a stream takes one at a time"):
                stream.push(frame[:2])
            with pytest.raises(DataError, match="'oops' is not a number"):
                stream.push(row.to_dict() | {"a": "oops"})
            with pytest.raises(DataError, match="'06/05/2024' is no time in the format of the steps before"):
                stream.push(row.to_dict() | {"time": "06/05/2024"})
        stream.push(row)
        settled += stream.settled
    same_bits(sorted(settled + stream.close(), key=lambda answer: answer.row), series, frame)
    with pytest.raises(DataError, match=r"'06/05/2024' may be %m/%d/%Y or %d/%m/%Y; give times as datetime"):
        stream.push(row.to_dict() | {"time": "06/05/2024"})
