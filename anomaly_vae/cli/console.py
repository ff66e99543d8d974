"""Progress and messages on stderr, and the tables that commands print."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
import numpy as np

from anomaly_vae.core.advice import argument, option
from anomaly_vae.core.errors import escaped
from anomaly_vae.core.worries import lines
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.reporting.summary import DRIFT_HEADS, choice_table, choices, drift_cells, metric_facts, pixel_facts

if TYPE_CHECKING:
    from rich.progress import Progress

    from anomaly_vae.detector.detector import Detector
    from anomaly_vae.detector.monitoring import Check
    from anomaly_vae.detector.thresholds import Threshold
    from anomaly_vae.reporting.summary import Result
    from anomaly_vae.scoring.importance import Bound
    from anomaly_vae.workflows.explain import Explanation
    from anomaly_vae.workflows.feedback import Feedback
    from anomaly_vae.workflows.promote import Promotion


class Console:
    """Messages and progress bars on stderr; a context, at whose end the bars are removed.

    A bar is shown only on a terminal, and only for work that takes more than a second.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.shows_bars = not quiet and sys.stderr.isatty()
        self.started = time.monotonic()
        self.bar: Progress | None = None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def say(self, text: str) -> None:
        """Prints a message, unless quiet."""
        if not self.quiet:
            click.echo(escaped(text), err=True)

    def tell(self, notes: Sequence[str], more: str) -> None:
        """Prints notes, then the gravest worries, unless quiet. more: where the rest can be read."""
        for line in lines(notes, more):
            self.say(line)

    def progress(self, what: str, done: int, of: int | None) -> None:
        """Shows that `done` of `of` (None: unknown) epochs or rows are done."""
        if not self.shows_bars or time.monotonic() - self.started < 1:
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


def table(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return escaped("\n".join(f"{name:<{width}}  {value}" for name, value in rows))


def fit_summary(result: Result) -> str:
    """The table that a fit ends with, and the commands to type next."""
    from anomaly_vae.detector.configuration import EMBEDDED_DATA

    assert result.summary
    rows = result.summary.facts()
    saved = "" if result.detector.startswith("runs:/") else result.detector
    rows += [(name, value) for name, value in (("detector", saved), ("run", result.run_id)) if value]
    if not result.run_id and not saved:
        return table(rows)
    score = "anomaly-vae score data.csv"
    if Path(result.data).exists():
        score = f"anomaly-vae score {argument(result.data)}"
    elif result.data == EMBEDDED_DATA:
        score = f"anomaly-vae sample-data digits -o data.csv && {score}"
    commands = [score, "anomaly-vae ui"] if result.run_id else [f"{score} -m {argument(saved)}"]
    return table(rows) + "\n\nnext:  " + "\n       ".join(commands)


def evaluation_table(result: Result) -> str:
    """The metrics and the threshold of an evaluation."""
    rows = [("rows", f"{result.metrics['rows']:.0f}, {result.metrics['anomalies']:.0f} of them anomalies")]
    rows += [*metric_facts(result.metrics), ("threshold", f"{result.threshold:.6g} nats ({result.policy})")]
    rows += pixel_facts(result.pixels)
    return table(rows)


def explanation_table(found: Explanation) -> str:
    """A sample's score, and a line for each of its reasons."""
    verdict = "an anomaly" if found.is_anomaly else "no anomaly"
    rows = [(found.id, f"{found.score:.6g} nats, p-value {found.p_value:.2g}: {verdict}")]
    for reason in found.reasons:
        value, usual = reason["value"], f", usual: {reason['usual']}" if reason["usual"] else ""
        text = value if isinstance(value, str) else f"{value:.12g}"
        rows.append((reason["column"], f"{text}{usual} ({reason['nats']:.1f} nats, {reason['share']:.0%})"))
    return table(rows)


def candidates_table(detector: Detector, model: str | None) -> str:
    """What each policy gives on the held-out rows that thresholds are chosen by, and the command that chooses one."""
    from anomaly_vae.detector.thresholds import CANDIDATES

    normal, anomalous = detector.normal, detector.anomalous
    is_anomaly = np.arange(len(normal) + len(anomalous)) >= len(normal)
    found = choices(detector, np.r_[normal, anomalous], is_anomaly, CANDIDATES)
    heads, cells = choice_table(found)
    noun, of = KINDS[detector.layout.kind].noun, f" and {len(anomalous)} anomalous" if len(anomalous) else ""
    command = f"anomaly-vae threshold {option('-m', model)} --policy" if model else "anomaly-vae threshold --policy"
    return (
        f"{_columns([heads, *cells])}\n\nof {len(normal)} normal{of} held-out {noun}, which thresholds are chosen by;"
        f" nothing is changed\n\nchoose one:  {command} POLICY"
    )


def threshold_table(before: Threshold, after: Threshold) -> str:
    """The threshold before and after it was chosen again, each with its policy and false-alarm rate."""
    return table([_threshold_row("was", before), _threshold_row("now", after)])


def feedback_table(found: Feedback) -> str:
    """Verdicts, and what each part counted and the threshold was before and after them."""
    rows = [("verdicts", f"{found.anomalies} right, {found.normals} false, of {found.data}")]
    for name, weights, threshold in (("was", found.was, found.before), ("now", found.now, found.after)):
        counts = ", ".join(f"{part} {weight:g}" for part, weight in weights.items()) if weights else "1 each"
        rows += [(f"{name} weights", counts), _threshold_row(name, threshold)]
    return table(rows)


def _threshold_row(name: str, threshold: Threshold) -> tuple[str, str]:
    if threshold.events_a_day is not None:
        return f"{name} {threshold.policy}", f"{threshold.value:.6g} nats, {threshold.frequency('time steps')}"
    how = "" if threshold.labelled else "about " if threshold.policy.startswith("tail") else "at most "
    rate = f"{how}{threshold.false_alarm_rate:.3g}"
    return f"{name} {threshold.policy}", f"{threshold.value:.6g} nats, false-alarm rate {rate}"


def bound_table(bound: Bound) -> str:
    """The result of `evaluate --nll`."""
    rows = [
        (f"NLL, {bound.draws} draws", f"{bound.nll:.4f} ± {bound.error:.4f} nats a sample (mean ± standard error)"),
        ("negative ELBO", f"{bound.elbo:.4f} nats"),
    ]
    if bound.bits is not None:
        rows.append(("bits a pixel", f"{bound.bits:.4f}"))
    return table([*rows, ("of", bound.unit), ("samples", f"{bound.rows}")])


def promotion_table(promotion: Promotion) -> str:
    """The metrics of the candidate beside those of the previous champion, and the champion now."""
    head, candidate, previous = f"on {promotion.data}", promotion.candidate, promotion.before
    champion = promotion.champion.uri if promotion.champion else "none"
    candidate_cells = dict(
        [(head, f"run {candidate.run_id[:8]}"), _trained_row(candidate), *metric_facts(candidate.metrics)]
    )
    if previous:
        champion_cells = dict([(head, champion), _trained_row(previous), *metric_facts(previous.metrics)])
    else:
        champion_cells = {head: f"{champion} ({promotion.excuse})" if promotion.excuse else f"champion: {champion}"}
    width = max(len(cell) for cell in candidate_cells.values())
    rows = [
        (name, f"{cell:<{width}}  {champion_cells.get(name, '')}".rstrip()) for name, cell in candidate_cells.items()
    ]
    if promotion.lead is not None:
        rows.append(("difference", lead_text(promotion.lead)))
    if promotion.version:
        score = f"anomaly-vae score DATA -m {argument(f'models:/{promotion.version.name}@champion')}"
        rows += [("champion", promotion.version.uri), ("score with", score)]
    return table(rows)


def lead_text(lead: tuple[float, float, float]) -> str:
    """The difference of two AUROCs on the same rows, and whether chance explains it."""
    difference, low, high = lead
    verdict = "within what chance makes" if low <= 0 <= high else "more than chance makes"
    return f"AUROC {difference:+.4f} (95 %: {low:+.4f} to {high:+.4f}, paired), {verdict}"


def _trained_row(result: Result) -> tuple[str, str]:
    if result.trained_on is None:
        return "trained on", "not known"
    return "trained on", f"{result.trained_on} of {result.rows['test']} rows"


def check_table(check: Check) -> str:
    """The result of `monitor`: the alarms, the quantities that drifted or else the worst five, and the verdict."""
    promised = f"{check.promised:.3g} promised, {check.low:.3g} to {check.high:.3g} if all are normal"
    rows = [("alarms", f"{check.alarms} of {check.rows} rows = {check.share:.3g}; {promised}")]
    rows += [(f"new in {name}", ", ".join(values)) for name, values in check.new.items()]
    rows += [(f"gone from {name}", ", ".join(values)) for name, values in check.lost.items()]
    shown = [finding for finding in check.findings if finding.drifted] or check.findings[:5]
    verdict = ("verdict", f"fit again: {'; '.join(check.reasons)}" if check.reasons else "as in training")
    return f"{table(rows)}\n\n{_columns([DRIFT_HEADS, *drift_cells(shown)])}\n\n{table([verdict])}"


def runs_table(runs: list[dict[str, Any]]) -> str:
    """Runs, one line each."""
    if not runs:
        return "no runs yet; `anomaly-vae fit` makes the first"
    keys = ["run_id", "name", "status", "started", "auroc", "f1", "seconds"]
    cells = [keys, *([_cell(run.get(key)) for key in keys] for run in runs)]
    return _columns(cells)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return escaped("\n".join(line.rstrip() for line in lines))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def info_table() -> str:
    """Versions and hardware, for a bug report; a torch that cannot be imported is a line of it."""
    import os
    import platform
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    from anomaly_vae.core.version import __version__

    rows = [("anomaly-vae", __version__), ("python", platform.python_version()), ("platform", platform.platform())]
    try:
        needed = [line for line in requires("anomaly-vae") or () if "extra ==" not in line]
    except PackageNotFoundError:  # run from a checkout
        needed = ["mlflow", "torch"]
    for package in sorted(re.split(r"[^\w.-]", line)[0] for line in needed):
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    memory = (
        f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB" if os.name == "posix" else ""
    )
    cpu = f"{platform.machine()}, {os.cpu_count()} cores{memory}"
    try:
        import torch

        from anomaly_vae.core.device import has_bf16
    except Exception as error:  # a report is wanted most where the installation is broken
        return table([*rows, ("cpu", cpu), ("torch fails", f"{type(error).__name__}: {error}")])
    cells = {"cpu": (torch.device("cpu"), f"{cpu}, {torch.get_num_threads()} threads")}
    for index in range(torch.cuda.device_count()):
        gpu = torch.device("cuda", index)
        gib = torch.cuda.get_device_properties(index).total_memory / 2**30
        cells[str(gpu)] = (gpu, f"{torch.cuda.get_device_name(gpu)}, {gib:.1f} GiB")
    rows += [(name, f"{text}, bf16 {'yes' if has_bf16(device) else 'no'}") for name, (device, text) in cells.items()]
    cuda = f"{torch.cuda.device_count()} devices" if len(cells) > 1 else "no device"
    return table([*rows, ("cuda", f"{cuda}, torch built for {torch.version.cuda or 'none'}")])
