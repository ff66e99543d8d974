"""The commands of the README work, in its order; those on data that the reader brings are left to the reader."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from anomaly_vae.cli import main
from anomaly_vae.detector.detector import Detector
from anomaly_vae.workflows.export import export

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "BENCHMARKS.md", "CONTRIBUTING.md", "FAMILY.md", "SCALE.md")
SERVERS = {"ui"}  # commands that run until they are stopped
READS_DATA = {"fit", "score", "evaluate"}


def blocks(*languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    return [
        code for language, code in re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S) if language in languages
    ]


def commands() -> list[list[str]]:
    """The words behind `anomaly-vae` of every command line, comments left out, in the order of the README."""
    lines = "\n".join(blocks("bash", "console", "sh", "")).replace("\\\n", " ").splitlines()
    calls = [call for line in lines for call in line.removeprefix("$ ").split("&&")]
    return [shlex.split(call, comments=True)[1:] for call in calls if call.strip().startswith("anomaly-vae ")]


def scripts() -> list[str]:
    """The Python between `python - <<'END'` and `END` of the README's shell commands."""
    return re.findall(r"^python - <<'END'\n(.*?)^END$", "\n".join(blocks("bash")), re.M | re.S)


@pytest.mark.parametrize(
    ("words", "offered"),
    [("anomaly-vae eva", "plain,evaluate"), ("anomaly-vae fit --contam", "plain,--contamination"),
     ("anomaly-vae score da", "file,da"), ("anomaly-vae latent rec", "plain,reconstruct"),
     ("anomaly-vae fit -c con", "file,con"), ("anomaly-vae fit --kind se", "plain,series")],
)  # fmt: skip
def test_the_shell_completes(words: str, offered: str) -> None:
    (name,) = re.findall(r'^eval "\$\((\w+)=bash_source anomaly-vae\)"$', README, re.M)

    def completed(**environment: str) -> str:
        return CliRunner().invoke(main, prog_name="anomaly-vae", env=environment).stdout

    assert "complete -o nosort -F" in completed(**{name: "bash_source"})
    place = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert completed(**{name: "bash_complete"}, **place).split() == [offered]


def test_the_commands_on_embedded_data_work_in_order(workplace: Path) -> None:
    for script in scripts():  # they draw what a tour fits
        exec(script, {})
    ran, read = [], set()
    for command, *words in commands():
        given = words[0] if words and not words[0].startswith("-") else None
        if command in SERVERS or any(re.search(r"\b[A-Z][A-Z_]{2,}\b", word) for word in words):
            continue  # RUN_ID and the like are the reader's
        if command in READS_DATA and given is not None and not Path(given).exists():
            continue
        short = ["--set", "training.epochs=2"] if command == "fit" else []
        if given == "surfaces":
            short += ["--set", "data.size=64"]
        result = CliRunner().invoke(main, [command, *words, *short])
        assert result.exit_code == 0, f"anomaly-vae {shlex.join([command, *words])}: {result.stderr}"
        ran.append(command)
        read.add(given)
    assert {"fit", "sample-data", "score", "threshold", "evaluate", "runs"} <= set(ran)
    assert {"table.csv", "series.csv", "surfaces", "data.csv"} <= read
    assert (workplace / "scores.csv").read_text().startswith("id,score,recon,kl,neighbours,p_value,is_anomaly\n")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_to_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for study in re.findall(r"python -m pipelines\.(\w+)", text):
        assert (ROOT / "pipelines" / f"{study}.py").is_file(), study
    for target in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`((?:configs|tests)/\w[\w/]*\.\w+)`", text):
        assert (ROOT / target).is_file(), target
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


def test_the_exported_graph_scores_with_onnxruntime_alone(workplace: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    (code,) = (code for code in blocks("python") if "onnxruntime" in code)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    detector = Detector.fit(frame, training__epochs=1, model__members=1, scoring__neighbours=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(detector, "detector.onnx")
    new = pd.DataFrame({"b": [0.5, -1.0, 40.0], "a": [1.0, 2, 3]})
    names: dict[str, Any] = {"new_rows": new.to_dict("records")}
    exec(code, names)
    np.testing.assert_allclose(names["score"], detector.score(new), rtol=1e-4)
    assert names["alarm"].tolist() == detector.predict(new).tolist()


@pytest.mark.filterwarnings("ignore")  # of ray's own code
def test_a_ray_cluster_scores_with_the_logged_model(cluster: None, workplace: Path) -> None:
    import mlflow
    import ray

    from anomaly_vae.tracking.model import saved_model

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    detector = Detector.fit(frame, training__epochs=1, model__members=1)
    (workplace / "rows").mkdir()
    for part in range(2):
        frame[part * 30 :][:30].to_parquet(workplace / "rows" / f"{part}.parquet")
    (code,) = (code for code in blocks("python") if "ray.data" in code)
    with saved_model(detector) as folder:
        names: dict[str, Any] = {"mlflow": mlflow, "ray": ray}
        code = code.replace("models:/anomaly-vae-NAME@champion", str(folder)).replace(
            "/data/rows", str(workplace / "rows")
        )
        exec(code, names)
        scores = names["scores"].to_pandas()
    np.testing.assert_array_equal(np.sort(scores["score"]), np.sort(detector.score(frame)))


@pytest.mark.parametrize(
    "code",
    [code for code in blocks("python") if "onnxruntime" not in code and "ray.data" not in code],
    ids=lambda code: code.splitlines()[0],
)
@pytest.mark.filterwarnings("ignore:The number of histogram bins")  # of PyOD's LSCP
def test_the_python_works(code: str, workplace: Path) -> None:
    if "pyod" in code:
        pytest.importorskip("pyod", reason="the extra `pyod` is not installed")
    code = code.replace("AnomalyVAE(", 'AnomalyVAE(settings={"training.steps": 4, "model.members": 1}, ')
    code = code.replace("Detector.fit(X", "Detector.fit(X, training__steps=4, model__members=1")
    rng = np.random.default_rng(0)
    names: dict[str, object] = {"X": rng.normal(size=(60, 3)), "X_new": rng.normal(size=(9, 3))}
    exec(code, names)
    assert ("save(" in code) == (workplace / "detector" / "detector.json").is_file()
