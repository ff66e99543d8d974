"""Runs a command as a user does, and measures its time and memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.02  # seconds between two measurements of a process's memory


@dataclass(frozen=True)
class Ended:
    """What a command took.

    seconds: wall-clock time. cpu_seconds: processor time of all threads. own_gb: the peak of resident pages that belong
    to no file. resident_gb: the peak of all resident pages.
    """

    seconds: float
    cpu_seconds: float
    own_gb: float
    resident_gb: float


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a command to its end; its stdout is dropped. Exits with a message if it fails."""
    start, peaks = time.perf_counter(), {"RssAnon": 0, "VmHWM": 0}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        for name, kilobytes in _memory(process.pid).items():
            peaks[name] = max(peaks[name], kilobytes)
        time.sleep(EVERY)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; what it printed is above")
    own_gb, resident_gb = (peaks[name] * 1024 / 1e9 for name in ("RssAnon", "VmHWM"))
    # the peak of `usage` is not used, because it includes that of the process that forked this one
    return Ended(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, own_gb=own_gb, resident_gb=resident_gb)


def _memory(pid: int) -> dict[str, int]:
    """RssAnon, the present value, and VmHWM, the peak so far, of a process in kB; empty if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split(":") for line in lines)
    return {name: int(value.split()[0]) for name, value in fields if name in ("RssAnon", "VmHWM")}
