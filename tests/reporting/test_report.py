"""What a person reads of a fit: the worries, the note, the report, and all of it in a real browser."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from anomaly_vae.core.config import Config
from anomaly_vae.core.worries import Gravity, Worry
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.thresholds import Threshold
from anomaly_vae.reporting import report, worries
from anomaly_vae.reporting.summary import Choice, Summary
from anomaly_vae.tracking import metadata
from anomaly_vae.tracking.store import store_uri

Fits = dict[str, dict[str, Any]]
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
ROC = Threshold(5.0, "youden", True, 0.02, 100, 50)


def a_summary(**changes: Any) -> Summary:
    fields: dict[str, Any] = {
        "kind": "table",
        "data": "<b>a|b.csv",
        "data_is": "a table",
        "rows": {"train": 9, "valid": 4, "test": 10},
        "metrics": {
            "auroc": 0.75,
            "recall": 0.5,
            "false_alarm_rate": 0.1,
            "alarm_rate": 0.3,
            "anomalies": 4.0,
            "active_units": 16.0,
            "kl_total": 1.7314,
            "kl_dimensions": 3.0,
        },
        "threshold": ROC,
        "pixels": None,
        "choices": (Choice("youden", 5.0, True, 0.3, 0.5, 0.1),),
        "changed": {f"training.k{i}": i for i in range(20)},
        "seconds": 1.25,
        "notes": (Worry("rates are <i>unsure</i>"), "times were sorted", Worry("it is useless", Gravity.USELESS)),
    }
    return Summary(**{**fields, **changes})


# --- worries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alarms", "normals", "chosen", "series", "words"),
    [
        (2, 100, ROC, False, []),
        (30, 200, ROC, False, ["false alarms on test are 15.00% where validation let 2.00% expect"]),
        # 3 of 36: SciPy's binomtest(3, 36).proportion_ci() is (0.01751, 0.22470)
        (3, 36, ROC, False, ["3 of only 36 normal test rows are false alarms: the rate lies between 1.8% and 22.5%"]),
        (0, 10, ROC, False, ["0 of only 10 normal test rows are false alarms: the rate lies between 0.0% and 30.8%"]),
        (60, 1000, ROC, True, []),
        (120, 1000, ROC, True, ["false alarms on test are 12.00%"]),
        (0, 0, ROC, False, []),
    ],
)
def test_false_alarms_above_the_validation_rate_are_a_worry(
    alarms: int, normals: int, chosen: Threshold, series: bool, words: list[str]
) -> None:
    found = worries.alarm_worries(alarms, normals, chosen, series)
    assert [any(text.startswith(word) for text in found) for word in words] == [True] * len(words)
    assert len(found) == len(words)


@pytest.mark.parametrize(
    ("per_day", "often"), [(None, "1 of 1,000 normal time steps"), (8640.0, "8.64 of 8640 normal time steps a day")]
)
def test_a_threshold_of_a_series_says_how_often_it_is_wrong(per_day: float | None, often: str) -> None:
    note = "60 held-out normals are worth about 7 independent ones"
    threshold = Threshold(5.0, "tail=0.001", False, 0.001, 60, 0, note, 7.5, per_day)
    chosen_by = a_summary(threshold=threshold, kind="series").chosen_by()
    assert chosen_by == f"tail=0.001, {often}, from 60 held-out normal time steps"


# --- the note and the report ---------------------------------------------------------------------------------------


def test_names_are_shown_and_neither_obeyed_nor_linked() -> None:
    hostile = "<img src=x>\x1b[31m[a](http://b)`x`\n# c.csv"
    named = a_summary(data=hostile, data_is=f"a table ({hostile})", changed={"data.id": hostile})
    note, page = report.to_markdown(named), report.to_html(named, hostile, [], [], "")
    for text in (note, page):
        assert "\x1b" not in text and r"\x1b[31m" in text.replace("\\[", "[")
    assert "a table (&lt;img src=x>\\x1b\\[31m\\[a](http://b)`x` # c.csv)" in note
    assert "- `data.id` = `<img src=x>\\x1b[31m[a](http://b)'x' # c.csv`" in note
    assert "<img" not in page and "&lt;img src=x&gt;" in page


def test_the_note_tells_everything_in_markdown() -> None:
    note = report.to_markdown(a_summary())
    assert note.startswith(
        "**Finds 50.0% of the anomalies in the test rows and raises an alarm for 10.0% of the normal"
    )
    assert "| trained on | 9 normal rows of &lt;b>a\\|b.csv (table) |" in note
    assert "| active units | 16 |\n| latent KL | 1.73 nats, 3 dimensions above 0.1 |" in note
    assert "| youden (chosen) | 5 | 50.00% | 10.00% | 30.00% |" in note
    assert "### What to worry about\n\n- it is useless\n- rates are &lt;i>unsure&lt;/i>\n\n" in note
    assert "### Notes\n\n- times were sorted\n\n" in note
    assert "- and 8 more: the parameters `changed.*`" in note
    unlabelled = a_summary(
        metrics={"alarm_rate": 0.3, "active_units": 2.0, "kl_total": 3.0, "kl_dimensions": 1.0}, notes=()
    )
    assert "how much it finds is not known" in report.to_markdown(unlabelled)
    assert "worry" not in report.to_markdown(unlabelled)


class Outline(HTMLParser):
    """Headings, pictures and everything that would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("data:")
        ]


def test_the_report_stands_alone() -> None:
    picture = report.Figure("roc", "ROC <curve>", 'AUROC "0.75"', b"\x89PNG" + bytes(12) + (700).to_bytes(4, "big"))
    rows = report.Table("top", "Top", "The <highest>.", ["id", "score"], [["<x>", 1234567.0]])
    text = report.to_html(a_summary(), "a <run>", [picture], [rows], "run 1")
    outline = Outline(text)
    assert outline.fetched == [], "nothing is loaded from elsewhere"
    assert not {"script", "iframe", "b", "i", "x"} & set(outline.tags), "and nothing of the data is taken for a tag"
    assert outline.images[0]["alt"] == 'AUROC "0.75"'
    assert outline.tags.count("h1") == 1 and outline.tags.count("h2") == 7
    assert '<td class="number">1.23457e+06</td>' in text
    assert "\n.verdict {" in text, "the style is part of the page, unescaped"


@pytest.mark.parametrize("name", ["digits", "table", "series"])
def test_a_fit_logs_note_report_and_tables(name: str, fits: Fits) -> None:
    run = MlflowClient(store_uri(Config())).get_run(fits[name]["run_id"])
    folder = Path("mlruns/artifacts") / run.info.run_id / "artifacts"
    report = Outline((folder / "report.html").read_text())
    assert len(report.images) == len(list((folder / "figures").iterdir()))
    assert all(image["alt"] for image in report.images)
    assert report.fetched == []
    assert run.data.tags["mlflow.note.content"].startswith("**")
    tables = {entry["path"] for entry in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    top = pd.read_json(folder / "most_anomalous.json", orient="split")
    assert "most_anomalous.json" in tables
    assert top["score"].is_monotonic_decreasing
    parts = [
        part
        for part in ("recon", "kl", "neighbours", "lof", "marginals", "variation", "missing", "level")
        if part in top
    ]
    np.testing.assert_allclose(top[parts].sum(axis=1), top["score"], atol=1e-5)
    wrong = pd.read_json(folder / "mistakes.json", orient="split")
    assert ((wrong["labelled"] == "anomalous") != wrong["is_anomaly"]).all(), "each a false alarm or a miss"
    kl = pd.read_csv(folder / "kl_by_epoch.csv", index_col="epoch")
    assert len(kl) == 3
    assert (kl >= 0).all(axis=None)


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def server(fits: Fits) -> Iterator[str]:
    """The address of `anomaly-vae ui` on the runs of `fits`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "anomaly_vae", "ui", "--port", str(port)]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": paths})
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def is_our_error(message: Any) -> bool:
    """MLflow asks for a user that a server without accounts does not know; that error is its own."""
    return bool(message.type == "error" and not message.location["url"].endswith("/users/current"))


def in_a_browser(test: Any) -> Any:
    for mark in (
        pytest.mark.browser,
        pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path: apt-get install chromium"),
        pytest.mark.skipif(not find_spec("playwright"), reason="needs the extra browser: pip install '.[browser]'"),
        pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    ):
        test = mark(test)
    return test


@in_a_browser
@pytest.mark.parametrize("scripts", [True, False])
def test_the_slider_in_a_browser(scripts: bool, fits: Fits) -> None:
    """Its numbers are those of the held-out scores, and its command chooses the threshold that it shows."""
    from playwright.sync_api import sync_playwright

    run_id, detector, errors = fits["table"]["run_id"], Detector.load("det-table"), []
    path = Path("mlruns/artifacts", run_id, "artifacts/report.html").absolute()
    with sync_playwright() as drive:
        browser = drive.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        window = browser.new_page(java_script_enabled=scripts)
        window.on("pageerror", lambda error: errors.append(str(error)))
        window.goto(path.as_uri())
        assert window.locator("#slider").is_visible() == scripts, "without scripts nothing is shown that does nothing"
        for key in ("Home", *["ArrowRight"] * 20, "End") if scripts else ():
            window.locator("#cut").press(key)
            cells = {
                name: window.locator(f"#new-{name}").inner_text() for name in ("threshold", "recall", "rate", "often")
            }
            *_, flag, policy = shlex.split(window.locator("#command").inner_text())
            cut = detector.threshold_by(policy).value
            hits, false = (detector.anomalous >= cut).sum(), (detector.normal >= cut).sum()
            assert flag == "--policy" and float(cells["threshold"].split()[0]) == pytest.approx(cut, rel=1e-5)
            assert cells["recall"].endswith(f"({hits} of {len(detector.anomalous)})")
            assert cells["rate"] == f"{100 * false / len(detector.normal):.2f} % ({false} of {len(detector.normal)})"
            assert float(cells["often"].split()[0]) == pytest.approx(1000 * false / len(detector.normal), rel=0.01)
        browser.close()
    assert errors == []


@in_a_browser
def test_the_review_in_a_browser(fits: Fits, server: str) -> None:
    from playwright.sync_api import sync_playwright

    run_id, auroc = fits["table"]["run_id"], fits["table"]["metrics"]["auroc"]
    client = MlflowClient(store_uri(Config()))
    experiment = client.get_run(run_id).info.experiment_id
    errors: list[str] = []
    with sync_playwright() as drive:
        browser = drive.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1900, "height": 1200})
        window.set_default_timeout(30_000)  # milliseconds
        window.on("pageerror", lambda error: errors.append(str(error)))
        window.on("console", lambda message: errors.append(message.text) if is_our_error(message) else None)
        window.goto(f"{server}/{metadata.experiment_page(experiment)}")
        window.get_by_text("table-table-diagnosis-youden").first.wait_for()
        for column in ("test/auroc", "test/f1", "model/active_units"):
            window.get_by_role("columnheader", name=column).first.wait_for()
        window.get_by_text(re.compile(re.escape(str(auroc)[:6]))).first.wait_for()

        window.goto(f"{server}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning")
        window.get_by_text(re.compile(r"Finds [\d.]+% of the anomalies")).first.wait_for()

        window.goto(f"{server}/#/experiments/{experiment}/runs/{run_id}/artifacts?workflowType=machine_learning")
        window.get_by_text("report.html").first.click()
        frame = window.frame_locator("iframe")
        frame.get_by_role("heading", name="What it came to").wait_for()
        frame.get_by_role("heading", name="Another threshold").wait_for()  # its script may run in MLflow's sandbox
        images = frame.locator("img")
        assert images.count() == len(client.list_artifacts(run_id, "figures"))
        assert images.evaluate_all("found => found.every(image => image.complete && image.naturalWidth > 300)")
        window.get_by_text("figures").first.click()
        window.get_by_text("roc.png").first.click()
        window.locator("img[src*='roc.png'], img[src^='blob:']").first.wait_for()
        if folder := os.environ.get("SCREENSHOTS"):
            window.screenshot(path=f"{folder}/figure.png")
        browser.close()
    assert errors == []
