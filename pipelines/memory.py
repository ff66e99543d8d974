"""How much memory a fit takes as its data grows: 1, 4 and 16 times as many rows of a CSV, or pictures.

    python -m pipelines.memory                        30 columns; about 6 minutes on two cores, and 4 GB of disk
    python -m pipelines.memory --rows 50000           smaller files
    python -m pipelines.memory --pictures 250         JPEGs of 256 x 256 pixels instead; 6 GB of disk
    python -m pipelines.memory --set data.memory=64GiB  everything in memory

Prints and saves (`--out`) for each size the peak of the process's own memory (RssAnon: what cannot be written back to a
file), the peak of all its resident pages, those of files too (what `time -v` calls maximum resident set size), and
processor seconds. The training is one short epoch: what is measured is reading, scaling, scoring and reporting it all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.workloads import write_csv

COLUMNS, TIMES = 30, (1, 4, 16)
SIDE, QUALITY = 256, 90  # of a JPEG: pixels, and Pillow's measure
QUICK = ("training.steps=20",)  # one epoch
EVERY = 0.02  # seconds between two looks at a process's memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=250_000, help="of the smallest file")
    parser.add_argument("--pictures", type=int, help="in the smallest folder, instead of rows")
    parser.add_argument("--folder", help="where the files and the runs go; None: a temporary folder")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of every fit")
    parser.add_argument("--out", default="mlruns/studies/memory.json")
    options = parser.parse_args()
    found = []
    print(f"{'pictures' if options.pictures else 'rows':>9}  RssAnon GB  resident GB  CPU seconds", flush=True)
    for times in TIMES:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            count = (options.pictures or options.rows) * times
            data = Path(folder) / "data"
            if options.pictures:
                write_pictures(data, count)
            else:
                write_csv(str(data), count, COLUMNS)
            own, resident, seconds = peaks(data, [*QUICK, *options.overrides])
        found.append({"count": count, "own_gb": own, "resident_gb": resident, "cpu_seconds": seconds})
        print(f"{count:9,} {own:11.2f} {resident:12.2f} {seconds:12.0f}", flush=True)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


def write_pictures(folder: Path, count: int) -> None:
    """Noise on a pattern, which differs a little from picture to picture."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    pattern = np.kron(rng.integers(0, 256, (SIDE // 16, SIDE // 16, 3)), np.ones((16, 16, 1)))
    noise = rng.normal(0, 12, (8, SIDE, SIDE, 3))
    for number in range(count):
        picture = pattern + noise[number % 8] + rng.normal(0, 8, (1, 1, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=QUALITY)


def peaks(data: Path, overrides: Sequence[str]) -> tuple[float, float, float]:
    """(peak RssAnon in GB, peak of all resident pages in GB, processor seconds) of a fit, with its run recorded."""
    settings = [f"tracking.folder={data.parent / 'mlruns'}", *overrides]
    command = [sys.executable, "-m", "anomaly_vae", "-q", "fit", str(data), "--json"]
    for setting in settings:
        command += ["--set", setting]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    own = 0
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        own = max(own, anonymous(process.pid))
        time.sleep(EVERY)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; what it printed is above")
    return own * 1024 / 1e9, usage.ru_maxrss * 1024 / 1e9, usage.ru_utime + usage.ru_stime


def anonymous(pid: int) -> int:
    """kB of a process's resident pages that belong to no file; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
