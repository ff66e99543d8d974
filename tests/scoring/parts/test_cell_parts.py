"""What is missing, and what was constant: worked by hand, and alarms of a whole fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.source import Column, Layout
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit_memory
from anomaly_vae.scoring.parts.constant import Constant
from anomaly_vae.scoring.parts.missing import Missing
from anomaly_vae.scoring.surprise import Surprise

TINY: dict[str, Any] = {"training__steps": 4, "model__hidden": [8], "model__members": 1, "device": "cpu"}
NAN = math.nan


def layout(*columns: Column, kind: str = "table") -> Layout:
    return Layout(kind, (len(columns),), columns)


def rows(*texts: str) -> NDArray[np.float64]:
    """A row a text: a dot is a value, a dash a missing cell."""
    return np.array([[NAN if cell == "-" else 1.0 for cell in text] for text in texts])


def fitted(values: NDArray[np.float64], kind: str = "table") -> Missing:
    part = Missing(layout(*(Column(f"c{i}") for i in range(values.shape[1])), kind=kind))
    half = len(values) // 2
    part.fit([values[:half], values[half:]], [values[:1]])
    return part


def nats(part: Missing, *texts: str) -> list[float]:
    found = part.nats(torch.from_numpy(rows(*texts)))
    elements = part.elements(torch.from_numpy(rows(*texts)))
    torch.testing.assert_close(elements.sum(1), found)
    return found.tolist()


def test_a_missing_cell_costs_what_its_column_s_share_says() -> None:
    part = fitted(rows(*["..."] * 7, "..-", "..-", "..-"))  # 10 rows, 3 of them without the last column
    never, often = math.log(10.5 / 0.5), math.log(7.5 / 3.5)
    expected = [0, often, never, 2 * never, 2 * never + often]
    np.testing.assert_allclose(nats(part, "...", "..-", ".-.", "--.", "---"), expected, rtol=1e-12)


def test_a_column_that_is_usually_missing_is_unusual_when_it_is_not() -> None:
    part = fitted(rows(*[".-"] * 9, ".."))
    np.testing.assert_allclose(nats(part, ".-", ".."), [0, math.log(9.5 / 1.5)], rtol=1e-12)


def test_columns_that_are_missing_together_count_once() -> None:
    part = fitted(rows(*["....."] * 80, *[".----"] * 20))
    known = -math.log(20.5 / 101)  # of the whole pattern
    mode = -math.log(100.5 / 101) - 4 * math.log(80.5 / 101)  # of a full row, were columns independent
    whole, panel, most = nats(part, ".....", ".----", "-----")
    assert mode - math.log(2) < -math.log(80.5 / 101)  # so full rows need no pattern
    np.testing.assert_allclose((whole, panel), (mode - min(mode, known), known - min(mode, known)), atol=1e-12)
    assert most == pytest.approx(panel + math.log(100.5 / 0.5))
    assert nats(part, "..---")[0] > 3  # a part of the panel is a new thing


def test_alarms_of_missing_cells() -> None:
    part = fitted(rows(*["..-"] * 5, *["..."] * 5))
    assert part.alarms(torch.from_numpy(rows("...", "-.-", "---"))).sum(1).tolist() == [0, 0, 1]
    part = fitted(rows(*["..-"] * 5, *["..."] * 4, "---"))  # there was such a row
    assert not part.alarms(torch.from_numpy(rows("---"))).any()
    part = fitted(rows(*["..-"] * 5, *["..."] * 5), "series")
    torch.testing.assert_close(
        part.alarms(torch.from_numpy(rows("..-", "-.-", "--."))),
        torch.tensor([[0, 0, 0], [1, 0, 0], [0.5, 0.5, 0]], dtype=torch.float64),
    )


def test_a_watched_column_departs() -> None:
    part = Constant(layout(Column("a"), Column("f", None, 0.1), Column("u", ("mm",), 0.0), Column("e", (), -1.0)))
    values = torch.tensor([[5, 0.1, 0, NAN], [5, np.float32(0.1), NAN, NAN], [NAN, NAN, 1, 0.0], [5, 0.1001, 0, NAN]])
    assert part.alarms(values.double()).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]]


def test_nats_that_are_surprises_already_stay_as_they_are_beyond_the_held_out_normals() -> None:
    found = Surprise(0, 1)
    found.fit_nats(np.zeros((1, 50)))
    np.testing.assert_array_equal(found.of(np.array([[0.0, 4.5, 900.0]])), [[0, 4.5, 900]])
    found.fit_nats(np.repeat([[0.0, 20.0]], [45, 5], axis=1))  # a tenth has 20 nats: that is a surprise of log 10
    expected = [0, math.log(10), math.log(10) + 3]
    np.testing.assert_allclose(found.of(np.array([[0.0, 20.0, 23.0]]))[0], expected, atol=1e-9)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=list("abc"))
    return frame.assign(code=0, unit="mm", aux=np.nan)


def test_departures_and_empty_rows_of_a_table_are_alarms(table: pd.DataFrame, tmp_path: Path) -> None:
    detector, seen = fit_memory(table, **TINY)
    assert [column.name for column in detector.layout.watched] == ["code", "unit", "aux"]
    note = "'code', constant (0) in training, 'unit', constant ('mm') in training, 'aux', no value in training; --set"
    assert any(note in n for n in seen.notes)
    new = table[:40].astype({"code": float})
    new.loc[3, "code"], new.loc[5, "unit"], new.loc[7, "aux"] = 57, "inch", 9.9
    new.loc[9, ["a", "b", "c"]] = np.nan
    new.loc[11, "a"] = np.nan
    before, scores = detector.parts(table[:40], explain=True), detector.parts(new, explain=True)
    assert scores.raw is not None
    assert scores.elements is not None
    assert np.flatnonzero(scores.total >= detector.threshold.value).tolist() == [3, 5, 7, 9]
    assert np.flatnonzero(scores.parts["constant"]).tolist() == [3, 5, 7]
    assert np.flatnonzero(scores.parts["missing"]).tolist() == [9, 11]
    n = len(seen.split.train) + len(seen.split.valid)
    constant = detector.score_model.constant
    assert constant is not None
    assert scores.parts["constant"][3] == pytest.approx(float(constant.alarm)) == scores.raw["constant"][3]
    assert float(constant.alarm) >= 2 * math.log(n + 2) + detector.normal[-1]
    assert scores.elements[3].sum() == pytest.approx(scores.raw["recon"][3] + float(constant.alarm), rel=1e-5)
    assert scores.parts["missing"][11] == pytest.approx(math.log((len(seen.split.train) + 0.5) / 0.5), abs=1e-5)
    others = np.delete(np.arange(40), [3, 5, 7, 9, 11])
    np.testing.assert_array_equal(scores.total[others], before.total[others])
    names = [column.name for column in detector.layout.columns]
    top = detector.contributions(scores, 1)[0][:, 0]
    assert [names[top[row]] for row in (3, 5, 7)] == ["code", "unit", "aux"]
    detector.save(tmp_path / "detector")
    again = Detector.load(tmp_path / "detector", "cpu")
    assert again.layout == detector.layout
    np.testing.assert_array_equal(again.score(new), scores.total)
    np.testing.assert_array_equal(again.score(new.drop(columns="aux"))[others], before.total[others])


def test_without_constant_and_missing_cells_the_score_is_that_of_the_other_parts(table: pd.DataFrame) -> None:
    plain = table[["a", "b", "c"]]
    held_out = TINY | {"split__folds": 0}
    detector = Detector.fit(plain, **held_out)
    without = Detector.fit(plain, scoring__parts=["lof", "tails"], **held_out)
    assert "constant" not in detector.score_model.part_names
    np.testing.assert_array_equal(detector.score(plain), without.score(plain))
    watching = Detector.fit(table, scoring__parts=["lof", "tails"], **held_out)
    np.testing.assert_array_equal(watching.score(table), without.score(plain))


def test_a_column_that_moves_among_held_out_normals_is_not_watched(table: pd.DataFrame) -> None:
    held_out = TINY | {"split__train": 0.6, "split__valid": 0.2}
    _, seen = fit_memory(table, **held_out)
    moving = table.astype({"code": float})
    moving.loc[seen.split.valid[0], "code"] = 1.0
    moving.loc[seen.split.valid[1], "unit"] = "inch"
    moving.loc[seen.split.valid[2], "aux"] = 3.0
    layout = fit_memory(moving, **held_out)[1].data.layout
    assert not layout.watched
    assert layout.left_out["code"] == "constant (0) in the training rows, and another value among held-out normals"
    assert set(layout.left_out) == {"code", "unit", "aux"}


def test_a_few_values_are_not_a_constant() -> None:
    frame = pd.DataFrame({"a": np.arange(60) * 1.5 % 7, "b": np.arange(60) % 11, "note": [None] * 50 + ["x"] * 10})
    layout = fit_memory(frame, **TINY)[1].data.layout
    assert not layout.watched
    assert "training rows that have a value" in layout.left_out["note"]


@pytest.mark.parametrize("combine", ["sum", "surprise"])
def test_a_silent_sensor_is_an_alarm(combine: str) -> None:
    t = np.arange(900)
    rng = np.random.default_rng(1)
    steps = np.c_[np.sin(t / 9), np.cos(t / 9), np.sin(t / 9)] + 0.1 * rng.normal(size=(900, 3))
    steps[::3, 2] = np.nan  # which training often missed
    detector = Detector.fit(steps, kind="series", scoring__combine=combine, training__steps=30, device="cpu")
    normal = detector.score(steps[:200])
    for silent in ([0], [1], [0, 1, 2]):
        dead = steps[:200].copy()
        dead[80:120, silent] = np.nan
        scores = detector.score(dead)[80:120]
        assert (scores >= detector.threshold.value).all()
        assert scores.min() > np.median(normal)
    emptier = steps[:200].copy()
    emptier[80:120, 2] = np.nan
    scores = detector.parts(emptier)
    assert scores.parts["missing"][80:120].max() < 1.2
    assert combine == "surprise" or np.median(scores.total[80:120]) > np.median(normal) - 0.5
    assert (scores.total[80:120] >= detector.threshold.value).mean() < 0.2


def test_pictures_have_no_columns() -> None:
    with pytest.raises(ConfigError, match=r"scoring\.parts=missing is of tables and series"):
        Detector.fit(np.random.default_rng(0).random((30, 8, 8)), scoring__parts=["missing"], **TINY)


def test_known_anomalies_get_the_alarms_of_a_fit_too(table: pd.DataFrame) -> None:
    labelled = table.astype({"code": float})
    labels = np.zeros(200)
    labels[::10] = 1
    labelled.loc[::10, "code"] = 3
    detector, seen = fit_memory(labelled, labels, **TINY)
    anomalous = seen.split.anomalous
    assert anomalous is not None
    for rows in (seen.split.valid, seen.split.test):
        scores, is_anomaly = seen.part(rows)
        np.testing.assert_array_equal(scores.total >= detector.threshold.value, is_anomaly)
        np.testing.assert_array_equal(scores.parts["constant"] > 0, is_anomaly)
        again = detector.score(labelled.iloc[rows])  # the sixth decimal of weighted parts may be rounded otherwise
        np.testing.assert_allclose(scores.total[is_anomaly], again[is_anomaly], rtol=0, atol=2e-6)
    assert detector.anomalous.min() > detector.normal.max()
