"""AdamW by torch's fused kernel, without what torch.optim brings along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

EPS = 1e-8
SLOTS = ("step", "exp_avg", "exp_avg_sq")  # of a parameter, as torch.optim names them


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), to the bit `torch.optim.AdamW(fused=True)`.

    torch.optim imports torch._dynamo when an optimiser is made, and with it sympy and triton: 1.2 s of CPU, a tenth of
    a fit of the embedded data. lr may be set between steps.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        self.parameters, self.lr, self.betas, self.weight_decay = list(parameters), lr, betas, weight_decay
        self._state: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, failed: Tensor | None = None) -> None:
        """One step of the parameters that have a gradient. failed: () 1 where the step is to be left out, which is
        decided on the device; else 0."""
        some = {number: p for number, p in enumerate(self.parameters) if p.grad is not None}
        if not some:
            return
        for number, parameter in some.items():
            if number not in self._state:
                self._state[number] = _zeros(parameter)
        gradients = [p.grad for p in some.values() if p.grad is not None]
        steps, means, squares = ([self._state[number][slot] for number in some] for slot in SLOTS)
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            list(some.values()), gradients, means, squares, [], steps, lr=self.lr, beta1=self.betas[0],
            beta2=self.betas[1], weight_decay=self.weight_decay, eps=EPS, amsgrad=False, maximize=False,
            grad_scale=None, found_inf=failed,
        )  # fmt: skip
        if failed is not None:
            torch._foreach_sub_(steps, [failed] * len(steps))

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._state}

    def load_state_dict(self, tree: Mapping[str, Any]) -> None:
        """Raises ValueError for the state of other parameters."""
        state: dict[int, dict[str, Tensor]] = {}
        for number, slots in tree["state"].items():
            parameter = self.parameters[number] if number < len(self.parameters) else None
            if parameter is None or slots["exp_avg"].shape != parameter.shape:
                raise ValueError(f"the state of parameter {number} does not fit")
            state[number] = {slot: slots[slot].to(parameter.device) for slot in SLOTS}
        self._state = state


def _zeros(parameter: Tensor) -> dict[str, Tensor]:
    """The slots of a parameter before its first step."""
    step = torch.zeros((), device=parameter.device)
    moments = (torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in SLOTS[1:])
    return dict(zip(SLOTS, (step, *moments), strict=True))
