"""Fits every config with several seeds through the workflow, all as runs under one parent; ends in a mean ± sd table.

    python -m pipelines.fit configs/digits.yaml --seeds 3
    python -m pipelines.fit configs/mnist.yaml --data mnist.csv --seeds 3 --set objective.beta=4

digits, 3 seeds: about a minute on two cores; the table's AUROC should stand near the one in the config's header.
"""

from __future__ import annotations

from pathlib import Path

from anomaly_vae.detector.configuration import load
from anomaly_vae.workflows import fit
from pipelines.study import Figures, Study, arguments

SHOWN = ("auroc", "auprc", "f1", "false_alarm_rate", "active_units")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "fit", seeds=3, spread=False)
    parser.add_argument("configs", nargs="+", help="YAML files")
    parser.add_argument("--data", help="file or folder instead of the configs' data.path")
    options = parser.parse_args(argv)
    with Study("fit", options.out, load(overrides=options.overrides), options.data or "") as study:
        for path in options.configs:
            for seed in range(options.seeds):

                def run(path: str = path, seed: int = seed) -> Figures:
                    config = load(path, [*options.overrides, f"seed={seed}"])
                    result = fit.fit(options.data or config.data.path, config, parent=study.run.run_id or None)
                    shown = {name: result.metrics[name] for name in SHOWN if name in result.metrics}
                    return {config.model.kind or result.kind: shown | {"seconds": result.seconds}}

                study.cell(Path(path).stem, seed, run)
        study.finish(children=False)  # the fits are the children


if __name__ == "__main__":
    main()
