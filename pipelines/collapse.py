"""Measures posterior collapse and its remedies: one network on MNIST at beta 1, 4 and 10 with each remedy.

    python -m pipelines.collapse FOLDER                MNIST or another set in torchvision's raw layout
    python -m pipelines.collapse FOLDER --only "beta 10"

Trained on 10,000 training images, drawn with the seed, of every class but the last (on MNIST: 0-8); the last class is
the anomaly. Every row but the last has the textbook likelihood: a Gaussian of sigma 1, so that recon is half the
squared error. There a latent direction pays for its KL only if the variance it explains exceeds beta * sigma^2 (Lucas
et al. 2019; of MNIST's principal components that is 5.1 for the first and 3.7 for the second), so at beta 10 the
collapsed posterior is the optimum, not an accident of the optimiser: a schedule only postpones it, free bits move it.

`our objective` has the defaults of the section `objective` (warm-up and free bits in total) with that same likelihood;
`our defaults` is what `fit` does with only beta changed: sigma is learned as well, inputs are moved and noisy.

active units (variance of the posterior mean above 0.01), kl and recon (nats of the training likelihood; sigma 1 has a
constant 0.92 a pixel) and squared error are means over the test images of the known classes; auroc is of the detector's
own score, which for all rows but the last is recon + kl.

MNIST, one seed: about 9 minutes with one thread; at beta 10 no active unit without protection, 64 with our defaults.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.core.settings import NO_TEST
from anomaly_vae.detector.detector import Detector
from anomaly_vae.training.objective import active_units, terms
from pipelines import baselines
from pipelines.idx import read_set
from pipelines.study import Figures, Study, arguments, chosen, settings

TRAIN = 10_000  # images
BETAS = (1.0, 4.0, 10.0)
BATCH = 500

BARE = {"schedule": "constant", "free_bits": 0.0, "free_bits_total": 0.0}
PROTECTIONS: dict[str, dict[str, Any]] = {
    "no protection": BARE,
    "warm-up": BARE | {"schedule": "linear"},
    "cyclical": BARE | {"schedule": "cyclical"},
    "free bits each": BARE | {"free_bits": 0.05},
    "free bits total": BARE | {"free_bits_total": 2.0},
    "our objective": {},
}
TEXTBOOK: dict[str, Any] = {
    "model": {"sigma": "fixed", "sigma_value": 1.0},
    "training": {"noise": 0.0, "jitter": 0.0, "steps": 500},
    "scoring": {"prior": "normal", "recon": "likelihood", "neighbours": 0},
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, "collapse", seeds=1)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    images = read_set(options.folder)
    last = int(images.train_labels.max())
    normal_rows = np.flatnonzero(images.train_labels != last)
    anomalous = images.test_labels == last
    cells = {f"beta {beta:g}": beta for beta in BETAS}

    def compute(file: str, seed: int) -> Figures:
        train = images.drawn(TRAIN, seed, normal_rows)
        figures = {}
        variants = {name: TEXTBOOK | {"objective": protection} for name, protection in PROTECTIONS.items()}
        variants["our defaults"] = {"training": {"steps": TEXTBOOK["training"]["steps"]}}
        for name, variant in variants.items():
            objective = variant.get("objective", {}) | {"beta": cells[file]}
            config = settings(options, split=NO_TEST, **(variant | {"objective": objective}))
            detector, seconds = baselines.timed(partial(Detector.fit, train, config=config, seed=seed))
            figures[name] = measure(detector, images.test, anomalous) | {"fit_seconds": seconds}
        return figures

    with Study("collapse", options.out, settings(options), str(options.folder.resolve())) as study:
        study.grid(chosen(cells, options.only), options.seeds, compute, options.engine)
        study.finish()


@torch.no_grad()
def measure(detector: Detector, images: NDArray[np.uint8], anomalous: NDArray[np.bool_]) -> dict[str, float]:
    """The figures of the latent variables on normal images, and how well the score ranks the anomalies."""
    model = detector.score_model.model.eval()
    x = torch.from_numpy(detector.scaler.transform(images[~anomalous, None])).to(next(model.parameters()).device)
    values: dict[str, list[Tensor]] = {"mu": [], "kl": [], "recon": [], "squared_error": []}
    for batch in x.split(BATCH):
        out = model(batch)
        recon, kl = terms(batch, out)
        error = (batch - out.px.mean).square().flatten(1).sum(1)
        for name, batch_values in zip(values, (out.mu, kl, recon, error), strict=True):
            values[name].append(batch_values)
    active = active_units(torch.cat(values.pop("mu")))
    means = {name: float(torch.cat(pieces).mean()) for name, pieces in values.items()}
    return {"active_units": float(active.sum()), **means, **baselines.ranking(anomalous, detector.score(images))}


if __name__ == "__main__":
    main()
