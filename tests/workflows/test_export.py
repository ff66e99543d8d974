"""One detector, many doors: command line, Python, pyfunc, HTTP, ONNX and .pt2 give the same score to 1e-4 nats
relative, for every kind of data."""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from anomaly_vae.cli import main
from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.data.examples import digits as pixel_table
from anomaly_vae.data.examples import series as plant
from anomaly_vae.data.images.decoding import encode
from anomaly_vae.data.open import open_source
from anomaly_vae.detector import configuration as configs
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit as fit_detector
from anomaly_vae.scoring.scores import join
from anomaly_vae.tracking.model import saved_model
from anomaly_vae.workflows import export as exporting
from anomaly_vae.workflows.export import export

TOLERANCE = 1e-4  # nats, relative
TRAINED = 150  # rows; the others are scored
SMALL = {
    "table": {"model": {"members": 2, "hidden": (8,)}, "scoring": {"neighbours": 64}},
    "series": {"model": {"channels": (8,)}, "data": {"window": 16},
               "scoring": {"neighbours": 20, "parts": ("variation", "missing")}},
    "pixels": {"model": {"channels": (4,), "hidden": (16,), "latent": 4}},
    "images": {"model": {"kind": "conv2d", "channels": (4,), "hidden": (16,), "latent": 4}, "data": {"size": 8}},
    "features": {"model": {"hidden": (16,), "latent": 4}, "data": {"size": 48}, "scoring": {"neighbours": 20}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """MLflow and torch's exporters warn of their own use of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def rows_of(kind: str, folder: Path) -> tuple[Path, Path, pd.DataFrame]:
    """Files or folders to train on and to score, and the DataFrame that a served model gets for the latter."""
    rng = np.random.default_rng(0)
    if kind == "images":
        pixels = pixel_table().to_numpy()[:200, 1:].astype(np.uint8).reshape(-1, 1, 8, 8)
        files = [encode(picture) for picture in pixels]
        for part, some in (("old", files[:TRAINED]), ("new", files[TRAINED:])):
            (folder / part).mkdir()
            for number, file in enumerate(some):
                (folder / part / f"{number:03}.png").write_bytes(file)
        ids = [f"{number:03}.png" for number in range(len(files) - TRAINED)]
        return folder / "old", folder / "new", pd.DataFrame({"image": files[TRAINED:], "id": ids})
    if kind == "table":
        frame = pd.DataFrame(rng.lognormal(size=(200, 4)), columns=list("abcd"))
        frame["kind"] = rng.choice(["x", "y", "z"], 200)
        frame["open"] = rng.random(200) < 0.5
        frame.loc[::7, "b"] = np.nan
        frame.loc[3::9, "kind"] = None
        frame.loc[160, "kind"] = "new"
        frame = frame.astype({"open": object}).assign(still=1.5, unit="mm", aux=None)
        frame.loc[165, "still"], frame.loc[170, "unit"], frame.loc[175, "aux"] = 2.5, "inch", "9"
        frame.loc[180, "a"] = np.nan
        frame.loc[185, ["a", "b", "c", "d"]], frame.loc[185, ["kind", "open"]] = np.nan, None
    elif kind == "series":
        frame = plant().iloc[:500, :4].assign(still=3)
        frame.loc[420:424, "still"] = 4
        frame.iloc[430:440, 1] = np.nan
    else:
        frame = pixel_table().iloc[:200, 1:]
    trained = TRAINED if kind != "series" else 400
    frame[:trained].to_csv(folder / "old.csv", index=False)
    frame[trained:].to_csv(folder / "new.csv", index=False)
    return folder / "old.csv", folder / "new.csv", frame[trained:].reset_index(drop=True)


@pytest.fixture(scope="module", params=list(SMALL))
def doors(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Callable[[], NDArray[np.float64]]]:
    """What each door says of the same new rows."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    small = SMALL[kind]
    kind = "images" if kind == "features" else kind
    old, new, frame = rows_of(kind, folder)
    settings = configs.load(base=small | {"training": {"epochs": 2}, "split": NO_TEST})
    config = configs.load(base=settings.model_dump(), overrides=[f"data.kind={kind}"])
    detector = fit_detector(open_source(old, config.data), config)[0]
    detector.save(folder / "detector")
    source = open_source(new, detector.config.data)
    values = np.concatenate([chunk.values for chunk in source.chunks(detector.layout, 1000)])

    def command(*words: str) -> None:
        result = CliRunner().invoke(main, [*words, "-m", str(folder / "detector")])
        assert result.exit_code == 0, result.stderr

    def cli() -> NDArray[np.float64]:
        command("score", str(new), "-o", str(folder / "scores.csv"))
        return pd.read_csv(folder / "scores.csv")["score"].to_numpy()

    def python() -> NDArray[np.float64]:
        return join(Detector.load(folder / "detector").score_source(source)).total

    def model() -> Any:
        import mlflow.pyfunc

        if not (folder / "model").exists():
            with saved_model(detector) as made:
                made.rename(folder / "model")
        return mlflow.pyfunc.load_model(str(folder / "model"))

    def pyfunc() -> NDArray[np.float64]:
        return model().predict(frame)["score"].to_numpy()

    def http() -> NDArray[np.float64]:
        from mlflow.pyfunc.scoring_server import init
        from starlette.testclient import TestClient

        sent = frame.copy()
        if kind == "images":
            sent["image"] = [base64.b64encode(file).decode() for file in sent["image"]]
        body = {"dataframe_split": json.loads(sent.to_json(orient="split", index=False, double_precision=15))}
        answer = TestClient(init(model())).post("/invocations", json=body)
        assert answer.status_code == 200, answer.text
        return pd.DataFrame(answer.json()["predictions"])["score"].to_numpy()

    def onnx() -> NDArray[np.float64]:
        onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
        export(detector, folder / "detector.onnx")
        session = onnxruntime.InferenceSession(str(folder / "detector.onnx"))
        told = session.get_modelmeta().custom_metadata_map
        assert float(told["threshold"]) == detector.threshold.value
        score, *parts = session.run(json.loads(told["outputs"]), {"values": values})
        np.testing.assert_allclose(np.sum(parts, axis=0), score, rtol=1e-12)
        return np.asarray(score)

    def pt2() -> NDArray[np.float64]:
        export(detector, folder / "detector.pt2")
        told = {"about.json": ""}
        program = torch.export.load(io.BytesIO((folder / "detector.pt2").read_bytes()), extra_files=told)
        assert json.loads(told["about.json"])["kind"] == kind
        return program.module()(torch.from_numpy(values))[0].numpy()

    return {"cli": cli, "python": python, "pyfunc": pyfunc, "http": http, "onnx": onnx, "pt2": pt2}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes most of the time of an export, and both formats are written from one graph."""
    programs: list[Any] = []  # of the one detector of a test
    trace = exporting.trace

    def once(detector: Detector) -> Any:
        if not programs:
            programs.append(trace(detector))
        return programs[0]

    monkeypatch.setattr(exporting, "trace", once)


def test_every_door_gives_the_same_score(doors: dict[str, Callable[[], NDArray[np.float64]]]) -> None:
    said = {name: ask() for name, ask in doors.items()}
    expected = said["cli"]
    assert len(expected) >= 50 and np.std(expected) > 0
    for name, scores in said.items():
        worst = float(np.max(np.abs(scores - expected) / np.abs(expected)))
        assert worst <= TOLERANCE, f"{name} differs from the command line by {worst:.1e}"
