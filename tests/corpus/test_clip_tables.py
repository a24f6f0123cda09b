"""What lists and data frames say of clips besides their paths goes with them; nothing is lost or mixed in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_sdk.corpus.find import find_clips
from vjepa_sdk.corpus.tables import columns_of
from vjepa_sdk.errors import InputError
from vjepa_sdk.features.columns import OURS, kinds_of


class Polars:
    """What a data frame of polars has, a `to_dict` of columns included."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows, self.columns = rows, list(rows[0])

    def to_dicts(self) -> list[dict[str, Any]]:
        return self._rows

    def to_dict(self, *, as_series: bool = True) -> dict[str, list[Any]]:
        return {name: [row[name] for row in self._rows] for name in self.columns}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path(f"{name}.mp4").touch()


def columns(*inputs: Any, split: str | None = None) -> dict[str, Any]:
    return {clip.path: clip.columns for clip in find_clips(inputs, split=split).clips("frames")}


def test_columns_of_a_csv_are_text_and_empty_cells_are_null() -> None:
    Path("a.csv").write_text("path,label,group,start_seconds\na.mp4,walk,7,\nb.mp4,,8,\n")
    assert columns("a.csv") == {"a.mp4": {"label": "walk", "group": "7"}, "b.mp4": {"label": None, "group": "8"}}


def test_columns_of_json_lines_keep_their_kinds() -> None:
    Path("a.jsonl").write_text('{"path": "a.mp4", "label": 3, "tags": ["x", {"y": null}], "score": NaN, "ok": true}\n')
    assert columns("a.jsonl") == {"a.mp4": {"label": 3, "tags": ["x", {"y": None}], "score": None, "ok": True}}


def test_numbers_behind_paths_are_labels() -> None:
    Path("a.txt").write_text("a.mp4 4\nb.mp4\n")
    assert columns("a.txt") == {"a.mp4": {"label": "4"}, "b.mp4": {}}


def test_clips_that_no_list_names_have_no_columns_at_all() -> None:
    assert columns("a.mp4", "b.mp4") == {"a.mp4": None, "b.mp4": None}


def test_columns_named_like_those_of_the_index_have_a_prefix() -> None:
    row = {"path": "a.mp4", **{name: "x" for name in OURS - {"path", "id", "start_seconds", "end_seconds"}}}
    found = columns_of("here", row)
    assert found.keys().isdisjoint(OURS) and {"list_frames", "list_size", "list_embedding"} <= found.keys()
    assert len(found) == len(row) - 1


def test_names_that_would_fall_together_are_refused() -> None:
    Path("a.csv").write_text("path,size,list_size\na.mp4,1,2\n")
    with pytest.raises(InputError, match=r"a.csv: line 2: two columns would be 'list_size' in the index; rename"):
        columns("a.csv")


def test_names_that_no_table_takes_are_refused() -> None:
    Path("a.csv").write_bytes(b"path,gr\xf6sse\na.mp4,1\n")
    with pytest.raises(InputError, match=r"a.csv: line 2: the name of the column '.*sse' is not UTF-8; rename it"):
        columns("a.csv")
    Path("b.csv").write_text("path,größe\u00a0m\na.mp4,1\n", encoding="utf-8")
    assert columns("b.csv") == {"a.mp4": {"größe\u00a0m": "1"}}


def test_columns_without_a_name_are_left_out() -> None:
    Path("a.csv").write_text(",path,label,\n0,a.mp4,walk,\n")
    assert columns("a.csv") == {"a.mp4": {"label": "walk"}}


def test_a_text_with_a_comma_is_not_cut() -> None:
    Path("a.csv").write_text("path,label\na.mp4,run, fast\n")
    with pytest.raises(InputError, match="a.csv: line 2: has more cells than the header; put quotes around text"):
        columns("a.csv")


def test_a_clip_of_a_list_and_of_a_directory_has_the_columns_of_the_list() -> None:
    Path("a.csv").write_text("path,label\nb.mp4,walk\n")
    expected = {"a.mp4": None, "b.mp4": {"label": "walk"}, "c.mp4": None}
    assert columns(".", "a.csv") == columns("a.csv", ".") == expected


def test_lists_that_say_different_columns_of_a_clip_are_joined() -> None:
    Path("a.csv").write_text("path,label\na.mp4,walk\n")
    Path("b.csv").write_text("path,group,label\na.mp4,7,walk\n")
    assert columns("a.csv", "b.csv") == {"a.mp4": {"label": "walk", "group": "7"}}


def test_two_labels_of_one_clip_are_refused_and_two_ids_are_not() -> None:
    Path("a.csv").write_text("path,label\na.mp4,walk\na.mp4,run\n")
    with pytest.raises(InputError, match="a.mp4: has two values in the column 'label', 'walk' and 'run'; keep one"):
        columns("a.csv")
    Path("b.csv").write_text("path,label,id\na.mp4,walk,1\na.mp4,run,2\n")
    assert [clip.columns for clip in find_clips("b.csv").clips("frames")] == [{"label": "walk"}, {"label": "run"}]


class TestSplit:
    def test_only_its_lines_are_taken(self) -> None:
        Path("a.csv").write_text("path,split\na.mp4,train\nb.mp4,val\nc.mp4,train\n")
        assert list(columns("a.csv", split="train")) == ["a.mp4", "c.mp4"]
        assert list(columns("@a.csv", split="val")) == ["b.mp4"]

    def test_of_numbers_is_named_by_their_text(self) -> None:
        Path("a.jsonl").write_text('{"path": "a.mp4", "split": 1}\n{"path": "b.mp4", "split": 2}\n')
        assert list(columns("a.jsonl", split="2")) == ["b.mp4"]

    def test_that_is_not_there_is_an_error_that_names_those_that_are(self) -> None:
        Path("a.csv").write_text("path,split\na.mp4,train\nb.mp4,val\nc.mp4,\n")
        with pytest.raises(InputError, match=r"a.csv: lists no clips with split='test'; its splits are train, val"):
            find_clips("a.csv", split="test")

    @pytest.mark.parametrize("item", ["a.txt", "a.mp4", ".", "*.mp4"])
    def test_needs_a_list_that_has_it(self, item: str) -> None:
        Path("a.txt").write_text("a.mp4 4\n")
        with pytest.raises(InputError, match="split='train' needs"):
            find_clips(item, split="train")


class TestDataFrames:
    ROWS = ({"path": "a.mp4", "label": "walk", "take": 1}, {"path": "b.mp4", "label": None, "take": 2})

    @pytest.mark.parametrize("make", [pd.DataFrame, Polars, lambda rows: pa.Table.from_pylist(rows)])
    def test_of_every_library_are_lists(self, make: Any) -> None:
        found = columns(make(list(self.ROWS)))
        assert found == {"a.mp4": {"label": "walk", "take": 1}, "b.mp4": {"label": None, "take": 2}}
        assert type(found["a.mp4"]["take"]) is int

    def test_stand_beside_paths(self) -> None:
        frame = pd.DataFrame({"path": [Path("a.mp4")], "label": ["walk"]})
        assert columns(frame, "b.mp4") == {"a.mp4": {"label": "walk"}, "b.mp4": None}
        assert find_clips(frame).clips("frames")[0].id == "a.mp4"

    def test_cells_become_plain_data(self) -> None:
        frame = pd.DataFrame(
            {
                "path": ["a.mp4", "b.mp4"],
                "day": [pd.Timestamp("2026-01-02"), pd.NaT],
                "box": [np.array([1, 2]), None],
                "count": pd.array([5, None], dtype="Int64"),
                "score": np.float32([0.5, np.nan]),
            }
        )
        found = columns(frame)
        assert json.loads(json.dumps(found)) == {
            "a.mp4": {"day": "2026-01-02T00:00:00", "box": [1, 2], "count": 5, "score": 0.5},
            "b.mp4": {"day": None, "box": None, "count": None, "score": None},
        }

    def test_what_is_no_plain_data_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"data frame: line 1: column 'x': holds a complex, which JSON has not"):
            columns(pd.DataFrame({"path": ["a.mp4"], "x": [1j]}))

    def test_need_paths(self) -> None:
        with pytest.raises(InputError, match="data frame has no column 'path', only file; name it so"):
            columns(pd.DataFrame({"file": ["a.mp4"]}))
        with pytest.raises(InputError, match="data frame: row 2 has no path; correct it"):
            columns(pd.DataFrame({"path": ["a.mp4", None]}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(min_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(values=st.lists(JSON, min_size=1))
def test_every_value_fits_the_kind_of_its_column(values: list[Any]) -> None:
    from vjepa_sdk.features.parquet import cell_of

    kind = kinds_of([{"x": value} for value in values])["x"]
    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(), "json": pa.string()}
    cells = pa.array([cell_of(value, kind) for value in values], types[kind]).to_pylist()
    for value, cell in zip(values, cells, strict=True):
        read = json.loads(cell) if kind == "json" and cell is not None else cell
        assert read == (float(value) if kind == "float" and value is not None else value)
