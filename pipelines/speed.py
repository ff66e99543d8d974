"""How fast, as ratios measured in one run: training beside a plain PyTorch loop, scoring a CSV beside pandas.read_csv,
and how long a command takes to answer.

    python -m pipelines.speed                      about 5 minutes on two cores
    python -m pipelines.speed --rows 200000        a smaller CSV

Prints and saves (`--out`) a JSON of ratios, each the median of several rounds in which the two alternate. On a machine
that is busy with something else two threads wait for each other most of the time, and the ratios mean nothing.

Measured on two quiet cores: training 1.15 times the plain loop, scoring 13 times pandas.read_csv.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, TensorDataset

from anomaly_vae.config import Config
from anomaly_vae.config import load as load_config
from anomaly_vae.data.base import Layout
from anomaly_vae.data.scaling import Scaler
from anomaly_vae.data.tensors import Samples
from anomaly_vae.detector import Detector
from anomaly_vae.models import VAE
from anomaly_vae.objective import loss
from anomaly_vae.scorenet import new_net
from anomaly_vae.training import pick_device, train

IMAGES, SIDE, BATCH, ROUNDS = 6_400, 28, 128, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the CSV to score")
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of the trained network")
    parser.add_argument("--out", default="mlruns/studies/speed.json")
    options = parser.parse_args()
    found = {
        "device": str(pick_device(options.device)),
        **training_ratio(options.device, options.overrides),
        **answer_times(),
    }
    found |= scoring_ratio(options.rows, options.columns)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def training_ratio(device: str, overrides: list[str]) -> dict[str, float]:
    """Images a second of ours and of the plain loop on one epoch of random 28x28 images, the same network and batch."""
    where = pick_device(device)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, SIDE, SIDE), dtype=np.uint8)
    layout = Layout("pixels", (1, SIDE, SIDE))
    config = load_config(
        # the plain loop neither moves its images nor makes them noisy: the same job for both
        overrides=[
            "training.epochs=1",
            f"training.batch_size={BATCH}",
            f"device={where.type}",
            "training.jitter=0",
            "training.noise=0",
            *overrides,
        ]
    ).resolve("pixels")
    scaler = Scaler.fit(images, layout)
    held = Samples(images[:256], where)
    held_images = Samples(images, where)

    def ours() -> None:
        train(new_net(config, layout, scaler).model.to(where), held_images, held, config, lambda *_: None)

    def plain() -> None:
        plain_loop(images, new_net(config, layout, scaler).model.to(where), config, where)

    fast, slow = alternate(ours, plain)
    return {
        "train_images_per_second": IMAGES / fast,
        "plain_loop_images_per_second": IMAGES / slow,
        "train_ratio": slow / fast,
    }


def plain_loop(images: np.ndarray[Any, Any], model: VAE, config: Config, device: torch.device) -> None:
    """What a tutorial would write: DataLoader, Adam, one batch at a time, and the loss read after each."""
    data = TensorDataset(torch.from_numpy(images).float() / 255)
    noise = torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    total = 0.0
    for (x,) in DataLoader(data, BATCH, shuffle=True):
        x = x.to(device)
        optimizer.zero_grad()
        value, _, _ = loss(x, model(x, noise), config.objective, 1.0)
        value.backward()
        optimizer.step()
        total += value.item()


def alternate(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of two functions, run in turn after one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(ROUNDS + 1):
        for function, kept in ((first, seconds[0]), (second, seconds[1])):
            began = time.perf_counter()
            function()
            if round_:
                kept.append(time.perf_counter() - began)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def answer_times() -> dict[str, float]:
    """Seconds until `--help` and until a configuration error, the fastest of five: the least disturbed one."""
    ours = [sys.executable, "-m", "anomaly_vae"]
    return {
        "help_seconds": min(_run([*ours, "--help"])[0] for _ in range(5)),
        "config_error_seconds": min(_run([*ours, "fit", "--set", "no.such=1"], expect=2)[0] for _ in range(5)),
    }


def scoring_ratio(rows: int, columns: int) -> dict[str, float]:
    """Seconds and peak memory of `score` on a CSV and on its first tenth, beside pandas.read_csv on the whole."""
    with tempfile.TemporaryDirectory() as folder:
        path, tenth, model = f"{folder}/rows.csv", f"{folder}/tenth.csv", f"{folder}/detector"
        write_csv(path, rows, columns)
        write_csv(tenth, rows // 10, columns)
        sample = pd.read_csv(path, nrows=4_000)
        Detector.fit(sample, training__epochs=2).save(model)
        score = [sys.executable, "-m", "anomaly_vae", "-q", "score", "-m", model]
        read = [sys.executable, "-c", f"import pandas; pandas.read_csv({path!r})"]
        rounds = [(_run([*score, path, "-o", f"{folder}/s.csv"]), _run(read)) for _ in range(3)]
        small = _run([*score, tenth, "-o", f"{folder}/t.csv"])
        start = min(_run([sys.executable, "-c", "import pandas"])[0] for _ in range(3))
    ours = statistics.median(r[0][0] for r in rounds)
    theirs = statistics.median(r[1][0] for r in rounds) - start
    return {
        "score_seconds": ours,
        "read_csv_seconds": theirs,
        "score_ratio": ours / theirs,
        "score_rows_per_second": rows / ours,
        "score_peak_gb": rounds[0][0][1],
        "score_peak_gb_of_a_tenth": small[1],
    }


def write_csv(path: str, rows: int, columns: int) -> None:
    """Correlated Gaussian columns with six digits, written in pieces."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(columns, columns))
    with open(path, "w") as out:
        for start in range(0, rows, 100_000):
            n = min(100_000, rows - start)
            frame = pd.DataFrame(rng.normal(size=(n, columns)) @ mix, columns=[f"x{i}" for i in range(columns)])
            frame.to_csv(out, index=False, header=start == 0, float_format="%.6g")


def _run(command: list[str], expect: int = 0) -> tuple[float, float]:
    """(seconds, peak GB) of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read().decode(errors="replace") if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != expect:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}: {errors}")
    return time.perf_counter() - began, usage.ru_maxrss / 1e6


if __name__ == "__main__":
    main()
