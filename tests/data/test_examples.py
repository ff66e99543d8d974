"""The samples are what their descriptions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_breast_cancer, load_digits

from anomaly_vae.cli import main
from anomaly_vae.cli.options import load_config
from anomaly_vae.data.examples import LABELLED, SAMPLES, SENSORS, digits, series, table
from anomaly_vae.data.source import CodedText
from anomaly_vae.data.split import is_anomalous


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    frame, original = digits(), load_digits()
    assert list(frame.columns[[0, 1, 8, 64]]) == ["label", "pixel_0_0", "pixel_0_7", "pixel_7_7"]
    assert frame["label"].tolist() == original.target.tolist()
    pixels = frame.drop(columns="label").to_numpy()
    assert (pixels.min(), pixels.max()) == (0, 255)
    np.testing.assert_array_equal(np.rint(pixels * (16 / 255)), original.data)  # nothing is lost


def test_the_table_keeps_every_measure_beside_its_diagnosis() -> None:
    frame, original = table(), load_breast_cancer()
    assert frame.shape == (569, 31)
    assert frame["diagnosis"].value_counts().to_dict() == {"benign": 357, "malignant": 212}
    assert frame["mean_radius"].tolist() == original.data[:, 0].tolist()


def test_the_series_is_seeded_and_its_first_half_is_healthy() -> None:
    frame = series()
    pd.testing.assert_frame_equal(frame, series(seed=0))
    assert not frame[list(SENSORS)].equals(series(seed=1)[list(SENSORS)])
    assert list(frame.columns) == ["time", *SENSORS, "anomaly"]
    times = pd.to_datetime(frame["time"])
    assert (times.diff().dropna() == pd.Timedelta(seconds=10)).all()
    assert frame["anomaly"].iloc[:1500].sum() == 0
    begins = int((frame["anomaly"].diff() == 1).sum())
    assert begins == 8, "four kinds of fault, each twice"
    assert 0.05 < frame["anomaly"].mean() < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_plant_is_correlated_and_a_stuck_sensor_is_constant(seed: int) -> None:
    frame = series(seed)
    healthy = frame.loc[frame["anomaly"] == 0, list(SENSORS)]
    assert healthy["pressure"].corr(healthy["flow"]) > 0.95
    first = frame.index[frame["anomaly"] == 1][:30]
    assert (frame.loc[first, list(SENSORS)].nunique() == 1).sum() == 1
    assert frame.notna().all().all()


def test_every_sample_is_offered_by_name() -> None:
    assert {name: len(make()) for name, make in SAMPLES.items()} == {"digits": 1797, "table": 569, "series": 3000}


@pytest.mark.parametrize(("name", "anomalies"), [("digits", 1797 - 183), ("table", 212), ("series", None)])
def test_a_sample_is_said_with_the_fit_that_finds_its_anomalies(
    name: str, anomalies: int | None, tmp_path: Path
) -> None:
    file = tmp_path / "data.csv"
    done = CliRunner().invoke(main, ["sample-data", name, "-o", str(file)])
    assert done.stdout == ""
    said = done.stderr.strip()
    assert said == f"{file}: {len(SAMPLES[name]())} rows; next: anomaly-vae fit {file} {LABELLED[name]}"
    words = iter(LABELLED[name].split())
    options = {option.removeprefix("--"): value for option, value in zip(words, words, strict=True)}
    normal = (options["normal"],) if "normal" in options else ()
    config = load_config({"label": options["label"], "normal": normal})
    frame = pd.read_csv(file, dtype=str)
    wrong = is_anomalous(CodedText.of([frame[options["label"]].to_numpy(np.str_)]), config, str(file))
    assert wrong.sum() == (series()["anomaly"].sum() if anomalies is None else anomalies)
    assert "next" not in CliRunner().invoke(main, ["-q", "sample-data", name, "-o", str(file)]).stderr
