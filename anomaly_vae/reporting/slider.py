"""The section of a report where a slider moves the threshold over the stored held-out scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.advice import option
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.thresholds import conformal_edges, conformal_policies

POSITIONS = 400  # of the slider, at most


@dataclass(frozen=True)
class Slider:
    """The positions of a slider, from the highest threshold, and how many rows are at or above each.

    command: `anomaly-vae threshold` of the detector, to which the policy of a position is added.
    """

    data: dict[str, Any]
    command: str

    @classmethod
    def of(cls, detector: Detector, model: str, here: NDArray[np.float64], here_is: str) -> Slider | None:
        """The thresholds that `fpr=RATE` can choose: each is the lowest with its number of false alarms among the
        held-out normals, so no threshold between two of them is better. None without held-out normals.

        model: name of the detector, empty for that of the run. here: (N,) scores of the rows that the report is of, and
        here_is their name.
        """
        n = len(detector.normal)
        if not n:
            return None
        ranks = np.unique(np.geomspace(1, n, min(n, POSITIONS)).round().astype(np.intp))
        edges, first = np.unique(conformal_edges(detector.normal, ranks)[::-1], return_index=True)
        edges, ranks = edges[::-1], ranks[::-1][first[::-1]]
        now = detector.threshold.value
        cuts = np.r_[now, edges]  # the present threshold first, then the positions

        def above(scores: NDArray[np.float64]) -> list[int]:
            below: NDArray[np.intp] = np.asarray(np.searchsorted(np.sort(scores), cuts), np.intp)
            counts: list[int] = (len(scores) - below).tolist()
            return counts

        data = {
            "cuts": cuts.tolist(),
            "policies": [detector.threshold.policy, *conformal_policies(n, ranks)],
            "false": above(detector.normal),
            "normals": n,
            "hits": above(detector.anomalous),
            "anomalies": len(detector.anomalous),
            "per_day": detector.layout.per_day,
            "here": above(here),
            "rows": len(here),
            "here_is": here_is,
            "start": 1 + int(np.argmin(np.abs(edges - now))),
        }
        return cls(data, f"anomaly-vae threshold {option('-m', model)} " if model else "anomaly-vae threshold ")

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the table: their name in the script, and what stands before them."""
        often = "false alarms" if self.data["per_day"] is None else "false-alarm steps a day"
        labelled = [("recall", "recall"), ("precision", "precision")] if self.data["anomalies"] else []
        return [
            ("threshold", "threshold"),
            ("policy", "policy"),
            *labelled,
            ("rate", "false-alarm rate"),
            ("often", often),
            ("here", f"alarms in {self.data['here_is']}"),
        ]

    def json(self, noun: str) -> str:
        """What the script reads, as JSON that no `<` of a name can end."""
        text = json.dumps({**self.data, "command": self.command, "noun": noun})
        return text.replace("<", "\\u003c")
