"""A fit whose data lives in files is the fit whose data lives in memory, to the bit; and what such files may suffer."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from anomaly_vae.core.errors import AnomalyVAEError
from anomaly_vae.data import datasets
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.open import open_reader, open_source
from anomaly_vae.data.readers import arrow_stream, csv
from anomaly_vae.data.source import CodedText
from anomaly_vae.data.spill import ArrayStore, is_mapped, release
from anomaly_vae.detector.configuration import load, opening
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import Fit
from anomaly_vae.detector.fit import fit as fit_detector
from anomaly_vae.scoring.parts import sensor_level
from anomaly_vae.scoring.parts.sensor_level import LEAST, LEVEL, SHARE, SensorLevel, trailing_mean
from tests.commands import ok, run

N = 400
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
FRAMES = {
    "table": pd.DataFrame({"a": X[:, 0], "b": X[:, 0] + X[:, 1], "c": list("xyzy") * 100, "y": [0, 0, 0, 1] * 100}),
    "series": pd.DataFrame({"a": X[:, 0].cumsum(), "b": X[:, 1], "m": ["m2", "m1"] * (N // 2), "t": np.arange(N)}),
    "pixels": pd.DataFrame(RNG.integers(0, 256, (N, 64)), columns=[f"pixel_{i}" for i in range(64)]),
    "conditional": pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "mode": ["on", "off"] * (N // 2)}),
}  # fmt: skip
SETTINGS = {
    "table": ["data.label=y", "split.folds=2"],
    "series": ["data.kind=series", "data.group=m", "data.time=t", "data.window=8"],
    "pixels": [],
    "conditional": ["data.condition=[mode]", "split.folds=2"],
}


def fitted(file: Path, memory: int, *settings: str) -> tuple[Detector, Fit]:
    small = ["training.epochs=1", "training.batch_size=32", "model.hidden=[8]", "model.channels=[8]"]
    small += [f"data.memory={memory}", f"tracking.folder={file.parent / 'runs'}"]
    config = load(overrides=[*small, *settings])
    return fit_detector(open_source(file, opening(config)), config)


def written(folder: Path, kind: str, ending: str = "csv") -> Path:
    file = folder / f"{kind}.{ending}"
    if ending == "csv":
        FRAMES[kind].to_csv(file, index=False)
    else:
        FRAMES[kind].to_parquet(file)
    return file


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("table", "csv"), ("table", "parquet"), ("series", "csv"), ("pixels", "csv"), ("conditional", "csv")],
)  # fmt: skip
def test_a_fit_from_files_is_the_fit_from_memory(
    kind: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, kind, ending)
    monkeypatch.setattr("anomaly_vae.data.source.ROWS", 150)  # several pieces
    monkeypatch.setattr("anomaly_vae.data.source.PICTURES", 150)
    (held, held_fit), (mapped, mapped_fit) = (fitted(file, memory, *SETTINGS[kind]) for memory in (1 << 30, 0))
    for seen, expected in ((held_fit, False), (mapped_fit, True)):
        assert is_mapped(seen.data.values) is is_mapped(seen.scores.elements) is expected  # type: ignore[arg-type]
    weights = mapped.score_model.state_dict()
    for name, weight in held.score_model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    for name in ("normal", "anomalous", "normal_mean"):
        np.testing.assert_array_equal(getattr(held, name), getattr(mapped, name), err_msg=name)
    assert (held.threshold, held.pixels, held.scaler.to_json()) == (
        mapped.threshold,
        mapped.pixels,
        mapped.scaler.to_json(),
    )
    for one, two in zip(held.references, mapped.references, strict=True):
        np.testing.assert_array_equal(one.values, two.values, err_msg=one.name)
    some = held_fit.split.reported[[5, 2]]
    one, two = held_fit.shown(some), mapped_fit.shown(some)
    np.testing.assert_array_equal(one.elements, two.elements)
    assert one.ids.tolist() == two.ids.tolist() == ([str(i) for i in some] if kind == "series" else some.tolist())
    kept = {path.suffix for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert kept == (set() if kind == "pixels" else {".arrow", ".lock"})  # the arrays' own files have no names


def test_pieces_do_not_change_what_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences and the level go on across pieces, as if the steps were read at once."""
    file = written(tmp_path, "series")
    whole, _ = fitted(file, 1 << 30, *SETTINGS["series"])
    assert "difference" in [element.how for element in whole.scaler.elements]
    monkeypatch.setattr("anomaly_vae.data.source.ROWS", 37)
    monkeypatch.setattr(sensor_level, "PIECE", 41)
    pieces, _ = fitted(file, 1 << 30, *SETTINGS["series"])
    for name, weight in whole.score_model.state_dict().items():
        torch.testing.assert_close(weight, pieces.score_model.state_dict()[name], rtol=1e-6, atol=1e-7)


def test_the_level_of_pieces_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_level, "PIECE", 50)
    residual, usable = RNG.normal(size=(170, 2)), RNG.random(170) > 0.01
    found = SensorLevel(2)
    found.fit_residuals(residual, usable)
    step = (residual[usable] ** 2).mean(axis=0) + LEAST
    gapless = [t for t in range(LEVEL - 1, 170) if usable[t - LEVEL + 1 : t + 1].all()]
    means = trailing_mean(torch.from_numpy(residual), LEVEL).numpy()[gapless]
    expected = (means**2).mean(axis=0) + SHARE * step + LEAST
    for variance, wanted in zip(found.measures()[:2], (step, expected), strict=True):
        np.testing.assert_allclose(variance, wanted, rtol=1e-6)


# --- the table on disk -----------------------------------------------------------------------------------------------

LATE = {  # of each column: what all cells but the last hold, and the last
    "whole": ("1", "7"), "fraction": ("1", "1.5"), "text": ("1", "seven"), "filled": ("", "3"), "half": ("", "0.5"),
    "truth": ("true", "maybe"), "bit": ("1", "true"), "day": ("2025-01-01", "2025-01-01 10:00:00"),
    "hour": ("10:00:00", "noon"), "zone": ("2025-01-01T00:00:00Z", "2025-01-01T00:00:00.5Z"),
    "zones": ("2025-01-01T00:00:00Z", "2025-01-01T00:00:00"),
    "zoneless": ("2025-01-01T00:00:00", "2025-01-01T00:00:00Z"),
}  # fmt: skip


def test_late_cells_find_the_types_that_the_whole_column_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 3_000
    frame = pd.DataFrame({name: [often] * (rows - 1) + [last] for name, (often, last) in LATE.items()})
    frame.to_csv(tmp_path / "late.csv", index=False)
    monkeypatch.setattr(csv, "BLOCK", 1 << 14)
    monkeypatch.setattr(csv, "LONG_ROW", 1 << 14)
    monkeypatch.setattr(arrow_stream, "ROWS", 500)
    in_memory = open_reader(tmp_path / "late.csv").table(["whole"])
    reader = open_reader(tmp_path / "late.csv")
    mapped = reader.table(["whole"], ArrayStore(0, tmp_path / "cache"))
    assert mapped["text"].num_chunks > 1
    assert mapped.schema == in_memory.schema
    assert mapped.schema.field("whole").type == pa.string()
    for name in frame.columns:
        assert mapped[name].combine_chunks().equals(in_memory[name].combine_chunks()), name
    reader.release()
    assert mapped["fraction"][-1].as_py() == 1.5  # its pages are read again


def test_a_categorys_spellings_may_change_between_row_groups(tmp_path: Path) -> None:
    parts = [
        pa.table({"c": pa.array(names).dictionary_encode(), "x": [1, 2, 3]})
        for names in (["a", "b", "a"], ["z", "a", "q"])
    ]
    with pa.parquet.ParquetWriter(tmp_path / "c.parquet", parts[0].schema) as out:
        for part in parts:
            out.write_table(part)
    table = open_reader(tmp_path / "c.parquet").table((), ArrayStore(0, tmp_path / "cache"))
    assert pa.types.is_dictionary(table.schema.field("c").type)
    assert table["c"].to_pylist() == ["a", "b", "a", "z", "a", "q"]


def test_a_kept_table_is_used_again_and_one_that_is_broken_or_old_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store, writes = written(tmp_path, "table"), ArrayStore(0, tmp_path / "cache"), []
    write = arrow_stream.write
    monkeypatch.setattr(arrow_stream, "write", lambda *given: (writes.append(1), write(*given)))
    expected = open_reader(file).table(["y"])

    def converted() -> tuple[int, list[Path]]:
        assert open_reader(file).table(["y"], store).equals(expected)
        return len(writes), sorted((tmp_path / "cache" / "tables").glob("*.arrow"))

    (first, (kept,)), (second, _) = converted(), converted()
    assert (first, second) == (1, 1)
    os.truncate(kept, kept.stat().st_size - 8)
    assert converted() == (2, [kept])
    kept.write_bytes(b"")
    assert converted() == (3, [kept])
    assert open_reader(file).table([], store)["y"].type == pa.float64()  # read in another way
    file.write_text(file.read_text().replace("0.", "1."))
    expected = open_reader(file).table(["y"])
    assert converted() == (5, sorted((tmp_path / "cache" / "tables").glob("*.arrow")))


def test_of_several_processes_one_converts(tmp_path: Path) -> None:
    store, writes = ArrayStore(0, tmp_path), []

    def write(sink: IO[bytes]) -> None:
        writes.append(1)
        time.sleep(0.1)
        sink.write(b"whole")

    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(store.kept("x", write, lambda c: bytes(c) == b"whole")[:]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(writes), found) == (1, [b"whole"] * 4)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "where", ["anomaly_vae.data.spill.os.posix_fallocate", "anomaly_vae.data.readers.arrow_stream._put"]
)
def test_a_full_disk_is_one_line(where: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(workplace, "table")
    monkeypatch.setattr(where, full)
    result = run(
        "fit", "table.csv", "--set", "data.memory=0", "--set", "tracking.enabled=false", "--set", "training.epochs=1"
    )
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(
        ": the disk is full; free some space or name a place on another disk (tracking.folder), or hold more in memory"
        " (data.memory)"
    )
    assert not list(workplace.glob("mlruns/**/*.arrow"))


def test_nothing_is_kept_where_nothing_is_recorded(workplace: Path) -> None:
    written(workplace, "table")
    ok("fit", "table.csv", "--set", "data.memory=0", "--set", "tracking.enabled=false", "--set", "training.epochs=1")
    assert [path.name for path in workplace.iterdir()] == ["table.csv"]


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_an_array_is_mapped_above_the_limit_and_keeps_its_values(tmp_path: Path) -> None:
    store = ArrayStore(80, tmp_path / "new")
    assert not is_mapped(store.empty((10,), np.float64))
    for order in ("C", "F"):
        array = store.empty((3, 4), np.float64, order)  # type: ignore[arg-type]
        assert is_mapped(array) and is_mapped(array[1:])
        assert array.flags[f"{order}_CONTIGUOUS"]
        array[:] = np.arange(12).reshape(3, 4)
        release(array)
        assert array.tolist() == np.arange(12).reshape(3, 4).tolist()
    assert list(tmp_path.iterdir()) == []


def test_a_room_without_a_place_says_so() -> None:
    with pytest.raises(
        AnomalyVAEError, match=r"^/proc: .* \(tracking.folder\), or hold more in memory \(data.memory\)$"
    ):
        ArrayStore(0, Path("/proc/cache")).empty((10,), np.uint8)


def test_samples_of_mapped_values_and_of_some_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "RELEASE_AFTER", 1)  # pages are let go after every batch
    values = ArrayStore(0, tmp_path).empty((9, 1, 2, 2), np.uint8)
    values[:] = np.arange(36).reshape(9, 1, 2, 2)
    rows = np.array([7, 0, 3])
    found = RowDataset(values, torch.device("cpu"), rows=rows)
    assert len(found) == 3
    for index in ([0, 2], [1]):
        expected = torch.from_numpy(np.array(values)[rows[index]]).float() / 255
        torch.testing.assert_close(found.take(torch.tensor(index)), expected)


@pytest.mark.parametrize(
    ("most", "expected"), [(10, [0, 1, 2, 3, 4, 5, 6]), (4, [0, 2, 4, 6]), (3, [0, 3, 6]), (1, [0])]
)
def test_evenly_spaced_samples(most: int, expected: list[int]) -> None:
    assert RowDataset(np.zeros((7, 2), np.float32), torch.device("cpu")).spaced(most).tolist() == expected


def test_texts_in_codes_are_the_texts() -> None:
    pieces = [np.array(["b", "a"]), np.array(["longer", "b"])]
    found = CodedText.of(pieces)
    assert (found.values.tolist(), found.codes.tolist()) == (["a", "b", "longer"], [1, 0, 2, 1])
    assert found[:].tolist() == np.asarray(found).tolist() == ["b", "a", "longer", "b"]
    assert found[np.array([2])].tolist() == ["longer"]
