"""The study of reasons: faults are in one cell each, and its figures are worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines import reasons


def test_a_fault_is_in_one_cell_and_what_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasons, "COPIES", 5)
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.normal(3, 1, 90), "b": rng.normal(size=90), "c": rng.choice(["x", "y"], 90)})
    train, rest = rows[:60], rows[60:].reset_index(drop=True)
    faults, columns, altered = reasons.altered(train, rest, rng)
    assert len(faults) == len(columns) == len(altered) == 30
    for fault, column, row in zip(faults, columns, altered.itertuples(index=False), strict=True):
        same = [all(getattr(row, n) == rest.at[i, n] for n in rest if n != column) for i in range(len(rest))]
        was = rest.at[int(np.flatnonzero(same)[0]), column]
        value = getattr(row, column)
        assert value != was and (column == "c") == (fault == "category" or (fault == "swapped" and column == "c"))
        if fault == "far":
            low, high = train[column].min(), train[column].max()
            assert min(abs(value - (2 * high - low)), abs(value - (2 * low - high))) < 1e-9
        if fault in ("sign", "stuck"):
            assert value == (-was if fault == "sign" else 0.0)
        if fault == "offset":
            assert abs(value - was) == pytest.approx(4 * train[column].std())


def test_the_figures_of_faults() -> None:
    faults = np.array(["far", "far", "stuck", "stuck"])
    found = (np.array([True, True, False, False]), np.array([True, False, True, False]), np.array([False] * 4))
    figures = reasons.by_fault(faults, found)
    assert figures["far"] == {
        "faults": 2,
        "alarmed": 1,
        "right_alarmed": 0.5,
        "right": 0.5,
        "before_alarmed": 0,
        "before": 0,
    }
    assert figures["stuck"] == {"faults": 2, "alarmed": 0, "right": 0.5, "before": 0}
    assert figures["all"]["right"] == 0.5 and figures["all"]["right_alarmed"] == 0.5
