"""Where a run comes from: who started it, with which versions, in which state of their repository."""

from __future__ import annotations

import getpass
import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import version

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

PACKAGES = ("mlflow", "numpy", "scikit-learn", "torch")


def tags() -> dict[str, str]:
    """Tags that MLflow's pages know by these names, and `version.NAME` of what decides the numbers."""
    from anomaly_vae import __version__

    found = {"mlflow.source.name": "anomaly-vae", "mlflow.source.type": "LOCAL"}
    with suppress(Exception):  # no name for this user id, as in some containers
        found["mlflow.user"] = getpass.getuser()
    found |= {"version.anomaly-vae": __version__, "version.python": platform.python_version()}
    found |= {f"version.{name}": version(name) for name in PACKAGES}
    return found | _repository()


def _repository() -> dict[str, str]:
    """Commit and branch of the repository of the current folder, where the configurations and studies of a run lie;
    empty where there is none, or no git."""
    found = {}
    for tag, command in {
        "mlflow.source.git.commit": ("rev-parse", "HEAD"),
        "mlflow.source.git.branch": ("rev-parse", "--abbrev-ref", "HEAD"),
        "git.dirty": ("status", "--porcelain", "--untracked-files=no"),
    }.items():
        try:
            answer = subprocess.run(("git", *command), capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if answer.returncode:
            return {}
        found[tag] = answer.stdout.strip()
    found["git.dirty"] = str(bool(found["git.dirty"]))
    return found


SECONDS_BETWEEN = 5.0


class Machine:
    """CPU and memory, and each NVIDIA GPU where the driver answers."""

    def __init__(self) -> None:
        self._gauges: list[BaseMetricsMonitor] = [CPUMonitor()]
        with suppress(ImportError, RuntimeError):  # MLflow's words for no GPU
            self._gauges.append(GPUMonitor())
        self._read = time.monotonic()
        self._gauges[0].collect_metrics()  # psutil measures the CPU since the call before
        self._gauges[0].clear_metrics()

    def used(self) -> dict[str, float]:
        """Named as MLflow's page of system metrics wants them, `system/cpu_utilization_percentage` and so on; empty
        where the last reading is less than five seconds old."""
        if time.monotonic() - self._read < SECONDS_BETWEEN:
            return {}
        self._read = time.monotonic()
        found: dict[str, float] = {}
        for gauge in self._gauges:
            gauge.collect_metrics()
            found |= {f"system/{name}": value for name, value in gauge.aggregate_metrics().items()}
            gauge.clear_metrics()
        return found
