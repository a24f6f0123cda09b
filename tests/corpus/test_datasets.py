"""The clips a dataset names: directories, tables, text lists and arrays of paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vjepa_sdk.corpus.datasets import list_clips
from vjepa_sdk.errors import InputError


def touch(directory: Path, *names: str) -> list[Path]:
    paths = [directory / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_csv_rows_of_a_split_are_listed_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (source := tmp_path / "clips.csv").write_text("path,split,label\nb.mp4,train,x\na.mp4,train,y\nc.mp4,test,x\n")
    assert list_clips(source, split="train") == [tmp_path / "b.mp4", tmp_path / "a.mp4"]
    assert len(list_clips(source)) == 3


@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a.mp4 3", "a.mp4"),
        ("a.mp4\t0", "a.mp4"),
        ("my videos/a 2.mp4 -1", "my videos/a 2.mp4"),
        ("my videos/a 2.mp4::17", "my videos/a 2.mp4"),
        ("a::b.mp4 3", "a::b.mp4"),
        ("my videos/a.mp4", "my videos/a.mp4"),
        ("  a.mp4 3  ", "a.mp4"),
        ("my videos/first take", "my videos/first take"),
        ("/data/b.mp4 0", "/data/b.mp4"),
    ],
)
def test_official_lines_end_with_a_label(tmp_path: Path, name: str, line: str, path: str) -> None:
    touch(tmp_path, "exists.mp4")
    (source := tmp_path / name).write_text(f"exists.mp4 0\n\n{line}\n")
    assert list_clips(source) == [tmp_path / "exists.mp4", tmp_path / path]


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_arrays_of_paths_are_read(tmp_path: Path, dtype: str) -> None:
    paths = touch(tmp_path, "b 1.mp4", "é.jpg", "a.mp4")
    names = [path.name for path in paths]
    np.save(tmp_path / "list.npy", np.array(names if dtype == "U" else [name.encode() for name in names]))
    assert list_clips(tmp_path / "list.npy") == paths


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a.mp4"], dtype=object), "is no array, or one of Python objects, which are not read; save it with"),
        (np.arange(3), r"must hold one row of paths as text, got int64 \[3\]"),
        (np.array([["a.mp4", "0"]]), r"must hold one row of paths as text, got <U5 \[1, 2\]"),
        (np.array([], dtype=str), "lists no clips"),
    ],
)
def test_arrays_of_something_else_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "list.npy", array)
    with pytest.raises(InputError, match=rf"list\.npy: {message}"):
        list_clips(tmp_path / "list.npy")


@pytest.mark.parametrize("content", [b"", b"path\na.mp4\n", b"PK\x03\x04 an archive"])
def test_an_array_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"list\.npy: is no array"):
        list_clips(tmp_path / "list.npy")


def test_a_directory_is_searched_for_videos_or_for_stills(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "x/a.webm", "x/moving.gif", ".hidden.jpg")
    stills = touch(tmp_path, "n01/a.JPEG", "n01/b.png", "n02/deep/c.webp")
    assert list_clips(tmp_path, images=True) == stills
    assert list_clips(tmp_path) == [tmp_path / "b.mp4", tmp_path / "x/a.webm", tmp_path / "x/moving.gif"]


def test_one_file_or_a_pattern_is_a_dataset(tmp_path: Path) -> None:
    a, b = touch(tmp_path, "a.jpg", "b.png")
    assert list_clips(a, images=True) == [a]
    assert list_clips(f"{tmp_path}/*.png", images=True) == [b]


def test_a_directory_of_videos_gives_an_image_model_its_videos(tmp_path: Path) -> None:
    videos = touch(tmp_path, "a.mp4", "b.gif")
    assert list_clips(tmp_path, images=True) == videos


def test_a_directory_of_stills_is_no_video_dataset_and_says_what_to_do(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with pytest.raises(
        InputError, match=r"holds images and no video; train on stills .* ijepa-tiny, list them in a CSV"
    ):
        list_clips(tmp_path)


@pytest.mark.parametrize("images", [False, True])
def test_a_directory_without_any_says_what_was_looked_for(tmp_path: Path, images: bool) -> None:
    touch(tmp_path, "notes.md")
    with pytest.raises(InputError, match=r"no video or image in this directory; looked for \.\w+ \.\w+"):
        list_clips(tmp_path, images=images)


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("path,split\na.mp4,train\n", "val", "lists no clips with split='val'; its splits are train"),
        ("path,label\na.mp4,x\n", "train", "has no column 'split'; its columns are path, label"),
        ("a.mp4 0\n", "train", r"split='train' needs the header path\[,split,label,group\]"),
        ("", None, "lists no clips"),
        ("path,split\n", None, "lists no clips"),
        ("path,split\n,train\n", None, "line 2 has no path; correct it"),
        ("label,path\n1\n", None, "line 2 has no path; correct it"),
        ("path\nabsent.mp4\n", None, "none of its 1 clips exists, for example .*absent.mp4; paths are relative"),
    ],
)
def test_unusable_lists_are_named(tmp_path: Path, text: str, split: str | None, message: str) -> None:
    (source := tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list_clips(source, split=split)


@pytest.mark.parametrize("name", ["absent.csv", "absent.txt", "absent.npy"])
def test_missing_list_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: no such file; pass a directory or a list of clips"):
        list_clips(tmp_path / name)


@pytest.mark.parametrize("name", [".", "list.npy", "list.txt"])
def test_split_of_anything_but_a_csv_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(InputError, match="split='train' needs a CSV"):
        list_clips(tmp_path / name, split="train")


def test_a_list_that_is_not_text_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "list.csv", format="PNG")
    with pytest.raises(InputError, match=r"list\.csv: is not a list of clips in plain text"):
        list_clips(tmp_path / "list.csv")
