"""The columns a person wants in the list of runs, as a saved view: Views → Review in MLflow's list of runs.

MLflow (3.15 and later) keeps a saved view as a tag of the experiment: its name and, deflated, the state of the page.
Older pages ignore the tag.
"""

from __future__ import annotations

import base64
import json
import time
import zlib

NAME, KEY = "Review", "mlflow.sharedViewState.anomaly-vae"
METRICS = ("auroc", "auprc", "f1", "false_alarm_rate", "active_units", "seconds")


def tags() -> dict[str, str]:
    """The tag of a new experiment that makes the view."""
    now = int(time.time() * 1000)  # milliseconds since 1970
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*(f"metrics.`{name}`" for name in METRICS), "params.`threshold_policy`"],
        "columnOrder": [],
        "columnWidths": {},
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
    view = {"name": NAME, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return {KEY: json.dumps(view)}
