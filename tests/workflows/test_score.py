"""What `score` writes beside the scores, and which rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.data.kept import HighestRows
from anomaly_vae.data.open import open_source
from anomaly_vae.data.writers import batch
from anomaly_vae.detector.configuration import load
from anomaly_vae.workflows.fit import fit
from tests.commands import ok, run
from tests.data.images.test_images import save

Fits = dict[str, dict[str, Any]]


def test_keep_copies_the_columns_unchanged(fits: Fits, tmp_path: Path) -> None:
    """A name of the scores gets a prefix, one that is taken too another; cells are copied as they are written."""
    frame = pd.read_csv("table.csv", dtype=str)[:40]
    frame.insert(3, "score", [f"0{i}.50" for i in range(40)])
    frame["note"] = ["a, b", "", *["NA"] * 38]
    frame["input_score"] = "x"
    frame.to_csv(tmp_path / "in.csv", index=False)
    result = run("score", str(tmp_path / "in.csv"), "-m", "det-table", "--keep")
    written = pd.read_csv(io.StringIO(result.stdout), dtype=str, keep_default_na=False)
    renamed = frame.rename(columns={"score": "input_input_score"})
    pd.testing.assert_frame_equal(written[list(renamed)], renamed)
    assert "column 'score' is copied as 'input_input_score'" in result.stderr
    plain = ok("score", str(tmp_path / "in.csv"), "-m", "det-table")
    assert list(written.columns) == [*plain.splitlines()[0].split(","), *renamed]
    assert written["score"].tolist() == pd.read_csv(io.StringIO(plain), dtype=str)["score"].tolist()

    ok("score", str(tmp_path / "in.csv"), "-m", "det-table", "--keep", "-o", str(tmp_path / "out.json"))
    assert [row["note"] for row in json.loads((tmp_path / "out.json").read_text())] == frame["note"].tolist()


def test_the_data_is_never_written_over(fits: Fits, tmp_path: Path) -> None:
    data, beside = tmp_path / "in.csv", tmp_path / "x.html"
    data.write_text(pd.read_csv("table.csv")[:20].to_csv(index=False))
    text = data.read_text()
    beside.symlink_to(data)
    (tmp_path / "x.png").symlink_to(data)
    for command, *options in (
        ("score", "-o", str(tmp_path / ".." / tmp_path.name / "in.csv")),
        ("score", "--events", str(data)),
        ("score", "--report", str(beside)),
        ("evaluate", "--label", "diagnosis", "--report", str(beside)),
        ("explain", "--row", "3", "-o", str(tmp_path / "x.png")),
        ("score", "-o", str(tmp_path / "o.csv"), "--events", str(tmp_path / "o.csv")),
    ):
        result = run(command, str(data), "-m", "det-table", *options)
        assert result.exit_code == 2, options
        assert "name another file to write" in result.stderr
        assert data.read_text() == text
    assert not (tmp_path / "o.csv").exists()
    with pytest.raises(UsageError, match="which would be overwritten"):
        fit(str(data), load(overrides=["tracking.enabled=false"]), scores=str(data))


def test_keep_has_the_types_of_parquet(fits: Fits, tmp_path: Path) -> None:
    frame = pd.read_csv("table.csv")[:20]
    frame["when"] = pd.Timestamp("2026-01-02")
    frame["list"] = [[1, 2]] * 20
    frame["word"] = pd.Categorical(["a", "b"] * 10)
    frame.to_parquet(tmp_path / "in.parquet")
    result = run("score", str(tmp_path / "in.parquet"), "-m", "det-table", "--keep", "-o", str(tmp_path / "o.parquet"))
    written = pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pandas()
    pd.testing.assert_series_equal(written["when"], frame["when"])
    assert written["word"].tolist() == ["a", "b"] * 10
    assert written["mean_area"].tolist() == frame["mean_area"].tolist()
    assert "list" not in written and "column 'list' holds list<" in result.stderr


def test_keep_stays_beside_its_row_where_steps_are_put_in_order(fits: Fits, tmp_path: Path) -> None:
    frame = pd.read_csv("series.csv")[:300]
    shuffled = frame.sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "in.csv", index=False)
    written = pd.read_csv(io.StringIO(ok("score", str(tmp_path / "in.csv"), "-m", "det-series", "--keep")))
    assert written["time"].tolist() == shuffled["time"].tolist()
    assert [pd.Timestamp(id_) for id_ in written["id"]] == [pd.Timestamp(time) for time in written["time"]]
    np.testing.assert_allclose(written["speed"], shuffled["speed"])


@pytest.mark.parametrize("name", ["table", "series"])
def test_top_is_the_highest_rows_of_all(name: str, fits: Fits) -> None:
    everything = pd.read_csv(io.StringIO(ok("score", f"{name}.csv", "-m", f"det-{name}")))
    highest = everything.sort_values("score", ascending=False, kind="stable")[:7].reset_index(drop=True)
    result = run("score", f"{name}.csv", "-m", f"det-{name}", "--top", "7")
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(result.stdout)), highest)
    assert f"{everything['is_anomaly'].sum()} of {len(everything)} at or above" in result.stderr
    both = pd.read_csv(io.StringIO(ok("score", f"{name}.csv", "-m", f"det-{name}", "--top", "7", "--keep")))
    pd.testing.assert_frame_equal(both[list(highest)], highest)


def test_highest_rows_are_those_of_all_batches() -> None:
    highest = HighestRows(3)
    for scores in ([1.0, 5.0], [5.0, 2.0, 7.0], [0.0]):
        highest.add(batch({"score": scores, "at": [f"{scores}{i}" for i in range(len(scores))]}))
    (found,) = highest.batches()
    assert found["score"].to_pylist() == [7, 5, 5]
    assert found["at"].to_pylist() == ["[5.0, 2.0, 7.0]2", "[1.0, 5.0]1", "[5.0, 2.0, 7.0]0"], "the first of two equal"


def test_columns_of_pictures_are_those_of_their_list(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png")
    pd.DataFrame({"path": ["c.png", "a.png"], "camera": ["1", "2"]}).to_csv(tmp_path / "list.csv", index=False)
    listed = open_source(str(tmp_path / "list.csv"), DataConfig())
    assert next(listed.tables(8)).to_pydict() == {"path": ["c.png", "a.png"], "camera": ["1", "2"]}
    with pytest.raises(DataError, match="pictures have no columns to copy; leave --keep out"):
        next(open_source(str(tmp_path), DataConfig()).tables(8))
