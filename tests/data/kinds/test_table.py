"""Tables: which columns are inputs, which are left out and why, and how a row is encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_vae.core.config import DataConfig
from anomaly_vae.core.errors import DataError
from anomaly_vae.data.open import open_memory, open_source
from anomaly_vae.data.readers import memory
from anomaly_vae.data.source import Chunk, Column, Layout, Source

N = 40
COUNTS = "an identifier: it counts the rows"


def opened(frame: pd.DataFrame, folder: Path, name: str = "x.csv", **settings: object) -> Source:
    frame.to_csv(folder / name, index=False)
    return open_source(folder / name, DataConfig.model_validate(settings))


def whole(source: Source, layout: Layout) -> Chunk:
    (chunk,) = source.chunks(layout, 10**6)
    return chunk


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": random.normal(size=N),
            "few": [i % 3 for i in range(N)],
            "flag": [i % 2 == 0 for i in range(N)],
            "colour": [["red", "green", "blue"][i % 3] for i in range(N)],
            "row_number": range(7, 7 + N),
            "ID": random.permutation(N),
            "constant": 4.0,
            "one_word": "same",
            "empty": np.nan,
            "name": [f"person {i}" for i in range(N)],
            "prose": [f"text {i // 2}" for i in range(N)],
            "when": pd.date_range("2020-01-01", periods=N)[random.permutation(N)],
            "label": [i % 2 for i in range(N)],
        }
    )


def test_inputs_and_what_is_left_out(frame: pd.DataFrame, tmp_path: Path) -> None:
    source = opened(frame, tmp_path, label="label", max_categories=5)
    layout = source.learn(np.arange(N))
    assert source.kind == "table"
    assert layout.shape == (7,)
    assert layout.read == (
        Column("x"), Column("few"), Column("flag", ("false", "true")), Column("colour", ("blue", "green", "red")),
    )  # fmt: skip
    watched = (Column("constant", None, 4.0), Column("one_word", ("same",), 0.0), Column("empty", (), -1.0))
    assert layout.watched == watched
    assert layout.columns == layout.read + watched
    assert layout.left_out == {
        "row_number": f"{COUNTS}; --set 'data.keep=[row_number]' keeps it as an input",
        "ID": "an identifier: named like one, and different in every row; --set 'data.keep=[ID]' keeps it as an input",
        "name": "text that is different in every row, so it is the id of the output; data.id can name another column",
        "prose": "free text: 20 distinct values, data.max_categories allows 5",
        "when": "a timestamp",
        "label": "the label column",
    }


def test_a_row_number_is_found_on_any_choice_of_rows(frame: pd.DataFrame, tmp_path: Path) -> None:
    layout = opened(frame, tmp_path).learn(np.array([3, 4, 9, 20, 21, 37]))
    assert layout.left_out["row_number"].startswith(COUNTS)
    assert layout.left_out["label"] == (
        "named like a label; --label label takes it as one, --set 'data.keep=[label]' keeps it as an input"
    )


def test_only_training_rows_are_looked_at(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2, 3, 4, 5, 6], "b": [1, 1, 1, 1, 2, 3], "c": list("uuvvww")})
    layout = opened(frame, tmp_path).learn(np.arange(4))
    assert layout.columns == (Column("a"), Column("c", ("u", "v")), Column("b", None, 1.0))


def test_encoding(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, np.nan, 3, 4], "c": ["u", "v", None, "u"], "t": [True, False, None, True]})
    source = opened(frame, tmp_path)
    layout = source.learn(np.arange(4))
    nan = np.nan  # of a number; a missing category that training shows is a category, the last
    np.testing.assert_array_equal(whole(source, layout).values, [[1.5, 0, 1], [nan, 1, 0], [3, 2, 2], [4, 0, 1]])

    # Another order, a column more, an unseen category, truth values as digits: found by name, and encoded alike.
    other = pd.DataFrame({"t": [1, 0], "more": [9, 9], "c": ["v", "new"], "a": [0, -1]})
    np.testing.assert_array_equal(whole(opened(other, tmp_path, "y.csv"), layout).values, [[0, 1, 1], [-1, 3, 0]])


def test_memory_and_files_give_the_same_values(frame: pd.DataFrame, tmp_path: Path) -> None:
    on_disk, in_memory = opened(frame, tmp_path), open_memory(frame, DataConfig())
    frame.to_parquet(tmp_path / "x.parquet")
    parquet = open_source(tmp_path / "x.parquet", DataConfig())
    layout = on_disk.learn(np.arange(N))
    assert in_memory.learn(np.arange(N)) == layout == parquet.learn(np.arange(N))
    for source in (in_memory, parquet):
        np.testing.assert_allclose(whole(source, layout).values, whole(on_disk, layout).values, rtol=1e-15)


def test_a_pandas_category_is_a_category_even_of_numbers() -> None:
    frame = pd.DataFrame({"a": [0.5, 1, 2, 3], "code": pd.Categorical([7, 8, 7, 8])})
    assert open_memory(frame, DataConfig()).learn(np.arange(4)).columns == (Column("a"), Column("code", ("7", "8")))


@pytest.mark.parametrize("type_", ["float64", "float32", "float16", "int64", "uint8", "bool", "object", "Int64"])
def test_columns_of_one_type_are_read_as_beside_others(type_: str) -> None:
    """Numbers of one type are taken from a frame at once, others column by column."""
    frame = pd.DataFrame({"a": [0, 1, 1], 7: [1, 0, 1]}).astype(type_)
    if type_ == "float64":
        frame.loc[1, "a"] = np.nan
    alone, beside = memory.from_frame(frame), memory.from_frame(frame.assign(text=["x", "y", None]))
    assert alone.columns == ["a", "7"]
    assert alone.peek.equals(beside.peek.drop_columns(["text"]))
    assert alone.peek["a"].null_count == (type_ == "float64")


def test_an_array_and_its_labels() -> None:
    values = np.array([[1.0, 2], [3, np.nan], [5, 7]])
    source = open_memory(values, DataConfig(), labels=[0, 1, 1.0])
    layout = source.learn(np.arange(3))
    assert [column.name for column in layout.columns] == ["x0", "x1"]
    first, second = source.chunks(layout, 2)
    np.testing.assert_array_equal(np.concatenate([first.values, second.values]), values)
    labels = source.labels()
    assert labels is not None
    assert labels[:].tolist() == ["0", "1", "1"]
    with pytest.raises(DataError, match="2 labels for 3 rows"):
        open_memory(values, DataConfig(), labels=[0, 1])


def test_labels_and_ids_follow_their_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [0.5, 1, 7], "who": ["x1", "x2", "x3"], "anomaly": [0.0, 1.0, 0.0]})
    source = opened(frame, tmp_path, label="anomaly", id="who")
    chunk = whole(source, source.learn(np.arange(3)))
    labels = source.labels()
    assert chunk.ids.tolist() == ["x1", "x2", "x3"]
    assert labels is not None
    assert labels[:].tolist() == ["0", "1", "0"]


def test_a_label_may_be_absent_when_scoring_but_not_when_fitting(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [0.5, 1, 7], "y": [0, 1, 0]})
    layout = opened(frame, tmp_path, label="y").learn(np.arange(3))
    unlabelled = opened(frame[["a"]], tmp_path, "z.csv", label="y")
    assert len(whole(unlabelled, layout)) == 3
    with pytest.raises(DataError, match=r"label column 'y' not found; the columns are 'a'"):
        unlabelled.labels()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": "no"}, r"column 'no' not found; the columns are 'a', 'b'"),
        ({"group": "no"}, r"column 'no' not found"),
        ({"drop": ["no"]}, r"data\.drop: 'no' not found"),
        ({"drop": ["a", "b"]}, r"no column is left to learn from \('a': left out by data\.drop"),
    ],
)
def test_a_setting_that_names_no_column(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(pd.DataFrame({"a": [1, 2], "b": [4, 3]}), tmp_path, **settings).learn(np.arange(2))


def test_missing_columns_are_named(tmp_path: Path) -> None:
    layout = opened(pd.DataFrame({"a": [1, 2.5], "b": [4, 3.5], "c": [1, 9.5]}), tmp_path).learn(np.arange(2))
    with pytest.raises(DataError, match=r"input column 'a', 'c' not found; the columns are 'b', 'd'"):
        whole(opened(pd.DataFrame({"b": [1], "d": [2]}), tmp_path, "y.csv"), layout)


def test_text_in_a_scored_file(tmp_path: Path) -> None:
    layout = opened(pd.DataFrame({"a": [1, 2.5], "b": [4, 3.5]}), tmp_path).learn(np.arange(2))
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'b': 'off' is not a number"):
        whole(opened(pd.DataFrame({"a": [1, 2], "b": ["4", "off"]}), tmp_path, "y.csv"), layout)
    with pytest.raises(DataError, match=r"row 2, column 'b': 'off' is not a number"):
        whole(open_memory(pd.DataFrame({"a": [1, 2], "b": ["4", "off"]}), DataConfig()), layout)


def test_the_layout_survives_json(frame: pd.DataFrame, tmp_path: Path) -> None:
    layout = opened(frame, tmp_path, label="label").learn(np.arange(N))
    assert Layout.from_json(layout.to_json()) == layout
