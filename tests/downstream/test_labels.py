"""Labels come from lists, directories and data frames, and what is wrong with them is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vjepa_sdk.downstream.labels import check_classes, numbers_of, read_labels
from vjepa_sdk.errors import ConfigError, InputError


class Frame:
    """A data frame as pandas has it, as far as it is asked."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(rows[0])

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Make empty files: labels are read without looking into videos."""
    for name in ("a.mp4", "b.mp4", "walk/c.mp4", "walk/deep/d.mp4", "run/e.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def facts(labels: object, **options: str) -> list[tuple[str, str, str | None]]:
    found = read_labels(labels, **options)  # type: ignore[arg-type]
    return [(Path(clip.source.path).name, clip.label, clip.split) for clip in found.clips]


def test_a_csv_gives_paths_labels_splits_and_groups(clips: Path) -> None:
    table = write(clips / "l.csv", "path,label,split,group\na.mp4,walk,train,x\nb.mp4,run,Validation,y\n")
    assert facts(table) == [("a.mp4", "walk", "train"), ("b.mp4", "run", "val")]
    found = read_labels(table)
    assert [clip.group for clip in found.clips] == ["group x", "group y"] and found.grouped_by == "column 'group'"


def test_json_lines_and_the_official_lists_give_the_same(clips: Path) -> None:
    lines = "".join(json.dumps({"path": name, "label": label}) + "\n" for name, label in (("a.mp4", 3), ("b.mp4", 0)))
    assert facts(write(clips / "l.jsonl", lines)) == [("a.mp4", "3", None), ("b.mp4", "0", None)]
    assert facts(write(clips / "l.txt", "a.mp4 3\nb.mp4 0\n")) == [("a.mp4", "3", None), ("b.mp4", "0", None)]


def test_a_directory_for_each_class_gives_its_first_level_as_label(clips: Path) -> None:
    (clips / "a.mp4").unlink()
    (clips / "b.mp4").unlink()
    assert facts(clips) == [("e.mp4", "run", None), ("c.mp4", "walk", None), ("d.mp4", "walk", None)]


def test_a_video_beside_the_classes_is_refused(clips: Path) -> None:
    with pytest.raises(InputError, match=r"a\.mp4: lies beside the directories of the classes"):
        read_labels(clips)


def test_a_data_frame_gives_what_a_csv_would(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clips)
    frame = Frame([
        {"path": clips / "a.mp4", "label": np.int64(1), "split": "train", "start_seconds": 0.5},
        {"path": "b.mp4", "label": "x", "split": float("nan"), "start_seconds": float("nan")},
    ])  # fmt: skip
    assert facts(frame) == [("a.mp4", "1", "train"), ("b.mp4", "x", None)]
    assert [clip.source.start_seconds for clip in read_labels(frame).clips] == [0.5, None]


def test_clips_of_one_file_are_a_group_unless_the_table_says_otherwise(clips: Path) -> None:
    table = "path,label,start_seconds,end_seconds\na.mp4,x,0,1\na.mp4,y,1,2\nb.mp4,x,0,1\n"
    first, second, third = read_labels(write(clips / "l.csv", table)).clips
    assert first.group == second.group != third.group


def test_rows_without_a_label_are_counted(clips: Path) -> None:
    found = read_labels(write(clips / "l.csv", "path,label\na.mp4,x\nb.mp4,\n"))
    assert len(found.clips) == 1 and found.num_without_label == 1


def test_labels_are_trimmed_and_composed_and_keep_their_case_and_zeros(clips: Path) -> None:
    table = write(clips / "l.csv", "path,label\na.mp4, Cafe\u0301 \nb.mp4,01\n")
    assert [clip.label for clip in read_labels(table).clips] == ["Caf\u00e9", "01"]


def test_other_columns_may_hold_them(clips: Path) -> None:
    table = write(clips / "l.csv", "path,what,part,day\na.mp4,x,test,1\nb.mp4,y,train,2\n")
    names = {"label_column": "what", "split_column": "part", "group_column": "day"}
    assert facts(table, **names) == [("a.mp4", "x", "test"), ("b.mp4", "y", "train")]
    assert [clip.group for clip in read_labels(table, **names).clips] == ["day 1", "day 2"]  # type: ignore[arg-type]


def test_an_empty_split_column_leaves_splits_to_be_drawn(clips: Path) -> None:
    table = write(clips / "l.csv", "path,label,split\na.mp4,x,test\nb.mp4,y,train\n")
    assert facts(table, split_column="") == [("a.mp4", "x", None), ("b.mp4", "y", None)]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,tag\na.mp4,x\n", {}, "has no column 'label', only path, tag"),
        ("path,label\na.mp4,\n", {}, "no row has a label; fill in the column 'label'"),
        ("path,label,split\na.mp4,x,holdout\n", {}, "line 2: split='holdout' must be one of train, val, test"),
        ("path,label\na.mp4,x\na.mp4,y\n", {}, r"a\.mp4: has two labels, x and y; keep one"),
        ("path,label,split\na.mp4,x,train\na.mp4,x,test\n", {}, "in two splits; keep one"),
        ("path,label,id\na.mp4,x,1\nb.mp4,y,1\n", {}, "id '1' stands for 2 clips"),
        ("path,label\na.mp4,x\n", {"group_column": "day"}, "has no column 'day', only label, path"),
        ("path,label\na.mp4,x\n", {"split_column": "part"}, "has no column 'part', only label, path"),
        ("path,label,start\na.mp4,x,1\n", {}, "line 2: unknown column 'start'; use start_seconds"),
    ],
)
def test_mistakes_in_a_table_are_named(clips: Path, text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        facts(write(clips / "l.csv", text), **options)


def test_rows_that_repeat_others_count_once(clips: Path) -> None:
    assert len(read_labels(write(clips / "l.csv", "path,label\na.mp4,x\na.mp4,x\n")).clips) == 1


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent.csv: does not exist"):
        read_labels(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="labels of type int are neither a path nor a data frame"):
        read_labels(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="data frame has no column 'path', only file"):
        read_labels(Frame([{"file": "a.mp4"}]))


def test_numbers_are_no_classes_and_classes_no_numbers() -> None:
    check_classes(["1", "2", "-3"])
    check_classes(["1.5", "walk"])
    with pytest.raises(ConfigError, match=r"label=1\.5 is a number, not a class; pass kind='regression'"):
        check_classes(["1", "1.5"])
    assert numbers_of(["1", "2.5", "-1e3"]) == [1.0, 2.5, -1000.0]
    with pytest.raises(ConfigError, match="label='walk' must be a number for kind='regression'"):
        numbers_of(["1", "walk"])
