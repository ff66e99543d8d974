"""How busy the machine is: MLflow's own gauges, read between epochs, so that no thread of ours writes to a store."""

from __future__ import annotations

import time
from contextlib import suppress

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

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
