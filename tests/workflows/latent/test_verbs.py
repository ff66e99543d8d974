"""The verbs of `latent` over every kind of data: what they draw, and the numbers they write beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from anomaly_vae.cli import main
from anomaly_vae.core.config import Config
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.workflows.latent import verbs
from anomaly_vae.workflows.latent.directions import Direction
from anomaly_vae.workflows.latent.verbs import Drawing
from anomaly_vae.workflows.opening import Model, find

Said = dict[str, dict[str, Any]]
# of each kind of data: two ids, a column that tells normal from anomalous with a value of it, and columns of the data
KINDS = {
    "digits": (("3", "13"), "label", "7", 64),
    "table": (("3", "500"), "diagnosis", "malignant", 30),
    "series": (("2025-01-01T00:10:00", "2025-01-01T02:00:00"), "anomaly", "1", 6),
}
WINDOW = 32


def model(kind: str) -> Model:
    return find(f"./det-{kind}", Config())


def frame(drawing: Drawing) -> pd.DataFrame:
    return pd.DataFrame(drawing.columns)


def values(drawing: Drawing, kind: str) -> np.ndarray:
    """(samples, ...) of what the CSV holds."""
    last = frame(drawing).to_numpy()[:, -KINDS[kind][3] :].astype(float)
    return last.reshape(-1, WINDOW, KINDS[kind][3]) if kind == "series" else last


@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_draws_and_writes_its_numbers(fits: Said, kind: str) -> None:
    (a, b), column, value, width = KINDS[kind]
    data, found = f"{kind}.csv", model(kind)
    per = WINDOW if kind == "series" else 1  # lines of the CSV for one sample
    codes = np.random.default_rng(0).normal(size=(9, found.detector.score_model.model.latent))
    way = Direction.fit(codes, np.arange(9.0), column, verbs.LatentSpace(found.detector).fingerprint())
    dimensions = min(3, found.detector.score_model.model.latent)
    drawings: dict[str, tuple[Drawing, int]] = {
        "samples": (verbs.samples(found, 5, seed=1), 5),
        "reconstruct": (verbs.reconstruct(found, data, (a, b)), 4),
        "interpolate": (verbs.interpolate(found, data, a, b, steps=3), 6),
        "traverse": (verbs.traverse(found, data, dimensions=3, steps=3), 3 * dimensions),
        "manifold": (verbs.manifold(found, data, steps=2), 4),
        "edit": (verbs.edit(found, data, a, way, (0.5,)), 3),
    }
    for verb, (drawing, samples) in drawings.items():
        table = frame(drawing)
        assert len(table) == samples * per, verb
        assert np.isfinite(table.to_numpy()[:, -width:].astype(float)).all(), verb
        assert len(drawing.figure().axes) > 0, verb
    coloured = verbs.scatter(found, data)
    table = frame(coloured)
    assert table.columns.tolist() == ["id", "x", "y", column]
    assert table["id"].is_unique
    assert len(coloured.figure().axes) == 1
    along = verbs.direction(found, data, column, value)
    assert len(along.columns["direction"]) == found.detector.score_model.model.latent
    assert "AUROC" in along.summary
    assert len(along.figure().axes) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_a_way_are_reconstructions_and_so_is_an_edit_of_no_strength(fits: Said, kind: str) -> None:
    (a, b), column, _, _ = KINDS[kind]
    data, found = f"{kind}.csv", model(kind)
    reconstructed = values(verbs.reconstruct(found, data, (a, b)), kind)[1::2]
    between = values(verbs.interpolate(found, data, a, b, steps=3), kind)
    for way in (between[:3], between[3:]):
        np.testing.assert_allclose(way[[0, 2]], reconstructed, rtol=1e-4, atol=1e-4)
    assert not np.allclose(between[1], between[4], rtol=1e-3)  # the sphere's middle is not the straight line's
    space, source = verbs.LatentSpace(found.detector), verbs.reopen(data, found.detector)
    codes = space.codes(space.find(source, (a, b)).x)
    way = Direction(column, codes[1] - codes[0], space.fingerprint())
    edited = values(verbs.edit(found, data, a, way, (0.0, 1.0)), kind)
    np.testing.assert_allclose(edited[1], reconstructed[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(edited[2], reconstructed[0], rtol=1e-4, atol=1e-4)
    if kind != "series":  # whose edit keeps the level of `a`
        np.testing.assert_allclose(edited[3], reconstructed[1], rtol=1e-4, atol=1e-4)


def test_originals_are_the_data_itself(fits: Said) -> None:
    written = frame(verbs.reconstruct(model("table"), "table.csv", ("3", "500")))
    expected = pd.read_csv("table.csv").iloc[[3, 500]][written.columns[2:]]
    np.testing.assert_allclose(written[written["what"] == "original"].iloc[:, 2:], expected, rtol=1e-5)
    pictures = frame(verbs.reconstruct(model("digits"), "digits.csv", ("3",)))
    expected = pd.read_csv("digits.csv").iloc[[3]][pictures.columns[2:]]
    np.testing.assert_array_equal(pictures[pictures["what"] == "original"].iloc[:, 2:], expected)


def test_a_direction_separates_what_it_was_found_by(fits: Said) -> None:
    found = model("table")
    drawing = verbs.direction(found, "table.csv", "diagnosis")
    assert "212 'malignant', 357 'benign'" in drawing.summary
    assert float(drawing.summary.split()[-1]) > 0.9
    number = verbs.direction(found, "table.csv", "mean_radius")
    assert "correlation along its direction 0.9" in number.summary


def invoke(*command: str) -> Result:
    return CliRunner().invoke(main, ["latent", *command])


def test_the_command_writes_both_files_logs_them_and_knows_the_data_of_the_fit(
    fits: Said, tmp_path: Path
) -> None:  # fmt: skip
    run, png = fits["table"]["run_id"], tmp_path / "found.png"
    result = invoke("direction", "--column", "diagnosis", "-m", run, "-o", str(png))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{png}\n{tmp_path / 'found.csv'}\n"
    assert png.read_bytes().startswith(b"\x89PNG")
    logged = Path("mlruns/artifacts") / run / "artifacts" / "latent"
    assert {path.name: path.read_bytes() for path in logged.iterdir()} == {
        name: (tmp_path / name).read_bytes() for name in ("found.png", "found.csv")
    }
    edited = invoke("edit", "3", "-m", run, "--direction", str(tmp_path / "found.csv"), "--strength", "2",
                    "-o", str(tmp_path / "edit.png"))  # fmt: skip
    assert edited.exit_code == 0, edited.stderr
    lines = pd.read_csv(tmp_path / "edit.csv")
    assert lines["strength"].tolist() == ["original", "reconstruction", "+2"]
    assert lines["mean_radius"][2] > lines["mean_radius"][1]  # malignant cells are large


@pytest.mark.parametrize(
    ("command", "says", "code"),
    [
        ("reconstruct table.csv --id 9999", "table.csv: no row with the id '9999'; its ids run from '0' to '568'", 1),
        ("reconstruct gone.csv", "gone.csv: no such file or folder", 1),
        ("samples -o samples.jpg", "samples.jpg: a figure is written as PNG; end the name in .png", 2),
        ("reconstruct table.csv -o table.png", "table.csv: already there, and nothing is overwritten; -o FILE.png", 2),
        ("samples -o gone/samples.png", "gone/samples.png: its folder does not exist", 1),
        ("traverse", "name the data to look at: a detector in a folder", 2),
        ("scatter table.csv --color gone", "table.csv: column 'gone' not found", 1),
        ("direction table.csv --column mean_radius --value huge", "column 'mean_radius' has no value 'huge'", 1),
        ("edit 3 --data table.csv --direction gone.csv", "gone.csv: no such direction", 1),
        ("edit 3 --data table.csv --direction table.csv", "table.csv: no direction as", 1),
    ],
)
def test_bad_input_ends_in_one_line(fits: Said, command: str, says: str, code: int) -> None:
    before = set(Path().iterdir())
    result = invoke(*command.split(), "-m", "./det-table")
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert set(Path().iterdir()) == before


def test_a_direction_of_another_model_and_a_plane_of_one_dimension_are_refused(fits: Said) -> None:
    way = Direction("c", np.zeros(3), "0" * 12)
    with pytest.raises(UsageError, match="belongs to another model"):
        verbs.edit(model("table"), "table.csv", "3", way, (1.0,))
    with pytest.raises(DataError, match="no row with the id"):
        verbs.traverse(model("series"), "series.csv", around="yesterday")


def test_data_without_the_labels_of_the_fit_is_drawn_in_one_colour(fits: Said, tmp_path: Path) -> None:
    pd.read_csv("table.csv").drop(columns="diagnosis").to_csv(tmp_path / "new.csv", index=False)
    drawing = verbs.scatter(model("table"), str(tmp_path / "new.csv"))
    assert list(drawing.columns) == ["id", "x", "y"]
    assert len(drawing.figure().axes) == 1


def test_a_failing_figure_leaves_no_csv(fits: Said, tmp_path: Path) -> None:
    def broken() -> Any:
        raise ValueError("no figure")

    drawing = Drawing(broken, {"a": [1]}, "")
    with pytest.raises(ValueError, match="no figure"):
        verbs.keep(drawing, model("table"), (tmp_path / "a.png", tmp_path / "a.csv"))
    assert list(tmp_path.iterdir()) == []
