"""Every command and option, as a user types it, on the sample data."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from anomaly_vae.core.config import Config
from anomaly_vae.tracking import store
from anomaly_vae.tracking.client import connect
from tests.commands import ok, run

UNTRACKED = ["--set", "training.epochs=1", "--set", "tracking.enabled=false"]
ROWS = {"digits": 1797, "table": 569, "series": 3000}
PARTS = {
    "digits": ["recon", "kl", "neighbours"],
    "table": ["recon", "kl", "neighbours", "lof", "marginals", "missing"],
    "series": ["recon", "kl", "variation", "level", "missing"],
}

Fits = dict[str, dict[str, Any]]


@pytest.fixture
def beside(fits: Fits) -> Iterator[None]:
    """What a test writes beside the fits is taken away again."""
    place = Path.cwd()  # an interrupted suite is back in the checkout before this ends
    before = set(place.iterdir())
    yield
    for path in set(place.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def table(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_help_lists_every_command() -> None:
    text = ok("--help")
    for command in ("fit", "score", "evaluate", "threshold", "feedback", "sample-data", "runs", "config", "info", "ui"):
        assert f"\n  {command} " in text
        assert ok(command, "--help").startswith(f"Usage: main {command}")


def test_help_and_settings_load_nothing_heavy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom anomaly_vae.cli import main\n"
        "codes = [CliRunner().invoke(main, args.split()).exit_code for args in sys.argv[1:]]\n"
        "heavy = {'torch', 'pandas', 'numpy', 'mlflow', 'sklearn', 'pyarrow', 'matplotlib', 'rich'}\n"
        "print(codes, sorted(heavy & set(sys.modules)))"
    )
    commands = [
        "--help",
        "fit --help",
        "fit --set training.epoch=3",
        "score x --set a=b",
        "config",
        "fit absent.csv",
        f"score {__file__} -o s.xlsx",
        "export -o d.onyx",
        "latent edit 3 --direction absent.csv",
    ]
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 0, 2, 2, 0, 1, 2, 2, 1] []\n"


def test_config_prints_what_it_reads() -> None:
    text = ok("config", "--set", "training.lr=3e-4", "--set", "data.normal=[3, 5]", "--set", "data.drop=x")
    assert Config(**yaml.safe_load(text)).changed() == {
        "training.lr": 3e-4,
        "data.normal": ["3", "5"],
        "data.drop": ["x"],
    }
    for setting in Config().flat():
        assert re.search(rf"^ *#.*\n *{setting.rpartition('.')[2]}:", text, re.M), f"{setting} has no comment"
    assert re.search("# .*one of .*conv2d.*dense", text), "the names of a registry"
    assert re.search("# .*one of auto, cpu, cuda\ndevice: auto", text)
    changed = ok("config", "--changed", "--set", "training.lr=3e-4", "--set", "data.normal=[3, 5]")
    assert [line for line in changed.splitlines() if line.strip()[:1] not in "#"] == [
        "data:", "  normal: ['3', '5']", "training:", "  lr: 0.0003"
    ]  # fmt: skip
    assert Config(**yaml.safe_load(changed)).changed() == {"training.lr": 3e-4, "data.normal": ["3", "5"]}
    assert ok("config", "--changed") == "# nothing differs from the defaults\n"


@pytest.mark.parametrize("name", ROWS)
def test_fit_reports_its_result(name: str, fits: Fits) -> None:
    result = fits[name]
    assert result["kind"] == {"digits": "pixels"}.get(name, name)
    assert result["detector"] == f"det-{name}"
    assert result["policy"] == "youden"
    assert result["data"] == f"{name}.csv"
    metrics = result["metrics"]
    assert metrics["f1"] == pytest.approx(
        2 * metrics["precision"] * metrics["recall"] / (metrics["precision"] + metrics["recall"])
    )
    # a fit is quick here, yet it has learnt something
    assert metrics["auroc"] > 0.7
    assert sum(result["rows"].values()) == ROWS[name]


@pytest.mark.parametrize("name", ROWS)
def test_a_score_is_the_sum_of_its_parts(name: str, fits: Fits) -> None:
    first, again = (ok("score", f"{name}.csv", "-m", f"det-{name}") for _ in range(2))
    assert first == again
    scores = table(first)
    assert list(scores.columns) == ["id", "score", *PARTS[name], "p_value", "is_anomaly"]
    # as decimals, to the last printed digit
    for row in csv.DictReader(io.StringIO(first)):
        assert float(row["score"]) == pytest.approx(sum(float(row[part]) for part in PARTS[name]), rel=1e-12, abs=1e-9)
    assert len(scores) == ROWS[name]
    time = pd.read_csv("series.csv")["time"]
    assert list(scores["id"]) == (list(time) if name == "series" else list(range(ROWS[name])))
    assert (scores["is_anomaly"] == (scores["score"] >= fits[name]["threshold"])).all()
    assert scores["p_value"].between(0, 1).all()


@pytest.mark.usefixtures("beside")
def test_every_format_holds_the_same(fits: Fits) -> None:
    options = ["series.csv", "-m", "det-series", "--explain", "2"]
    for ending in ("csv", "parquet", "json"):
        assert ok("score", *options, "-o", f"s.{ending}") == ""
    assert Path("s.csv").read_text() == ok("score", *options)
    expected = pd.read_csv("s.csv", dtype=dict.fromkeys(("top1_value", "top2_value"), str))
    pd.testing.assert_frame_equal(pd.read_parquet("s.parquet"), expected, check_dtype=False)
    pd.testing.assert_frame_equal(pd.DataFrame(json.loads(Path("s.json").read_text())), expected, check_dtype=False)


@pytest.mark.usefixtures("beside")
def test_explain_names_the_columns_that_stand_out(fits: Fits) -> None:
    data = pd.read_csv("table.csv")
    data.loc[5, "mean_area"] = 1e5  # the largest of all is 2501
    data.to_csv("odd.csv", index=False)
    row = table(ok("score", "odd.csv", "-m", "det-table", "--explain", "3")).loc[5]
    assert row["top1"] == "mean_area"
    assert row["top1_share"] > 0.5
    shares = row[["top1_share", "top2_share", "top3_share"]].dropna().tolist()
    assert shares == sorted(shares, reverse=True) and min(shares) >= 0
    assert row["is_anomaly"]


@pytest.mark.usefixtures("beside")
def test_id_threshold_and_quiet(fits: Fits) -> None:
    pd.read_csv("table.csv").assign(name=[f'row "{i}", b' for i in range(569)]).to_csv("named.csv", index=False)
    plain = table(ok("score", "named.csv", "-m", "det-table"))
    cut = float(plain["score"].median())
    result = run("score", "named.csv", "-m", "det-table", "--id", "name", "--threshold", str(cut))
    named = table(result.stdout)
    assert named["id"][7] == 'row "7", b'
    assert (named["is_anomaly"] == (plain["score"] >= cut)).all()
    assert (named["score"] == plain["score"]).all()
    alarms = int(named["is_anomaly"].sum())
    said = f"{alarms} of 569 at or above the threshold (--threshold {cut:g}), by det-table\n"
    assert result.stderr.startswith("note: 285 of 569 are rows that the detector was fitted on")
    assert result.stderr.splitlines(keepends=True)[1:] == [said]
    for quiet in (["-q", "score"], ["score", "--quiet"]):
        assert run(*quiet, "named.csv", "-m", "det-table").stderr == ""


@pytest.mark.usefixtures("beside")
def test_maps_draw_the_flagged_pictures(fits: Fits) -> None:
    few = pd.read_csv("digits.csv").head(30).assign(place=[f"../{i % 20}.png" for i in range(30)])
    few.to_csv("few.csv", index=False)
    scores = table(ok("score", "few.csv", "-m", "det-digits", "--maps", "maps"))
    flagged = scores["id"][scores["is_anomaly"]]
    assert 0 < len(flagged) < 30
    assert sorted(path.name for path in Path("maps").iterdir()) == sorted(f"{i}.png" for i in flagged)
    assert np.asarray(Image.open(f"maps/{flagged.iloc[0]}.png")).shape[:2] == (256 + 18, 2 * 256 + 2 * 8 + 96)
    # ids with dots stay in the folder, and none hides another
    ok("score", "few.csv", "-m", "det-digits", "--id", "place", "--maps", "inside", "--threshold", "-1e9")
    assert len(list(Path("inside").iterdir())) == 30
    assert {"0.png", "0 (2).png", "19.png"} <= {path.name for path in Path("inside").iterdir()}


@pytest.mark.usefixtures("beside")
def test_a_map_is_of_its_picture_however_many_come_before() -> None:
    scores = table(ok("score", "digits.csv", "-m", "det-digits"))
    late = scores[scores["id"] >= 1024].nlargest(1, "score").iloc[0]  # beyond the pictures that are read first
    ok("score", "digits.csv", "-m", "det-digits", "--maps", "all", "--threshold", str(late["score"]))
    pd.read_csv("digits.csv").loc[[late["id"]]].to_csv("one.csv", index=False)
    ok("score", "one.csv", "-m", "det-digits", "--maps", "alone", "--threshold", "0")
    one, among = (np.asarray(Image.open(path)) for path in ("alone/0.png", f"all/{late['id']:.0f}.png"))
    # scored among others a sum may round differently in its last bit
    assert np.abs(one.astype(int) - among)[:256].max() <= 1
    assert (one != among)[256:].any(), "the caption names another id"


def test_evaluate_measures_what_score_says(fits: Fits) -> None:
    result = json.loads(ok("evaluate", "table.csv", "-m", "det-table", "--json"))
    flagged = table(ok("score", "table.csv", "-m", "det-table"))["is_anomaly"].to_numpy()
    wrong = (pd.read_csv("table.csv")["diagnosis"] == "malignant").to_numpy()
    assert result["metrics"]["recall"] == pytest.approx(flagged[wrong].mean())
    assert result["metrics"]["false_alarm_rate"] == pytest.approx(flagged[~wrong].mean())
    assert result["metrics"]["precision"] == pytest.approx(wrong[flagged].mean())
    values = [
        json.loads(ok("evaluate", "digits.csv", "-m", "det-digits", "--json", *more))["metrics"]
        for more in ([], ["--label", "label"])
    ]
    assert values[0] == values[1], "a label named again has the normal values of the fit"
    swapped = ok("evaluate", "table.csv", "-m", "det-table", "--label", "diagnosis", "--normal", "malignant")
    assert "569, 357 of them anomalies" in swapped


def test_evaluate_adds_to_the_run(fits: Fits) -> None:
    run_id = fits["table"]["run_id"]
    result = json.loads(ok("evaluate", "table.csv", "-m", run_id[:8], "--json"))
    record = connect(Config()).get_run(run_id)
    assert record.data.metrics["evaluate/auroc"] == result["metrics"]["auroc"]
    assert record.data.tags["evaluated_on"] == "table.csv"


@pytest.mark.usefixtures("beside")
def test_threshold_of_a_folder_and_of_a_run(fits: Fits) -> None:
    store = ["--set", "tracking.folder=own"]
    fit = ["table.csv", "--label", "diagnosis", "--set", "training.epochs=1", "--set", "split.folds=0", *store]
    address = f"runs:/{json.loads(ok('fit', *fit, '-o', 'copy', '--json'))['run_id']}/detector"
    before = table(ok("score", "table.csv", "-m", "./copy"))
    shown = [ok("threshold", "-m", place, "--policy", "fpr=0.2", *store) for place in ("./copy", address)]
    assert shown[0] == shown[1]
    assert shown[0].splitlines()[0].split()[:2] == ["was", "youden"]
    assert shown[0].splitlines()[1].split()[:2] == ["now", "fpr=0.2"]
    folder, logged = (ok("score", "table.csv", "-m", place, *store) for place in ("./copy", address))
    assert folder == logged
    after = table(folder)
    assert (after["score"] == before["score"]).all()
    assert after["is_anomaly"].sum() != before["is_anomaly"].sum()


@pytest.mark.usefixtures("beside")
def test_feedback_of_a_folder_and_of_a_run_and_its_undoing(fits: Fits) -> None:
    store = ["--set", "tracking.folder=fed"]
    settings = ["data.drop=[diagnosis]", "training.epochs=1", "split.folds=0", "tracking.folder=fed"]
    fit = ["table.csv", *(word for setting in settings for word in ("--set", setting))]
    address = json.loads(ok("fit", *fit, "-o", "copy", "--json"))["run_id"]
    frame, before = pd.read_csv("table.csv"), ok("score", "table.csv", "-m", "./copy")
    scores = table(before)
    verdict = (frame["diagnosis"] == "malignant").astype(int)
    chosen = [*scores.nlargest(15, "score").index, *range(300, 315)]
    frame.assign(verdict=verdict.where(verdict.index.isin(chosen))).to_csv("rows.csv", index=False)
    scores.loc[chosen].assign(verdict=verdict[chosen]).to_csv("verdicts.csv", index=False)
    right, false = int(verdict[chosen].sum()), 30 - int(verdict[chosen].sum())
    said = run("feedback", "rows.csv", "-m", "./copy", *store)
    assert said.exit_code == 0 and f"{right} right, {false} false, of rows.csv" in said.stdout
    assert f"{right} labelled anomalies, left out in turn" in said.stderr
    (normals,) = re.findall(rf"{false} normal verdicts are among the (\d+) normals that choose", said.stderr)
    assert f"of {normals} normal and" in run("threshold", "-m", "./copy", *store).stdout
    told = json.loads(ok("feedback", "verdicts.csv", "--data", "table.csv", "-m", address, "--json", *store))
    assert (told["anomalies"], told["normals"]) == (right, false)
    after = ok("score", "table.csv", "-m", "./copy")
    assert after == ok("score", "table.csv", "-m", address, *store) != before
    record = connect(Config(tracking={"folder": "fed"})).get_run(address)
    assert record.data.tags["feedback"] == f"{right} right, {false} false: verdicts.csv"
    assert record.data.metrics["model/threshold"] == told["after"]["value"]
    for place in ("./copy", address):
        ok("feedback", "--undo", "-m", place, *store)
        assert ok("score", "table.csv", "-m", place, *store) == before
    assert "no feedback that could be undone" in run("feedback", "--undo", "-m", "./copy").stderr


@pytest.mark.usefixtures("beside")
def test_raw_nats_stand_beside_the_surprises(fits: Fits) -> None:
    lines = table(ok("score", "table.csv", "--raw", "-m", "det-table"))
    raw = [f"{part}_raw" for part in PARTS["table"]]
    assert list(lines.columns) == ["id", "score", *PARTS["table"], *raw, "p_value", "is_anomaly"]
    np.testing.assert_allclose(lines[PARTS["table"]].sum(axis=1), lines["score"], atol=1e-5)
    assert not lines[["missing", "missing_raw"]].any(axis=None)  # nothing is
    for part in PARTS["table"][:-1]:
        assert lines[part].corr(lines[f"{part}_raw"], method="spearman") > 0.9
    plain = table(ok("score", "table.csv", "-m", "det-table"))
    pd.testing.assert_frame_equal(plain, lines.drop(columns=raw))


@pytest.mark.usefixtures("beside")
def test_false_alarm_rate_without_labels(fits: Fits) -> None:
    frame = pd.read_csv("table.csv")
    frame[frame["diagnosis"] == "benign"].drop(columns="diagnosis").to_csv("normal.csv", index=False)
    two = ("--set", "split.folds=2")
    text = ok("fit", "normal.csv", "--false-alarm-rate", "0.05", *UNTRACKED, *two, "-o", "a b")
    assert "cross-conformal, about 0.05 false alarms, from 357 normal rows out of fold" in text
    assert text.endswith("next:  anomaly-vae score normal.csv -m 'a b'\n")
    result = run("fit", "normal.csv", "--false-alarm-rate", "0.001", *UNTRACKED, *two)
    assert "worry: 357 held-out normals support no false-alarm rate below 0.0028; asked for 0.001" in result.stderr


@pytest.mark.usefixtures("beside")
def test_the_fit_of_an_unlabelled_file_says_which_of_its_rows_are_odd(fits: Fits) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(80, 3)), columns=["a", "b", "c"]).assign(part=[f"p{i}" for i in range(80)])
    frame.loc[[7, 30], ["a", "b", "c"]] += 30.0
    frame.to_csv("unlabelled.csv", index=False)
    quick = [*UNTRACKED, "--set", "training.steps=20", "--set", "model.members=1", "--id", "part", "-o", "odd"]
    text = ok("fit", "unlabelled.csv", *quick, "--scores", "odd.csv", "--contamination", "0.025")
    assert "scored        80 rows, each by models that never saw it: nothing can be tested" in text
    assert "2 rows at or above the threshold; the highest: id p" in text
    own, again = pd.read_csv("odd.csv"), table(ok("score", "unlabelled.csv", "-m", "odd"))
    pd.testing.assert_frame_equal(own, again)
    assert own["id"].tolist() == frame["part"].tolist()
    assert own["id"][own["is_anomaly"]].tolist() == ["p7", "p30"]
    said = run("score", "unlabelled.csv", "-m", "odd").stderr
    assert "80 of 80 are rows that the detector was fitted on: each has the score of the fit" in said
    refused = run("fit", "unlabelled.csv", *UNTRACKED, "--set", "split.train=0.5", "--scores", "never.csv")
    assert refused.exit_code == 2 and "leave split.train and split.valid out" in refused.stderr
    assert not Path("never.csv").exists()


def test_a_series_without_labels_says_what_its_threshold_promises(fits: Fits) -> None:
    """400 steps of 10 seconds, of which 30 % choose the threshold."""
    frame = pd.read_csv("series.csv").drop(columns="anomaly")[:400]
    frame.to_csv("normal-steps.csv", index=False)
    result = run("fit", "normal-steps.csv", *UNTRACKED, "--set", "training.steps=8")
    assert "tail=0.001, 8.64 of 8640 normal time steps a day, from 120 held-out normal time steps" in result.stdout
    assert "worry: 120 held-out normals are worth about " in result.stderr
    assert "promise no false-alarm rate" in result.stderr


@pytest.mark.usefixtures("beside")
def test_the_latest_run_scores_where_none_is_named(fits: Fits) -> None:
    store = ["--set", "tracking.folder=two"]
    fit = [
        "table.csv",
        "--label",
        "diagnosis",
        "--set",
        "training.epochs=1",
        "--set",
        "model.members=1",
        "--set",
        "split.folds=0",
        *store,
    ]
    first, latest = (json.loads(ok("fit", *fit, "--seed", seed, "--json"))["run_id"] for seed in ("0", "1"))
    unnamed, named, other = (ok("score", "table.csv", *store, *model) for model in ([], ["-m", latest], ["-m", first]))
    assert unnamed == named != other
    listed = json.loads(ok("runs", "--json", *store))
    assert [row["run_id"] for row in listed] == [latest, first]
    shown = ok("runs", "-n", "1", *store).splitlines()
    assert shown[0].split() == ["run_id", "name", "status", "started", "auroc", "f1", "seconds"]
    assert shown[1].startswith(f"{latest}  table-table-seed1-diagnosis-youden  FINISHED")
    assert len(shown) == 2
    result = run("score", "series.csv", "-m", "0123456789abcdef")
    assert result.exit_code == 1
    assert "`anomaly-vae runs` lists" in result.stderr


def test_no_runs_yet(workplace: Path) -> None:
    assert "`anomaly-vae fit` makes the first" in ok("runs")
    assert list(workplace.iterdir()) == []


def test_resume_takes_no_data() -> None:
    result = run("fit", "data.csv", "--resume", "0123456789")
    assert result.exit_code == 2
    assert "leave DATA out" in result.stderr


def test_info_and_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = dict(line.split(maxsplit=1) for line in ok("info").splitlines())
    assert {"anomaly-vae", "python", "torch", "mlflow", "cpu"} <= set(shown)
    called, opened = [], []

    def serve_ui(config: Config, _: object, ready: Callable[[str], None], **where: object) -> None:
        called.append((config.tracking.folder, where))
        ready("http://here")

    monkeypatch.setattr(store, "serve_ui", serve_ui)
    monkeypatch.setattr(click, "launch", opened.append)
    ok("ui", "--port", "5011", "--set", "tracking.folder=elsewhere")
    assert (called, opened) == ([("elsewhere", {"host": "127.0.0.1", "port": 5011})], [])
    assert run("ui", "--open").stderr == "the runs: http://here\n"
    assert opened == ["http://here"]


def test_the_installed_command_works_from_another_folder(tmp_path: Path, fits: Fits) -> None:
    script = shutil.which("anomaly-vae", path=sysconfig.get_path("scripts"))
    if script is None:
        pytest.skip("anomaly-vae is not installed here")
    frame = pd.read_csv("table.csv")
    frame[frame["diagnosis"] == "benign"].to_csv(tmp_path / "new.csv", index=False)
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    command = [script, "score", "new.csv", "-m", str(Path("det-table").absolute()), "-o", "scores.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (tmp_path / "scores.csv").read_text() == ok("score", str(tmp_path / "new.csv"), "-m", "det-table")
    imported = {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.count("|") == 2}
    assert "torch" in imported
    unneeded = {"mlflow", "matplotlib", "sklearn", "scipy", "torchvision", "torch._dynamo", "anomaly_vae.tracking"}
    assert not unneeded & imported  # by a saved detector; each would take a second
