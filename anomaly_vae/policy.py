"""The grammar of threshold policies: a name and, where it takes one, a number."""

from __future__ import annotations

from typing import NamedTuple


class Policy(NamedTuple):
    """A rule for choosing a threshold: its name and, where it takes one, its number."""

    name: str
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Policy:
        """`youden`, `f1`, `fpr=RATE`, `recall=RATE`, `cost=RATIO` or `tail=RATE`; else raises ValueError."""
        name, equals, number = text.partition("=")
        if name in ("youden", "f1") and not equals:
            return cls(name)
        if name in ("fpr", "recall", "cost", "tail") and equals:
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if (0 < value < 1) or (name == "recall" and value == 1) or (name == "cost" and 0 < value < float("inf")):
                return cls(name, value)
        raise ValueError(
            f"'{text}' is no threshold policy; use youden, f1, fpr=0.01, recall=0.95, cost=10 (a miss costs 10 false"
            " alarms) or tail=0.001"
        )

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value:g}"
