"""Compares new data with the training data, and the rate of alarms with the one that the threshold was chosen for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.monitoring import Check, Monitoring
from anomaly_vae.workflows.opening import reopen

CURVES = 50  # largest number of quantities that get a curve each in the run


def monitor(
    path: str,
    detector: Detector,
    *,
    run_id: str = "",
    skip_broken: bool = False,
    written: Mapping[str, Any] | None = None,
) -> Check:
    """Compare new data with the reference of the training data, in constant memory.

    Parameters
    ----------
    path : str
        File or folder of new data.
    detector : Detector
        The detector that scores it.
    run_id : str, optional
        Run to which the result is logged, as a point of the `monitor/*` curves and as monitor/NUMBER.json.
    skip_broken : bool, default False
        Leave out pictures that cannot be decoded.
    written : mapping, optional
        Settings of how the file is written, instead of those of the fit.

    Raises
    ------
    DetectorError
        If the detector has no reference of its training data.
    DataError
        If the data cannot be read or has no rows.
    """
    monitoring = Monitoring(detector)
    source = reopen(path, detector, skip_broken=skip_broken, written=written)
    for _ in monitoring.watch(detector.score_source(source)):
        pass
    check = monitoring.check(source)
    if run_id:
        _log(check, run_id, detector)
    return check


def _log(check: Check, run_id: str, detector: Detector) -> None:
    """Logs a comparison to a run."""
    from anomaly_vae import tracking

    number = tracking.times_logged(run_id, ("monitor/alarm_share", "monitor.alarm_share"), detector.config)
    curves = {
        "monitor/alarm_share": check.share,
        "monitor/promised": check.promised,
        "monitor/promised_high": check.high,
        "monitor/drifted": float(sum(finding.drifted for finding in check.findings)),
        "monitor/retrain": float(bool(check.reasons)),
    }
    if len(check.findings) <= CURVES:
        curves |= {f"monitor/stability/{finding.name}": finding.index for finding in check.findings}
    with tracking.update(run_id, detector.config) as run:
        run.epoch(number, curves)
        run.text(check.to_json(), f"monitor/{number:04d}.json")
