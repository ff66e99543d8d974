"""Events: joined by hand-worked rules, the same however the stream is cut, and measured by event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from anomaly_vae.core.config import EventsConfig
from anomaly_vae.core.errors import UsageError
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import Event, EventStream, event_metrics
from anomaly_vae.scoring.scores import Scores
from tests.commands import ok, run


def steps(nats: list[float], groups: str = "", jumps: tuple[int, ...] = ()) -> tuple[Chunk, Scores]:
    """Steps with scores `nats`, of the sensors 0 and 1, the second of which has a quarter."""
    n = len(nats)
    elements = np.stack([np.array(nats) * 0.75, np.array(nats) * 0.25], axis=1).astype(np.float32)
    after_gap = np.isin(np.arange(n), jumps) if jumps else None
    chunk = Chunk(np.arange(n), elements, np.array(list(groups)) if groups else None, None, after_gap)
    return chunk, Scores(np.arange(100, 100 + n), {"recon": np.array(nats, np.float64)}, elements)


def events(data: tuple[Chunk, Scores], piece: int = 1000, **rules: int) -> list[tuple[Any, ...]]:
    chunk, scores = data
    stream = EventStream(np.array([0.5, 0.5], np.float32), EventsConfig(**rules))
    found: list[Event] = []
    for first in range(0, len(chunk), piece):
        here = np.arange(first, min(first + piece, len(chunk)))
        found += stream.add(chunk.take(here), scores.take(here), scores.total[here] >= 2)
    found += stream.close()
    return [(e.group, e.start, e.end, e.peak, e.steps, e.alarms, *e.excess.tolist()) for e in found]


@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_alarms_are_joined_over_a_gap_and_told_with_peak_and_sensors(piece: int) -> None:

    data = steps([0, 4, 0, 0, 8, 0, 0, 0, 4])
    # nats above the usual of 0.5: of 4, 3 - 0.5 and 1 - 0.5; of 8, 6 - 0.5 and 2 - 0.5
    assert events(data, piece, gap=2) == [("", 101, 104, 104, 4, 2, 8.0, 2.0), ("", 108, 108, 108, 1, 1, 2.5, 0.5)]
    assert [event[1:3] for event in events(data, piece, gap=3)] == [(101, 108)]
    assert [event[1:3] for event in events(data, piece, gap=1)] == [(101, 101), (104, 104), (108, 108)]
    assert [event[1:3] for event in events(data, piece, gap=2, shortest=2)] == [(101, 104)]


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_no_event_goes_on_over_a_jump_in_time_or_into_another_group(piece: int) -> None:
    assert [e[1:3] for e in events(steps([4, 4, 4, 4], jumps=(2,)), piece)] == [(100, 101), (102, 103)]
    found = events(steps([4, 0, 4, 4, 0, 4], groups="ababab"), piece, gap=0)
    assert sorted(found) == [
        ("a", 100, 102, 100, 2, 2, 5.0, 1.0),
        ("b", 103, 105, 103, 2, 2, 5.0, 1.0),
    ]


def stretch(first: int, last: int, group: str = "") -> Event:
    return Event(group, first, last, first, last, first, first, 1.0, 1, np.zeros(1))


def test_metrics_by_event_are_those_worked_by_hand() -> None:
    found = [stretch(0, 9), stretch(20, 29), stretch(40, 49, "other")]
    labelled = [stretch(5, 24), stretch(40, 49)]
    # events: 5 of 10 steps within, 5 of 10, none (another group); stretches: 10 of 20 covered, none of 10
    assert event_metrics(found, labelled, normal_steps=1440, per_day=1440 * 2) == {
        "events": 3, "event_recall": 0.5, "range_recall": 0.25, "event_precision": pytest.approx(2 / 3),
        "range_precision": pytest.approx(1 / 3), "false_events": 1, "false_events_a_day": 2,
    }  # fmt: skip
    assert event_metrics(found, None, 1440, 720.0) == {"events": 3, "events_a_day": 1.5}
    assert event_metrics([], labelled, 10, None) == {
        "events": 0, "event_recall": 0, "range_recall": 0, "false_events": 0,
    }  # fmt: skip


def alarmed(frame: pd.DataFrame) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = frame["is_anomaly"].to_numpy(bool)
    return found


def test_score_writes_the_events_of_its_alarms(fits: dict[str, Any], tmp_path: Path) -> None:
    options = ["score", "series.csv", "-m", "det-series"]
    ok(*options, "-o", str(tmp_path / "s.csv"), "--events", str(tmp_path / "e.csv"), "--set", "events.gap=0")
    scores, found = pd.read_csv(tmp_path / "s.csv"), pd.read_csv(tmp_path / "e.csv")
    alarm = alarmed(scores)
    starts = alarm & ~np.r_[False, alarm[:-1]]
    assert found["start"].tolist() == scores["id"][starts].tolist()
    assert found["alarms"].sum() == alarm.sum() and (found["alarms"] == found["steps"]).all()
    assert found["score"].max() == scores["score"].max()
    peaks = scores.set_index("id").loc[found["peak"]]
    assert np.allclose(found["p_value"], peaks["p_value"]) and np.array_equal(found["score"], peaks["score"])
    assert (found["top1_share"] >= found["top2_share"]).all()
    rules = Detector.load("det-series", "cpu").events(pd.read_csv("series.csv"), gap=0)
    assert rules["start"].astype(str).str.replace(" ", "T").tolist() == found["start"].tolist()


def test_events_of_other_data_and_of_many_files_are_refused(fits: dict[str, Any], tmp_path: Path) -> None:
    found = run("score", "table.csv", "-m", "det-table", "--events", str(tmp_path / "e.csv"), "-o", "new.csv")
    assert found.exit_code == 2 and "reads a table" in found.stderr and not Path("new.csv").exists()
    assert run("score", "*.csv", "-m", "det-series", "--events", "e.csv", "-o", "x").exit_code == 2
    assert run("score", "series.csv", "-m", "det-series", "--events", "e.txt").exit_code == 2
    with pytest.raises(UsageError, match="reads a table"):
        Detector.load("det-table", "cpu").events(pd.read_csv("table.csv"))


def test_a_fit_records_the_events_of_its_test_steps_by_their_times(fits: dict[str, Any]) -> None:
    said = fits["series"]
    (file,) = Path("mlruns").rglob(f"{said['run_id']}/artifacts/events.json")
    recorded = json.loads(file.read_text())
    table = pd.DataFrame(recorded["data"], columns=recorded["columns"])
    assert len(table) == said["metrics"]["events"] > 0
    ok("score", "series.csv", "-m", "det-series", "-o", "scored.csv")
    scores = pd.read_csv("scored.csv").set_index("id")
    peaks = scores.loc[table["peak"]]
    np.testing.assert_allclose(table["score"], peaks["score"])
    assert scores.loc[[*table["start"], *table["end"]], "is_anomaly"].all()
    assert table["start"].is_monotonic_increasing and (table["start"] <= table["end"]).all()
