"""Score a file or folder: open, score in a stream, write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pyarrow as pa

from anomaly_vae.core.callbacks import Progress, Say
from anomaly_vae.core.errors import DataError, UsageError
from anomaly_vae.core.files import SCORES, require_ending
from anomaly_vae.core.threads import prefetched
from anomaly_vae.data.conditions import counted
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Source
from anomaly_vae.data.writers import batch, open_writer
from anomaly_vae.detector.dataframe import explained_names, score_columns
from anomaly_vae.detector.detector import Detector
from anomaly_vae.reporting.heatmaps import HeatMaps, NoHeatMaps, heat_maps
from anomaly_vae.workflows.opening import reopen


def score(
    path: str,
    detector: Detector,
    *,
    output: str | None = None,
    threshold: float | None = None,
    explain: int = 0,
    maps: str | None = None,
    all_maps: bool = False,
    map_values: bool = False,
    id_column: str | None = None,
    skip_broken: bool = False,
    file: str | None = None,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> tuple[int, int]:
    """Scores every row of a file or folder into a CSV, Parquet or JSON (None: CSV on stdout); (rows, alarms).

    Columns: id, the parts of the score (nats), p_value, is_anomaly. threshold: instead of the detector's (nats).
    explain: so many columns or sensors that contribute most, with their shares of recon. maps: a new folder for maps
    over the pictures at or above the threshold, or over `all_maps`; map_values: and their values, as .npy files (nats).
    skip_broken: leave out, and name, pictures that cannot be decoded. file: a name to stand before every row, where
    the scores of several files will be read as one table.
    """
    if output:
        require_ending(output, SCORES)
    cut = detector.threshold.value if threshold is None else threshold
    source = reopen(path, detector, id_column, skip_broken)
    for note in source.notes:
        say(f"note: {note}")
    names = explained_names(detector, explain)
    rows = alarms = 0
    with _heat_maps(maps, detector, source, all_maps, map_values) as heat:
        unseen = dict.fromkeys((column.name for column in detector.layout.conditions), 0)
        chunks = heat.seen(counted(source.chunks(detector.layout, detector.chunk_rows), detector.layout, unseen))

        def tables() -> Iterator[pa.RecordBatch]:
            nonlocal rows, alarms
            # the next chunk is scored, and the one after it read, while this one is written
            for scores in prefetched(detector.stream(chunks, explain=bool(explain or maps), path=path)):
                alarm = scores.total >= cut
                heat.draw(scores, alarm)
                rows, alarms = rows + len(scores), alarms + int(alarm.sum())
                progress("scoring", rows, None)
                named = {} if file is None else {"file": [file] * len(scores)}
                yield batch(named | score_columns(scores, detector, alarm, names, explain))

        batches = tables()
        first = next(batches, None)  # the first rows are scored before anything is opened for writing
        if first is None:
            raise DataError(f"{path}: holds no rows to score")
        with open_writer(output, first.schema) as write:
            write(first)
            for later in batches:
                write(later)
    for name, count in unseen.items():
        if count:
            say(
                f"note: condition '{name}': {count} of {rows} hold a value that training has not seen, and were judged"
                " as of none of those it has"
            )
    return rows, alarms


def _heat_maps(
    folder: str | None, detector: Detector, source: Source, everything: bool, values: bool
) -> AbstractContextManager[HeatMaps | NoHeatMaps]:
    if folder is None:
        if everything or values:
            raise UsageError("--all-maps and --map-values say what --maps DIR writes; name that folder too")
        return nullcontext(NoHeatMaps())
    if not KINDS[detector.layout.kind].pictures:
        raise UsageError(
            f"--maps draws over pictures, and this detector reads a {detector.layout.kind}; use --explain N"
        )
    return heat_maps(folder, detector, source, everything, values)
