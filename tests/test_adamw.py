"""The optimiser is torch's fused AdamW to the bit, with steps that are left out, and continues from its state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anomaly_vae.adamw import AdamW

LR, BETAS, DECAY = 0.1, (0.9, 0.98), 0.1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def differentiate(model: nn.Module, seed: int, unused: bool) -> None:
    """Gradients of a loss of random numbers; unused: none for the first layer."""
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    hidden = model[:2](x)  # type: ignore[index]
    model[2](hidden.detach() if unused else hidden).square().sum().backward()  # type: ignore[index, operator]


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_every_step_is_that_of_torchs_own() -> None:
    ours, theirs = network(), network()
    optimizer = AdamW(ours.parameters(), LR, BETAS, DECAY)
    reference = torch.optim.AdamW(theirs.parameters(), LR, BETAS, weight_decay=DECAY, fused=True)
    for seed, (failed, unused) in enumerate([(0, 1), (0, 0), (1, 0), (0, 0), (0, 1)]):
        before = weights(ours)
        for model in (ours, theirs):
            differentiate(model, seed, unused=bool(unused))
        optimizer.lr = reference.param_groups[0]["lr"] = LR / (1 + seed)
        reference.found_inf = torch.tensor(float(failed))  # type: ignore[attr-defined]
        reference.grad_scale = None  # type: ignore[attr-defined]
        reference.step()
        optimizer.step(torch.tensor(float(failed)))
        for mine, other, old in zip(weights(ours), weights(theirs), before, strict=True):
            assert torch.equal(mine, other)
            assert torch.equal(mine, old) or not failed
    assert not torch.equal(weights(ours)[0], weights(network())[0])
    state = reference.state_dict()["state"]
    for number, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            torch.testing.assert_close(value, state[number][name], rtol=0, atol=0)


def test_it_goes_on_from_its_state() -> None:
    whole, broken = network(), network()
    one, two = (AdamW(model.parameters(), LR, BETAS, DECAY) for model in (whole, broken))
    for seed in range(3):
        for model, optimizer in ((whole, one), (broken, two)):
            differentiate(model, seed, unused=False)
            optimizer.step()
        two, before = AdamW(broken.parameters(), LR, BETAS, DECAY), two
        two.load_state_dict(before.state_dict())
    assert all(map(torch.equal, weights(whole), weights(broken)))


def test_the_state_of_another_network_is_refused() -> None:
    model = network()
    optimizer = AdamW(model.parameters(), LR, BETAS, DECAY)
    differentiate(model, 0, unused=False)
    optimizer.step()
    for other in (nn.Linear(5, 7), nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))):
        with pytest.raises(ValueError, match=r"the state of parameter . does not fit"):
            AdamW(other.parameters(), LR, BETAS, DECAY).load_state_dict(optimizer.state_dict())
