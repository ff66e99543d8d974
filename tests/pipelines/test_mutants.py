"""The list of mutants does not rot, and the script tells the killed from the survivors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pipelines.mutants import MUTANTS, ROOT, Mutant, main


def test_every_mutant_has_its_own_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_changes_its_file_in_one_place_and_names_tests_that_exist(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} no longer holds this text once; correct pipelines/mutants.py"
    changed = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    for test in mutant.tests:
        file, _, name = test.partition("::")
        functions = {
            node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert not name or name.partition("[")[0] in functions


def test_a_survivor_a_lost_line_and_a_mutant_that_breaks_everything_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "anomaly_vae").mkdir()
    (tmp_path / "anomaly_vae" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    code = "def twice(x):\n    return 2 * x\n"
    (tmp_path / "anomaly_vae" / "toy.py").write_text(code)
    (tmp_path / "tests" / "test_toy.py").write_text(
        "from anomaly_vae.toy import twice\n\n\ndef test_twice():\n    assert twice(2) == 4\n"
    )
    mutants = [
        Mutant(name, "anomaly_vae/toy.py", old, new, ("tests/test_toy.py",))
        for name, old, new in [
            ("wrong", "2 * x", "3 * x"), ("alike", "2 * x", "x ** 2"), ("gone", "4 * x", "x"), ("broken", "2 *", "2 *)"),
        ]
    ]  # fmt: skip
    assert main([], mutants, tmp_path) == 1
    said = [" ".join(line.split()[:2]) for line in capsys.readouterr().out.splitlines()]
    assert said == ["wrong killed", "alike survived", "gone not", "broken not", "1 of"]
    assert main(["wrong"], mutants, tmp_path) == 0
    assert (tmp_path / "anomaly_vae" / "toy.py").read_text() == code
