"""A command as a user runs it, and what it took."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.02  # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Ended:
    """seconds: from start to end; cpu_seconds: of all its threads. own_gb: the peak of resident pages that belong to no
    file; resident_gb: of all."""

    seconds: float
    cpu_seconds: float
    own_gb: float
    resident_gb: float


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a command to its end; what it prints on stdout is dropped. Exits with a message where it fails."""
    began, peaks = time.perf_counter(), {"RssAnon": 0, "VmHWM": 0}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        for name, kilobytes in _memory(process.pid).items():
            peaks[name] = max(peaks[name], kilobytes)
        time.sleep(EVERY)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; what it printed is above")
    own, resident = (peaks[name] * 1024 / 1e9 for name in ("RssAnon", "VmHWM"))
    # not of `usage`: it knows the peak of the process that forked this one too
    return Ended(seconds, usage.ru_utime + usage.ru_stime, own, resident)


def _memory(pid: int) -> dict[str, int]:
    """kB of a process: RssAnon now, VmHWM at most so far; nothing where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    found = (line.split(":") for line in lines)
    return {name: int(value.split()[0]) for name, value in found if name in ("RssAnon", "VmHWM")}
