"""What MLflow's pages show of a run beside its results: its origin, the columns of the run list, the machine's load."""

from __future__ import annotations

import base64
import getpass
import json
import platform
import subprocess
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

# --- tags of a run: user, versions, repository ---------------------------------------------------------------------

PACKAGES = ("mlflow", "numpy", "scikit-learn", "torch")  # those whose versions decide the numbers


def run_tags() -> dict[str, str]:
    """Tags of a new run: user, source and commit under MLflow's names, and `version.NAME` of PACKAGES."""
    from anomaly_vae.core.version import __version__

    tags = {"mlflow.source.name": "anomaly-vae", "mlflow.source.type": "LOCAL"}
    with suppress(Exception):  # no name for this user id, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    tags |= {"version.anomaly-vae": __version__, "version.python": platform.python_version()}
    tags |= {f"version.{name}": version(name) for name in PACKAGES}
    return tags | _repository_tags()


def _repository_tags() -> dict[str, str]:
    """Commit and branch of the repository of the current folder, where the configurations and studies of a run are;
    empty without a repository or without git."""
    tags = {}
    for tag, command in {
        "mlflow.source.git.commit": ("rev-parse", "HEAD"),
        "mlflow.source.git.branch": ("rev-parse", "--abbrev-ref", "HEAD"),
        "git.dirty": ("status", "--porcelain", "--untracked-files=no"),
    }.items():
        try:
            git = subprocess.run(("git", *command), capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if git.returncode:
            return {}
        tags[tag] = git.stdout.strip()
    tags["git.dirty"] = str(bool(tags["git.dirty"]))
    return tags


# --- tags of an experiment: its kind, and the columns of its run list ----------------------------------------------

REVIEW_METRICS = (
    "test/auroc", "test/auprc", "test/f1", "test/recall", "test/false_alarm_rate", "test/alarm_rate",
    "model/active_units", "model/kl_total",
)  # fmt: skip
REVIEW_KEY = "anomaly-vae"
REVIEW_VIEW = f"mlflow.sharedViewState.{REVIEW_KEY}"
MODELS_NOT_GENAI = "workflowType=machine_learning"  # else MLflow 3.17 opens an experiment on its pages for GenAI


def experiment_tags(present: Mapping[str, str] | None = None) -> dict[str, str]:
    """Tags that an experiment with the tags `present` (None: a new one) lacks: its kind, which selects MLflow's pages
    for models, and the saved view "Review"."""
    state, tags = _review_state(), {}
    if present is None:
        tags["mlflow.experimentKind"] = "custom_model_development"
    if state not in (present or {}).get(REVIEW_VIEW, ""):  # of an earlier version
        now = int(time.time() * 1000)  # milliseconds since 1970
        tags[REVIEW_VIEW] = json.dumps({"name": "Review", "createdAt": now, "updatedAt": now, "state": state})
    return tags


def experiment_page(experiment_id: str) -> str:
    """The address, on a server of MLflow, of the runs of an experiment in the view "Review"."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={REVIEW_KEY}&{MODELS_NOT_GENAI}"


def run_page(experiment_id: str, run_id: str, file: str = "") -> str:
    """The address, on a server of MLflow, of a run, or of one of its files."""
    place = f"/artifacts/{file}" if file else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{place}?{MODELS_NOT_GENAI}"


def _review_state() -> str:
    """The saved view "Review" (in MLflow's list of runs: Views → Review), which shows the columns for a review.

    MLflow 3.15 and later keep a saved view as a tag of the experiment that holds its name and the deflated state of
    the page. MLflow documents only the menu that makes one, and has neither an API for views nor a setting for default
    columns (github.com/mlflow/mlflow/issues/4713), so this writes what the menu of MLflow 3.17 writes. A page that
    does not know the tag or this state ignores it: the list shows its default columns, and nothing else changes.
    """
    metrics = [f"metrics.`{name}`" for name in REVIEW_METRICS]
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*metrics, "params.`threshold_policy`"],
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *metrics, "params.`threshold_policy`"],
        "columnWidths": {"attributes.`Run Name`": 280},  # pixels
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return f"deflate;{packed}"


# --- system metrics: CPU, memory, GPU ------------------------------------------------------------------------------

SECONDS_BETWEEN = 5.0  # between two readings


class SystemMetrics:
    """Use of CPU and memory, and of each NVIDIA GPU where the driver answers."""

    def __init__(self) -> None:
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor()]
        with suppress(ImportError, RuntimeError):  # what GPUMonitor raises without a GPU
            self._monitors.append(GPUMonitor())
        self._last_read = time.monotonic()
        self._monitors[0].collect_metrics()  # psutil measures the CPU since the call before
        self._monitors[0].clear_metrics()

    def read(self) -> dict[str, float]:
        """Metrics under the names of MLflow's page of system metrics, e.g. `system/cpu_utilization_percentage`; empty
        within five seconds of the last reading."""
        if time.monotonic() - self._last_read < SECONDS_BETWEEN:
            return {}
        self._last_read = time.monotonic()
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            metrics |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return metrics
