"""CONTRIBUTING's recipe for a kind of data: one file and one line add it, and it is recognised, fitted and scored."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import anomaly_vae
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.open import open_source
from anomaly_vae.detector.configuration import load, opening, resolve
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit
from tests.commands import ok

# Counts of words, as a table whose columns all begin with "n_": like a table, but for its defaults and its noun.
ONE_FILE = """
from dataclasses import replace

from anomaly_vae.data.kinds.table import TABLE, TableSource
from anomaly_vae.data.readers.base import Reader


class CountSource(TableSource):
    kind = "counts"


def recognises(given, config):
    return isinstance(given, Reader) and all(name.startswith("n_") for name in given.columns)


COUNTS = replace(
    TABLE,
    name="counts",
    noun="documents",
    defaults={**TABLE.defaults, "model": {**TABLE.defaults["model"], "latent": 3}},
    recognises=recognises,
    open=lambda given, config, labels: CountSource(given, config, labels),
)
"""
SMALL = ["training.steps=4", "model.hidden=[8]", "device=cpu", "tracking.enabled=false"]


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the new kind, which is registered."""
    (tmp_path / "counts_kind.py").write_text(ONE_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counts_kind", raising=False)
    monkeypatch.setitem(KINDS.places, "counts", "counts_kind:COUNTS")
    rows = np.random.default_rng(0).poisson(3, (80, 2))
    file = tmp_path / "words.csv"
    file.write_text("n_a,n_b\n" + "\n".join(f"{a},{b}" for a, b in rows) + "\n")
    return file


def test_one_file_and_one_line_add_a_kind(counts: Path, tmp_path: Path) -> None:
    config = load(overrides=SMALL)
    source = open_source(counts, opening(config))
    assert source.kind == "counts"
    assert resolve(config, "counts").model.latent == 3
    detector, _ = fit(source, config)
    detector.save(tmp_path / "detector")
    again = Detector.load(tmp_path / "detector", "cpu")
    assert again.layout.kind == "counts"
    scores = list(again.score_source(open_source(counts, again.config.data)))
    assert sum(len(piece) for _, piece in scores) == 80


def test_the_command_line_knows_it(counts: Path, workplace: Path) -> None:
    said = ok("fit", str(counts), *(word for setting in SMALL for word in ("--set", setting)), "-o", "detector")
    assert "normal documents of" in said
    ok("score", str(counts), "-m", "detector", "-o", "scores.json")
    assert len(json.loads(Path("scores.json").read_text())) == 80


def test_kinds_are_told_apart_in_their_own_files_alone() -> None:
    names = "|".join(KINDS)
    comparison = re.compile(
        rf"kind\)? *(==|!=|in|not in) *[\[(]?[\"'](?:{names})[\"']|[\"'](?:{names})[\"'] *(==|!=) .*kind"
    )
    root = Path(anomaly_vae.__file__).parent
    lines = [
        f"{file.relative_to(root)}: {line.strip()}"
        for file in root.rglob("*.py")
        if file.parent.name != "kinds"
        for line in file.read_text(encoding="utf-8").splitlines()
        if comparison.search(line)
    ]
    assert lines == []
    assert comparison.search('if layout.kind == "series":')
    assert comparison.search("kind not in ('pixels', 'images')")
