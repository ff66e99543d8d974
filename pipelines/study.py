"""The base of every study: cells that are computed once, tables at the end, and a record in MLflow.

A study is a grid of cells; a cell holds the figures of several methods on one file with one seed. A finished cell is
appended to `cells.jsonl` in the study's folder, so that an interrupted study continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import yaml
from scipy.stats import wilcoxon

from anomaly_vae import tracking
from anomaly_vae.core.config import Config
from anomaly_vae.core.engines import ENGINES, Engine, map_items
from anomaly_vae.detector.configuration import load as load_config
from anomaly_vae.tracking.run import Run

COLLECTIONS = Path(__file__).with_name("collections.yaml")  # which sets defaults are chosen on, and which reported on
HALVES = ("development", "reporting")
Figures = dict[str, dict[str, float]]  # method -> metric -> value


@dataclass
class Study:
    """The cells of a study on disk, and the run that they are logged to.

    name: the name of the study and of its MLflow experiment. folder: the folder of cells and tables. data: what the
    cells are computed from; a folder with cells of other data or settings is refused. hidden: metrics of the cells that
    only tables of the study's own show.
    """

    name: str
    folder: Path
    config: Config
    data: str = ""
    hidden: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Opens the run of the study, and continues that of an interrupted one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._require_same()
        self.cells, id_file = self.folder / "cells.jsonl", self.folder / "run_id"
        if self.cells.is_file():
            self.rows = [json.loads(line) for line in self.cells.read_text(encoding="utf-8").splitlines()]
        resume = id_file.read_text() if id_file.is_file() else None
        self._run = tracking.start(self.config, data_name=self.name, run_name=self.name, resume=resume or None)
        self.run = self._run.__enter__()
        id_file.write_text(self.run.run_id)
        if resume is None:
            self.run.params(self.config.flat())
        return self

    def __exit__(self, *error: Any) -> None:
        self._run.__exit__(*error)

    def _require_same(self) -> None:
        """Exits with a message if the folder holds cells of other data or settings."""
        settings = self.config.model_dump(mode="json", exclude={"tracking"})
        description = {"data": self.data, "settings": settings}
        file = self.folder / "study.json"
        if not file.is_file():
            file.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        elif json.loads(file.read_text(encoding="utf-8")) != description:
            raise SystemExit(
                f"{self.folder}: holds cells of other data or settings (see {file.name}); name another --out"
            )

    def grid(
        self, files: Iterable[str], seeds: int, compute: Callable[[str, int], Figures], engine: Engine = "local"
    ) -> None:
        """Computes the cells of every file with seeds 0 .. seeds - 1, except those that are already there.

        engine: `ray` computes them on a cluster, with one thread each, and sends `compute` to it by pickle.
        """
        cells = [(file, seed) for file in files for seed in range(seeds)]
        missing = [cell for cell in cells if not self._has(*cell)]
        for (file, seed), (figures, seconds) in map_items(engine, partial(_timed, compute), missing):
            self._keep(file, seed, figures, seconds)
        order = {cell: number for number, cell in enumerate(cells)}  # a cluster finishes them in any order
        self.rows.sort(key=lambda row: order.get((row["file"], row["seed"]), len(order)))

    def cell(self, file: str, seed: int, compute: Callable[[], Figures]) -> None:
        """Computes one cell, unless it is already there."""
        if not self._has(file, seed):
            self._keep(file, seed, *_timed(lambda *_: compute())((file, seed)))

    def _has(self, file: str, seed: int) -> bool:
        return any(row["file"] == file and row["seed"] == seed for row in self.rows)

    def _keep(self, file: str, seed: int, cell: Figures, seconds: float) -> None:
        """Appends a cell to the file, and prints it."""
        new = [{"file": file, "seed": seed, "method": method, **figures} for method, figures in cell.items()]
        with open(self.cells, "a", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in new)
        self.rows += new
        shown = "  ".join(f"{method} {_brief(figures)}" for method, figures in cell.items())
        print(f"{file} seed {seed} ({seconds:.1f} s): {shown}", flush=True)

    def table(self) -> pd.DataFrame:
        """A row for each file and method: the mean and standard deviation of each metric over the seeds."""
        return by_seed(self._figures(["file", "method", "seed"]), ["file", "method"])

    def overall(self) -> pd.DataFrame:
        """A row for each method: the mean over files, and the standard deviation of that mean over the seeds."""
        return by_seed(self._figures(["method", "seed"]), ["method"])

    def _figures(self, keys: list[str]) -> pd.DataFrame:
        frame = pd.DataFrame(self.rows)
        metrics = [column for column in frame if column not in ("file", "seed", "method", *self.hidden)]
        return frame.groupby(keys, sort=False)[metrics].mean()

    def finish(self, extra: dict[str, pd.DataFrame] | None = None, children: bool = True) -> None:
        """Prints the tables, saves them as CSV and logs them. children: also log a child run for each file."""
        tables = {"files": self.table(), "overall": self.overall(), **(extra or {})}
        for name, table in tables.items():
            flat = table.copy()
            flat.columns = ["_".join(part for part in c if part) if isinstance(c, tuple) else c for c in flat.columns]
            flat.to_csv(self.folder / f"{name}.csv")
            print(f"\n{name}\n{plus_minus(table)}")
            self.run.text(plus_minus(table), f"{name}.txt")
            self.run.text((self.folder / f"{name}.csv").read_text(encoding="utf-8"), f"{name}.csv")
        _log_methods(self.run, self.overall().xs("mean", axis=1, level=1))
        if children:
            self._log_files()
        print(f"\ntables and cells: {self.folder}")

    def _log_files(self) -> None:
        """Logs a child run for each file; a child run that exists from an earlier call is continued."""
        run_ids = tracking.children(self.run.run_id, self.config) if self.run.run_id else {}
        for file, part in pd.DataFrame(self.rows).groupby("file", sort=False):
            with tracking.start(
                self.config,
                data_name=self.name,
                run_name=str(file),
                resume=run_ids.get(str(file)),
                parent=self.run.run_id or None,
            ) as child:
                child.params({"file": file, "seeds": sorted(part["seed"].unique().tolist())})
                means = part.groupby("method").mean(numeric_only=True)
                _log_methods(child, means.drop(columns=["seed", *self.hidden]))


def _timed(compute: Callable[[str, int], Figures]) -> Callable[[tuple[str, int]], tuple[Figures, float]]:
    """A function that computes a cell and returns it with the seconds it took."""

    def work(cell: tuple[str, int]) -> tuple[Figures, float]:
        start = time.perf_counter()
        return compute(*cell), time.perf_counter() - start

    return work


def arguments(
    doc: str | None, name: str, seeds: int | None = 5, spread: bool = True, halves: bool = False
) -> argparse.ArgumentParser:
    """The arguments of all studies: settings, folder of results, number of seeds, if `spread` the engine and, if
    `halves`, the half of collections."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("mlruns/studies") / name, help="folder of cells and tables")
    parser.add_argument("--only", action="append", default=[], help="files to run; default: all")
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help="seeds 0 .. N-1")
    if spread:
        parser.add_argument("--engine", choices=ENGINES, default="local", help="ray: cells over a Ray cluster")
    if halves:
        parser.add_argument("--half", choices=HALVES, help=f"sets that {COLLECTIONS.name} lists for it; default: all")
    return parser


def settings(options: argparse.Namespace, **base: Any) -> Config:
    """The configuration of a study: the defaults, overridden by the study's settings `base`, overridden by --set."""
    return load_config(overrides=options.overrides, base=base)


def chosen(names: Iterable[str], only: list[str]) -> list[str]:
    """The names to run: those in `only`, or all if it is empty. Exits with a message for an unknown one."""
    names = list(names)
    unknown = [name for name in only if name not in names]
    if unknown:
        raise SystemExit(f"--only {unknown[0]}: not there; found {', '.join(names)}")
    return [name for name in names if not only or name in only]


def listed(names: Iterable[str], half: str | None, *collections: str) -> list[str]:
    """The names that a half of these collections lists (see COLLECTIONS), or all where `half` is None.

    Exits with a message where it lists none of them.
    """
    names = list(names)
    if half is None:
        return names
    lists = yaml.safe_load(COLLECTIONS.read_text(encoding="utf-8"))
    found = [name for name in names if any(name in lists[collection][half] for collection in collections)]
    if not found:
        raise SystemExit(f"--half {half}: {COLLECTIONS.name} lists none of {', '.join(names)}; leave --half out")
    return found


def by_seed(figures: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """A row for each value of `keys`: the mean and the standard deviation over the seeds."""
    return figures.groupby(keys, sort=False).agg(["mean", "std"])


def paired(rows: Iterable[dict[str, Any]], ours: str, metrics: Iterable[str]) -> pd.DataFrame:
    """`ours` against every other method over files, each of which counts once with its mean over seeds.

    Columns: files where ours is ahead, level or behind; the mean difference, and the same without the file that is best
    for us, for a lead may be one file; p: two-sided, of Wilcoxon's signed ranks. Files that lack a value are left out.
    """
    figures = pd.DataFrame(list(rows)).groupby(["method", "file"], sort=False)[list(metrics)].mean()
    found = {}
    for rival in dict.fromkeys(figures.index.get_level_values("method")):
        if rival == ours:
            continue
        for metric in figures:
            leads = (figures.loc[ours, metric] - figures.loc[rival, metric]).dropna().to_numpy()
            found[rival, metric] = {
                "wins": int((leads > 0).sum()), "ties": int((leads == 0).sum()), "losses": int((leads < 0).sum()),
                "difference": leads.mean() if len(leads) else float("nan"),
                "without_best": np.sort(leads)[:-1].mean() if len(leads) > 1 else float("nan"),
                "p": float(wilcoxon(leads).pvalue) if leads.any() else 1.0,
            }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(index=["rival", "metric"])


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts numbers in names by their value: 2 before 10."""
    pieces = re.split(r"(\d+)", name)
    return [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def plus_minus(table: pd.DataFrame) -> str:
    """A table as text, with `mean ± sd` for each metric if the table has these two columns for it."""
    if table.columns.nlevels == 1:
        return str(table.to_string(float_format=lambda v: f"{v:.4f}"))
    metrics = list(dict.fromkeys(table.columns.get_level_values(0)))
    text = pd.DataFrame(index=table.index)
    for metric in metrics:
        mean, sd = table[metric]["mean"], table[metric]["std"].fillna(0)
        text[metric] = [f"{m:.4f} ± {s:.4f}" for m, s in zip(mean, sd, strict=True)]
    return str(text.to_string())


def _brief(figures: dict[str, float]) -> str:
    return " ".join(f"{value:.3f}" for value in list(figures.values())[:2])


def _log_methods(run: Run, table: pd.DataFrame) -> None:
    for method, row in table.iterrows():
        run.metrics({str(metric): float(value) for metric, value in row.items()}, str(method))
