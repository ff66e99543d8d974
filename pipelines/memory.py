"""How much memory a fit takes as its data grows: rows of 30 columns in a CSV, 1, 4 and 16 times as many.

    python -m pipelines.memory                        about 6 minutes on two cores, and 4 GB of disk
    python -m pipelines.memory --rows 50000           smaller files
    python -m pipelines.memory --set data.memory=64GiB  everything in memory

Prints and saves (`--out`) for each number of rows the peak of the process's own memory (RssAnon: what cannot be written
back to a file), the peak of all its resident pages, of files too (what `time -v` calls maximum resident set size), and
seconds. The training is one short epoch: what is measured is reading, scaling, scoring and reporting every row.
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

from pipelines.speed import write_csv

COLUMNS, TIMES = 30, (1, 4, 16)
QUICK = ("training.steps=20",)  # one epoch
EVERY = 0.02  # seconds between two looks at a process's memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=250_000, help="of the smallest file")
    parser.add_argument("--folder", help="where the files and the runs go; None: a temporary folder")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of every fit")
    parser.add_argument("--out", default="mlruns/studies/memory.json")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("     rows   CSV GB   RssAnon GB   resident GB   seconds", flush=True)
        for times in TIMES:
            rows = options.rows * times
            path = Path(folder) / f"rows{rows}.csv"
            write_csv(str(path), rows, COLUMNS)
            size = path.stat().st_size / 1e9
            own, resident, seconds = peaks(path, [*QUICK, *options.overrides])
            path.unlink()
            found.append({"rows": rows, "csv_gb": size, "own_gb": own, "resident_gb": resident, "seconds": seconds})
            print(f"{rows:9,} {size:8.2f} {own:12.2f} {resident:13.2f} {seconds:9.0f}", flush=True)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


def peaks(path: Path, overrides: Sequence[str]) -> tuple[float, float, float]:
    """(peak RssAnon in GB, peak of all resident pages in GB, seconds) of a fit of a file, with its run recorded."""
    settings = [f"tracking.folder={path.parent / 'mlruns'}", *overrides]
    command = [sys.executable, "-m", "anomaly_vae", "-q", "fit", str(path), "--json"]
    for setting in settings:
        command += ["--set", setting]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    began = time.perf_counter()
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
    return own * 1024 / 1e9, usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - began


def anonymous(pid: int) -> int:
    """kB of a process's resident pages that belong to no file; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()
