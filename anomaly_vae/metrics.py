"""How well scores tell anomalies from normals, with and without the threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def metrics(anomalous: NDArray[np.bool_] | None, scores: NDArray[np.float64], threshold: float) -> dict[str, float]:
    """Named figures of scores (N,) at a threshold; anomalous (N,), or None where nothing is labelled.

    auroc, auprc (average precision), fpr_at_95_tpr, f1, precision, recall, false_alarm_rate (share of normals at or
    above the threshold) and alarm_rate (of all rows). Those that need both classes are left out without them.
    """
    alarms = scores >= threshold
    found = {"rows": float(len(scores)), "alarm_rate": float(alarms.mean()) if len(scores) else 0.0}
    if anomalous is None:
        return found
    found["anomalies"] = float(anomalous.sum())
    if (~anomalous).any():
        found["false_alarm_rate"] = float(alarms[~anomalous].mean())
    if anomalous.any():
        hits, all_alarms, all_anomalies = float((alarms & anomalous).sum()), alarms.sum(), anomalous.sum()
        found["recall"] = hits / float(all_anomalies)
        found["precision"] = hits / float(all_alarms) if all_alarms else 0.0
        found["f1"] = 2 * hits / float(all_alarms + all_anomalies)
    if anomalous.any() and (~anomalous).any():
        from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

        fpr, tpr, _ = roc_curve(anomalous, scores, drop_intermediate=False)
        found["auroc"] = float(roc_auc_score(anomalous, scores))
        found["auprc"] = float(average_precision_score(anomalous, scores))
        found["fpr_at_95_tpr"] = float(fpr[np.argmax(tpr >= 0.95)])
    return found
