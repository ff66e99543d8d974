"""Measures speed as ratios within one run: training relative to a plain PyTorch loop, pythae and PyOD, scoring a file
relative to only reading it, and each relative to a lower bound of its time on this machine.

    python -m pipelines.speed                              about 15 minutes on two cores
    python -m pipelines.speed --rows 10000000              larger files: 4 GB of disk, 12 minutes more
    python -m pipelines.speed --only training --only files one or more of: training, files, pictures, starting, latency

The bound of a computation is the larger of two times: that of its floating-point operations at the rate of a large
matrix product in the same dtype, and that of its bytes at the rate of a large copy; for a file also the time of reading
it. All are measured in this run, with the same threads. Every ratio is one of medians over several rounds in which the
contenders alternate; a contender of the extra `bench` that is not installed is left out. Prints, saves (`--out`) and
logs the figures. On a busy machine two threads mostly wait for each other, and the ratios mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.parquet
import torch
from PIL import Image

from anomaly_vae import tracking
from anomaly_vae.core.config import Config
from anomaly_vae.core.device import has_bf16, pick_device
from anomaly_vae.core.threads import keep_memory
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.images.decoding import THREADS
from anomaly_vae.data.open import open_source
from anomaly_vae.data.source import Source
from anomaly_vae.detector.configuration import load as load_config
from anomaly_vae.detector.configuration import opening
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import fit
from anomaly_vae.scoring.batching import SIZES
from anomaly_vae.training.loop import History, Schedule, one_epoch
from anomaly_vae.training.objective import loss
from anomaly_vae.training.step import TrainingStep, adamw
from anomaly_vae.training.threads import few_threads
from pipelines import latency, rivals
from pipelines.ceilings import Ceilings, measure, needs
from pipelines.processes import Ended, run
from pipelines.workloads import WORKLOADS, Workload, write_csv, write_parquet, write_pictures

PARTS = ("training", "files", "pictures", "starting", "latency")
ROUNDS, COLUMNS, PICTURES, SIDE = 5, 30, 512, 256
SEEN = 4_000  # number of rows that the detector of the files is fitted on
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the files to score")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", action="append", default=[], choices=PARTS)
    parser.add_argument("--workload", action="append", default=[], choices=list(WORKLOADS))
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of the trained networks")
    parser.add_argument("--folder", help="with rows.csv and rows.parquet to score, made where they are not")
    parser.add_argument("--out", default="mlruns/studies/speed.json")
    options = parser.parse_args()
    keep_memory()  # as the commands do; the rivals profit too
    device = pick_device(options.device)
    ceilings = measure(device, (torch.float32, torch.bfloat16))
    results: dict[str, Figures] = {"ceilings": _shown(ceilings)}
    print(_line("ceilings", results["ceilings"]), flush=True)
    parts = options.only or PARTS
    with tempfile.TemporaryDirectory() as folder:
        if "training" in parts:
            for name in options.workload or WORKLOADS:
                for batch, steps in WORKLOADS[name].steps.items():
                    figures = training(WORKLOADS[name], batch, steps, options, device, ceilings)
                    results[f"{name}, batch {batch}"] = figures
                    print(_line(f"{name}, batch {batch}", figures), flush=True)
        for part, measured in (("files", files), ("pictures", pictures), ("starting", starting), ("latency", one_row)):
            if part in parts:
                for name, figures in measured(Path(folder), options, ceilings).items():
                    results[name] = figures
                    print(_line(name, figures), flush=True)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with tracking.start(load_config(), data_name="speed", run_name="speed") as logged:
        logged.metrics(
            {_key(f"{name}/{figure}"): v for name, figures in results.items() for figure, v in figures.items()}
        )
        logged.text(json.dumps(results, indent=1), "speed.json")


# --- training ------------------------------------------------------------------------------------------------------


def training(
    work: Workload, batch: int, steps: int, options: argparse.Namespace, device: torch.device, ceilings: Ceilings
) -> Figures:
    """The milliseconds of a training step of each contender, their ratios to ours, and the bounds of ours."""
    config = work.config(device.type, batch, options.overrides)
    data = work.data(batch * steps)
    contenders: dict[str, Callable[[], object]] = {
        "ours": _ours(work, data, config, batch, device),
        "plain": rivals.plain_loop(data, work.model(config), batch, device),
    }
    if device.type == "cuda":
        launched = config.model_copy(update={"training": config.training.model_copy(update={"cuda_graph": False})})
        contenders["without_graph"] = _ours(work, data, launched, batch, device)
    else:
        contenders |= _installed(work, data, config, batch, steps)
    seconds = alternate(contenders, options.rounds)
    model = work.model(config).to(device)
    x = RowDataset(data[:batch].numpy(), device).take(torch.arange(batch, device=device))
    noise = torch.Generator(device)

    def step() -> None:
        loss(x, model(x, noise), config.objective, 1.0)[0].backward()

    step()  # allocates the gradients
    needed = needs(step, sum(p.numel() for p in model.parameters()))
    dtype = torch.bfloat16 if config.training.bf16 and has_bf16(device) else torch.float32
    ours = seconds["ours"] / steps
    figures = {f"{name}_ms": 1000 * s / steps for name, s in seconds.items()}
    figures |= {f"ratio_to_{name}": s / seconds["ours"] for name, s in seconds.items() if name != "ours"}
    figures |= {"gflop": needed.flops / 1e9, "mb": needed.bytes / 1e6, "bound_ms": 1000 * needed.bound(ceilings, dtype)}
    figures |= {"share_of_bound": needed.bound(ceilings, dtype) / ours}
    return figures | {"share_of_float32_bound": needed.bound(ceilings, torch.float32) / ours}


def _ours(work: Workload, data: torch.Tensor, config: Config, batch: int, device: torch.device) -> Callable[[], object]:
    model, samples = work.model(config).to(device), RowDataset(data.numpy(), device)
    step, schedule = TrainingStep(model, samples, adamw(model, config), config, 1.0), Schedule(1, len(data))

    def train() -> None:
        with few_threads(model, samples, batch):
            one_epoch(step, samples, config, schedule, 0, History(batch_size=batch))

    return train


def _installed(
    work: Workload, data: torch.Tensor, config: Config, batch: int, steps: int
) -> dict[str, Callable[[], object]]:
    """The contenders of the extra `bench` that can train this workload: pythae a single network, PyOD rows."""
    contenders: dict[str, Callable[[], object]] = {}
    try:
        if config.model.members == 1:
            contenders["pythae"] = rivals.pythae_loop(data, work.model(config), batch)
        if work.kind == "table":
            rows = data.numpy().astype(np.float64)
            contenders["pyod"] = partial(rivals.pyod_vae(batch, 1).fit, rows)
    except ImportError as error:
        print(f"left out: {error}; pip install 'anomaly-vae[bench]'", flush=True)
    return contenders


def alternate(contenders: Mapping[str, Callable[[], object]], rounds: int) -> Figures:
    """The median seconds of each contender; they run in turn, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


# --- files ---------------------------------------------------------------------------------------------------------


def files(folder: Path, options: argparse.Namespace, ceilings: Ceilings) -> dict[str, Figures]:
    """The figures of `score` on a CSV and on the same rows as Parquet: reading, the network's bound, PyOD's VAE."""
    data, model = Path(options.folder or folder), folder / "detector"
    csv, parquet = data / "rows.csv", data / "rows.parquet"
    if not parquet.exists():
        write_csv(str(csv), options.rows, COLUMNS)
        write_parquet(str(csv), str(parquet))
    rows = pyarrow.parquet.ParquetFile(parquet).metadata.num_rows
    sample = pd.read_csv(csv, nrows=SEEN)
    detector = Detector.fit(sample, training__epochs=2, device=options.device)
    detector.save(model)
    x = torch.randn(SIZES[-1], 2 * COLUMNS)
    with torch.inference_mode():
        needed = needs(partial(detector.score_model.cpu(), x))
    network_seconds = rows / len(x) * needed.bound(ceilings, torch.float32)
    tenth = folder / "tenth.csv"
    write_csv(str(tenth), rows // 10, COLUMNS)
    figures = {}
    for path, read in ((csv, _read_csv), (parquet, _read_parquet)):
        rounds = 3 if rows > 2_000_000 else options.rounds
        runs = [(_score(model, path), timed(partial(read, path))) for _ in range(rounds)]
        ours = statistics.median(ended.seconds for ended, _ in runs)
        reading = statistics.median(seconds for _, seconds in runs)
        figures[f"score {path.suffix[1:]}"] = {
            "seconds": ours,
            "rows_per_second": rows / ours,
            "bare_reading_seconds": reading,
            "network_bound_seconds": network_seconds,
            "ratio_to_larger_bound": ours / max(reading, network_seconds),
            "ratio_to_reading": ours / reading,
            "peak_gb": max(ended.resident_gb for ended, _ in runs),
        }
    figures["score csv"]["peak_gb_of_a_tenth"] = _score(model, tenth).resident_gb
    figures["scoring in memory"] = _rates(detector, sample)
    return figures


def _read_csv(path: Path) -> None:
    with pyarrow.csv.open_csv(path) as pieces:
        for _ in pieces:
            pass


def _read_parquet(path: Path) -> None:
    for _ in pyarrow.parquet.ParquetFile(path).iter_batches():
        pass


def _score(model: Path, path: Path) -> Ended:
    out = model.with_name("scores.csv")
    return run([sys.executable, "-m", "anomaly_vae", "-q", "score", "-m", str(model), str(path), "-o", str(out)])


def _rates(detector: Detector, sample: pd.DataFrame) -> Figures:
    """The rows per second of ours and of PyOD's VAE with the layers of one member, on rows in memory."""
    rows = np.tile(sample.to_numpy(np.float64), (25, 1))
    frame = pd.DataFrame(rows, columns=sample.columns)
    contenders: dict[str, Callable[[], object]] = {"ours": lambda: detector.score(frame)}
    try:
        theirs = rivals.pyod_vae(128, 1).fit(sample.to_numpy(np.float64))
        contenders["pyod"] = lambda: theirs.decision_function(rows)
    except ImportError as error:
        print(f"left out: {error}; pip install 'anomaly-vae[bench]'", flush=True)
    seconds = alternate(contenders, ROUNDS)
    figures = {f"{name}_rows_per_second": len(rows) / value for name, value in seconds.items()}
    return figures | {f"ratio_to_{name}": value / seconds["ours"] for name, value in seconds.items() if name != "ours"}


def pictures(folder: Path, options: argparse.Namespace, ceilings: Ceilings) -> dict[str, Figures]:
    """The figures of scoring a folder of JPEGs with conv2d and with features: decoding in as many threads, and the
    network's bound."""
    place = folder / "pictures"
    write_pictures(place, PICTURES, SIDE)
    figures = {}
    for kind, size in (("conv2d", 64), ("features", SIDE)):
        settings = [f"model.kind={kind}", f"data.size={size}", "training.steps=8", f"device={options.device}"]
        config = load_config(overrides=[*settings, "tracking.enabled=false"])
        source = open_source(str(place), opening(config))
        detector, _ = fit(source, config)
        x = torch.rand(1, *detector.layout.shape)
        with torch.inference_mode():
            needed = needs(partial(detector.score_model.cpu(), x))
        # a batch holds many pictures, so the bytes of the weights hardly count
        bound = PICTURES * needed.flops / ceilings.flops[torch.float32]
        detector.score_model.to(pick_device(options.device))
        seconds = alternate(
            {"ours": partial(_drained, detector, source), "decoding": partial(_decode, place)}, options.rounds
        )
        figures[f"pictures, {kind}"] = {
            "pictures_per_second": PICTURES / seconds["ours"],
            "seconds": seconds["ours"],
            "decoding_seconds": seconds["decoding"],
            "network_bound_seconds": bound,
            "ratio_to_decoding": seconds["ours"] / seconds["decoding"],
            "ratio_to_larger_bound": seconds["ours"] / max(seconds["decoding"], bound),
        }
    return figures


def _drained(detector: Detector, source: Source) -> None:
    for _ in detector.score_source(source):
        pass


def _decode(place: Path) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda file: Image.open(file).convert("RGB"), place.iterdir()):
            pass


# --- waiting -------------------------------------------------------------------------------------------------------


def starting(folder: Path, options: argparse.Namespace, ceilings: Ceilings) -> dict[str, Figures]:
    """The seconds of commands that compute little, and of importing torch."""
    few, model = folder / "few.csv", folder / "quick"
    write_csv(str(few), 10, COLUMNS)
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(400, COLUMNS)), columns=pd.read_csv(few).columns)
    Detector.fit(rows, training__epochs=1).save(model)
    ours = [sys.executable, "-m", "anomaly_vae", "-q"]
    commands = {
        "import_torch": [sys.executable, "-c", "import torch"],
        "help": [*ours, "--help"],
        "score_10_rows": [*ours, "score", "-m", str(model), str(few), "-o", str(folder / "few-scores.csv")],
        "fit_default": [*ours, "fit", "--set", f"tracking.folder={folder / 'mlruns'}"],
    }
    return {"starting": {f"{name}_seconds": _middle(command) for name, command in commands.items()}}


def one_row(folder: Path, options: argparse.Namespace, ceilings: Ceilings) -> dict[str, Figures]:
    """The milliseconds of one row through each interface; see pipelines.latency."""
    data = np.random.default_rng(0).normal(size=(800, COLUMNS))
    frame = pd.DataFrame(data, columns=[f"x{i}" for i in range(COLUMNS)])
    latencies = latency.latencies(Detector.fit(frame[:400], training__epochs=1), frame[400:])
    return {f"one row, {interface}": asdict(figures) for interface, figures in latencies.items()}


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _middle(command: list[str]) -> float:
    return statistics.median(run(command).seconds for _ in range(3))


# --- showing -------------------------------------------------------------------------------------------------------


def _shown(ceilings: Ceilings) -> Figures:
    figures = {f"{str(dtype).removeprefix('torch.')}_gflops": rate / 1e9 for dtype, rate in ceilings.flops.items()}
    return figures | {"copy_gb_per_second": ceilings.copied / 1e9}


def _line(name: str, figures: Figures) -> str:
    return f"{name:24}" + "  ".join(f"{key} {value:.4g}" for key, value in figures.items())


def _key(name: str) -> str:
    """A name that MLflow accepts for a metric."""
    return "".join(c if c.isalnum() or c in "_-. /" else "-" for c in name)


if __name__ == "__main__":
    main()
