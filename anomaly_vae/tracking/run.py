"""What a run is told, whoever keeps it: an MLflow store (`tracking`), or nobody.

Nothing here imports mlflow, so that a fit that is not recorded needs no second of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

Columns = int | Sequence[str] | Mapping[str, str]  # how many, their names, or name -> MLflow's type


class Run(Protocol):
    """Where a fit writes what it finds. `run_id` is "" where tracking is off.

    lost: where the run waits and why, after its store stopped taking it; else None.
    """

    run_id: str
    lost: tuple[Path, str] | None

    def params(self, params: Mapping[str, Any]) -> None: ...
    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None: ...
    def metrics(self, metrics: Mapping[str, float | None]) -> None: ...
    def tags(self, tags: Mapping[str, Any]) -> None: ...
    def note(self, markdown: str) -> None: ...
    def figure(self, figure: Any, name: str) -> None: ...
    def table(self, frame: pd.DataFrame, name: str) -> None: ...
    def dataset(self, *, name: str, source: str, digest: str, rows: int, columns: Columns, context: str) -> None: ...
    def detector(self, folder: Path) -> None: ...
    def model(self, folder: Path, name: str) -> None: ...
    def text(self, text: str, name: str) -> None: ...
    def file(self, path: Path, place: str) -> None: ...
    def content(self, content: bytes, name: str) -> None: ...


class NoRun:
    """Tracking is off: everything is accepted and nothing is kept."""

    run_id = ""
    lost: tuple[Path, str] | None = None

    def _nothing(self, *_: Any, **__: Any) -> None: ...

    params = epoch = metrics = tags = note = figure = table = dataset = detector = model = text = file = content = (
        _nothing
    )


MODEL = "model"  # name of the logged model: MLflow finds it as runs:/RUN_ID/model
