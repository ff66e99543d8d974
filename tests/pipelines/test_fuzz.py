"""A small slice of `pipelines.fuzz`, the same inputs each time; and what the fuzzer calls a fault."""

from __future__ import annotations

import json
import random
from pathlib import Path

import click
import pytest

from pipelines import fuzz

DETECTORS = Path(__file__).parent.parent / "detector" / "format5"


@pytest.mark.filterwarnings("ignore")  # of Pillow and pandas, about what is broken
def test_a_slice_of_mutated_inputs_ends_as_promised(tmp_path: Path) -> None:
    counts = fuzz.run(80, seed=1, keep=tmp_path, detectors=DETECTORS)
    assert counts == {kind: {"inputs": 10} for kind in fuzz.KINDS}, [p.read_text() for p in tmp_path.glob("*/*.json")]


def test_each_fault_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        if name == "traceback":
            raise KeyError(name)
        if name == "hang":
            while True:
                pass
        if name == "left":
            Path("left.csv").write_text("half")
        if name == "half":
            click.echo("id,score")
        click.echo("anomaly-vae: refused" if name != "exit" else "I do not know", err=True)
        raise SystemExit(0 if name == "fine" else 1)

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    for name in ("traceback", "hang", "left", "half", "exit", "fine"):
        command = click.command("break")(lambda name=name: broken(name))
        made = fuzz.Fuzz.__new__(fuzz.Fuzz)
        made.group = fuzz.cli.Group("anomaly-vae", params=fuzz.cli.main.params, commands=[command])
        work = tmp_path / name
        work.mkdir()
        found = fuzz.fault(made, fuzz.Input(["break"]), work)
        assert found.startswith(name) if name != "fine" else found == ""


def test_mutations_are_those_of_their_seed_and_change_what_they_are_given() -> None:
    content, tree = b"a,b\n1,2\n" * 20, {"shape": [3], "columns": [{"name": "a"}]}
    for number in range(50):
        one, other = (fuzz.mutated(content, random.Random(number)) for _ in range(2))
        assert one == other
        one, other = (json.dumps(fuzz.mutated_tree(tree, random.Random(number))) for _ in range(2))
        assert one == other
    changed = [fuzz.mutated(content, random.Random(number)) != content for number in range(50)]
    assert sum(changed) > 40
    assert tree == {"shape": [3], "columns": [{"name": "a"}]}
