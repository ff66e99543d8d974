"""Which heavy libraries a command loads: each costs as much as a small fit or a scored file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAVY = "torch torch._dynamo torchvision pandas sklearn scipy.stats matplotlib mlflow sqlalchemy"
COMMANDS = """
import json, sys
from anomaly_vae.cli import main
heavy, *commands = json.loads(sys.argv[1])
for command in commands:
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, end.code
    print("loaded", *sorted(set(heavy.split()) & set(sys.modules)), file=sys.stderr)
"""


def loaded(*commands: list[str]) -> list[set[str]]:
    """The heavy modules that commands, one after the other in one process, have loaded."""
    words = (sys.executable, "-c", COMMANDS, json.dumps([HEAVY, *commands]))
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [set(line.split()[1:]) for line in done.stderr.splitlines() if line.startswith("loaded ")]


def test_a_command_loads_what_it_uses(fits: dict[str, Any], tmp_path: Path) -> None:
    steps = Path("series.csv").read_text().splitlines(keepends=True)[:200]
    (tmp_path / "new.csv").write_text("".join(steps))
    (tmp_path / "mlruns").mkdir()
    shutil.copyfile("mlruns/mlflow.db", tmp_path / "mlruns" / "mlflow.db")  # saves MLflow's migrations
    score = ["score", str(tmp_path / "new.csv")]
    fit = ["fit", "--set", "training.epochs=1", "--set", f"tracking.folder={tmp_path / 'mlruns'}"]
    fit += ["--set", "tracking.experiment=imports"]
    latest, run, folder, fitted = loaded(
        score, [*score, "-m", fits["series"]["run_id"]], [*score, "-m", "det-series"], fit
    )
    assert latest == run == folder == {"torch", "pandas"}  # pyarrow imports pandas for any array of Python's or numpy's
    assert fitted == latest | {"sklearn", "scipy.stats", "matplotlib", "mlflow", "sqlalchemy"}  # never torch._dynamo
