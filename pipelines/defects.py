"""Fits and scores every category of a folder in MVTec's layout, through the workflows.

    python -m pipelines.defects FOLDER                 FOLDER/CATEGORY/{train/good, test/KIND, ground_truth/KIND}
    python -m pipelines.defects FOLDER --only bottle --set training.steps=300
    python -m pipelines.defects FOLDER --pictures 4,8,16    of train/good, drawn with each seed, are all that is known

The protocol is that of published comparisons: train/good trains, a part of it is held out and chooses both thresholds,
and all of test/ is measured (`split.test_share=0`). auroc and f1 are of pictures; pixel_auroc, aupro (at 30 %) and
pixel_f1 of pixels at the pictures' own size. score_seconds: of one picture, from the file on, with one thread a core.
Each category is a run of its own below the study's, with its curves, figures and detector.

With model.kind=features, the default, and without tiles, PatchCore and PaDiM on the same feature maps are measured too,
and our own score from the feature maps on, so that times can be compared; see `patches`.
BENCHMARKS.md has their figures.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from anomaly_vae.core.config import Config
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.fit import feature_cache
from anomaly_vae.scoring.patch_score import PatchScore
from anomaly_vae.workflows.fit import fit
from anomaly_vae.workflows.score import score
from pipelines import baselines, patches
from pipelines.study import Figures, Study, arguments, chosen, natural, settings

NAME = "defects"
METRICS = ("auroc", "f1", "pixel_auroc", "aupro", "pixel_f1")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, NAME, seeds=1, spread=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", help="numbers of pictures of train/good that are used, 4,8,16; default: all")
    options = parser.parse_args(argv)
    config = settings(options, data={"kind": "images"}, split={"test_share": 0.0})
    folder = options.folder.resolve()
    names = chosen(categories(folder), options.only)
    known = {name: (name, 0) for name in names}
    if options.pictures is not None:
        counts = [int(count) for count in options.pictures.split(",")]
        known = {f"{name}, {count} pictures": (name, count) for count in counts for name in names}

    def cell(case: str, seed: int) -> Figures:
        name, count = known[case]
        if not count:
            return measure(folder / name, config, seed, study.run.run_id)
        with tempfile.TemporaryDirectory() as place:
            few(folder / name, count, seed, Path(place) / name)
            return measure(Path(place) / name, config, seed, study.run.run_id)

    with Study(NAME, options.out, config, str(folder)) as study:
        study.grid(known, options.seeds, cell)
        study.finish(children=False)


def few(category: Path, pictures: int, seed: int, place: Path) -> None:
    """A category in `place`, by links, of which so many pictures of train/good are drawn."""
    known = sorted((category / "train" / "good").iterdir())
    drawn = np.random.default_rng(seed).permutation(len(known))[:pictures]
    others = (file for part in ("test", "ground_truth") for file in (category / part).rglob("*") if file.is_file())
    for file in (*(known[number] for number in drawn), *others):
        link = place / file.relative_to(category)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)


def categories(folder: Path) -> list[str]:
    """The names of the categories below a folder. Exits with a message if there is none."""
    names = sorted(
        (path.parent.name for path in folder.glob("*/train") if (path.parent / "test").is_dir()), key=natural
    )
    if not names:
        raise SystemExit(f"{folder}: no category in it; expected CATEGORY/train/good and CATEGORY/test/KIND")
    return names


def measure(category: Path, config: Config, seed: int, parent: str) -> Figures:
    """The figures of our detector on one category. parent: the id of the study's run; empty without tracking."""
    seeded = config.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory() as place:
        detector, scores = Path(place) / "detector", Path(place) / "scores.csv"
        result, fit_seconds = baselines.timed(
            lambda: fit(str(category), seeded, output=str(detector), parent=parent or None)
        )
        fitted = Detector.load(detector, seeded.device)
        (rows, _), score_seconds = baselines.timed(lambda: score(str(category / "test"), fitted, output=str(scores)))
    figures = {name: result.metrics[name] for name in METRICS if name in result.metrics}
    ours = {baselines.OURS: figures | baselines.seconds(fit_seconds, score_seconds / rows)}
    if not isinstance(fitted.score_model, PatchScore):
        return ours
    return ours | patches.measure(fitted, category, seed, feature_cache(config))


if __name__ == "__main__":
    main()
