"""Runs the tests that need a CUDA device, and measures training and scoring on it. Writes a Markdown table.

    python -m pipelines.cuda                 about four minutes on one card
    python -m pipelines.cuda --skip-tests

Needs torch, pytest and what a fit imports, but no MLflow. Of training it compares a plain PyTorch loop that reads the
loss of every step, our loop with each kernel launched from Python, and our loop with a captured step. The bound of a
step is the larger of two times: that of the operations of its products at the rate of a large matrix product in the
same dtype, and that of their bytes at the rate of a large copy, both measured in this run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from anomaly_vae.detector.detector import Detector
from pipelines import speed
from pipelines.ceilings import measure
from pipelines.workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
STEPS = {128: 100, 4096: 8}  # batch size -> optimiser steps to time
ROWS, COLUMNS, SCORED = 10_000, 20, 500_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="mlruns/studies/cuda.md")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("pipelines.cuda: no CUDA device was found; run it where torch.cuda.is_available()")
    lines = [f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, {os.cpu_count()} cores", ""]
    if not options.skip_tests:
        lines += [f"Tests: {tests()}", ""]
    options.device, options.overrides = "cuda", []
    print("\n".join(lines), flush=True)
    for part in (training, scoring, fits):
        found = [*part(options), ""]
        print("\n".join(found), flush=True)
        lines += found
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text("\n".join(lines), encoding="utf-8")


def tests() -> str:
    """Pytest's own summary of the tests marked `cuda`, without the settings and fixtures of the others."""
    alone = ["--noconftest", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings="]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-rs", *alone, str(ROOT / "tests" / "test_cuda.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
    return done.stdout.strip().splitlines()[-1]


def training(options: argparse.Namespace) -> list[str]:
    """Milliseconds of a training step, by workload and batch size."""
    device = torch.device("cuda")
    ceilings = measure(device, (torch.float32, torch.bfloat16))
    rates = ", ".join(f"{str(dtype)[6:]} {rate / 1e12:.0f} TFLOP/s" for dtype, rate in ceilings.flops.items())
    rows = []
    for name, work in WORKLOADS.items():
        for batch, steps in STEPS.items():
            found = speed.training(work, batch, steps, options, device, ceilings)
            plain, launched, ours = (found[f"{which}_ms"] for which in ("plain", "without_graph", "ours"))
            bound = found["bound_ms"]
            times = [f"{value:.3f}" for value in (plain, launched, ours, bound)]
            rows.append([name, str(batch), *times, f"{plain / ours:.1f}", f"{ours / bound:.1f}"])
            torch.cuda.empty_cache()
    head = ["workload", "batch", "plain loop, ms", "launched, ms", "captured, ms", "bound, ms", "plain / captured",
            "captured / bound"]  # fmt: skip
    return [f"Measured: {rates}, copy {ceilings.copied / 1e9:.0f} GB/s.", "", *table(head, rows)]


def scoring(options: argparse.Namespace) -> list[str]:
    """Rows and pictures a second, and how many pictures are only decoded."""
    rng = np.random.default_rng(0)
    rows = []
    frame = pd.DataFrame(rng.normal(size=(SCORED, COLUMNS)), columns=[f"x{i}" for i in range(COLUMNS)])
    for device in ("cuda", "cpu"):
        detector = Detector.fit(frame[:4000], training__epochs=2, device=device)
        detector.score(frame[:20_000])
        seconds = timed(lambda detector=detector: detector.score(frame))  # type: ignore[misc]
        rows.append([f"rows of {COLUMNS} columns, {device}", f"{SCORED / seconds:,.0f}", ""])
    with tempfile.TemporaryDirectory() as folder:
        found = speed.pictures(Path(folder), options, measure(torch.device("cpu"), (torch.float32,)))
    for name, figures in found.items():
        decoded = speed.PICTURES / figures["decoding_seconds"]
        rows.append([f"{name}, cuda", f"{figures['pictures_per_second']:,.0f}", f"{decoded:,.0f}"])
    return table(["scoring", "a second", "only decoded"], rows)


def fits(options: argparse.Namespace) -> list[str]:
    """Seconds of whole fits at the defaults."""
    rng = np.random.default_rng(0)
    kinds = {
        f"{ROWS:,} rows of {COLUMNS} columns": rng.normal(size=(ROWS, COLUMNS)),
        "6,000 pictures of 28 x 28": rng.integers(0, 256, (6_000, 1, 28, 28), dtype=np.uint8),
    }
    rows = []
    for name, values in kinds.items():
        found = [timed(lambda d=device, x=values: Detector.fit(x, device=d)) for device in ("cuda", "cpu")]  # type: ignore[misc]
        rows.append([name, *(f"{seconds:.1f}" for seconds in found)])
    return table(["fit at the defaults", "cuda, s", "cpu, s"], rows)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    main()
