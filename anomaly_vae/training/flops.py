"""Counts the floating-point operations and bytes of a computation while it runs."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class OperationCounter(TorchDispatchMode):
    """Counts, of products and convolutions within it, forwards and backwards: flops, their floating-point operations by
    torch's own formulas, and bytes, the sizes of what they read and write.

    torch's FlopCounterMode follows modules besides, and fails at one that is run again for its gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.bytes = 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self:  # what is made of others, as a linear layer is in inference mode, is counted by those
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor))
        return result


# torch wraps the method of a new mode against torch.compile, and the wrapper imports torch._dynamo at its first call
OperationCounter.__torch_dispatch__ = unwrap(OperationCounter.__torch_dispatch__)  # type: ignore[method-assign]
