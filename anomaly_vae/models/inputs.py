"""How the rows of a table enter a network and leave it: numbers as they are, categories one-hot and as logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RowInputs(nn.Module):
    """Which elements of a row are numbers and which are categories.

    categories: for each element the number of its classes, 0 for a number.
    """

    numbers: Tensor  # (F_n,) positions of the numbers
    named: Tensor  # (F_c,) positions of the categories
    continuous: Tensor | None  # (F,) 1 where an element is a number; None: all are

    def __init__(self, categories: tuple[int, ...]) -> None:
        super().__init__()
        self.classes = tuple(k for k in categories if k)
        self.columns = tuple(i for i, k in enumerate(categories) if k)  # an index on a device would be waited for
        numbers = torch.tensor([i for i, k in enumerate(categories) if not k], dtype=torch.long)
        named = torch.tensor(self.columns, dtype=torch.long)
        continuous = torch.tensor([float(not k) for k in categories]) if self.classes else None
        # not persistent: they follow from the layout, which a detector keeps
        for name, value in (("numbers", numbers), ("named", named), ("continuous", continuous)):
            self.register_buffer(name, value, persistent=False)
        self.elements = len(categories)
        self.inputs = len(numbers) + sum(self.classes)  # numbers that a network reads of a row

    def pick(self, x: Tensor) -> Tensor:
        """The numbers (..., F_n) of x (..., F); x itself where all are."""
        return x[..., self.numbers] if self.classes else x

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) the network's input for x (B, *shape): numbers, then one-hot classes; 0 where x is missing.

        A condition behind the elements of x is left out."""
        x = x.flatten(1)  # (B, F)
        pieces = [torch.nan_to_num(self.pick(x[:, : self.elements]))]
        for column, k in zip(self.columns, self.classes, strict=True):
            code = x[:, column]
            one_hot = F.one_hot(torch.nan_to_num(code).long(), k).to(x.dtype)
            pieces.append(one_hot * ~torch.isnan(code)[:, None])
        return torch.cat(pieces, dim=1) if self.classes else pieces[0]
