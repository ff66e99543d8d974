"""torch's AdamW without the wrappers that torch.compile needs."""

from __future__ import annotations

from inspect import unwrap

import torch


class AdamW(torch.optim.AdamW):
    """torch's AdamW with its methods as they are inside the decorators for torch.compile: those import torch._dynamo
    when they are first called, which takes as long as importing torch itself. The numbers are the same bits."""

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
