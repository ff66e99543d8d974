"""Measures what one core does in a second, for plans beyond one machine: rows and pictures scored, samples trained.

    python -m pipelines.scale                          about 2 minutes on a quiet core
    python -m pipelines.scale --pictures FOLDER        also a folder of 40 pictures or more

Every figure is per second of CPU time (user and system) of a process with one thread, so that other processes hardly
matter. Figures of scoring are differences between much and little data, so that starting up does not count. `training
in 2` is the same global batch in two processes (gloo), per CPU second of each.

Measured on a shared core of an Intel Xeon: SCALE.md, with what follows from it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from anomaly_vae.core import distributed
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.detector.configuration import load, resolve
from anomaly_vae.models.registry import build
from anomaly_vae.training import loop

SMALL, LARGE, COLUMNS = 50_000, 550_000, 30
FEW, TIMES = 20, 10  # number of pictures in the small folder, and how often the large one holds every picture
NETWORKS = (  # name, kind, shape, batch size, steps
    ("table, batch 128", "table", (60,), 128, 100),
    ("table, batch 4096", "table", (60,), 4096, 20),
    ("64x64 RGB, batch 128", "pixels", (3, 64, 64), 128, 8),
)
ALONE = [sys.executable, "-m", "anomaly_vae", "-q"]
UNTRACKED = ["--set", "tracking.enabled=false", "--set", "training.steps=40"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of pictures to score")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)  # one process of a measured training
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.train:
        with distributed.job("cpu"):
            rates = trained()
        if distributed.is_lead():
            print(json.dumps(rates))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, rate in scored_tables(Path(folder)).items():
            print(f"{name:32}{rate:12,.0f} rows a CPU second")
        if options.pictures:
            pictures, bytes_ = scored_pictures(options.pictures.resolve(), Path(folder))
            print(f"{'scoring pictures':32}{pictures:12,.1f} a CPU second, {pictures * bytes_ / 1e6:.1f} MB of files")
    for processes in (1, 2):
        for name, rate in of_processes(processes).items():
            print(f"{f'training in {processes}, {name}':32}{rate:12,.0f} rows a CPU second of each process")


def scored_tables(folder: Path) -> dict[str, float]:
    """Rows that `score` scores per CPU second with the default detector of a table, from CSV and from Parquet."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(COLUMNS, COLUMNS))
    for rows in (SMALL, LARGE):
        values = (rng.normal(size=(rows, COLUMNS)) @ mix).astype(np.float32)
        frame = pd.DataFrame(values, columns=[f"x{i}" for i in range(COLUMNS)])
        frame.to_csv(folder / f"{rows}.csv", index=False, float_format="%.6g")
        frame.to_parquet(folder / f"{rows}.parquet")
    model = str(folder / "detector")
    cpu_seconds([*ALONE, "fit", str(folder / f"{SMALL}.parquet"), "--kind", "table", *UNTRACKED, "-o", model])
    rates = {}
    for ending in ("csv", "parquet"):
        paths = (str(folder / f"{rows}.{ending}") for rows in (SMALL, LARGE))
        commands = [[*ALONE, "score", path, "-m", model, "-o", str(folder / "s.parquet")] for path in paths]
        small, large = (cpu_seconds(command) for command in commands)
        rates[f"scoring {ending}"] = (LARGE - SMALL) / (large - small)
    return rates


def scored_pictures(pictures: Path, folder: Path) -> tuple[float, float]:
    """Pictures that `score` scores per CPU second with the default detector of pictures, and mean bytes of a file."""
    files = sorted(path for path in pictures.iterdir() if path.is_file())
    if len(files) < 2 * FEW:
        raise SystemExit(f"{pictures}: holds {len(files)} files, {2 * FEW} are needed")
    for name, part in (("few", files[:FEW]), ("many", files * TIMES)):
        (folder / name).mkdir()
        for number, file in enumerate(part):
            (folder / name / f"{number}{file.suffix}").symlink_to(file)
    model = str(folder / "detector of pictures")
    cpu_seconds([*ALONE, "fit", str(folder / "many"), *UNTRACKED, "-o", model])
    score = [[*ALONE, "score", str(folder / n), "-m", model, "-o", str(folder / "s.csv")] for n in ("few", "many")]
    few, many = (cpu_seconds(command) for command in score)
    return (len(files) * TIMES - FEW) / (many - few), float(np.mean([file.stat().st_size for file in files]))


def trained() -> dict[str, float]:
    """Rows per CPU second of this process in the training of each network."""
    rates = {}
    for name, kind, shape, batch, steps in NETWORKS:
        sizes = [f"training.batch_size={batch}", "training.epochs=1", "training.bf16=false", "training.jitter=0"]
        config = resolve(load(overrides=sizes), kind)  # type: ignore[arg-type]
        x = np.random.default_rng(0).normal(size=(batch * steps, *shape)).astype(np.float32)
        rows, valid = RowDataset(x, torch.device("cpu")), RowDataset(x[:batch], torch.device("cpu"))
        loop.STEPS, seconds = steps, []
        for _ in range(2):  # the first one warms up
            model, start = build(config.model, shape), time.process_time()
            loop.train(model, rows, valid, config, lambda *_: None)
            seconds.append(time.process_time() - start)
        rates[name] = len(rows) / seconds[-1] / int(os.environ.get("WORLD_SIZE", "1"))
    return rates


def of_processes(processes: int) -> dict[str, float]:
    """The rates of `trained` in a job of several processes, as the lead measures them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        job = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": probe.getsockname()[1]}
    command = [sys.executable, "-m", "pipelines.scale", "--train"]
    running = []
    for rank in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in job.items()}, "RANK": str(rank)}
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process of the measured training failed; what it printed is above")
    rates: dict[str, float] = json.loads(outputs[0])
    return rates


def cpu_seconds(command: list[str]) -> float:
    """Runs a command with one thread; returns its user and system time in seconds."""
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; what it printed is above")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
