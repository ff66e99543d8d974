"""AdamW without torch.compile's wrappers trains as torch's own does."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_vae.training.optimizer import AdamW


def trained(optimiser: type[torch.optim.AdamW], again: bool) -> Tensor:
    """Weights after six steps, the third of which is skipped. again: go on from a saved state after three."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2))

    def new() -> torch.optim.AdamW:
        return optimiser(net.parameters(), 1e-2, betas=(0.9, 0.98), weight_decay=0.1, fused=True)

    current = new()
    for step in range(6):
        if again and step == 3:
            state, current = current.state_dict(), new()
            current.load_state_dict(state)
        current.zero_grad(set_to_none=True)
        net(torch.randn(9, 5)).square().mean().backward()
        current.found_inf, current.grad_scale = torch.tensor(float(step == 2)), None  # type: ignore[attr-defined]
        current.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_the_weights_are_the_bits_of_torchs_adamw() -> None:
    ours = trained(AdamW, again=True)
    assert torch.equal(ours, trained(torch.optim.AdamW, again=False))
