"""Measures the memory of a fit as its data grows: 1, 4 and 16 times as many rows of a CSV, or pictures.

    python -m pipelines.memory                        30 columns; about 6 minutes on two cores, and 4 GB of disk
    python -m pipelines.memory --rows 50000           smaller files
    python -m pipelines.memory --pictures 250         JPEGs of 256 x 256 pixels instead; 6 GB of disk
    python -m pipelines.memory --set data.memory=64GiB  everything in memory

Prints and saves (`--out`) for each size the peak of the process's own memory (RssAnon: pages that belong to no file),
the peak of all resident pages (the maximum resident set size of `time -v`), and processor seconds. The training is one
short epoch, so that reading, scaling, scoring and reporting are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipelines.processes import Ended, run
from pipelines.workloads import write_csv, write_pictures

COLUMNS, TIMES = 30, (1, 4, 16)
SIDE = 256  # of a picture, pixels
QUICK = ("training.steps=20",)  # trains one epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=250_000, help="of the smallest file")
    parser.add_argument("--pictures", type=int, help="in the smallest folder, instead of rows")
    parser.add_argument("--folder", help="where the files and the runs go; None: a temporary folder")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of every fit")
    parser.add_argument("--out", default="mlruns/studies/memory.json")
    options = parser.parse_args()
    results = []
    print(f"{'pictures' if options.pictures else 'rows':>9}  RssAnon GB  resident GB  CPU seconds", flush=True)
    for times in TIMES:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            count = (options.pictures or options.rows) * times
            data = Path(folder) / "data"
            if options.pictures:
                write_pictures(data, count, SIDE)
            else:
                write_csv(str(data), count, COLUMNS)
            process = fit(data, [*QUICK, *options.overrides])
        results.append({"count": count, **asdict(process)})
        print(f"{count:9,} {process.own_gb:11.2f} {process.resident_gb:12.2f} {process.cpu_seconds:12.0f}", flush=True)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(results, indent=1) + "\n")


def fit(data: Path, overrides: Sequence[str]) -> Ended:
    """Fits in a process of its own, and records the run."""
    settings = [f"tracking.folder={data.parent / 'mlruns'}", *overrides]
    command = [sys.executable, "-m", "anomaly_vae", "-q", "fit", str(data), "--json"]
    for setting in settings:
        command += ["--set", setting]
    return run(command, {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"})


if __name__ == "__main__":
    main()
