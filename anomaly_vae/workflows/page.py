"""The page that a person reads of a fit, an evaluation or scored data, as an HTML file or in a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.files import replacing
from anomaly_vae.core.version import __version__
from anomaly_vae.data.source import Chunk, Source
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import Event
from anomaly_vae.detector.monitoring import Monitoring
from anomaly_vae.reporting import figures, report
from anomaly_vae.reporting.scored_rows import ScoredRows
from anomaly_vae.reporting.slider import Slider
from anomaly_vae.reporting.summary import Summary, summarise_scores
from anomaly_vae.scoring.scores import Scores
from anomaly_vae.tracking.run import REPORT, Run

REPORTED = 20  # number of rows of each table in the report; the tables of the run are complete


@dataclass(frozen=True)
class Page:
    """title: the name of the run, or of the data. pictures: of the run too. tables: those of the run, complete."""

    summary: Summary
    title: str
    pictures: Sequence[report.Figure]
    tables: Sequence[report.Table]
    slider: Slider | None

    def html(self, run_id: str = "") -> str:
        """The page, with the first rows of each table."""
        short = [replace(table, cells=table.cells[:REPORTED]) for table in self.tables]
        foot = f"anomaly-vae {__version__}" + (f", run {run_id}" if run_id else "")
        return report.to_html(self.summary, self.title, self.pictures, short, foot, self.slider)

    def write(self, path: str) -> None:
        """Raises AnomalyVAEError if the file cannot be written."""
        with replacing(path) as beside:
            beside.write_text(self.html(), encoding="utf-8")

    def log(self, run: Run) -> None:
        """Logs the note, the report, and its figures and tables."""
        import pandas as pd

        run.note(report.to_markdown(self.summary))
        for picture in self.pictures:
            run.content(picture.png, f"figures/{picture.name}.png")
        for table in self.tables:
            run.table(pd.DataFrame(table.cells, columns=list(table.heads)), table.name)
        run.text(self.html(run.run_id), REPORT)


class Seen:
    """What the page shows of a source, kept while a fitted detector scores it, in constant memory."""

    def __init__(self, detector: Detector, source: Source, labelled: bool) -> None:
        self.detector, self.source = detector, source
        self.scored = ScoredRows(detector, labelled, source.image_files())
        self.monitoring = Monitoring(detector) if detector.references else None

    def watch(
        self, stream: Iterable[tuple[Chunk, Scores]], tested: NDArray[np.bool_] | None = None,
        anomalous: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[Chunk, Scores]]:  # fmt: skip
        """See `ScoredRows.watch`."""
        return self.scored.watch(
            stream if self.monitoring is None else self.monitoring.watch(stream), tested, anomalous
        )

    def page(
        self, metrics: Mapping[str, float], notes: Iterable[str], seconds: float, model: str,
        events: Sequence[Event] | None,
    ) -> Page:  # fmt: skip
        """When all of the source has passed. model: the name of the detector. events: of a series."""
        check = None if self.monitoring is None else self.monitoring.check(self.source)
        summary = summarise_scores(self.source, self.detector, self.scored, metrics, notes, seconds, model)
        pictures = figures.pictures(self.scored, summary)
        title = f"{self.source.name}, {'evaluated' if self.scored.labelled else 'scored'} by {model}"
        slider = Slider.of(self.detector, model, self.scored.drawn[:, 0], Path(self.source.path).name)
        return Page(summary, title, pictures, figures.tables(self.scored, events, check), slider)
