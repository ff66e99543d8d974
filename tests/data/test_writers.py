"""Tables of scores for spreadsheets and for streams that take nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from anomaly_vae.data.writers import batch, open_writer

TEXTS = ["=1+1", "+1", "-1", "@x", "\tx", "plain", "a=b", "'=1", ""]


@pytest.mark.parametrize(("safe", "marked"), [(False, 0), (True, 5)])
def test_texts_that_begin_as_a_formula_get_an_apostrophe_when_asked(safe: bool, marked: int, tmp_path: Path) -> None:
    rows = pa.RecordBatch.from_pydict({"id": TEXTS, "score": [-1.5] * len(TEXTS)})
    with open_writer(tmp_path / "s.csv", rows.schema, safe) as write:
        write(rows)
    lines = (tmp_path / "s.csv").read_text().splitlines()[1:]
    assert [line.rpartition(",")[0] for line in lines] == [
        ("'" if number < marked else "") + text for number, text in enumerate(TEXTS)
    ]
    assert {line.rpartition(",")[2] for line in lines} == {"-1.5"}  # a number is no formula


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_is_shown_control_characters_and_a_pipe_gets_them(
    terminal: bool, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.RecordBatch.from_pydict({"id": ["\x1b[2Jx", "é\x07"], "score": [1, 2]})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    with open_writer(None, rows.schema) as write:
        write(rows)
    shown = ["\\x1b[2Jx,1", "é\\x07,2"] if terminal else ["\x1b[2Jx,1", "é\x07,2"]
    assert capsysbinary.readouterr().out.decode().split("\n") == ["id,score", *shown, ""]


def test_missing_texts_and_numbers_are_empty_cells_of_their_type(tmp_path: Path) -> None:
    texts, numbers = np.array([None, "a"], object), np.array([np.nan, 0.5])
    first = batch({"top1": texts[:1], "top1_nats": numbers[:1], "id": np.array([7], object)})
    second = batch({"top1": texts[1:], "top1_nats": numbers[1:], "id": np.array([8], object)})
    with open_writer(tmp_path / "s.csv", first.schema) as write:
        write(first)
        write(second)
    assert (tmp_path / "s.csv").read_text().splitlines() == ["top1,top1_nats,id", ",,7", "a,0.5,8"]
