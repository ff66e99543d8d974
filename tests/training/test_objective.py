"""The negative ELBO: pinned by numbers worked by hand, under the default settings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anomaly_vae.core.config import ModelConfig, ObjectiveConfig
from anomaly_vae.models.base import Output, elements
from anomaly_vae.models.likelihoods import Gaussian, kl_normal
from anomaly_vae.models.registry import build
from anomaly_vae.training.objective import active_units, loss, terms
from anomaly_vae.training.schedules import beta_at, capacity_at

PLAIN = ObjectiveConfig(beta=1.0, free_bits=0.0, free_bits_total=0.0)
NAN = float("nan")

# One sample of two elements, decoded as N(0, 1) and N(1, 4), under a posterior of two dimensions.
X = torch.tensor([[1.0, 4.0]])
MEAN, LOG_VAR = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, math.log(4)]])
MU, POSTERIOR = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, math.log(4)]])
RECON = 0.5 * (1.8378771 + 0 + 1) + 0.5 * (1.8378771 + 1.3862944 + 9 / 4)  # 4.1561743 nats
KL = 0.5 * 4 + 0.5 * (4 - 1 - 1.3862944)  # 2 + 0.8068528 nats


def output(mean: Tensor = MEAN, mu: Tensor = MU, log_var: Tensor = POSTERIOR, aux: Tensor | float = 0.0) -> Output:
    return Output(Gaussian(mean, torch.exp(0.5 * LOG_VAR)), kl_normal(mu, log_var), mu, log_var, aux)


def test_terms_are_sums_in_nats() -> None:
    recon, kl = terms(X, output())
    assert recon.shape == kl.shape == (1,)
    assert recon.item() == pytest.approx(RECON, abs=1e-6)
    assert kl.item() == pytest.approx(KL, abs=1e-6)


def test_terms_of_pictures_are_summed_over_all_axes() -> None:
    x = torch.zeros(3, 2, 4, 5)
    out = Output(Gaussian(torch.zeros_like(x), torch.ones(1, 1, 1)), torch.full((3, 6), 0.5), torch.zeros(3, 6),
                 torch.zeros(3, 6))  # fmt: skip
    recon, kl = terms(x, out)
    assert recon.tolist() == pytest.approx([40 * 0.5 * math.log(2 * math.pi)] * 3)
    assert kl.tolist() == [3.0] * 3


def test_the_default_loss_by_hand() -> None:
    config = ObjectiveConfig()
    total, recon, kl = loss(X, output(), config, config.beta)
    # both dimensions are above the default's free bits, so that they are charged in full, once
    assert config.free_bits < 0.8
    assert config.free_bits_total < KL
    assert total.item() == pytest.approx(RECON + config.beta * KL, abs=1e-5)
    assert (recon.item(), kl.item()) == pytest.approx((RECON, KL), abs=1e-5)


def test_beta_1_without_free_bits_is_exactly_the_negative_elbo() -> None:
    generator = torch.Generator().manual_seed(0)
    x, mean, mu, log_var = (torch.randn(7, 2, generator=generator) for _ in range(4))
    out = output(mean, mu, log_var)
    recon, kl = terms(x, out)
    assert torch.equal(loss(x, out, PLAIN, 1.0)[0], recon.mean() + out.kl.mean(0).sum())
    torch.testing.assert_close(loss(x, out, PLAIN, 1.0)[0], (recon + kl).mean())


def test_the_classic_mistakes_give_other_numbers() -> None:
    total = loss(X, output(), PLAIN, 1.0)[0].item()
    mistakes = {
        "reconstruction averaged over elements": RECON / 2 + KL,
        "KL averaged over dimensions": RECON + KL / 2,
        "both averaged": (RECON + KL) / 2,
        "KL subtracted": RECON - KL,
        "KL weight 0": RECON,
        "squared error instead of likelihood": 1 + 9 + KL,
        "mean squared error instead of likelihood": 5 + KL,
        "log variance of x taken for log sigma": RECON + 0.5 * (math.log(4) + 9 / 16 - 9 / 4) + KL,
        "log variance of z taken for log sigma": RECON + 2 + 0.5 * (16 - 1 - 2 * math.log(4)),
        "log 2 pi left out": RECON - 1.8378771 + KL,
    }
    assert {name: value for name, value in mistakes.items() if value == pytest.approx(total, abs=0.1)} == {}
    assert total == pytest.approx(RECON + KL, abs=1e-5)


def test_beta_weighs_the_kl_and_aux_is_added_once() -> None:
    assert loss(X, output(), PLAIN, 0.25)[0].item() == pytest.approx(RECON + KL / 4, abs=1e-5)
    assert loss(X, output(aux=3.0), PLAIN, 0.0)[0].item() == pytest.approx(RECON + 3, abs=1e-5)
    assert loss(X, output(aux=torch.tensor([3.0])), PLAIN, 0.0)[0].item() == pytest.approx(RECON + 3, abs=1e-5)


# Two samples; their KL is 0.5 mu^2 a dimension: batch means 1.0 (0 and 2) and 0.0.
PAIR = torch.tensor([[0.0, 0.0], [2.0, 0.0]])


@pytest.mark.parametrize(
    ("free_bits", "free_bits_total", "charged"),
    [(0.0, 0.0, 1.0), (0.25, 0.0, 1.25), (1.5, 0.0, 3.0), (0.0, 4.0, 4.0), (0.25, 1.0, 1.25), (0.25, 2.0, 2.0)],
)
def test_free_bits_by_hand(free_bits: float, free_bits_total: float, charged: float) -> None:
    config = ObjectiveConfig(free_bits=free_bits, free_bits_total=free_bits_total)
    x = torch.zeros(2, 2)
    out = output(mu=PAIR, log_var=torch.zeros(2, 2))
    total, recon, kl = loss(x, out, config, 1.0)
    assert (total - recon).item() == pytest.approx(charged)
    assert kl.item() == 1.0  # what is reported is the KL itself


def test_a_unit_within_its_free_bits_is_not_pushed() -> None:
    mu = torch.tensor([[0.1, 2.0]], requires_grad=True)  # 0.005 and 2 nats
    total, recon, _ = loss(X, output(mu=mu, log_var=torch.zeros(1, 2)), ObjectiveConfig(free_bits=0.05), 1.0)
    (total - recon).backward()
    assert mu.grad is not None
    assert mu.grad.tolist() == [[0.0, 2.0]]


# The KL of two members of two dimensions each: 0.5 mu^2 is 0.02 and 2 nats, 0.5 and 0; members share it evenly.
MEMBERS = torch.tensor([[0.2, 2.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("members", "free_bits", "charged", "gradient"),
    [
        (1, 0.4, 0.4 + 2 + 0.5 + 0.4, [0.0, 2.0, 1.0, 0.0]),
        # each member as if it were alone, and their mean: (0.4 + 2) / 2 + (0.5 + 0.4) / 2
        (2, 0.4, 1.65, [0.0, 1.0, 0.5, 0.0]),
        (2, 0.6, (0.6 + 2 + 0.6 + 0.6) / 2, [0.0, 1.0, 0.0, 0.0]),
        (2, 0.0, 2.52 / 2, [0.1, 1.0, 0.5, 0.0]),
    ],
)
def test_free_bits_of_a_dimension_do_not_depend_on_the_members(
    members: int, free_bits: float, charged: float, gradient: list[float]
) -> None:
    mu = MEMBERS.clone().requires_grad_()
    out = output(mu=mu, log_var=torch.zeros(1, 4))._replace(kl=kl_normal(mu, torch.zeros(1, 4)) / members)
    config = ObjectiveConfig(free_bits=free_bits, free_bits_total=0.0)
    total, recon, _ = loss(X, out._replace(members=members), config, 1.0)
    assert (total - recon).item() == pytest.approx(charged)
    (total - recon).backward()
    assert mu.grad is not None
    assert mu.grad[0].tolist() == pytest.approx(gradient)


@pytest.mark.parametrize("settings", [{}, {"n_condition": 1}], ids=["dense", "conditional"])
def test_a_model_says_how_many_members_share_its_kl(settings: dict[str, int]) -> None:
    config = ModelConfig.model_validate(
        {"kind": "conditional" if settings else "dense", "latent": 2, "hidden": (4,), "members": 3}
        | {"network": "dense", "likelihood": "gaussian", "sigma": "fixed", "sigma_min": 0.1, "sigma_value": 1.0}
    )
    x = torch.ones(5, 3)
    out = build(config, (3,), **settings)(x)
    assert out.members == 3
    assert out.log_var is not None
    torch.testing.assert_close(out.kl * out.members, kl_normal(out.mu, out.log_var))


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        ("constant", {0.0: 2.0, 0.5: 2.0, 1.0: 2.0}),
        ("linear", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.4: 2.0, 1.0: 2.0}),
        ("cosine", {0.0: 0.0, 0.1: 1 - math.cos(math.pi / 4), 0.2: 1.0, 0.4: 2.0, 1.0: 2.0}),
        ("sigmoid", {0.0: 2 / (1 + math.exp(6)), 0.2: 1.0, 0.3: 2 / (1 + math.exp(-3)), 0.4: 2.0, 1.0: 2.0}),
        # four cycles of a quarter, each rising over its first half
        ("cyclical", {0.0: 0.0, 0.0625: 1.0, 0.125: 2.0, 0.2: 2.0, 0.25: 0.0, 0.3125: 1.0, 0.99: 2.0, 1.0: 2.0}),
    ],
)
def test_schedules_at_known_points(schedule: str, points: dict[float, float]) -> None:
    config = ObjectiveConfig.model_validate({"beta": 2.0, "schedule": schedule, "warmup": 0.4, "cycles": 4})
    assert {at: beta_at(config, at) for at in points} == pytest.approx(points)


def test_a_capacity_rises_in_the_place_of_beta() -> None:
    config = ObjectiveConfig(beta=50.0, capacity=20.0, schedule="linear", warmup=0.4)
    assert {at: capacity_at(config, at) for at in (0.0, 0.1, 0.4, 1.0)} == {0.0: 0.0, 0.1: 5.0, 0.4: 20.0, 1.0: 20.0}
    assert {beta_at(config, at) for at in (0.0, 0.1, 1.0)} == {50.0}
    assert capacity_at(ObjectiveConfig(), 0.5) is None


@pytest.mark.parametrize(("capacity", "charged"), [(0.0, KL), (KL, 0.0), (KL + 2.0, 2.0)])
def test_a_capacity_charges_the_distance_to_it(capacity: float, charged: float) -> None:
    """On both sides: PyOD's clamp leaves a KL under its capacity free, and with capacity 0 charges nothing."""
    free = ObjectiveConfig(free_bits=100.0, free_bits_total=100.0)  # without effect here
    total, recon, kl = loss(X, output(), free, 3.0, capacity)
    assert (recon.item(), kl.item()) == (pytest.approx(RECON), pytest.approx(KL))
    assert (total - recon).item() == pytest.approx(3 * charged, abs=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_without_warm_up_beta_is_full_from_the_start(schedule: str) -> None:
    assert beta_at(ObjectiveConfig.model_validate({"beta": 3.0, "schedule": schedule, "warmup": 0.0}), 0.0) == 3.0


def test_a_missing_element_is_no_evidence() -> None:
    mean = MEAN.clone().requires_grad_()
    x = torch.tensor([[1.0, NAN]])
    assert elements(x, output(mean))[0].tolist() == pytest.approx([0.5 * 2.8378771, 0.0])
    recon, kl = terms(x, output(mean))
    assert recon.item() == pytest.approx(0.5 * 2.8378771)
    assert kl.item() == pytest.approx(KL)
    recon.sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [[-1.0, 0.0]]  # (mean - x) / variance, and nothing where x is missing


def test_active_units_by_hand() -> None:
    # variances 1.0, 0.0 and 0.0002: only the first is above 0.01
    mu = torch.tensor([[0.0, 5.0, 0.00], [1.0, 5.0, 0.01], [2.0, 5.0, 0.02]])
    assert active_units(mu).tolist() == [True, False, False]
    assert active_units(mu[:1]).tolist() == [False, False, False]
