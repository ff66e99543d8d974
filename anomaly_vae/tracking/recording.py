"""What a run is told, made into entries: parameters, metrics, figures, tables, data and the detector."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anomaly_vae.core.errors import RunError
from anomaly_vae.tracking.metadata import Machine
from anomaly_vae.tracking.outbox import Batch, Data, End, Entry, Files, ModelFiles, Point, Sink, Spool
from anomaly_vae.tracking.run import Columns
from anomaly_vae.tracking.store import clean, cut, file_name, store_errors

if TYPE_CHECKING:
    import pandas as pd

DETECTOR = "detector"  # artifact folder of the detector, and the tag of the runs that have one
NOTE = "mlflow.note.content"  # the tag that MLflow shows as the run's description, in markdown
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow knows which artifacts are tables
NAME_LENGTH = 250  # of a run, an experiment or a key: what MLflow's columns hold
PARAM_LENGTH, TAG_LENGTH = 6000, 5000
A_BATCH = 25  # a request is at most 1 MB: 25 values of 6000 characters, each up to 6 bytes in JSON
METRICS_A_BATCH = 1000
SECONDS_BETWEEN = 1.0  # of two sendings of epochs

T = TypeVar("T")


class TrackedRun:
    """One run of a store. Entries go to the store; where it stops taking them and there is a spool, to the spool from
    then on, so that a fit never ends because of its store. Without a spool that is a RunError.
    """

    def __init__(
        self,
        sink: Sink,
        run_id: str,
        logged: Mapping[str, str] | None = None,
        spool: Path | None = None,
        had: frozenset[int] = frozenset(),
    ) -> None:
        """logged: the parameters that a continued run already has; MLflow never changes one. had: its epochs. spool:
        the folder to keep the run in where the store goes away."""
        self._sink, self._spool = sink, spool
        self._logged = dict(logged or {})
        self._had = had
        self._steps: dict[str, int] = {}  # of the metrics with a curve, the latest
        self._waiting: list[Point] = []
        self._tables: list[str] = []
        self._machine = Machine()
        self._clock = 0
        self._sent = -math.inf  # seconds; when metrics were last sent
        self.run_id = run_id
        self.lost: tuple[Path, str] | None = None

    def _log(self, entry: Entry) -> None:
        try:
            self._sink.take(entry)
        except RunError as error:
            if self._spool is None or self.lost:
                raise
            self._sink, self.lost = Spool(self._spool, self.run_id), (self._spool, str(error))
            self._sink.take(entry)

    def params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run; over-long values are cut. What a continued run has otherwise becomes a tag."""
        texts = {_key(key): cut(value, PARAM_LENGTH) for key, value in params.items()}
        for some in _batches([item for item in texts.items() if item[0] not in self._logged], A_BATCH):
            self._log(Batch(params=dict(some)))
        changed = {f"resumed.{key}": text for key, text in texts.items() if self._logged.get(key, text) != text}
        self._logged = {**texts, **self._logged}
        self.tags(changed)

    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One point of each curve. None is left out; an infinity is kept as NaN, a gap in the curve, because MLflow
        would draw it as 1.8e308 and flatten everything else. With it go CPU, memory and GPU, as system metrics.

        Sent at once where the last was sent a second ago, else with the next: the store waits for the disk at each
        call, which would cost more than a short epoch takes. A killed run has thus lost its last second of points;
        its continuation brings all epochs, and those that the store has are passed over.
        """
        if step in self._had:
            return
        self._steps.update(dict.fromkeys(metrics, step))
        self._wait(metrics)
        used = self._machine.used()
        self._steps.update(dict.fromkeys(used, step))
        self._wait(used)
        if time.monotonic() - self._sent >= SECONDS_BETWEEN:
            self._send()

    def metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Final numbers, such as AUROC. One that has a curve ends it: MLflow shows the value of the latest step."""
        self._wait(metrics)
        self._send()

    def _wait(self, metrics: Mapping[str, float | None]) -> None:
        # Milliseconds since 1970, later at each call: of values at the same step and time MLflow shows the largest.
        self._clock = max(int(time.time() * 1000), self._clock + 1)
        for key, value in metrics.items():
            if value is not None:
                finite = float(value) if math.isfinite(value) else math.nan
                self._waiting.append(Point(_key(key), finite, self._clock, self._steps.get(key, 0)))

    def _send(self) -> None:
        points, self._waiting, self._sent = self._waiting, [], time.monotonic()
        for some in _batches(points, METRICS_A_BATCH):
            self._log(Batch(points=some))

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Over-long values are cut."""
        for some in _batches(list(tags.items()), A_BATCH):
            self._log(Batch(tags={_key(key): cut(value, TAG_LENGTH) for key, value in some}))

    def note(self, markdown: str) -> None:
        """The description of the run, which its page begins with."""
        self.tags({NOTE: markdown})

    def figure(self, figure: Any, name: str) -> None:
        """A matplotlib Figure as figures/NAME.png; the figure is emptied, for its memory."""
        with self._file("figures", f"{file_name(name)}.png") as path:
            figure.savefig(path)
            figure.clear()

    def table(self, frame: pd.DataFrame, name: str) -> None:
        """A table as NAME.json, in the form that MLflow's own `log_table` writes and its pages compare runs by."""
        with self._file("", f"{file_name(name)}.json") as path:
            frame.to_json(path, orient="split", index=False, date_format="iso")
        self._tables.append(f"{file_name(name)}.json")
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
        """A file that exists, under its own name in the artifact folder `place`; an older one is replaced."""
        with self._file(place, path.name) as copy:
            shutil.copyfile(path, copy)

    @contextmanager
    def _file(self, place: str, name: str) -> Iterator[Path]:
        """A path to write, which becomes the artifact `place`/`name`."""
        with tempfile.TemporaryDirectory() as folder:
            with store_errors(f"writing {name}"):
                yield Path(folder) / name
            self._log(Files(Path(folder), place))

    def dataset(self, *, name: str, source: str, digest: str, rows: int, columns: Columns, context: str) -> None:
        """A dataset under Inputs: where it came from (path or URL), its digest and size; never the data itself.

        `context` says what it was for, e.g. "training"; `columns` with names becomes the schema. The record is the one
        that mlflow.data writes, so `mlflow.data.get_source` reads it.
        """
        web = source.startswith(("http://", "https://"))
        width = columns if isinstance(columns, int) else len(columns)
        self._log(
            Data(
                name=cut(clean(name) or "data", 500),
                digest=digest[:36],  # MLflow's limit
                source_type="http" if web else "local",
                source=json.dumps({"url" if web else "uri": source}),
                schema=_schema(columns),
                profile=json.dumps({"num_rows": rows, "num_columns": width, "num_elements": rows * width}),
                context=context,
            )
        )

    def detector(self, folder: Path) -> None:
        """The saved detector as the artifact folder detector/; what was there before is replaced file by file."""
        self._log(Files(folder, DETECTOR))
        self.tags({DETECTOR: DETECTOR})

    def model(self, folder: Path, name: str) -> None:
        """The saved MLflow model in `folder` (its MLmodel file and what belongs to it) as the run's logged model.

        name: what the list of models shows, where the run has no logged model since its start.
        """
        self._log(ModelFiles(folder, model_title(name)))

    def flush(self) -> None:
        """Sends the points that still wait for company."""
        self._send()

    def end(self, status: str, error: BaseException | None = None) -> None:
        """The end, with the tag `error` = "Type: message" where something ended it early."""
        if error is not None:
            with suppress(RunError):  # a store that fails now must not hide what ended the run
                self.tags({"error": f"{type(error).__name__}: {error}"})
                self.end(status)
            return
        self._send()
        self._log(End(status, int(time.time() * 1000)))


def model_title(name: str) -> str:
    """A name that MLflow takes for a logged model."""
    return re.sub(r"""[/:.%"']+""", "-", cut(clean(name), NAME_LENGTH)).strip("- ") or "detector"


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _schema(columns: Columns) -> str | None:
    """MLflow's column schema; None where there are no names, or more than its limit of 1,048,575 characters holds."""
    if isinstance(columns, int):
        return None
    kinds = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "any")
    colspec = [{"type": kind, "name": key, "required": True} for key, kind in kinds.items()]
    spec = json.dumps({"mlflow_colspec": colspec})
    return spec if len(spec) <= 1_048_575 else None


def _key(name: str) -> str:
    """A name that MLflow takes for a parameter, metric or tag."""
    key = re.sub(r"[^\w.\- /]", "_", name).strip("/. ") or "_"
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:NAME_LENGTH] or "_"
