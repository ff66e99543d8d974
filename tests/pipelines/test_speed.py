"""What the study of speed compares: networks that are the same, and needs that were counted by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from pipelines import rivals, speed
from pipelines.ceilings import Ceilings, Needs, needs
from pipelines.processes import run
from pipelines.workloads import WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_plain_network_is_ours(name: str) -> None:
    work = WORKLOADS[name]
    model = work.model(work.config("cpu", 4, [])).eval()
    x = work.data(3).float() / 255 if work.data(1).dtype == torch.uint8 else work.data(3)
    members = rivals.plain(model)
    with torch.no_grad():
        mu, _ = model.encode(x)  # type: ignore[operator]
        mean = model.decode(mu).mean.reshape(len(members), *x.shape)  # type: ignore[operator]
        for number, (member, own) in enumerate(zip(members, mu.chunk(len(members), dim=1), strict=True)):
            theirs, _ = member.down(x).chunk(2, dim=1)  # type: ignore[operator]
            torch.testing.assert_close(theirs, own, rtol=1e-4, atol=1e-5)
            decoded = member.up(own)[:, : x.shape[1]]  # type: ignore[operator]
            torch.testing.assert_close(decoded, mean[number], rtol=1e-4, atol=1e-5)


def test_needs_are_those_of_the_products() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    found = needs(lambda: (a @ b).exp(), parameters=10)
    assert found == Needs(2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4) + 10 * 28)
    ceilings = Ceilings({torch.float32: 1024.0}, 1000.0)
    assert found.bound(ceilings, torch.float32) == max(1.0, found.bytes / 1000)


def test_a_run_knows_its_own_memory() -> None:
    held = run([sys.executable, "-c", "import time; x = bytearray(200_000_000); time.sleep(0.2)"])
    assert 0.2 < held.own_gb < 0.3
    assert held.own_gb <= held.resident_gb < 0.4
    assert held.seconds > 0.2
    with pytest.raises(SystemExit, match="ended with 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_study_ends_in_figures(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "WORKLOADS", {"rows": speed.Workload("table", (4,), {8: 2})})
    monkeypatch.setattr(speed, "_installed", lambda *_: {})
    monkeypatch.setattr(speed, "measure", lambda *_: Ceilings({torch.float32: 1e9, torch.bfloat16: 1e9}, 1e9))
    monkeypatch.setattr(sys, "argv", ["speed", "--only", "training", "--rounds", "1", "--device", "cpu"])
    speed.main()
    found = json.loads((workplace / "mlruns/studies/speed.json").read_text())["rows, batch 8"]
    assert found["ratio_to_plain"] == pytest.approx(found["plain_ms"] / found["ours_ms"])
    assert found["share_of_bound"] == pytest.approx(found["bound_ms"] / found["ours_ms"])
    assert found["gflop"] > 0
