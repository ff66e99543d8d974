"""What a fit will cost before it trains: fewer steps where each is dear, and a word to the user where it is long."""

from __future__ import annotations

import math

from anomaly_vae.core.advice import setting
from anomaly_vae.core.callbacks import Say
from anomaly_vae.core.config import Config
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.data.split import Split
from anomaly_vae.detector.configuration import within_cost
from anomaly_vae.detector.cross_fit import RANKING
from anomaly_vae.models.base import VAE
from anomaly_vae.training.loop import STEPS
from anomaly_vae.training.threads import step_flops, step_seconds

FEW = 1024  # rows that a step is measured on
LONG = 60  # seconds of training from which the user is told


def priced(model: VAE, few: RowDataset, config: Config, by_default: bool, parts: Split, say: Say) -> Config:
    """The configuration with as many steps as their cost allows, if their number is a default; says so if these are
    fewer, and how long all trainings of the fit will take together, if that is long. few: some samples."""
    batch_size = config.training.batch_size
    assert batch_size
    default = config.training.steps
    if by_default:
        config = within_cost(config, step_flops(model, few, batch_size))
    steps, epochs = config.training.steps or 0, config.training.epochs
    if steps != default:
        usual = setting("training.steps", default)
        say(f"a step of this model is dear: {steps} of them; {usual} takes the usual number")
    if epochs:
        steps = epochs * max(STEPS, math.ceil(len(parts.train) / batch_size))
    folds = 0 if parts.folds is None else int(parts.folds.max()) + 1
    models = 1 + folds * parts.calibrated_by_folds + RANKING * folds * (len(parts.ranked) > 0)
    seconds = models * steps * step_seconds(model, few, config)
    if seconds > LONG:
        half = setting("training.epochs", max(1, epochs // 2)) if epochs else setting("training.steps", steps // 2)
        times = f", {models:.3g} times over" if models > 1 else ""
        say(f"training will take about {seconds / 60:.0f} min ({steps} steps{times}); {half} takes half as long")
    return config
