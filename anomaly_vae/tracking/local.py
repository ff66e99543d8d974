"""Finding the detector of a run in the local store without importing mlflow, which takes longer than scoring a file.

Whatever this cannot answer for certain is asked of MLflow: other names, a server, runs that are missing or unfinished,
and a database that does not have MLflow's tables as they have been since 1.0.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from anomaly_vae.core.config import Config
from anomaly_vae.tracking.run import DETECTOR
from anomaly_vae.tracking.store import check_store, detector_folder, server_uri, store_folder

FINISHED = f"""
    SELECT run_uuid FROM runs JOIN tags USING (run_uuid) JOIN experiments USING (experiment_id)
    WHERE runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active' AND tags.key = tags.value AND
        tags.key = '{DETECTOR}' AND run_uuid = coalesce(?1, run_uuid) AND
        (experiments.lifecycle_stage = 'active' OR run_uuid = ?1)
    ORDER BY end_time DESC, start_time DESC, run_uuid LIMIT 1
"""  # as MLflow breaks ties


def find_detector(name: str | None, config: Config, scratch: str | None = None) -> tuple[str, Path]:
    """See `queries.find_detector`; the same answer, without MLflow where the local store has it."""
    found = _finished(name, config) if name is None or re.fullmatch("[0-9a-f]{32}", name) else None
    if found is None:
        from anomaly_vae.tracking import queries

        found = queries.find_detector(name, config, scratch)
    return found


def _finished(run_id: str | None, config: Config) -> tuple[str, Path] | None:
    """A run, or the one that finished last, and its detector's folder; None where MLflow must be asked."""
    folder = store_folder(config)
    if server_uri() or any(folder.glob("running/*")):  # of which some may have to be marked as killed
        return None
    check_store(config)
    try:
        with closing(sqlite3.connect(f"{(folder / 'mlflow.db').as_uri()}?mode=ro", uri=True, timeout=20)) as database:
            row = database.execute(FINISHED, (run_id,)).fetchone()
    except sqlite3.Error:
        return None
    if row is None or not (found := detector_folder(row[0], config)).is_dir():
        return None
    return row[0], found
