"""What is served is what `score` writes: a DataFrame in, its columns out; and the model that MLflow keeps of it."""

from __future__ import annotations

import base64
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError, DetectorError, UsageError
from anomaly_vae.data.images.decoding import encode
from anomaly_vae.data.source import Chunk
from anomaly_vae.detector.dataframe import example, interface, score_frame
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit as fit_detector
from anomaly_vae.detector.storage import open_folder
from anomaly_vae.scoring.scores import join
from anomaly_vae.tracking.model import saved_model

Fits = dict[str, dict[str, Any]]
PARTS = ["recon", "kl", "neighbours", "lof", "marginals", "missing"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """MLflow warns of its own type hints when its pyfunc is imported, and of its own use of pandas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(detector: Detector, folder: Path) -> Any:
    import mlflow.pyfunc

    with saved_model(detector) as model:
        model.rename(folder)
    return mlflow.pyfunc.load_model(str(folder))


def test_the_columns_of_another_order_and_of_other_use_change_nothing(fits: Fits) -> None:
    detector, frame = Detector.load("det-table"), pd.read_csv("table.csv")
    plain = score_frame(detector, frame)
    assert list(plain.columns) == ["id", "score", *PARTS, "p_value", "is_anomaly"]
    np.testing.assert_array_equal(plain["score"], detector.score(frame))
    turned = frame[frame.columns[::-1]].assign(more="x").drop(columns="diagnosis")
    pd.testing.assert_frame_equal(score_frame(detector, turned), plain)
    given = score_frame(detector, frame, threshold=float(plain["score"].median()), explain=2)
    assert given["is_anomaly"].mean() == pytest.approx(0.5, abs=0.01)
    reason = ("", "_value", "_usual", "_nats", "_share")
    assert list(given.columns[-10:]) == [f"top{rank}{what}" for rank in (1, 2) for what in reason]


def test_a_missing_column_is_named(fits: Fits) -> None:
    with pytest.raises(DataError, match="mean_area"):
        score_frame(Detector.load("det-table"), pd.read_csv("table.csv").drop(columns="mean_area"))


@pytest.mark.parametrize("name", ["digits", "table", "series"])
def test_the_example_can_be_scored_and_has_the_declared_columns(name: str, fits: Fits) -> None:
    detector = Detector.load(f"det-{name}")
    declared = interface(detector)
    scores = score_frame(detector, example(detector))
    assert list(scores.columns) == [field.name for field in declared.outputs]
    assert {field.name for field in declared.inputs if field.required} == set(example(detector).columns)


def test_the_logged_model_is_code_and_text_and_safetensors(fits: Fits, tmp_path: Path) -> None:
    detector = Detector.load("det-series")
    model = load(detector, tmp_path / "model")
    endings = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()} - {".pyc"}
    assert endings == {"", ".json", ".py", ".safetensors", ".txt", ".yaml"}
    assert len((tmp_path / "model" / "served.py").read_text().splitlines()) < 100
    assert {line.partition("==")[1] for line in (tmp_path / "model/requirements.txt").read_text().split()} == {"=="}
    frame = pd.read_csv("series.csv")
    scored = model.predict(frame, params={"explain": 1, "threshold": 0.0})
    pd.testing.assert_frame_equal(scored, score_frame(detector, frame, explain=1, threshold=0.0))
    assert scored["is_anomaly"].all()
    assert scored["id"].tolist() == frame["time"].tolist()


@pytest.mark.parametrize("name", ["weights.safetensors", "detector.json", "config.yaml", "threshold.json"])
def test_one_altered_byte_is_refused(name: str, fits: Fits, tmp_path: Path) -> None:
    with saved_model(Detector.load("det-series")) as made:
        made.rename(tmp_path / "model")
    victim = tmp_path / "model" / "artifacts" / "detector" / name
    content = bytearray(victim.read_bytes())
    place = len(content) // 2
    content[place] ^= 1
    victim.write_bytes(content)
    import mlflow.pyfunc

    with pytest.raises(DetectorError, match=r"was altered after it was saved|cannot be read as JSON|missing"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


def test_whatever_byte_of_the_manifest_is_altered_no_other_numbers_come(fits: Fits, tmp_path: Path) -> None:
    shutil.copytree("det-series", tmp_path / "det")
    manifest = tmp_path / "det" / "detector.json"
    content, refused = manifest.read_bytes(), 0
    for place in range(len(content)):
        manifest.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            open_folder(tmp_path / "det")
        except DetectorError:
            refused += 1
    assert refused > 0.9 * len(content)  # else it was white space, or the version of what wrote it


def test_values_as_json_and_other_numbers_are_taken(mixed: Detector, tmp_path: Path) -> None:
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    client = TestClient(init(load(mixed, tmp_path / "model")))
    rows = [
        {"size": 3, "weight": None, "colour": "red", "sealed": True},
        {"size": 4.5, "weight": 2, "colour": None, "sealed": None},
        {"size": 1, "weight": -1.5, "colour": "never seen", "sealed": False},
    ]
    answer = client.post("/invocations", json={"dataframe_records": rows, "params": {"explain": 1}})
    assert answer.status_code == 200, answer.text
    expected = score_frame(mixed, pd.DataFrame(rows), explain=1)
    pd.testing.assert_frame_equal(pd.DataFrame(answer.json()["predictions"]), expected, check_dtype=False)
    answer = client.post("/invocations", json={"dataframe_records": [{"size": 3}]})
    assert answer.status_code == 400
    assert "weight" in answer.text


@pytest.fixture(scope="module")
def mixed() -> Detector:
    """Of a table with numbers, a category and a truth value."""
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "green"], 120)
    frame = pd.DataFrame(
        {"size": rng.normal(size=120), "weight": rng.normal(size=120), "colour": colour, "sealed": colour == "red"}
    )
    return Detector.fit(frame, training__epochs=1, threshold__policy="fpr=0.1", split__folds=2)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory, digits: tuple[NDArray[np.uint8], NDArray[np.bool_]]) -> Detector:
    """Of pictures in files."""
    from anomaly_vae.data.open import open_source
    from anomaly_vae.detector import configuration as configs

    folder = tmp_path_factory.mktemp("camera")
    for number, picture in enumerate(digits[0][:60]):
        (folder / f"{number}.png").write_bytes(encode(picture[None]))
    config = configs.load(base={"data": {"size": 8}, "model": {"kind": "conv2d"}, "training": {"epochs": 1}})
    return fit_detector(open_source(folder, config.data), config)[0]


def test_pictures_come_as_bytes(
    camera: Detector, digits: tuple[NDArray[np.uint8], NDArray[np.bool_]], tmp_path: Path
) -> None:
    files = [encode(picture[None]) for picture in digits[0][90:110]]
    frame = pd.DataFrame({"image": files, "id": [f"part {n}" for n in range(20)]})
    scores = score_frame(camera, frame)
    chunk = Chunk(frame["id"].to_numpy(), digits[0][90:110, None])
    np.testing.assert_array_equal(scores["score"], join(camera.score_chunks([chunk])).total)
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    rows = [{"image": base64.b64encode(file).decode(), "id": id_} for file, id_ in zip(files, frame["id"], strict=True)]
    client = TestClient(init(load(camera, tmp_path / "model")))
    answer = client.post("/invocations", content=json.dumps({"dataframe_records": rows}),
                         headers={"Content-Type": "application/json"})  # fmt: skip
    assert answer.status_code == 200, answer.text
    pd.testing.assert_frame_equal(pd.DataFrame(answer.json()["predictions"]), scores)
    with pytest.raises(DataError, match="row 1, column 'image': not a readable image"):
        score_frame(camera, pd.DataFrame({"image": [files[0], b"no picture"]}))
    with pytest.raises(DataError, match="row 0, column 'image': of type str"):
        score_frame(camera, pd.DataFrame({"image": ["/etc/passwd"]}))
    with pytest.raises(DataError, match="no column 'image'"):
        score_frame(camera, pd.DataFrame({"path": ["/etc/passwd"]}))
    with pytest.raises(UsageError, match="pictures have none"):
        score_frame(camera, frame, explain=1)


def test_pictures_are_served_under_their_condition(
    digits: tuple[NDArray[np.uint8], NDArray[np.bool_]], tmp_path: Path
) -> None:
    from anomaly_vae.data.open import open_source
    from anomaly_vae.detector import configuration as configs

    files = [encode(picture[None]) for picture in digits[0][:60]]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.png").write_bytes(file)
    listed = pd.DataFrame({"path": [f"{n}.png" for n in range(60)], "lamp": ["left", "right", "right"] * 20})
    listed.to_csv(tmp_path / "list.csv", index=False)
    config = configs.load(base={"data": {"size": 8, "condition": ["lamp"]}, "training": {"epochs": 1}})
    detector = fit_detector(open_source(tmp_path / "list.csv", config.data), config)[0]
    expected = join(detector.score_source(open_source(tmp_path / "list.csv", detector.config.data))).total
    frame = pd.DataFrame({"image": files, "lamp": listed["lamp"]})
    np.testing.assert_array_equal(score_frame(detector, frame)["score"], expected)
    assert (score_frame(detector, frame.assign(lamp="left"))["score"] != expected)[1]
    assert [field.name for field in interface(detector).inputs] == ["image", "id", "lamp"]
    assert len(score_frame(detector, example(detector))) == 1
    with pytest.raises(DataError, match="no condition column 'lamp'"):
        score_frame(detector, frame[["image"]])


def test_a_served_threshold_that_is_not_finite_is_refused() -> None:
    detector = Detector.load(Path(__file__).parent / "format5" / "table", "cpu")
    for threshold in (float("nan"), float("-inf")):
        with pytest.raises(UsageError, match="not a finite number of nats"):
            detector.score_frame(example(detector), threshold=threshold)


def test_an_explanation_has_the_cell_its_usual_value_and_its_share() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=90), "b": rng.normal(5, 1, 90), "c": rng.choice(["x", "y", "x"], 90)})
    detector = Detector.fit(frame, training__steps=40, model__hidden=[8], split__folds=0, device="cpu")
    odd = pd.DataFrame({"a": [40.0, np.nan, 0.0, 0.0], "b": [5.0, np.nan, 5.0, 5.0], "c": ["x", "x", "new", "x"]})
    found = detector.explain(odd, 3)
    assert list(found) == ["row", "column", "value", "usual", "nats", "share"]
    assert 3 not in found["row"].tolist()  # a usual row has no reason
    first = found.iloc[0]
    assert (first["row"], first["column"], first["value"]) == (0, "a", 40.0) and first["share"] > 0.9
    low, high = map(float, first["usual"].split(" to "))
    assert low == pytest.approx(np.quantile(frame["a"], 0.05), abs=0.1) and high < 3
    given = detector.score_frame(odd, explain=2, threshold=0.0)
    assert given["top1"][1] in ("a", "b")  # both are missing
    # of alarms, too, none below what half of the normals score
    assert given["top1"].tolist()[::2] == ["a", "c"] and given["top1"][3] is None
    assert given["top1_value"].tolist() == ["40", "missing", "a new category", None]
    assert given["top1_usual"][2] == "x, y" and given["top2"].tolist() == [None] * 4
    assert given["top1_nats"][0] == pytest.approx(first["nats"], abs=1e-4)
    assert [line.split()[0] for line in repr(detector).splitlines()] == ["Detector", "score:", "threshold:"]
