"""The codebook and its priors: worked by hand, by counting, and against what they were trained on."""

from __future__ import annotations

import math

import pytest
import torch

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.models.quantizer import DECAY, PRIORS, Causal, Codebook, Unigram
from anomaly_vae.models.registry import build
from anomaly_vae.models.vq import VectorQuantisedVAE
from anomaly_vae.training.objective import perplexity


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_vector_is_written_as_the_code_nearest_to_it() -> None:
    book = Codebook(5, 3)
    x = torch.randn(2, 4, 3)
    nearest = torch.cdist(x, book.vectors.expand(2, -1, -1)).argmin(-1)
    assert torch.equal(book.nearest(x), nearest)
    assert torch.equal(book(nearest)[1, 2], book.vectors[nearest[1, 2]])


def test_codes_are_moving_averages_of_what_is_assigned_to_them() -> None:
    book = Codebook(2, 1)
    book.vectors.copy_(torch.tensor([[0.0], [10.0]]))
    book.use.copy_(torch.tensor([2.0, 2.0]))
    book.sums.copy_(book.vectors * book.use[:, None])
    book.update(torch.tensor([[[1.0], [2.0], [3.0], [9.0]]]), generator())
    use = [DECAY * 2 + (1 - DECAY) * 3, DECAY * 2 + (1 - DECAY) * 1]
    sums = [(1 - DECAY) * 6, DECAY * 20 + (1 - DECAY) * 9]
    assert book.vectors[:, 0].tolist() == pytest.approx([sums[0] / use[0], sums[1] / use[1]], rel=1e-5)


def test_a_dead_code_is_put_where_there_is_data() -> None:
    book = Codebook(3, 1)
    book.vectors.copy_(torch.tensor([[0.0], [1.0], [999.0]]))
    book.use.fill_(2.0)
    book.sums.copy_(book.vectors * book.use[:, None])
    x = torch.tensor([0.0, 1.0, 0.2, 0.8, 0.1, 0.9])[None, :, None]
    for _ in range(400):
        book.update(x, generator())
    assert book.vectors.max() < 2
    assert perplexity(book.nearest(x)) == pytest.approx(3, abs=0.5)


def test_perplexity_by_hand() -> None:
    assert perplexity(torch.tensor([[0, 1], [2, 3]])) == pytest.approx(4.0)
    assert perplexity(torch.zeros(3, 2, dtype=torch.long)) == pytest.approx(1.0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert perplexity(torch.tensor([5, 5, 5, 1])) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("sides", [(3,), (1, 3), (2, 2)])
def test_a_prior_is_one_distribution_over_all_maps(kind: str, sides: tuple[int, ...]) -> None:
    """exp(-nats) of every map there is adds up to 1."""
    torch.manual_seed(0)
    prior = PRIORS[kind](2, sides)
    positions = math.prod(sides)
    everything = torch.cartesian_prod(*[torch.arange(2)] * positions)
    assert everything.shape == (2**positions, positions)
    assert torch.exp(-prior.nats(everything).sum(1)).sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", PRIORS)
def test_draws_follow_the_prior(kind: str) -> None:
    torch.manual_seed(0)
    prior = PRIORS[kind](2, (2, 2))
    for parameter in prior.parameters():
        parameter.data.mul_(3)  # away from a uniform
    if isinstance(prior, Unigram):
        prior.logits.data.copy_(torch.tensor([0.0, 1.5]))
    everything = torch.cartesian_prod(*[torch.arange(2)] * 4)
    p = torch.exp(-prior.nats(everything).sum(1))
    drawn = prior.draw(8000, generator())
    share = (drawn @ torch.tensor([8, 4, 2, 1])).bincount(minlength=16) / 8000
    torch.testing.assert_close(share, p.detach(), atol=0.03, rtol=0)
    assert p.max() > 2 * p.min()


def test_the_causal_prior_learns_what_the_unigram_cannot() -> None:
    """Maps whose first code decides all others: log 2 nats, where the unigram pays log 2 for each position."""
    codes = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]]).repeat(16, 1)
    nats = {}
    for kind, prior in (("unigram", Unigram(2, (2, 2))), ("causal", Causal(2, (2, 2)))):
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(prior.parameters(), 0.03)
        for _ in range(60):
            optimizer.zero_grad()
            total = prior.nats(codes).sum(1).mean()
            total.backward()
            optimizer.step()
        nats[kind] = total.item()
    assert nats["unigram"] == pytest.approx(4 * math.log(2), abs=0.05)
    assert nats["causal"] == pytest.approx(math.log(2), abs=0.15)


def vq(**settings: object) -> VectorQuantisedVAE:
    torch.manual_seed(0)
    base = {
        "kind": "vq", "latent": 4, "channels": (8,), "blocks": 0, "codes": 8, "code_prior": "unigram",
        "commitment": 0.25, "likelihood": "gaussian", "sigma": "shared", "sigma_min": 0.1, "sigma_value": 0.5,
    }  # fmt: skip
    model = build(ModelConfig.model_validate(base | settings), (1, 8, 8))
    assert isinstance(model, VectorQuantisedVAE)
    return model


def test_gradients_pass_the_codebook_straight_through() -> None:
    """The encoder's output gets the gradient of its quantised version, and that of the commitment alone besides."""
    model = vq(commitment=0.0).train()
    x = torch.rand(3, 1, 8, 8)
    read = model._read(x).detach().requires_grad_()
    quantised = model.codebook(model.codebook.nearest(read)).detach().requires_grad_()
    model.decode(model._flat(quantised)).nll(x).sum().backward()
    model._read = lambda _: read  # type: ignore[method-assign]
    out = model(x)
    (out.px.nll(x).sum() + out.kl.sum() + out.aux.sum()).backward()
    torch.testing.assert_close(read.grad, quantised.grad)


def test_the_commitment_is_the_squared_distance_to_the_codes() -> None:
    model, x = vq(commitment=0.5).train(), torch.rand(3, 1, 8, 8)
    read = model._read(x)
    distance = (read - model.codebook(model.codebook.nearest(read))).square().sum((1, 2))
    torch.testing.assert_close(model(x).aux, 0.5 * distance)


def test_the_codebook_moves_in_training_alone() -> None:
    model, x = vq(), torch.rand(3, 1, 8, 8)
    before = model.codebook.vectors.clone()
    model.eval()(x, generator())
    model.train()(x)
    assert torch.equal(model.codebook.vectors, before)
    model.train()(x, generator())
    assert not torch.equal(model.codebook.vectors, before)
