"""Whole models done again, number for number: encode, reparameterise with given noise, decode, both losses.

The wiring is written out once below and computed twice: by NumPy alone, with convolutions as sums over the places of
a kernel, and by the plain functions of `torch.nn.functional`. Both must give what the product gives to 1e-5, in
training (given noise) and in scoring (the posterior mean). Each classic mistake of the field is then built into the
product, and the same comparison must notice it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from anomaly_vae.core.config import ModelConfig, ObjectiveConfig
from anomaly_vae.models import base, likelihoods
from anomaly_vae.models.base import VAE, Output
from anomaly_vae.models.gaussian import GaussianVAE
from anomaly_vae.models.likelihoods import Gaussian, kl_normal
from anomaly_vae.models.registry import build
from anomaly_vae.scoring.parts.likelihood import Likelihood
from anomaly_vae.scoring.parts.model_prior import ModelPrior
from anomaly_vae.scoring.score_model import ScoreModel
from anomaly_vae.training import objective

Array = NDArray[np.float64]
LOG_VAR = (-8.0, 4.0)  # nats; the clamp of a posterior's log variance, repeated here on purpose
B, BETA, SEED, TOLERANCE = 4, 0.5, 7, 1e-5
FLOOR = 0.05  # sigma_min
PLAIN = ObjectiveConfig(beta=BETA, free_bits=0.0, free_bits_total=0.0)


class Ops(NamedTuple):
    """Arithmetic on float64 arrays. linear: x (B, I), w (O, I), b (O,). conv, deconv: kernel 4, stride 2, padding 1."""

    linear: Callable[[Array, Array, Array], Array]
    conv: Callable[[Array, Array, Array], Array]
    deconv: Callable[[Array, Array, Array], Array]
    gelu: Callable[[Array], Array]
    silu: Callable[[Array], Array]


def _conv(x: Array, w: Array, b: Array) -> Array:
    """(B, O, H/2, W/2) of x (B, I, H, W) under w (O, I, 4, 4)."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(x), len(w), height, width)) + b[:, None, None]
    for i in range(4):
        for j in range(4):
            seen = padded[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2]
            out += np.einsum("bihw,oi->bohw", seen, w[:, :, i, j])
    return out


def _deconv(x: Array, w: Array, b: Array) -> Array:
    """(B, O, 2H, 2W) of x (B, I, H, W) under w (I, O, 4, 4): each place adds its kernel to the output."""
    height, width = x.shape[2], x.shape[3]
    out = np.zeros((len(x), w.shape[1], 2 * height + 2, 2 * width + 2))
    for i in range(4):
        for j in range(4):
            out[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] += np.einsum("bihw,io->bohw", x, w[:, :, i, j])
    return out[:, :, 1:-1, 1:-1] + b[:, None, None]


def _torch(function: Callable[..., Tensor], **settings: Any) -> Callable[..., Array]:
    return lambda *arrays: function(*map(torch.from_numpy, arrays), **settings).numpy()


OPS = {
    "numpy": Ops(
        lambda x, w, b: x @ w.T + b, _conv, _deconv,
        lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
        lambda x: x / (1 + np.exp(-x)),
    ),
    "functional": Ops(
        _torch(F.linear), _torch(F.conv2d, stride=2, padding=1), _torch(F.conv_transpose2d, stride=2, padding=1),
        _torch(F.gelu), _torch(F.silu),
    ),
}  # fmt: skip


class Numbers(NamedTuple):
    """What a model makes of x (B, *shape): mean of p(x|z) and, each (B,) in nats, recon and kl."""

    mean: Array
    recon: Array
    kl: Array


class Case(NamedTuple):
    kind: str
    shape: tuple[int, ...]
    likelihood: str
    sigma: str
    members: int = 1
    categories: tuple[int, ...] = ()


CASES = {
    "dense": Case("dense", (5,), "gaussian", "predicted"),
    "dense, members": Case("dense", (3,), "laplace", "shared", 3),
    "dense, categories": Case("dense", (3,), "gaussian", "predicted", 2, (0, 3, 0)),
    "dense, pictures": Case("dense", (1, 4, 4), "bernoulli", "fixed"),
    "conv2d": Case("conv2d", (2, 8, 8), "gaussian", "shared"),
    "conv2d, odd sides": Case("conv2d", (1, 9, 13), "gaussian", "predicted"),
    "conv2d, binary": Case("conv2d", (1, 8, 8), "bernoulli", "fixed"),
}
HIDDEN = {"dense": (7, 6), "conv2d": (9,)}
LATENT = 3


def product(case: Case) -> tuple[VAE, Tensor]:
    """The model in evaluation mode and a batch (B, *shape); numbers 0-1, one of a table missing, and codes."""
    config = ModelConfig.model_validate({
        "kind": case.kind, "latent": LATENT, "hidden": HIDDEN[case.kind], "channels": (4, 5), "members": case.members,
        "likelihood": case.likelihood, "sigma": case.sigma, "sigma_min": FLOOR, "sigma_value": 0.7,
    })  # fmt: skip
    torch.manual_seed(0)
    model = build(config, case.shape, case.categories).eval()
    with torch.no_grad():  # posteriors far from N(0, 1), or a mistake there would hardly show
        for name, parameter in model.named_parameters():
            if not name.startswith("head"):
                parameter.mul_(1.5).add_(0.05)
    x = torch.rand(B, *case.shape, generator=torch.Generator().manual_seed(1))
    for column, classes in enumerate(case.categories):
        if classes:
            x[:, column] = torch.arange(B) % classes
    if len(case.shape) == 1:
        x[0, 0] = math.nan
    return model, x


def oracle(model: VAE, case: Case, x: Tensor, noise: Array, ops: Ops) -> Numbers:
    """The model's numbers by other means: only its weights are taken from it. noise: (B, M * D)."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    run = _dense if case.kind == "dense" else _conv2d
    return run(w, case, x.double().numpy(), noise, ops)


def _dense(w: dict[str, Array], case: Case, x: Array, noise: Array, ops: Ops) -> Numbers:
    categories = case.categories or (0,) * math.prod(case.shape)
    flat = x.reshape(len(x), -1)
    numbers = [i for i, k in enumerate(categories) if not k]
    named = [(i, k) for i, k in enumerate(categories) if k]
    one_hot = [np.eye(k)[flat[:, i].astype(int)] for i, k in named]
    seen = np.concatenate([np.nan_to_num(flat[:, numbers]), *one_hot], axis=1)

    def network(name: str, member: int, h: Array) -> Array:
        layers = len(HIDDEN["dense"]) + 1
        for layer in range(layers):
            h = ops.linear(h, w[f"{name}.{2 * layer}"][member].T.copy(), w[f"{name}.{2 * layer + 1}"][member, 0])
            h = ops.silu(h) if layer < layers - 1 else h
        return h

    means, recons, kls = [], [], []
    for member in range(case.members):
        mu, log_var = _posterior(network("down", member, seen))
        z = mu + noise[:, member * LATENT : (member + 1) * LATENT] * np.exp(log_var / 2)
        raw, wide = network("up", member, z), len(numbers)
        scale = raw[:, wide : 2 * wide] if case.sigma == "predicted" else w["head.log_sigma"].reshape(-1)
        nats = np.zeros_like(flat)
        mean = np.zeros_like(flat)
        mean[:, numbers], nats[:, numbers] = _likelihood(case, raw[:, :wide], scale, flat[:, numbers])
        logits = np.split(raw[:, -sum(k for _, k in named) :], np.cumsum([k for _, k in named])[:-1], axis=1)
        for (column, _), these, truth in zip(named, logits, one_hot, strict=False):
            mean[:, column] = these.argmax(1)
            nats[:, column] = np.log(np.exp(these).sum(1)) - (these * truth).sum(1)
        means.append(mean)
        recons.append(np.nansum(nats, axis=1))
        kls.append(_kl(mu, log_var))
    return Numbers(np.stack(means).reshape(-1, *x.shape), np.mean(recons, axis=0), np.mean(kls, axis=0))


def _conv2d(w: dict[str, Array], case: Case, x: Array, noise: Array, ops: Ops) -> Numbers:
    h, sides = x, []
    for stage in range(2):
        sides.append(h.shape[2:])
        h = np.pad(h, ((0, 0), (0, 0), (0, h.shape[2] % 2), (0, h.shape[3] % 2)))  # odd sides: one more row, column
        h = ops.gelu(ops.conv(h, w[f"down.{3 * stage + 1}.weight"], w[f"down.{3 * stage + 1}.bias"]))
    small = h.shape[1:]
    h = ops.gelu(ops.linear(h.reshape(len(h), -1), w["squeeze.0.weight"], w["squeeze.0.bias"]))
    mu, log_var = _posterior(ops.linear(h, w["posterior.weight"], w["posterior.bias"]))
    h = mu + noise * np.exp(log_var / 2)
    for layer in range(2):
        h = ops.gelu(ops.linear(h, w[f"expand.{2 * layer}.weight"], w[f"expand.{2 * layer}.bias"]))
    h = h.reshape(len(h), *small)
    for stage in (0, 1):
        h = ops.deconv(h, w[f"up.{3 * stage + 1}.weight"], w[f"up.{3 * stage + 1}.bias"])
        height, width = sides[1 - stage]
        h = h[:, :, :height, :width]
        h = ops.gelu(h.copy()) if stage == 0 else h
    channels = case.shape[0]
    scale = h[:, channels:] if case.sigma == "predicted" else w["head.log_sigma"]
    mean, nats = _likelihood(case, h[:, :channels], scale, x)
    return Numbers(mean, nats.sum((1, 2, 3)), _kl(mu, log_var))


def _posterior(features: Array) -> tuple[Array, Array]:
    mu, log_var = np.split(features, 2, axis=1)
    return mu, np.clip(log_var, *LOG_VAR)


def _kl(mu: Array, log_var: Array) -> Array:
    return 0.5 * (mu**2 + np.exp(log_var) - 1 - log_var).sum(1)


def _likelihood(case: Case, raw: Array, scale: Array, x: Array) -> tuple[Array, Array]:
    """(mean, nats) of each element; `scale` is what stands where log sigma comes from, before its floor."""
    if case.likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-raw))
        return p, -(x * np.log(p) + (1 - x) * np.log(1 - p))
    sigma = np.exp(np.log(FLOOR) + np.log1p(np.exp(scale - np.log(FLOOR))))
    if case.likelihood == "laplace":
        return raw, np.log(2 * sigma) + np.abs(x - raw) / sigma
    return raw, 0.5 * np.log(2 * np.pi * sigma**2) + 0.5 * ((x - raw) / sigma) ** 2


@torch.no_grad()
def disagreements(case: Case, ops: Ops) -> set[str]:
    """Which numbers of the product are not those of the oracle: in training, under given noise, and in scoring."""
    model, x = product(case)
    given = torch.randn(B, LATENT * case.members, generator=torch.Generator().manual_seed(SEED))
    wanted = oracle(model, case, x, given.double().numpy(), ops)
    out = model(x, torch.Generator().manual_seed(SEED))
    total, recon, kl = objective.loss(x, out, PLAIN, BETA)
    pairs = {
        "mean": (out.px.mean.reshape(wanted.mean.shape), wanted.mean),
        "recon": (recon, wanted.recon.mean()),
        "kl": (kl, wanted.kl.mean()),
        "loss": (total, wanted.recon.mean() + BETA * wanted.kl.mean()),
    }
    scored = oracle(model, case, x, np.zeros(given.shape), ops)
    parts = ScoreModel(model, [Likelihood(), ModelPrior()]).eval()(x)[1]
    pairs |= {"score's recon": (parts["recon"], scored.recon), "score's kl": (parts["kl"], scored.kl)}
    return {
        name
        for name, (ours, theirs) in pairs.items()
        if not np.allclose(ours.double().numpy(), theirs, rtol=TOLERANCE, atol=TOLERANCE)
    }


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("case", CASES)
def test_the_product_gives_the_oracles_numbers(case: str, ops: str) -> None:
    assert disagreements(CASES[case], OPS[ops]) == set()


# --- the classic mistakes, each built into the product ---------------------------------------------------------------


def _mean_reduced(x: Tensor, out: Output) -> tuple[Tensor, Tensor]:
    return base.elements(x, out).flatten(1).mean(1), out.kl.sum(1)


def _reparameterised(sigma: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def wrong(mu: Tensor, log_var: Tensor, generator: torch.Generator) -> Tensor:
        return mu + torch.randn(mu.shape, generator=generator) * sigma(log_var)

    return wrong


# what is replaced, by what, and the numbers that must then be wrong
MISTAKES: dict[str, tuple[str, Callable[..., Any], set[str]]] = {
    "reconstruction averaged beside a summed KL": ("terms", _mean_reduced, {"recon", "loss"}),
    "the encoder's output as sigma": ("reparameterise", _reparameterised(lambda s: s), {"mean", "recon", "loss"}),
    "log variance taken for log sigma": ("reparameterise", _reparameterised(torch.exp), {"mean", "recon", "loss"}),
    "log variance taken for sigma in the KL": (
        "kl_normal", lambda mu, s: 0.5 * (mu**2 + s**2 - 1 - (s**2).log()), {"kl", "loss", "score's kl"},
    ),
    "log variance taken for log sigma in the KL": (
        "kl_normal", lambda mu, s: 0.5 * (mu**2 + (2 * s).exp() - 1 - 2 * s), {"kl", "loss", "score's kl"},
    ),
    "the sign of the KL": ("kl_normal", lambda mu, s: -kl_normal(mu, s), {"kl", "loss", "score's kl"}),
    "the KL of the wrong direction": (
        "kl_normal", lambda mu, s: 0.5 * (s + (1 + mu**2) * (-s).exp() - 1), {"kl", "loss", "score's kl"},
    ),
}  # fmt: skip


def replaced_everywhere(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any]) -> None:
    """Replaces a function in every module of the product that holds it, wherever it is called from."""
    right = getattr(likelihoods, name, None) or getattr(objective, name)
    holders = [m for key, m in sys.modules.items() if key.startswith("anomaly_vae") and vars(m).get(name) is right]
    assert holders
    for module in holders:
        monkeypatch.setattr(module, name, wrong)


@pytest.mark.parametrize("case", ["dense", "dense, members", "conv2d"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_classic_mistake_is_noticed(monkeypatch: pytest.MonkeyPatch, mistake: str, case: str) -> None:
    name, wrong, wronged = MISTAKES[mistake]
    replaced_everywhere(monkeypatch, name, wrong)
    assert disagreements(CASES[case], OPS["numpy"]) == wronged


@pytest.mark.parametrize("case", ["dense", "conv2d"])
def test_scoring_with_a_sampled_z_is_noticed(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    right = GaussianVAE.forward

    def sampled(self: GaussianVAE, x: Tensor, generator: torch.Generator | None = None) -> Output:
        return right(self, x, generator or torch.Generator().manual_seed(3))

    monkeypatch.setattr(GaussianVAE, "forward", sampled)
    assert disagreements(CASES[case], OPS["numpy"]) == {"score's recon"}


@pytest.mark.parametrize("case", ["dense", "conv2d, odd sides"])
def test_a_decoded_log_sigma_taken_for_sigma_is_noticed(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    def wrong(self: Gaussian, x: Tensor) -> Tensor:
        sigma = self.sigma.log()
        return 0.5 * (math.log(2 * math.pi) + 2 * sigma.abs().log() + ((x - self.mean) / sigma).square())

    monkeypatch.setattr(Gaussian, "nll", wrong)
    assert disagreements(CASES[case], OPS["numpy"]) == {"recon", "loss", "score's recon"}
