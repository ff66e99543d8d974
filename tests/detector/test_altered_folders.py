"""A folder that was altered together with its hashes is refused in one line, before anything large is computed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anomaly_vae.core.errors import DetectorError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.storage import MANIFEST, seal

FOLDER = Path(__file__).parent / "format5"
Change = Callable[[Path], None]


def in_json(file: str, *keys: str | int, value: Any = None, drop: bool = False) -> Change:
    """Sets, or drops, what stands at these keys."""

    def change(folder: Path) -> None:
        tree = json.loads((folder / file).read_text())
        *path, last = keys
        place = tree
        for key in path:
            place = place[key]
        if drop:
            del place[last]
        else:
            place[last] = value
        (folder / file).write_text(json.dumps(tree))

    return change


def in_tensors(file: str, name: str, change_of: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        save_file(tensors | {name: change_of(tensors[name]).contiguous()}, folder / file)

    return change


def text(file: str, content: str | bytes) -> Change:
    return lambda folder: (
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode()) and None
    )


def replaced(file: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        content = (folder / file).read_text()
        assert old in content
        (folder / file).write_text(content.replace(old, new))

    return change


FIRST = "model.head.mean.bias"
CHANGES: dict[str, tuple[Change, str]] = {
    "no safetensors": (text("weights.safetensors", b"\xff" * 64), "weights.safetensors cannot be read"),
    "a header of exabytes": (
        text("weights.safetensors", b"\xff" * 7 + b"\x7f{}"),
        "weights.safetensors cannot be read",
    ),
    "NaN weights": (in_tensors("validation.safetensors", "normal", lambda t: t * torch.nan), "holds NaN"),
    "infinite weights": (in_tensors("weights.safetensors", "vae.down.1", lambda t: t + torch.inf), "no finite score"),
    "unsorted scores": (in_tensors("validation.safetensors", "normal", lambda t: t.flip(0)), "not numbers in order"),
    "scores of another type": (in_tensors("validation.safetensors", "normal", lambda t: t.float()), "not numbers"),
    "means of another shape": (in_tensors("validation.safetensors", "usual", lambda t: t[:2]), "do not go together"),
    "an unknown key": (in_json("layout.json", "colour", value=1), "its Layout is not one (colour: "),
    "a missing key": (in_json("layout.json", "shape", drop=True), "its Layout is not one (shape: Field required)"),
    "a list for an object": (text("layout.json", "[]"), "layout.json: holds no JSON object"),
    "half of a surrogate pair": (in_json("threshold.json", "policy", value="\ud800"), "threshold.json: cannot be read"),
    "deep nesting": (text("layout.json", "[" * 100_000), "layout.json: cannot be read as JSON"),
    "a column too many": (in_json("layout.json", "shape", value=[9]), "3 columns for samples of shape (9,)"),
    "another kind": (in_json("layout.json", "kind", value="series"), "a layout of kind 'series'"),
    "no kind": (in_json("layout.json", "kind", value="x"), "a layout of kind 'x'"),
    "an element of no column": (in_json("scaler.json", "elements", 0, "column", value=7), "columns that there are not"),
    "a category as a number": (in_json("scaler.json", "elements", 2, "how", value="linear"), "numbers of a category"),
    "division by zero": (in_json("scaler.json", "elements", 0, "scale", value=0), "divides by zero"),
    "an unknown way of scaling": (in_json("scaler.json", "elements", 0, "how", value="log"), "its SavedScaler is not"),
    "no threshold": (in_json("threshold.json", "value", value=None), "its Threshold is not one (value: "),
    "a rate above one": (in_json("threshold.json", "false_alarm_rate", value=2.0), "its Threshold is not one"),
    "less than no cell missing": (in_json("reference.json", "quantities", 0, "missing", value=-1), "its Reference is"),
    "more cells missing than rows": (
        in_json("reference.json", "quantities", 0, "missing", value=9999),
        "lacks 9999",
    ),
    "an infinite threshold": (in_json("threshold.json", "value", value=float("inf")), "its Threshold is not one"),
    "a network of terabytes": (
        replaced("config.yaml", "hidden:\n  - 4", "hidden:\n  - 1000000\n  - 1000000"),
        "far more memory",
    ),
    "a wider latent": (replaced("config.yaml", "  latent: 2", "  latent: 3"), "size mismatch"),
    "an endless network": (replaced("config.yaml", "  members: 2", "  members: 2000000000"), "members"),
    "no policy without labels": (replaced("config.yaml", "  unlabelled: fpr=0.01\n", ""), "lacks threshold.unlabelled"),
    "settings that are none": (text("config.yaml", "!!python/object/apply:os.system [true]"), "do not go together"),
}


@pytest.mark.parametrize(("change", "says"), CHANGES.values(), ids=[name.replace(" ", "-") for name in CHANGES])
def test_an_altered_folder_is_refused_in_one_line(change: Change, says: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER / "table", tmp_path / "det"))
    (folder / MANIFEST).unlink()
    change(folder)
    seal(folder, "altered")
    Detector.load(FOLDER / "table", "cpu")  # so that imports do not count
    start = time.monotonic()
    with pytest.raises(DetectorError) as caught:
        Detector.load(folder, "cpu")
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert time.monotonic() - start < 20


def test_weights_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    whole = load_file(FOLDER / "table" / "weights.safetensors")
    for name in whole:
        for other in (torch.zeros(3, 5), whole[name].to(torch.float16)):
            folder = Path(shutil.copytree(FOLDER / "table", tmp_path / f"{name}{other.dtype}"))
            save_file(whole | {name: other}, folder / "weights.safetensors")
            (folder / MANIFEST).unlink()
            seal(folder, "altered")
            with pytest.raises(DetectorError, match="do not go together"):
                Detector.load(folder, "cpu")


@pytest.mark.parametrize(
    "name",
    sorted(p.name for p in (FOLDER / "pictures").iterdir() if p.name not in (MANIFEST, "trained_rows.safetensors")),
)
def test_each_needed_file_is_required_in_the_manifest(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER / "pictures", tmp_path / "det"))
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"][name]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DetectorError, match=rf"incomplete, {MANIFEST} does not list {name}"):
        Detector.load(folder, "cpu")


def test_a_file_beside_the_manifest_is_not_read_and_none_outside_is(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER.with_name("format4") / "table", tmp_path / "det"))
    (folder / "trained_rows.safetensors").write_bytes(b"nothing that could be read")
    assert Detector.load(folder, "cpu").trained_rows is None
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"]["../../secret"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DetectorError, match=r"'\.\./\.\./secret', which is no name of a file in it"):
        Detector.load(folder, "cpu")
