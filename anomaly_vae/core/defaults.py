"""The defaults that depend on the kind of data and of model; `Config.resolve` fills them in."""

from __future__ import annotations

from typing import Any

# The defaults that depend on the kind of data.
_PICTURES: dict[str, dict[str, Any]] = {
    "data": {"size": 64},
    "split": {"train": 0.6, "valid": 0.2},
    "model": {"kind": "conv2d", "latent": 64, "hidden": (256,), "blocks": 0, "likelihood": "gaussian",
              "sigma": "shared", "sigma_min": 0.02, "sigma_value": 0.37, "members": 1},
    "training": {"steps": 1200, "batch_size": 128, "lr": 2e-3, "bf16": True, "noise": 0.5, "jitter": 1.0},
    "scoring": {"recon": "energy", "prior": "mixture", "neighbours": 0},
    "threshold": {"unlabelled": "fpr=0.01"},
}  # fmt: skip
BY_KIND: dict[str, dict[str, dict[str, Any]]] = {
    "table": {
        "split": {"train": 0.6, "valid": 0.2},
        "model": {"kind": "dense", "hidden": (64, 64), "blocks": 0, "likelihood": "gaussian", "sigma": "predicted",
                  "sigma_min": 0.3, "sigma_value": 1.0, "members": 4},
        "training": {"steps": 800, "batch_size": 128, "lr": 3e-3, "bf16": False, "noise": 0.2,
                     "jitter": 0.0},
        "scoring": {"recon": "likelihood", "prior": "normal", "neighbours": 2048},
        "threshold": {"unlabelled": "fpr=0.01"},
    },
    "series": {
        "split": {"train": 0.4, "valid": 0.3},
        "model": {"kind": "conv1d", "latent": 8, "channels": (32, 32), "hidden": (), "blocks": 0,
                  "likelihood": "gaussian", "sigma": "element", "sigma_min": 0.08, "sigma_value": 1.0, "members": 1},
        "training": {"steps": 1500, "batch_size": 64, "lr": 2e-3, "bf16": False, "noise": 0.0,
                     "jitter": 0.0},
        "scoring": {"recon": "level", "prior": "normal", "neighbours": 0},
        "threshold": {"unlabelled": "tail=0.0001"},
    },
    "pixels": _PICTURES,
    "images": _PICTURES | {"model": _PICTURES["model"] | {"kind": "features"}},
}  # fmt: skip

# The defaults that depend on the kind of model; they go before those of the data.
BY_MODEL: dict[str, dict[str, dict[str, Any]]] = {
    "features": {
        "data": {"size": 256},
        "model": {"backbone": "efficientnet_lite0", "latent": 32, "hidden": (128,), "sigma": "element",
                  "sigma_min": 0.05, "sigma_value": 1.0},
        "training": {"steps": 400, "batch_size": 1024, "lr": 3e-3, "bf16": False, "noise": 0.0, "jitter": 0.0},
        "scoring": {"recon": "covariance", "prior": "mixture", "neighbours": 1500},
    },
    "flow": {"model": {"flow_steps": 4, "members": 1}},
    "hierarchical": {"model": {"latent": 4, "blocks": 1}, "scoring": {"prior": "normal"}},
    "kl_autoencoder": {"model": {"latent": 4, "blocks": 1}, "scoring": {"prior": "normal"}},
    "vq": {
        "model": {"latent": 16, "blocks": 1, "codes": 64, "code_prior": "causal", "commitment": 0.25},
        "scoring": {"prior": "normal"},
    },
}  # fmt: skip
