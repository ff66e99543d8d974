"""Score a file or folder: open, score in a stream, write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from anomaly_vae.core.callbacks import Progress, Say
from anomaly_vae.core.config import EventsConfig
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.core.files import REPORTS, SCORES, require_apart, require_ending
from anomaly_vae.core.threads import prefetched
from anomaly_vae.core.worries import lines
from anomaly_vae.data.kept import HighestRows, KeptColumns
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.readers.base import plural
from anomaly_vae.data.source import Source
from anomaly_vae.data.writers import batch, open_writer
from anomaly_vae.detector.dataframe import require_columns, score_columns
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.events import EventMeter, event_columns
from anomaly_vae.detector.likelihood import elbo_measure, elbo_of
from anomaly_vae.detector.reasons import reason_columns, reasons
from anomaly_vae.reporting.heatmaps import HeatMaps, heat_maps
from anomaly_vae.reporting.worries import NewData
from anomaly_vae.workflows.opening import reopen


@dataclass(frozen=True)
class Options:
    """How data is scored.

    threshold: nats, instead of the detector's. explain: so many columns or sensors that contribute most, see
    `reasons.reason_columns`. raw: with the raw nats of each part. id_column: reported as id. skip_broken: leave out,
    and name, pictures that cannot be decoded. written: settings of how the file is written, see
    `DataConfig.written`. elbo: draws of the posterior for a column `elbo`, see `Detector.elbo`; 0: no such column.
    csv_safe: see `open_writer`. max_pixels: see `reopen`. events: file for the events of a series (.csv, .parquet,
    .json). event_rules: instead of the detector's. keep: copy the columns of the data too, see `KeptColumns`. top:
    write only so many rows, those with the highest scores; 0: all. report: HTML file of what a fit reports too.
    """

    threshold: float | None = None
    explain: int = 0
    raw: bool = False
    id_column: str | None = None
    skip_broken: bool = False
    elbo: int = 0
    written: dict[str, Any] = field(default_factory=dict)
    csv_safe: bool = False
    max_pixels: int = 0
    events: str | None = None
    event_rules: EventsConfig | None = None
    keep: bool = False
    top: int = 0
    report: str | None = None


@dataclass(frozen=True)
class Maps:
    """Which maps are drawn into a new folder: over the pictures at or above the threshold, or over `all` of them; and
    whether their `values` are written too, as .npy files (nats)."""

    folder: str
    all: bool = False
    values: bool = False


def score(
    path: str,
    detector: Detector,
    *,
    output: str | None = None,
    options: Options | None = None,
    maps: Maps | None = None,
    file: str | None = None,
    model: str = "",
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> tuple[int, int]:
    """Scores every row of a file or folder into a CSV, Parquet or JSON (None: CSV on stdout); (rows, alarms).

    Columns: id, the parts of the score (nats), p_value, is_anomaly, and what the options add. file: a name to stand
    before every row, where the scores of several files will be read as one table. model: the name of the
    detector, for the report. What is to be said of the data is said when all of it was read.
    """
    if output:
        require_ending(output, SCORES)
    options = options or Options()
    if options.elbo:
        elbo_measure(detector)  # refused before anything is read
    require_apart(path, output, options.events, options.report)
    threshold = detector.alarm_threshold(options.threshold)
    events = None
    if options.events:
        require_ending(options.events, SCORES)
    if options.report:
        require_ending(options.report, REPORTS)
    if options.events or (options.report and detector.window):
        events = EventMeter(detector, threshold, options.event_rules)
    source = reopen(path, detector, options.id_column, options.skip_broken, options.written, options.max_pixels)
    require_columns(detector, options.explain)
    kept = KeptColumns(source, detector.layout, detector.chunk_rows) if options.keep else None
    highest = HighestRows(options.top) if options.top else None
    rows = alarms = recalled = 0
    new_data, seen, start = NewData(detector), None, time.perf_counter()
    if options.report:
        from anomaly_vae.workflows.page import Seen  # which imports all that a fit needs

        seen = Seen(detector.at_threshold(options.threshold), source, labelled=False)
    with _drawn(maps, detector, source) as heat_maps:

        def tables() -> Iterator[pa.RecordBatch]:
            nonlocal rows, alarms, recalled
            waiting, places = [], []  # where scores do not come in the order of the file
            with_elements = bool(options.explain or maps or events or seen)
            stream = new_data.watch(detector.score_source(source, explain=with_elements))
            stream = stream if events is None else events.watch(stream)
            stream = stream if seen is None else seen.watch(stream)
            for chunk, scores in prefetched(stream):  # the next chunk is scored while this one is written
                is_anomaly = scores.total >= threshold
                if heat_maps is not None:
                    heat_maps.draw(chunk, scores, is_anomaly)
                columns: dict[str, Any] = {} if file is None else {"file": [file] * len(scores)}
                columns |= score_columns(scores, detector, is_anomaly, options.raw)
                if options.explain:
                    found = reasons(detector, chunk, scores, options.explain, is_anomaly)
                    columns |= reason_columns(detector, chunk, found)
                if options.elbo:
                    columns["elbo"] = elbo_of(detector, chunk, options.elbo, rows)
                rows, alarms = rows + len(scores), alarms + int(is_anomaly.sum())
                recalled += scores.recalled
                progress("scoring", rows, None)
                table = batch(columns) if kept is None else kept.beside(batch(columns))
                if highest is not None:
                    highest.add(table)
                elif chunk.places is None:
                    yield table
                else:
                    waiting.append(table)
                    places.append(chunk.places)
            if highest is not None:
                yield from highest.batches()
            elif places:
                in_order = pa.Table.from_batches(waiting).take(np.argsort(np.concatenate(places)))
                yield from in_order.combine_chunks().to_batches()

        batches = tables()
        first = next(batches, None)  # the first rows are scored before anything is opened for writing
        if first is None:
            raise DataError(f"{path}: holds no rows to score")
        with open_writer(output, first.schema, options.csv_safe) as write:
            write(first)
            for later in batches:
                write(later)
            found = None if events is None else events.events()
            if found is not None and options.events:
                table = batch(event_columns(found, detector))
                with open_writer(options.events, table.schema, options.csv_safe) as write_events:
                    write_events(table)
                say(f"{plural(table.num_rows, 'event')} in {options.events}")
    for note in () if kept is None else kept.notes:
        say(f"note: {note}")
    recalled_note = (
        f"{recalled} of {rows} are rows that the detector was fitted on: each has the score of the fit, by models that"
        " never saw it"
    )
    worries = new_data.worries(source) + (new_data.alarm_worry() if options.threshold is None else [])
    notes = (*([recalled_note] if recalled else []), *source.notes, *worries)
    if seen is not None and options.report:
        metrics = {"rows": float(rows), "alarm_rate": alarms / rows} | ({} if events is None else events.metrics())
        seconds = round(time.perf_counter() - start, 2)
        seen.page(metrics, notes, seconds, model, found).write(options.report)
        say(f"report: {options.report}")
    for line in lines(notes, "`anomaly-vae monitor` compares the data with training"):
        say(line)
    return rows, alarms


def _drawn(maps: Maps | None, detector: Detector, source: Source) -> AbstractContextManager[HeatMaps | None]:
    if maps is None:
        return nullcontext()
    if not KINDS[detector.layout.kind].pictures:
        raise UsageError(
            f"--maps draws over pictures, and this detector reads a {detector.layout.kind}; use --explain N"
        )
    return heat_maps(maps.folder, detector, source, maps.all, maps.values)
