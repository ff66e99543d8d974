"""The list of mutants does not rot, and the script tells the killed from the survivors."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import mutants
from pipelines.mutants import MUTANTS, ROOT, Mutant, main, run_tests


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


CODE = "def twice(x):\n    return 2 * x\n"
TEST = "from anomaly_vae.toy import twice\n\n\ndef test_twice():\n    assert twice(2) == 4\n"
TOYS = [
    Mutant(name, "anomaly_vae/toy.py", old, new, ("tests/test_toy.py",))
    for name, old, new in [
        ("wrong", "2 * x", "3 * x"),
        ("alike", "2 * x", "x ** 2"),
        ("gone", "4 * x", "x"),
        ("broken", "2 *", "2 *)"),
    ]
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One module, and one test of it."""
    for name, text in {"anomaly_vae/__init__.py": "", "anomaly_vae/toy.py": CODE, "tests/test_toy.py": TEST}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    return tmp_path


def test_tests_are_those_of_the_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "PRELOADED", ("pytest",))
    assert run_tests(checkout, ["tests/test_toy.py"]) == 0
    (checkout / "anomaly_vae/toy.py").write_text(CODE.replace("2", "3"))
    assert run_tests(checkout, ["tests/test_toy.py"]) == 1


def test_what_becomes_of_a_mutant(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_in_process(folder: Path, tests: Sequence[str]) -> int:
        assert tests == ["tests/test_toy.py"] or tests == ("tests/test_toy.py",)
        names: dict[str, Any] = {}
        try:
            exec((folder / "anomaly_vae/toy.py").read_text(), names)
        except SyntaxError:
            return 2
        return int(names["twice"](2) != 4)

    monkeypatch.setattr(mutants, "run_tests", run_in_process)
    fates = {"wrong": "killed", "alike": "survived", "gone": "not found", "broken": "not run"}
    for toy in TOYS:
        assert main([toy.name], TOYS, checkout) == int(fates[toy.name] != "killed")
        assert fates[toy.name] in capsys.readouterr().out
    assert main([], TOYS, checkout) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 4 killed"
    assert (checkout / "anomaly_vae/toy.py").read_text() == CODE
    (checkout / "anomaly_vae/toy.py").write_text(CODE.replace("2", "3"))
    assert main([], TOYS, checkout) == 1
    assert capsys.readouterr().out == "the tests fail without any mutant\n"
