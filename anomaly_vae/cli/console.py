"""What a person sees on stderr and stdout: progress bars, notes and short tables."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anomaly_vae.reporting.summary import metric_facts

if TYPE_CHECKING:
    from rich.progress import Progress

    from anomaly_vae.detector.thresholds import Threshold
    from anomaly_vae.reporting.summary import Result
    from anomaly_vae.scoring.importance import Bound
    from anomaly_vae.workflows.monitor import Check
    from anomaly_vae.workflows.promote import Promotion


class Console:
    """Words on stderr. A progress bar appears for whatever takes more than a second, and only on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty()
        self.began = time.monotonic()
        self.bar: Progress | None = None
        self.tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)

    def progress(self, what: str, done: int, of: int | None) -> None:
        """`done` of `of` (None: unknown) epochs or rows."""
        if not self.live or time.monotonic() - self.began < 1:
            return
        if self.bar is None:
            from rich.console import Console as Rich
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Rich(stderr=True), transient=True)
            self.bar.start()
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=of)
        self.bar.update(self.tasks[what], completed=done)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def table(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def fit_summary(result: Result) -> str:
    """The short table that a fit ends with, and the commands to type next."""
    from anomaly_vae.detector.configuration import EMBEDDED_DATA

    assert result.summary
    lines = result.summary.facts()
    saved = "" if result.detector.startswith("runs:/") else result.detector
    lines += [(name, value) for name, value in (("detector", saved), ("run", result.run_id)) if value]
    if not result.run_id and not saved:
        return table(lines)
    score = "anomaly-vae score data.csv"
    if Path(result.data).exists():
        score = f"anomaly-vae score {shlex.quote(result.data)}"
    elif result.data == EMBEDDED_DATA:
        score = f"anomaly-vae sample-data digits -o data.csv && {score}"
    following = [score, "anomaly-vae ui"] if result.run_id else [f"{score} -m {shlex.quote(saved)}"]
    return table(lines) + "\n\nnext:  " + "\n       ".join(following)


def threshold_row(when: str, chosen: Threshold) -> tuple[str, str]:
    """A threshold, its rule and its false alarms, as a row of a table."""
    rate = f"{'' if chosen.labelled else 'at most '}{chosen.false_alarm_rate:.3g}"
    return f"{when} {chosen.policy}", f"{chosen.value:.6g} nats, false-alarm rate {rate}"


def bound_rows(found: Bound) -> list[tuple[str, str]]:
    """What `evaluate --nll` found, as rows of a table."""
    rows = [
        (f"NLL, {found.draws} draws", f"{found.nll:.4f} ± {found.error:.4f} nats a sample (mean ± standard error)"),
        ("negative ELBO", f"{found.elbo:.4f} nats"),
    ]
    if found.bits is not None:
        rows.append(("bits a pixel", f"{found.bits:.4f}"))
    return [*rows, ("samples", f"{found.rows}")]


def promotion_table(found: Promotion) -> str:
    """The metrics of a candidate beside the champion's, and who is the champion now."""
    was = found.champion.uri if found.champion else "none"
    mine = dict([("on " + found.data, f"run {found.candidate.run_id[:8]}"), *metric_facts(found.candidate.metrics)])
    if found.before:
        theirs = dict([("on " + found.data, was), *metric_facts(found.before.metrics)])
    else:
        theirs = {"on " + found.data: f"{was} ({found.excuse})" if found.excuse else f"champion: {was}"}
    width = max(len(value) for value in mine.values())
    rows = [(name, f"{value:<{width}}  {theirs.get(name, '')}".rstrip()) for name, value in mine.items()]
    if found.version:
        score = f"anomaly-vae score DATA -m models:/{found.version.name}@champion"
        rows += [("champion", found.version.uri), ("score with", score)]
    return table(rows)


def check_table(check: Check) -> str:
    """What `monitor` found: the alarms, the quantities that drifted or else the worst five, and the verdict."""
    promised = f"{check.promised:.3g} promised, {check.low:.3g} to {check.high:.3g} if all are normal"
    rows = [("alarms", f"{check.alarms} of {check.rows} rows = {check.share:.3g}; {promised}")]
    rows += [(f"new in {name}", ", ".join(values)) for name, values in check.new.items()]
    rows += [(f"gone from {name}", ", ".join(values)) for name, values in check.lost.items()]
    worst = [finding for finding in check.findings if finding.drifted] or check.findings[:5]
    cells = [("quantity", "test", "p", "stability", "was", "now", "")]
    for f in worst:
        numbers = (f"{f.p:.2g}", f"{f.index:.3f}", f"{f.was:.4g}", f"{f.now:.4g}")
        cells.append((f.name, f.test, *numbers, "drifted" if f.drifted else ""))
    verdict = ("verdict", f"fit again: {'; '.join(check.reasons)}" if check.reasons else "as in training")
    return f"{table(rows)}\n\n{_columns(cells)}\n\n{table([verdict])}"


def runs_table(found: list[dict[str, Any]]) -> str:
    """The latest runs, one line each."""
    if not found:
        return "no runs yet; `anomaly-vae fit` makes the first"
    keys = ["run_id", "name", "status", "started", "auroc", "f1", "seconds"]
    cells = [keys, *([_cell(run.get(key)) for key in keys] for run in found)]
    return _columns(cells)


def _columns(cells: Sequence[Sequence[str]]) -> str:
    """Rows of cells, aligned to the left."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def info_rows() -> list[tuple[str, str]]:
    """Versions and devices for a bug report."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from anomaly_vae import __version__

    rows = [("anomaly-vae", __version__), ("python", platform.python_version()), ("platform", platform.platform())]
    for package in ("torch", "torchvision", "scikit-learn", "pandas", "pyarrow", "numpy", "mlflow", "click"):
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    rows.append(("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, bf16 {_yes(torch.device('cpu'))}"))
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    found = [(str(device), f"{torch.cuda.get_device_name(device)}, bf16 {_yes(device)}") for device in devices]
    return rows + (found or [("cuda", "no device")])


def _yes(device: Any) -> str:
    from anomaly_vae.core.device import has_bf16

    return "yes" if has_bf16(device) else "no"
