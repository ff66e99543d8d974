"""What every registered model promises, over shapes, likelihoods and scales."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from anomaly_vae.core.config import Config, ModelConfig, ObjectiveConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.detector.configuration import resolve
from anomaly_vae.models.base import LOG_VAR, VAE, Member, elements, log_weight
from anomaly_vae.models.dense import DenseVAE
from anomaly_vae.models.gaussian import GaussianVAE
from anomaly_vae.models.likelihoods import Gaussian, Likelihood
from anomaly_vae.models.registry import MODELS, build
from anomaly_vae.training.objective import loss, terms

B, LATENT = 6, 3
SHAPES = {1: [(5,), (1,)], 2: [(1, 8), (3, 11)], 3: [(1, 8, 8), (3, 9, 13)]}  # by the number of axes
SCALES = ["predicted", "element", "shared", "optimal", "fixed"]
HEADS = [("gaussian", sigma) for sigma in SCALES] + [("laplace", sigma) for sigma in SCALES] + [("bernoulli", "fixed")]
# each head on one shape of a number of axes, and on the others one head of each likelihood
LARGEST = [(kind, SHAPES[n][-1 if n > 1 else 0]) for kind, member in MODELS.items() for n in member.axes]
CASES = [(kind, shape) for kind, member in MODELS.items() for n in member.axes for shape in SHAPES[n]]
NAN = float("nan")


def small(kind: str, likelihood: str = "gaussian", sigma: str = "predicted", **settings: object) -> ModelConfig:
    sizes = {
        "latent": LATENT,
        "hidden": (7,),
        "channels": (4, 5),
        "blocks": 1,
        "flow_steps": 2,
        "codes": 7,
        "code_prior": "causal",
        "commitment": 0.25,
        "members": 2 if kind == "dense" else 1,
    }
    scale = {"likelihood": likelihood, "sigma": sigma, "sigma_min": 0.01, "sigma_value": 1.0}
    return ModelConfig.model_validate({"kind": kind} | sizes | scale | settings)


def model_of(config: ModelConfig, shape: tuple[int, ...], categories: tuple[int, ...] = ()) -> VAE:
    torch.manual_seed(0)
    return build(config, shape, categories)


def mean_of(px: Likelihood, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) of a model with or without members."""
    return px.mean if px.mean.dim() == len(shape) + 1 else px.mean.mean(0)


def draw(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def without_gradient(model: VAE, x: Tensor) -> list[str]:
    """Parameters that one training step leaves as they are."""
    out = model.train()(x, noise())
    loss(x, out, ObjectiveConfig(free_bits=0.0, free_bits_total=0.0), 1.0)[0].backward()
    return [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]


@pytest.mark.parametrize(
    ("kind", "shape", "likelihood", "sigma"),
    [(*case, *head) for case in CASES for head in (HEADS if case in LARGEST else HEADS[::5])],
)
def test_shapes_and_gradients(kind: str, shape: tuple[int, ...], likelihood: str, sigma: str) -> None:
    x = draw(B, *shape)
    model = model_of(small(kind, likelihood, sigma, hidden=(16, 16), channels=(8, 8)), shape)
    out = model.eval()(x)
    assert mean_of(out.px, shape).shape == elements(x, out).shape == x.shape
    assert out.kl.shape == (B, model.groups)
    assert out.mu.shape == (B, model.latent)
    assert (out.log_var is None) == (not model.diagonal)
    assert [part.shape for part in terms(x, out)] == [(B,), (B,)]
    assert bool((out.kl >= 0).all())
    assert without_gradient(model, x) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_model_of_every_kind_of_data_is_built_and_learns(kind: str) -> None:
    config = resolve(Config(), kind).model  # type: ignore[arg-type]
    shape = {"dense": (5,), "conv1d": (3, 16), "conv2d": (1, 16, 16), "features": (40,)}[config.kind or ""]
    x = draw(B, *shape)
    model = model_of(config, shape)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        total = loss(x, model(x, noise()), ObjectiveConfig(), 1.0)[0]
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_without_a_generator_the_posterior_mean_is_decoded(kind: str, shape: tuple[int, ...]) -> None:
    x = draw(B, *shape)
    model = model_of(small(kind), shape).eval()
    code = model.code(x)
    assert torch.equal(code, model(x).mu)
    torch.testing.assert_close(model(x).px.mean, model.decode(code).mean)
    assert torch.equal(model(x, noise()).px.mean, model(x, noise()).px.mean)
    if model(x).codes is None:  # a codebook's posterior is certain
        assert not torch.equal(model(x, noise()).px.mean, model(x).px.mean)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_draws_of_the_prior_decode_to_samples(kind: str, shape: tuple[int, ...]) -> None:
    model = model_of(small(kind), shape).eval()
    z = model.prior(5, noise())
    assert z.shape == (5, model.latent)
    assert torch.equal(z, model.prior(5, noise()))
    assert not torch.equal(z, model.prior(5, torch.Generator().manual_seed(3)))
    samples = mean_of(model.decode(z), shape)
    assert samples.shape == (5, *shape)
    assert bool(samples.isfinite().all())


@torch.no_grad()
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_the_log_weights_of_posterior_samples_average_to_the_elbo(kind: str, shape: tuple[int, ...]) -> None:
    """Two estimates by different functions, from different noise: their means agree within the standard error."""
    x = draw(B, *shape)
    x.view(B, -1)[0, 0] = NAN
    model = model_of(small(kind, members=1), shape).eval()
    many = x.repeat(200, *[1] * len(shape))
    weights = torch.stack(list(model.log_weights(many, noise(), 2))).reshape(400, B)
    generator = torch.Generator().manual_seed(3)
    elbos = torch.cat([-sum(terms(many, model(many, generator))).reshape(200, B) for _ in range(2)])
    error = ((weights.var(0) + elbos.var(0)) / 400).sqrt()
    assert bool(((weights.mean(0) - elbos.mean(0)).abs() < 5 * error + 1e-4).all())


@torch.no_grad()
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_the_log_weights_of_a_target_are_of_its_elements_alone(kind: str, shape: tuple[int, ...]) -> None:
    x, model = draw(B, *shape), model_of(small(kind, members=1), shape).eval()
    some = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    targets = [torch.where(some, x, NAN), torch.where(some, NAN, x), torch.full_like(x, NAN), x, None]
    one, other, none, whole, default = (next(model.log_weights(x, noise(), 1, target)) for target in targets)
    assert torch.equal(whole, default)
    # elements are independent given z, which is the same in all: what two halves have is what the whole has
    torch.testing.assert_close(one + other - none, whole, rtol=1e-4, atol=1e-3)
    assert not torch.equal(one, whole)


def test_members_are_a_mixture_in_the_log_weights() -> None:
    x = draw(B, 5)
    one = log_weight(x, Gaussian(torch.zeros(B, 5), torch.ones(5)), torch.full((B, 3), 0.5))
    two = log_weight(x, Gaussian(torch.zeros(2, B, 5), torch.ones(5)), torch.full((B, 6), 0.5), members=2)
    torch.testing.assert_close(one, two)
    expected = -(0.5 * (math.log(2 * math.pi) + x.square())).sum(1) - 1.5
    torch.testing.assert_close(one, expected)
    better = torch.tensor([0.5, -0.5]).repeat_interleave(3).expand(B, 6)  # log(e^-1.5 + e^1.5) / 2
    mixed = log_weight(x, Gaussian(torch.zeros(2, B, 5), torch.ones(5)), better, members=2)
    torch.testing.assert_close(mixed, expected + 1.5 + math.log(math.cosh(1.5)))


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_missing_elements_leave_everything_finite(kind: str, shape: tuple[int, ...]) -> None:
    x = draw(B, *shape)
    x.view(B, -1)[0, 0] = NAN
    model = model_of(small(kind), shape)
    out = model(x)
    assert elements(x, out).view(B, -1)[0, 0] == 0
    assert all(bool(part.isfinite().all()) for part in terms(x, out))
    loss(x, out, ObjectiveConfig(), 1.0)[0].backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", MODELS)
def test_scales_stay_above_their_floor_and_posteriors_within_their_clamp(kind: str) -> None:
    shape = SHAPES[MODELS[kind].axes[-1]][0]
    model = model_of(small(kind, sigma_min=0.5), shape).eval()
    if not isinstance(model, GaussianVAE):
        pytest.skip("the posterior's own clamp is within it")
    for parameter in model.parameters():
        parameter.data.mul_(50)
    out = model(100 * draw(B, *shape))
    assert out.px.sigma.min().item() == pytest.approx(0.5, abs=1e-4)  # type: ignore[attr-defined]
    assert LOG_VAR[0] <= out.log_var.min().item()
    assert out.log_var.max().item() <= LOG_VAR[1]
    assert torch.isin(out.log_var, torch.tensor(LOG_VAR)).any()  # the clamp was reached
    least = out.px.nll(out.px.mean).min().item()
    assert least == pytest.approx(0.5 * math.log(2 * math.pi) + math.log(0.5), abs=1e-4)


def test_a_fixed_sigma_is_the_one_asked_for() -> None:
    out = model_of(small("dense", sigma="fixed", sigma_value=0.5), (5,))(draw(B, 5))
    assert out.px.sigma.tolist() == pytest.approx([0.5])  # type: ignore[attr-defined]
    laplace = model_of(small("dense", "laplace", "fixed", sigma_value=0.5), (5,))(draw(B, 5))
    assert laplace.px.scale.tolist() == pytest.approx([0.5])  # type: ignore[attr-defined]


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_the_optimal_scale_is_the_maximum_likelihood_one(likelihood: str) -> None:
    x = draw(64, 5)
    out = model_of(small("dense", likelihood, "optimal"), (5,)).train()(x)
    error = (x - out.px.mean).abs()
    expected = {  # the mean NLL where the scale is the mean squared or absolute error
        "gaussian": 0.5 * (math.log(2 * math.pi) + error.square().mean().log() + 1),
        "laplace": math.log(2) + error.mean().log() + 1,
    }
    assert elements(x, out).mean().item() == pytest.approx(expected[likelihood].item(), rel=1e-5)


@pytest.mark.parametrize("categories", [(), (0, 3, 0, 0, 0)], ids=["numbers", "categories"])
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_the_optimal_scale_is_of_the_elements_that_are_there(likelihood: str, categories: tuple[int, ...]) -> None:
    x = 3 + draw(64, 5)  # far from 0, which stands where an element is missing
    if categories:
        x[:, 1] = 1.0
    x[:32, 0], x[5:60, 2] = NAN, NAN
    model = model_of(small("dense", likelihood, "optimal"), (5,), categories).train()
    out = model(x)
    numbers = [i for i in range(5) if not categories or not categories[i]]
    error = (x - out.px.mean).abs()[..., numbers]  # of both members
    error = error[~torch.isnan(error)]
    expected = {
        "gaussian": 0.5 * (math.log(2 * math.pi) + error.square().mean().log() + 1),
        "laplace": math.log(2) + error.mean().log() + 1,
    }
    there = ~torch.isnan(x[:, numbers])
    nats = elements(x, out)[:, numbers]
    assert nats[there].mean().item() == pytest.approx(expected[likelihood].item(), rel=1e-5)
    assert nats[~there].tolist() == [0.0] * int((~there).sum())


def test_the_optimal_scale_of_nothing_is_its_floor_and_pushes_nowhere() -> None:
    model = model_of(small("dense", sigma="optimal"), (5,)).train()
    x = torch.full((4, 5), NAN)
    out = model(x)
    recon, _ = terms(x, out)
    recon.sum().backward()
    assert recon.tolist() == [0.0] * 4
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_evaluation_uses_the_running_optimum(likelihood: str) -> None:
    x = draw(64, 5)
    model = model_of(small("dense", likelihood, "optimal"), (5,)).train()
    for _ in range(300):
        trained = terms(x, model(x))[0]
    torch.testing.assert_close(terms(x, model.eval()(x))[0], trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("categories", [(0, 3, 0, 4), (3, 4), (0, 2)])
def test_dense_with_categories(categories: tuple[int, ...]) -> None:
    codes = [torch.arange(B) % k if k else draw(B, i + 1)[:, i] for i, k in enumerate(categories)]
    x = torch.stack([code.float() for code in codes], dim=1)
    x[1, 1], x[2] = NAN, NAN
    model = model_of(small("dense", hidden=(16, 16)), (len(categories),), categories)
    out = model.eval()(x)
    nats = elements(x, out)
    assert nats.shape == mean_of(out.px, x.shape[1:]).shape == x.shape
    assert nats[1, 1] == 0
    assert nats[2].tolist() == [0.0] * len(categories)
    assert bool(nats[0].isfinite().all())
    assert all(k == 0 or bool((out.px.mean[..., i] < k).all()) for i, k in enumerate(categories))
    assert without_gradient(model, x) == []


def test_a_missing_category_enters_as_no_category() -> None:
    model = model_of(small("dense"), (2,), (0, 3)).eval()
    mus = [model.encode(torch.tensor([[0.5, code]]))[0] for code in (NAN, 0.0, 1.0, 2.0)]
    assert all(not torch.allclose(mus[0], other) for other in mus[1:])


@pytest.mark.parametrize(
    ("kind", "shape", "categories", "fits"),
    [
        ("conv2d", (5,), (), "use dense"),
        ("conv1d", (1, 8, 8), (), "use dense or conv2d"),
        ("conv2d", (2, 8), (), "use dense or conv1d"),
    ],
)
def test_a_model_that_cannot_read_a_shape_names_one_that_can(
    kind: str, shape: tuple[int, ...], categories: tuple[int, ...], fits: str
) -> None:
    with pytest.raises(ConfigError, match=fits):
        model_of(small(kind), shape, categories)


def test_names_of_models_and_of_parts_are_known_without_importing_torch() -> None:
    code = """
import sys
from anomaly_vae.models.registry import MODELS
from anomaly_vae.scoring.parts import PARTS, names_of
assert "dense" in list(MODELS) and "likelihood" in names_of("recon")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class ToyVAE(DenseVAE):
    """A model of its own, as far as the registry can tell."""


TOY = Member(ToyVAE, axes=(1,), defaults={"model": {"latent": 2}})


def test_one_line_adds_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toy_vae", sys.modules[__name__])
    monkeypatch.setitem(MODELS.places, "toy", "toy_vae:TOY")
    config = small("dense").model_copy(update={"kind": "toy"})
    assert isinstance(build(config, (5,)), ToyVAE)
    with pytest.raises(ConfigError, match=r"model\.kind=toy cannot read samples of shape \(3, 8, 8\); use dense or"):
        build(config, (3, 8, 8))
    with pytest.raises(ConfigError, match=r"setting 'model\.kind' = 'nothing': Input should be 'dense', .* or 'toy'"):
        MODELS["nothing"]
