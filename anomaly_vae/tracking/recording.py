"""`TrackedRun`: parameters, metrics, tables, data and the detector of a run, each logged as an entry."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anomaly_vae.core.errors import RunError
from anomaly_vae.core.files import scratch_folder
from anomaly_vae.tracking.metadata import SystemMetrics
from anomaly_vae.tracking.outbox import Batch, Data, End, Entry, EntryWriter, Files, ModelFiles, Point, Sender, Spool
from anomaly_vae.tracking.run import COUNTS, DETECTOR, Columns
from anomaly_vae.tracking.store import clean, cut, file_name, server_uri, store_errors

if TYPE_CHECKING:
    import pandas as pd

NAME = "mlflow.runName"  # the tag that renames a run
NOTE = "mlflow.note.content"  # the tag that MLflow shows as the run's description, in markdown
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow knows which artifacts are tables
NAME_LENGTH = 250  # of a run, an experiment or a key: what MLflow's columns hold
PARAM_LENGTH, TAG_LENGTH = 6000, 5000
TEXTS_PER_BATCH = 25  # a request is at most 1 MB: 25 values of 6000 characters, each up to 6 bytes in JSON
METRICS_PER_BATCH = 1000
SECONDS_BETWEEN = 1.0  # between two requests with the metrics of epochs

T = TypeVar("T")


class TrackedRun:
    """One run of a store. Entries go to the store. If it stops answering, they go to `spool_folder` from then on, so
    that no fit ends because of its store; without that folder, it is a RunError.
    """

    def __init__(
        self,
        sender: Sender,
        run_id: str,
        *,
        title: str = "",
        logged_params: Mapping[str, str] | None = None,
        logged_epochs: frozenset[int] = frozenset(),
        spool_folder: Path | None = None,
    ) -> None:
        """title: the name of a run that ended. logged_params, logged_epochs: what the store already has of a continued
        run; MLflow never changes a parameter."""
        self.run_id, self.title = run_id, title
        self.lost: tuple[Path, str] | None = None
        self._writer: EntryWriter = sender
        self._spool_folder = spool_folder
        self._logged_params = dict(logged_params or {})
        self._logged_epochs = logged_epochs
        self._latest_steps: dict[str, int] = {}  # of the metrics that have a curve
        self._unsent: list[Point] = []
        self._tables: list[str] = []
        self._system_metrics = SystemMetrics()
        self._latest_time = 0  # milliseconds since 1970, of the latest point
        self._sent_at = -math.inf  # seconds of the monotonic clock

    def _log(self, entry: Entry) -> None:
        try:
            self._writer.write(entry)
        except RunError as error:
            if self._spool_folder is None or self.lost:
                raise
            try:
                spool = Spool(self._spool_folder, self.run_id, server_uri())
                spool.write(entry)
            except RunError:  # the same full disk: half a run could never be sent
                shutil.rmtree(self._spool_folder, ignore_errors=True)
                raise error from None
            self._writer, self.lost = spool, (self._spool_folder, str(error))

    def params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run; None is left out, over-long values are cut. One that a continued run has with another
        value becomes the tag `resumed.KEY`."""
        texts = {_key(key): cut(value, PARAM_LENGTH) for key, value in params.items() if value is not None}
        new = [(key, text) for key, text in texts.items() if key not in self._logged_params]
        for batch in _batches(new, TEXTS_PER_BATCH):
            self._log(Batch(params=dict(batch)))
        changed = {f"resumed.{key}": text for key, text in texts.items() if self._logged_params.get(key, text) != text}
        self._logged_params = {**texts, **self._logged_params}
        self.tags(changed)

    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One point of each curve, and of the system metrics. None is left out; an infinity is kept as NaN, a gap in
        the curve, because MLflow would draw it as 1.8e308 and flatten everything else.

        Points are sent at most once a second: the store waits for the disk at each request, which would cost more
        than a short epoch takes. A killed run therefore loses its last second of points; its continuation logs all
        epochs again, and those that the store has are skipped.
        """
        if step in self._logged_epochs:
            return
        self._latest_steps.update(dict.fromkeys(metrics, step))
        self._add_points(metrics)
        system_metrics = self._system_metrics.read()
        self._latest_steps.update(dict.fromkeys(system_metrics, step))
        self._add_points(system_metrics)
        if time.monotonic() - self._sent_at >= SECONDS_BETWEEN:
            self.flush()

    def metrics(self, metrics: Mapping[str, float | None], group: str = "") -> None:
        """Final numbers, e.g. AUROC. One that has a curve ends it: MLflow shows the value of the latest step.

        group: stands before each name, with a slash, by which MLflow's page makes sections. COUNTS become tags.
        """
        named = {f"{group}/{name}" if group else name: value for name, value in metrics.items()}
        counts = {key: value for key, value in named.items() if key.rpartition("/")[2] in COUNTS and value is not None}
        self.tags({key: f"{value:.6g}" for key, value in counts.items()})
        self._add_points({key: value for key, value in named.items() if key not in counts})
        self.flush()

    def _add_points(self, metrics: Mapping[str, float | None]) -> None:
        # Later at each call: of values at the same step and time MLflow shows the largest.
        self._latest_time = max(int(time.time() * 1000), self._latest_time + 1)
        for key, value in metrics.items():
            if value is not None:
                finite = float(value) if math.isfinite(value) else math.nan
                step = self._latest_steps.get(key, 0)
                self._unsent.append(Point(key=_key(key), value=finite, when=self._latest_time, step=step))

    def flush(self) -> None:
        """Sends the points that were not sent yet."""
        points, self._unsent, self._sent_at = self._unsent, [], time.monotonic()
        for batch in _batches(points, METRICS_PER_BATCH):
            self._log(Batch(points=batch))

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Over-long values are cut."""
        for batch in _batches(list(tags.items()), TEXTS_PER_BATCH):
            self._log(Batch(tags={_key(key): cut(value, TAG_LENGTH) for key, value in batch}))

    def name(self, name: str) -> None:
        """Names the run anew."""
        self.tags({NAME: run_title(name)})

    def note(self, markdown: str) -> None:
        """The description at the top of the run's page."""
        self.tags({NOTE: markdown})

    def table(self, frame: pd.DataFrame, name: str) -> None:
        """A table as NAME.json, in the form that MLflow's own `log_table` writes and its pages compare runs by."""
        file = f"{file_name(name)}.json"
        with self._file("", file) as path:
            frame.to_json(path, orient="split", index=False, date_format="iso")
        self._tables.append(file)
        self.tags({TABLES: json.dumps([{"path": path, "type": "table"} for path in self._tables])})

    def text(self, text: str, name: str) -> None:
        """A text file among the artifacts; see `content`."""
        self.content(text.encode(), name)

    def content(self, content: bytes, name: str) -> None:
        """A file of this content among the artifacts; `name` may hold folders, e.g. "report/summary.md"."""
        *folders, last = [file_name(part) for part in name.split("/") if part not in ("", ".", "..")]
        with self._file("/".join(folders), last) as path:
            path.write_bytes(content)

    def file(self, path: Path, place: str) -> None:
        """A copy of an existing file, under its own name in the artifact folder `place`; an older one is replaced."""
        with self._file(place, path.name) as copy:
            shutil.copyfile(path, copy)

    @contextmanager
    def _file(self, place: str, name: str) -> Iterator[Path]:
        """A path to write, which becomes the artifact `place`/`name`."""
        with scratch_folder() as folder:
            with store_errors(f"writing {name}"):
                yield folder / name
            self._log(Files(Path(folder), place))

    def dataset(self, *, name: str, source: str, digest: str, rows: int, columns: Columns, context: str) -> None:
        """A dataset under Inputs: where it came from (path or URL), its digest and size; never the data itself.

        context: what it was used for, e.g. "training". columns: names become the schema. The record has the form that
        mlflow.data writes, so `mlflow.data.get_source` reads it.
        """
        is_url = source.startswith(("http://", "https://"))
        width = columns if isinstance(columns, int) else len(columns)
        self._log(
            Data(
                name=cut(clean(name) or "data", 500),
                digest=digest[:36],  # MLflow's limit
                source_type="http" if is_url else "local",
                source=json.dumps({"url" if is_url else "uri": source}),
                schema=_schema(columns),
                profile=json.dumps({"num_rows": rows, "num_columns": width, "num_elements": rows * width}),
                context=context,
            )
        )

    def detector(self, folder: Path) -> None:
        """The saved detector, as the artifact folder detector/; an earlier one is replaced file by file."""
        self._log(Files(folder, DETECTOR))
        self.tags({DETECTOR: DETECTOR})

    def model(self, folder: Path, name: str) -> None:
        """The saved MLflow model in `folder` (its MLmodel file and what belongs to it) as the run's logged model.

        name: what the list of models shows, unless the run has had a logged model since its start.
        """
        self._log(ModelFiles(folder, model_title(name)))

    def end(self, status: str, error: BaseException | None = None) -> bool:
        """Ends the run with a status; with an error, also tags it `error` = "Type: message".

        Returns whether the end was recorded: a store that fails now must not hide the error.
        """
        if error is not None:
            with suppress(RunError):
                self.tags({"error": f"{type(error).__name__}: {error}"})
        try:
            self.flush()
            self._log(End(status=status, when=int(time.time() * 1000)))
        except RunError:
            if error is None:
                raise
            return False
        return True


def run_title(name: str) -> str:
    """The name as MLflow keeps one of a run."""
    return cut(clean(name), NAME_LENGTH)


def model_title(name: str) -> str:
    """The name, changed to one that MLflow accepts for a logged model."""
    return re.sub(r"""[/:.%"']+""", "-", cut(clean(name), NAME_LENGTH)).strip("- ") or "detector"


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _schema(columns: Columns) -> str | None:
    """MLflow's column schema; None without names, or where it would exceed MLflow's limit of 1,048,575 characters."""
    if isinstance(columns, int):
        return None
    types = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "any")
    colspec = [{"type": type_, "name": name, "required": True} for name, type_ in types.items()]
    spec = json.dumps({"mlflow_colspec": colspec})
    return spec if len(spec) <= 1_048_575 else None


def _key(name: str) -> str:
    """The name, changed to one that MLflow accepts for a parameter, metric or tag."""
    key = re.sub(r"[^\w.\- /]", "_", name).strip("/. ") or "_"
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:NAME_LENGTH] or "_"
