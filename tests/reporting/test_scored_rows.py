"""What a report keeps of rows that stream by, the slider's positions, and the pages of scored and evaluated data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.detector import Detector
from anomaly_vae.reporting import scored_rows
from anomaly_vae.reporting.scored_rows import Rows, ScoredRows, Steps
from anomaly_vae.reporting.slider import Slider
from anomaly_vae.scoring.scores import Scores
from anomaly_vae.tracking.store import store_uri
from tests.commands import ok, run

Fits = dict[str, dict[str, Any]]


def some_rows(detector: Detector, total: np.ndarray, first: int = 0) -> Rows:
    """Rows of a table with these scores; a third are anomalies."""
    numbers, features = first + np.arange(len(total)), len(detector.layout.columns)
    parts = {"recon": total, "kl": np.zeros(len(total))}
    elements = np.tile(total[:, None], features).astype(np.float32)
    chunk = Chunk(numbers, np.zeros((len(total), features)))
    return Rows(numbers, chunk, Scores(numbers, parts, elements), numbers % 3 == 0)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_worst_rows_and_mistakes_are_those_of_all_pieces(
    labelled: bool, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_rows, "DRAWN", 50)
    detector = Detector.load("det-table")
    cut = detector.threshold.value
    total = (cut + np.random.default_rng(0).normal(size=500).round(1)).round(6)  # as scores are
    scored = ScoredRows(detector, labelled)
    for first in range(0, 500, 70):
        scored.add(some_rows(detector, total[first : first + 70], first))
    is_anomaly, order = np.arange(500) % 3 == 0, np.argsort(-total, kind="stable")
    assert scored.worst.rows.numbers.tolist() == order[:100].tolist()
    assert (scored.count, scored.alarms) == (500, (total >= cut).sum())
    if labelled:
        false = order[(total[order] >= cut) & ~is_anomaly[order]]
        missed = np.argsort(total, kind="stable")
        missed = missed[(total[missed] < cut) & is_anomaly[missed]]
        assert scored.false_alarms.rows.numbers.tolist() == false[:50].tolist()
        assert scored.misses.rows.numbers.tolist() == missed[:50].tolist()
        assert (scored.false_alarms.count, scored.misses.count) == (len(false), len(missed))
        assert scored.drawn[:, 0].tolist() == total.tolist()
    else:
        assert len(scored.drawn) == 50 and set(scored.drawn[:, 0]) <= set(total)
        assert scored.false_alarms.rows is None


def test_a_long_series_keeps_every_extreme_in_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored_rows, "STEPS", 8)
    values = np.random.default_rng(0).normal(size=(1000, 2))
    values[637, 1], total = 99.0, np.arange(1000.0)
    steps = Steps(2)
    for first in range(0, 1000, 90):
        at = np.arange(first, min(first + 90, 1000))
        steps.add(at, values[at], total[at], at == 637)
    ids, kept, scores, is_anomaly = steps.points()
    assert len(ids) == len(kept) == len(scores) <= 16
    assert kept.max(axis=0).tolist() == values.max(axis=0).tolist()
    assert kept.min(axis=0).tolist() == values.min(axis=0).tolist()
    assert (scores.min(), scores.max(), steps.highest) == (0, 999, 999)
    assert ids[is_anomaly][0] <= 637 and is_anomaly.sum() == 2
    assert ids.tolist() == sorted(ids.tolist())


@pytest.mark.parametrize("name", ["digits", "table", "series"])
def test_each_position_is_the_threshold_that_its_policy_chooses(name: str, fits: Fits) -> None:
    detector = Detector.load(f"det-{name}")
    here = np.array([0.0, 5.0, 1e9])
    slider = Slider.of(detector, "my </script> run", here, "today.csv")
    assert slider is not None
    data = slider.data
    assert data["cuts"][0] == detector.threshold.value
    assert data["cuts"][1:] == sorted(data["cuts"][1:], reverse=True)
    for place in {1, len(data["cuts"]) // 2, len(data["cuts"]) - 1}:
        cut, policy = data["cuts"][place], data["policies"][place]
        assert detector.threshold_by(policy).value == cut
        assert data["false"][place] == (detector.normal >= cut).sum()
        assert data["hits"][place] == (detector.anomalous >= cut).sum()
        assert data["here"][place] == (here >= cut).sum()
    assert "</script>" not in slider.json("rows")
    assert json.loads(slider.json("rows"))["command"] == "anomaly-vae threshold -m 'my </script> run' "


def sections(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_scored_data_gets_the_page_of_a_fit(fits: Fits, tmp_path: Path) -> None:
    frame = pd.read_csv("series.csv").drop(columns="anomaly")
    frame.to_csv(tmp_path / "today.csv", index=False)
    result = run("score", str(tmp_path / "today.csv"), "-m", "det-series", "--report", str(tmp_path / "p.html"),
                 "-o", str(tmp_path / "s.csv"))  # fmt: skip
    page = (tmp_path / "p.html").read_text()
    assert {"Another threshold", "Figures", "The most anomalous time steps", "Events"} <= set(sections(page))
    assert "Drift against training" in sections(page) and "Changed from the defaults" not in sections(page)
    scores = pd.read_csv(tmp_path / "s.csv")
    assert f"{scores['is_anomaly'].sum()} of {len(scores)} at or above" in result.stderr
    assert f"Raises an alarm for {scores['is_anomaly'].mean():.1%} of the 3000 time steps" in page
    worst = scores.loc[scores["score"].idxmax()]
    assert f"<td>{worst['id']}</td>" in page and "Sensors and score over time" in page
    plain = ok("score", str(tmp_path / "today.csv"), "-m", "det-series")
    assert (tmp_path / "s.csv").read_text() == plain, "the report changes no score"
    refused = run("score", "x*.csv", "-m", "det-series", "-o", "d", "--report", "p.html")
    assert (refused.exit_code, "--report is of one file" in refused.stderr) == (2, True)
    assert ".html" in run("score", "series.csv", "-m", "det-series", "--report", "p.pdf").stderr


def test_an_evaluation_is_a_run_with_its_figures_and_mistakes(fits: Fits, tmp_path: Path) -> None:
    run_id = fits["table"]["run_id"]
    found = json.loads(ok("evaluate", "table.csv", "-m", run_id, "--json", "--report", str(tmp_path / "e.html")))
    latest = json.loads(ok("runs", "--json"))[0]
    assert (latest["name"], latest["parent"], latest["status"]) == ("evaluate-table", run_id, "FINISHED")
    assert latest["auroc"] == found["metrics"]["auroc"] and latest["detector"] is False
    client = MlflowClient(store_uri(Config()))
    figures = {Path(file.path).stem for file in client.list_artifacts(latest["run_id"], "figures")}
    assert {"roc", "precision_recall", "score_histogram", "columns"} <= figures
    folder = Path("mlruns/artifacts") / latest["run_id"] / "artifacts"
    mistakes, metrics = pd.read_json(folder / "mistakes.json", orient="split"), found["metrics"]
    wrong = metrics["false_alarm_rate"] * (metrics["rows"] - metrics["anomalies"])
    assert (mistakes["labelled"] == "normal").sum() == min(50, round(wrong))
    page = (tmp_path / "e.html").read_text()
    assert page.split("<footer>")[0] == (folder / "report.html").read_text().split("<footer>")[0]
    low, high = metrics["auroc_low"], metrics["auroc_high"]
    assert f"{metrics['auroc']:.4f} (95 %: {low:.3f} to {high:.3f})" in page


def test_candidates_are_listed_and_nothing_is_changed(fits: Fits) -> None:
    before, detector = Path("det-table/detector.json").read_bytes(), Detector.load("det-table")
    lines = ok("threshold", "-m", "det-table").splitlines()
    assert re.split(r"  +", lines[0]) == ["policy", "threshold (nats)", "recall", "precision", "false-alarm rate",
                                          "alarms of all rows"]  # fmt: skip
    cut = detector.threshold_by("recall=0.95").value
    hits, false = (detector.anomalous >= cut).sum(), (detector.normal >= cut).sum()
    rates = (hits / len(detector.anomalous), hits / (hits + false), false / len(detector.normal))
    row = next(line for line in lines if line.startswith("recall=0.95"))
    assert re.split(r"  +", row)[1:5] == [f"{cut:.6g}", *(f"{rate:.2%}" for rate in rates)]
    assert sum("(chosen)" in line for line in lines) == 1
    assert lines[-1] == "choose one:  anomaly-vae threshold -m det-table --policy POLICY"
    assert Path("det-table/detector.json").read_bytes() == before
    assert "steps a day" in ok("threshold", "-m", "det-series")
