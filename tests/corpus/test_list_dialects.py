"""Lists in the dialects that people write say what they mean, or what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vjepa_sdk.corpus.lists import read_sources, read_table
from vjepa_sdk.errors import InputError


def names(path: Path) -> list[str]:
    return [Path(source.path).name for source in read_sources(path)]


def make(place: Path, *clips: str) -> Path:
    for clip in clips:
        (place / clip).touch()
    return place


def test_a_name_that_ends_like_a_label_is_the_file_that_is_there(tmp_path: Path) -> None:
    (make(tmp_path, "scene 1", "b.mp4") / "l.txt").write_text("scene 1\nb.mp4 7\n")
    assert names(tmp_path / "l.txt") == ["scene 1", "b.mp4"]
    assert [row.get("label") for _, row in read_table(tmp_path / "l.txt")] == [None, "7"]


def test_a_line_that_may_mean_two_clips_is_refused(tmp_path: Path) -> None:
    (make(tmp_path, "scene", "scene 1") / "l.txt").write_text("scene 1\n")
    with pytest.raises(InputError, match="line 1: may name 'scene 1', or 'scene' with the label 1, and both exist"):
        names(tmp_path / "l.txt")


@pytest.mark.parametrize("mark", [";", "\t"], ids=["semicolon", "tab"])
def test_other_marks_part_columns_where_the_header_says_so(mark: str, tmp_path: Path) -> None:
    text = "path;label\na.mp4;0\nb.mp4;1\n".replace(";", mark)
    (make(tmp_path, "a.mp4", "b.mp4") / "l.csv").write_text(text)
    assert names(tmp_path / "l.csv") == ["a.mp4", "b.mp4"]
    assert [row["label"] for _, row in read_table(tmp_path / "l.csv")] == ["0", "1"]


@pytest.mark.parametrize("header", ["video_path,label", "label;file_name", '"clip","label"'])
def test_a_header_without_path_names_the_column_that_may_be_it(tmp_path: Path, header: str) -> None:
    (make(tmp_path, "a.mp4") / "l.csv").write_text(f"{header}\na.mp4,0\n")
    with pytest.raises(InputError, match="has the columns .* and no 'path'; rename '(video_path|file_name|clip)'"):
        names(tmp_path / "l.csv")


def test_a_first_line_that_is_a_clip_is_no_header(tmp_path: Path) -> None:
    (make(tmp_path, "my video, cut.mp4") / "l.csv").write_text("my video, cut.mp4\n")
    assert names(tmp_path / "l.csv") == ["my video, cut.mp4"]


def test_a_name_may_hold_what_unicode_takes_for_the_end_of_a_line(tmp_path: Path) -> None:
    (make(tmp_path, "a\u2028b.mp4") / "l.txt").write_text("a\u2028b.mp4\r\n", encoding="utf-8")
    assert names(tmp_path / "l.txt") == ["a\u2028b.mp4"]


def test_lines_that_say_the_same_share_it_and_what_only_equals_it_stays_itself(tmp_path: Path) -> None:
    values = ("1", "true", "1.0", "1", '"a"', '"a"')
    lines = [f'{{"path": "{number}.mp4", "label": {value}}}\n' for number, value in enumerate(values)]
    (tmp_path / "list.jsonl").write_text("".join(lines))
    (tmp_path / "0.mp4").touch()
    columns = [source.columns for source in read_sources(tmp_path / "list.jsonl")]
    assert [repr(each) for each in columns] == [
        f"{{'label': {value}}}" for value in ("1", "True", "1.0", "1", "'a'", "'a'")
    ]
    assert columns[0] is columns[3] and columns[4] is columns[5]
