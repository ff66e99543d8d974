"""One row, step or picture explained: found by its id or number, drawn, refused with what there is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_vae.cli import main
from anomaly_vae.core.errors import DataError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.workflows.explain import explain

FORMATS = Path(__file__).parent.parent / "detector"


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    with np.load(FORMATS / "format4" / "scores.npz") as saved:
        frame = pd.DataFrame(saved["table_numbers"], columns=["a", "b"]).assign(c=saved["table_words"])
    frame.loc[3, "a"], frame.loc[4, "c"] = 90.0, None
    frame.insert(0, "name", [f"row-{number:02d}" for number in range(len(frame))])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


@pytest.mark.parametrize("version", ["format4", "format5"])
def test_a_row_by_its_id_and_by_its_number(version: str, rows: Path, tmp_path: Path) -> None:
    detector, said = Detector.load(FORMATS / version / "table", "cpu"), list[str]()
    found = explain(str(rows), detector, "row-03", str(tmp_path / "a.png"), id_column="name", say=said.append)
    assert found.id == "row-03" and found.is_anomaly and not said
    assert found.reasons[0]["column"] == "a" and found.reasons[0]["value"] == 90.0
    again = explain(str(rows), detector, "3", str(tmp_path / "b.png"), id_column="name", say=said.append)
    assert again == found and "row number 3" in said[0]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert size(tmp_path / "a.png")[0] > 1000


def test_an_unknown_row_is_refused_with_near_ones(rows: Path, tmp_path: Path) -> None:
    detector = Detector.load(FORMATS / "format5" / "table", "cpu")
    with pytest.raises(DataError, match=r"no row has the id 'row-3'.*among 20 rows.*'row-03'.*from 0 to 19"):
        explain(str(rows), detector, "row-3", str(tmp_path / "a.png"), id_column="name")
    with pytest.raises(DataError, match="no row has the id '20', nor that number"):
        explain(str(rows), detector, "20", str(tmp_path / "a.png"))
    assert not (tmp_path / "a.png").exists()


def test_a_step_and_a_picture(tmp_path: Path) -> None:
    with np.load(FORMATS / "format5" / "scores.npz") as saved:
        steps, pictures = saved["series"].copy(), saved["pictures"]
    steps[40, 1] = 30.0
    pd.DataFrame(steps, columns=["a", "b"]).to_csv(tmp_path / "steps.csv", index=False)
    detector = Detector.load(FORMATS / "format5" / "series", "cpu")
    found = explain(str(tmp_path / "steps.csv"), detector, "40", str(tmp_path / "s.png"))
    assert (found.id, found.reasons[0]["column"], found.reasons[0]["value"]) == ("40", "b", 30.0)
    assert found.score == pytest.approx(detector.score(tmp_path / "steps.csv")[40])
    np.save(tmp_path / "pictures.npy", pictures)
    detector = Detector.load(FORMATS / "format5" / "pictures", "cpu")
    found = explain(str(tmp_path / "pictures.npy"), detector, "2", str(tmp_path / "p.png"))
    assert found.reasons == [] and found.score == pytest.approx(detector.score(pictures)[2])
    width, height = size(tmp_path / "p.png")
    assert height == 256 and width > 512


def test_the_command_prints_what_it_drew(rows: Path, tmp_path: Path) -> None:
    words = ["explain", str(rows), "--row", "row-03", "--id", "name", "-m", str(FORMATS / "format5" / "table")]
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "a.png"), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["reasons"][0]["column"] == "a"
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "a.pdf")])
    assert done.exit_code != 0 and not (tmp_path / "a.pdf").exists()
