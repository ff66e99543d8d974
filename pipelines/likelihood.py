"""Measures the likelihood of test images under each model: the importance-weighted bound on MNIST, binarised anew.

    python -m pipelines.likelihood FOLDER                              torchvision's raw layout; 400 epochs, for a GPU
    python -m pipelines.likelihood FOLDER --epochs 6 --only conv --draws 100 --set training.batch_size=64

Each member trains on 55,000 training images under a Bernoulli, pixels drawn anew from their grey values each time
(dynamic binarisation); the epoch with the best ELBO on the other 5,000 is kept. Then the bound of Burda (2016) with
--draws posterior samples, on --rows test images. Every member has its settings in MEMBERS, and nothing else differs.

The second command, a bounded run, took 18 minutes on one thread of a busy CPU and gave 85.9 nats (ELBO 90.0), with
--epochs 18 --draws 1000 82.8 nats (ELBO 87.1) in 50 minutes; dense
with 10 epochs 95.6 (ELBO 100.8) in 4 minutes, dense flow 94.3 (98.8) in 10. The whole length has not been run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from anomaly_vae.core.config import Config
from anomaly_vae.data.open import open_memory
from anomaly_vae.detector.fit import fit
from anomaly_vae.workflows.evaluate import bound
from pipelines.idx import read_set
from pipelines.study import Figures, Study, arguments, chosen, settings

NAME, EPOCHS = "likelihood", 400
SHOWN = ("epoch", "loss", "recon", "kl", "valid_loss", "perplexity", "active_units")

# Settings of all models: the textbook objective, without the additions that serve anomaly detection.
COMMON: dict[str, Any] = {
    "data": {"kind": "pixels"},
    "split": {"train": 55_000, "valid": 5_000},
    "model": {"likelihood": "bernoulli", "sigma": "fixed"},
    "objective": {"warmup": 0.1, "free_bits_total": 0.0},
    "training": {"binarise": True, "noise": 0.0, "jitter": 0.0, "lr": 2e-3, "batch_size": 128, "patience": 10_000},
    "scoring": {"recon": "likelihood", "prior": "normal"},
}
VANILLA: dict[str, Any] = {"latent": 20, "hidden": [400], "members": 1}  # 784-400-20
ONE_LEVEL: dict[str, Any] = {"latent": 32, "channels": [32, 64, 64], "blocks": 1, "hidden": [256]}
MEMBERS: dict[str, dict[str, Any]] = {
    "dense": {"model": {"kind": "dense", **VANILLA}},
    "dense flow": {"model": {"kind": "flow", "network": "dense", **VANILLA}},
    "conv": {"model": {"kind": "conv2d", **ONE_LEVEL}},
    "conv flow": {"model": {"kind": "flow", **ONE_LEVEL}},
    "hierarchical": {"model": {"kind": "hierarchical", "latent": 4, "channels": [16, 48, 96], "blocks": 1}},
    "vq": {"model": {"kind": "vq", "channels": [32, 64], "codes": 64}},
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, NAME, seeds=1)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training images")
    parser.add_argument("--draws", type=int, default=1000, help="posterior samples of a test image (K)")
    parser.add_argument("--rows", type=int, default=1000, help="test images, drawn with the seed; 10000 are all")
    options = parser.parse_args(argv)
    images = read_set(options.folder)
    common = settings(options, **COMMON)

    def compute(member: str, seed: int) -> Figures:
        config = of_member(options, member, seed)
        source = open_memory(images.train, config.data)
        start = time.perf_counter()

        def on_epoch(epoch: int, epochs: int, figures: dict[str, float]) -> None:
            shown = {"epoch": float(epoch + 1), **figures}
            seconds_so_far = time.perf_counter() - start
            values = (f"{name} {shown[name]:.6g}" for name in SHOWN if name in shown)
            print(f"{member} {seconds_so_far:7.0f} s", *values, flush=True)
            study.run.epoch(epoch, {f"{member}/{name}": value for name, value in figures.items()})

        detector, fit_result = fit(source, config, on_epoch, study.folder / f"{member}-{seed}")
        seconds = time.perf_counter() - start
        detector.save(study.folder / f"detector-{member}-{seed}")  # for `anomaly-vae evaluate --nll` and `latent`
        test = open_memory(images.test, config.data)
        estimate = bound(test, detector, config, draws=options.draws, rows=options.rows)
        model, last = detector.score_model.model, fit_result.history.epochs[-1]
        perplexity = {"perplexity": last["perplexity"]} if "perplexity" in last else {}
        return {
            member: {
                "nll": estimate.nll,
                "nll_error": estimate.error,
                "elbo": estimate.elbo,
                "valid_elbo": fit_result.history.best,
                "parameters": float(sum(p.numel() for p in model.parameters())),
                "epochs": float(len(fit_result.history.epochs)),
                "seconds": seconds,
                **perplexity,
            }
        }

    with Study(NAME, options.out, common, f"{options.folder.resolve()}, {options.epochs} epochs") as study:
        print(f"{torch.get_num_threads()} threads, {'CUDA' if torch.cuda.is_available() else 'no CUDA'}", flush=True)
        study.grid(chosen(MEMBERS, options.only), options.seeds, compute, options.engine)
        study.finish(children=False)


def of_member(options: argparse.Namespace, member: str, seed: int) -> Config:
    """The settings of one model, overridden by --set."""
    own = {**MEMBERS[member], "training": {"epochs": options.epochs}}
    base = {section: {**COMMON.get(section, {}), **own.get(section, {})} for section in COMMON | own}
    return settings(options, seed=seed, **base)


if __name__ == "__main__":
    main()
