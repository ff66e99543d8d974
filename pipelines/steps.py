"""Detection against the length of training and other settings: variants of the settings, side by side on one half.

    python -m pipelines.steps FOLDER --half development --try "" --try "training.steps=400 training.lr=0.012"
    python -m pipelines.steps FOLDER --half reporting --try "" --try model.members=2

FOLDER: npz tables as of `pipelines.tables`, an image set as of `one_class_images`, or series as of `pipelines.series`.
`--try` names settings that replace defaults, "" none; the table `paired` compares the first with each other, by the
score and, in a row of its own, by recon + kl alone. `--most` draws so many of the rows or pictures that are scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.detector.configuration import load
from anomaly_vae.detector.detector import Detector
from pipelines import baselines, series, tables
from pipelines.idx import read_set
from pipelines.one_class_images import one_class
from pipelines.study import Figures, Study, arguments, chosen, listed, paired, settings

COLLECTIONS = ("adbench", "oddbench", "classes", "skab", "asd", "smd")
Drawn = tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]  # that train, that are scored, which are anomalous


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "steps", seeds=1, halves=True)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--try", dest="tries", action="append", required=True, metavar="'SECTION.KEY=VALUE ...'")
    parser.add_argument("--most", type=int, metavar="N", help="samples scored of each file; a series is scored whole")
    options = parser.parse_args(argv)
    names, draw, base = opened(options.folder)
    config = settings(options, **base)
    variants = {name or "defaults": load(overrides=name.split(), base=config.model_dump()) for name in options.tries}

    def compute(file: str, seed: int) -> Figures:
        train, scored, anomalous = draw(file, seed)
        if options.most and options.most < len(scored) and "data" not in base:
            some = np.random.default_rng(seed).permutation(len(scored))[: options.most]
            scored, anomalous = scored[some], anomalous[some]
        found: Figures = {}
        for name, variant in variants.items():
            start = time.process_time()
            detector = Detector.fit(train, config=variant, seed=seed)
            spent = {"fit_cpu_seconds": time.process_time() - start}
            scores = detector.parts(scored)
            raw, last = scores.raw or scores.parts, -len(anomalous)
            found[name] = baselines.ranking(anomalous, scores.total[last:]) | spent
            found[f"{name}, recon + kl"] = baselines.ranking(anomalous, (raw["recon"] + raw["kl"])[last:])
        return found

    data = f"{options.folder.resolve()} {options.most or ''} {options.tries}"
    with Study("steps", options.out, config, data) as study:
        study.grid(chosen(listed(names, options.half, *COLLECTIONS), options.only), options.seeds, compute)
        first = next(iter(variants))
        ends = {f"paired{end}": [row for row in study.rows if row["method"].endswith("recon + kl") == bool(end)]
                for end in ("", ", recon + kl")}  # fmt: skip
        study.finish({name: paired(rows, first + name[6:], ("auroc", "aupr")) for name, rows in ends.items()})


def opened(folder: Path) -> tuple[list[str], Callable[[str, int], Drawn], dict[str, Any]]:
    """The names of what a folder holds, how one of them is drawn, and the settings that its kind needs."""
    if any(folder.glob("*.npz")):
        return tables.names(folder), lambda name, seed: tables.draw(folder / f"{name}.npz", seed), {"split": NO_TEST}
    if any(folder.glob("*-idx3-ubyte*")):
        images = read_set(folder)
        labels = [str(label) for label in np.unique(images.train_labels)]
        return labels, lambda name, seed: one_class(images, int(name)), {"split": NO_TEST}
    files = series.find(folder)

    def draw(name: str, seed: int) -> Drawn:
        found = files[name]()
        return found.train, found.stream, found.anomalous

    return list(files), draw, {"split": NO_TEST, "data": {"kind": "series"}}


if __name__ == "__main__":
    main()
