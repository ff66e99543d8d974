"""What a fit logs to a run, with tracking (`recording.TrackedRun`) or without (`NoRun`).

Nothing here imports mlflow, so an untracked fit does not wait for that import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

Columns = int | Sequence[str] | Mapping[str, str]  # the number of columns, their names, or name -> MLflow's type
DETECTOR = "detector"  # artifact folder of the detector, and the tag of the runs that have one
# Figures that a run keeps as tags: MLflow draws a chart of one bar of each metric, and nobody compares these.
COUNTS = frozenset({"anomalies", "best_epoch", "events", "false_events", "kl_dimensions", "regions", "rows"})
REPORT = "report.html"  # artifact of a fit
MODEL = "model"  # name of the logged model: MLflow finds it as runs:/RUN_ID/model


class Run(Protocol):
    """One run, to log to. run_id: "" without tracking. title: the name of a run that ended, else "".

    lost: the folder where the run waits, and why, if its store stopped answering; else None.
    """

    run_id: str
    title: str
    lost: tuple[Path, str] | None

    def params(self, params: Mapping[str, Any]) -> None: ...
    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None: ...
    def metrics(self, metrics: Mapping[str, float | None], group: str = "") -> None: ...
    def tags(self, tags: Mapping[str, Any]) -> None: ...
    def name(self, name: str) -> None: ...
    def note(self, markdown: str) -> None: ...
    def table(self, frame: pd.DataFrame, name: str) -> None: ...
    def dataset(self, *, name: str, source: str, digest: str, rows: int, columns: Columns, context: str) -> None: ...
    def detector(self, folder: Path) -> None: ...
    def model(self, folder: Path, name: str) -> None: ...
    def text(self, text: str, name: str) -> None: ...
    def file(self, path: Path, place: str) -> None: ...
    def content(self, content: bytes, name: str) -> None: ...


class NoRun:
    """A run without tracking: every call is accepted and nothing is kept."""

    run_id = title = ""
    lost: tuple[Path, str] | None = None

    def _ignore(self, *_: Any, **__: Any) -> None: ...

    params = epoch = metrics = tags = name = note = table = dataset = detector = model = text = file = content = _ignore
