"""Files, directories, patterns and lists name clips; nothing is taken twice, guessed, or left out in silence."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vjepa_sdk.corpus.find import find_clips, find_videos
from vjepa_sdk.errors import InputError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING, "vjepa_sdk")  # a test of --quiet may have raised it


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def paths(*inputs: str, images: Any = "frames", links: Any = "refuse") -> list[str]:
    return [clip.path for clip in find_clips(inputs, links=links).clips(images)]


class TestDirectories:
    def test_are_searched_for_videos_only(self) -> None:
        make("in/b.MP4", "in/a.txt", "in/deep/er/c.webm", "in/.hidden.mp4", "in/.git/d.mp4")
        assert paths("in") == ["in/b.MP4", "in/deep/er/c.webm"]

    def test_the_working_directory_gives_plain_names(self) -> None:
        make("a.mp4", "b/c.mp4")
        assert paths(".") == ["a.mp4", "b/c.mp4"]

    def test_numbered_images_are_the_frames_of_one_video(self) -> None:
        make("in/one/frame_01.jpg", "in/one/frame_02.jpg", "in/two/1.png", "in/two/2.png", "in/two/10.png")
        assert paths("in") == ["in/one", "in/two"]
        assert paths("in/one") == ["in/one"]

    @pytest.mark.parametrize(
        ("names", "is_video"),
        [
            (("frame1.jpg", "frame2.jpg"), True),
            (("00001.jpg", "00002.jpg"), True),
            (("a_1_small.png", "a_12_small.png"), True),
            (("1.jpg", "2.png"), True),
            (("cat.jpg", "dog.jpg"), False),
            (("a1.jpg", "b2.jpg"), False),
            (("1.jpg",), False),
            (("1.jpg", "2.jpg", "cover.jpg"), False),
        ],
    )
    def test_frames_are_told_by_their_numbers(self, names: tuple[str, ...], is_video: bool) -> None:
        make("in/x/real.mp4", *(f"in/y/{name}" for name in names))
        assert paths("in") == ["in/x/real.mp4", *(["in/y"] if is_video else [])]

    def test_images_beside_videos_are_no_clips(self) -> None:
        make("in/a.mp4", "in/thumb1.jpg", "in/thumb2.jpg")
        assert paths("in") == ["in/a.mp4"]

    def test_for_image_models_images_are_the_clips(self) -> None:
        make("in/a.mp4", "in/1.jpg", "in/2.jpg", "in/deep/cat.webp", "in/deep/b.gif")
        assert paths("in", images="stills") == ["in/1.jpg", "in/2.jpg", "in/deep/cat.webp"]

    def test_a_check_looks_at_both(self) -> None:
        make("in/a.mp4", "in/cat.jpg", "in/frames/1.jpg", "in/frames/2.jpg")
        assert paths("in", images="both") == ["in/a.mp4", "in/cat.jpg", "in/frames"]

    def test_images_that_are_not_numbered_are_left_out_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        make("in/a.mp4", "in/photos/cat.jpg", "in/photos/dog.jpg")
        assert paths("in") == ["in/a.mp4"]
        assert "1 directories left out, their images are not numbered as frames (in/photos)" in caplog.text

    def test_only_images_without_numbers_are_an_error_with_the_way_out(self) -> None:
        make("in/cat.jpg", "in/dog.jpg")
        with pytest.raises(InputError, match=r"in: no video there; .* not numbered as frames, name them as in 'photos"):
            paths("in")
        assert paths("in/*.jpg") == ["in/cat.jpg", "in/dog.jpg"]

    def test_only_videos_are_an_error_for_an_image_model(self) -> None:
        make("in/a.mp4")
        with pytest.raises(InputError, match="in: no image there, and this model takes images"):
            paths("in", images="stills")

    def test_without_any_video_or_image_is_named(self) -> None:
        make("in/readme.md")
        with pytest.raises(InputError, match=r"in: no video or image in this directory; looked for .*\.jpg.*\.mp4"):
            paths("in")


class TestPatterns:
    def test_name_videos_and_stills(self) -> None:
        make("in/a.mp4", "in/b.jpg", "in/c.dat", "in/deep/d.mp4")
        assert paths("in/*.*") == ["in/a.mp4", "in/b.jpg"]
        assert paths("in/**") == ["in/a.mp4", "in/b.jpg", "in/deep/d.mp4"]

    def test_name_directories_as_a_shell_does(self) -> None:
        make("in/one/1.jpg", "in/one/2.jpg", "in/two/1.jpg", "in/two/2.jpg", "in/empty.txt")
        assert paths("in/*") == ["in/one", "in/two"]

    def test_that_match_nothing_are_named(self) -> None:
        with pytest.raises(InputError, match=r"\*\.mp4: no video or image matches this pattern"):
            paths("*.mp4")

    def test_a_file_whose_name_looks_like_a_pattern_is_a_file(self) -> None:
        make("a[1].mp4", "a1.mp4")
        assert paths("a[1].mp4") == ["a[1].mp4"]


class TestNames:
    def test_missing_path_is_named(self) -> None:
        with pytest.raises(InputError, match="missing: does not exist; check the spelling"):
            paths("missing")

    def test_any_suffix_is_taken_where_a_file_is_named(self) -> None:
        make("c.dat")
        assert paths("c.dat") == ["c.dat"]

    def test_no_inputs(self) -> None:
        with pytest.raises(InputError, match="inputs is empty; pass at least one file, directory, pattern or list"):
            paths()

    @pytest.mark.parametrize("name", ["http://host/a.mp4", "concat:a.mp4|b.mp4", "a\0b", ""])
    def test_urls_and_nonsense_are_refused(self, name: str) -> None:
        with pytest.raises(InputError, match=r"is a URL or protocol string|is not a path"):
            paths(name)

    def test_clips_named_several_times_are_taken_once_and_sorted(self, tmp_path: Path) -> None:
        make("b.mp4", "a.mp4", "c.dat")
        assert paths("b.mp4", ".", "*.mp4", "./b.mp4", str(tmp_path / "a.mp4"), "c.dat") == ["a.mp4", "b.mp4", "c.dat"]

    def test_one_path_needs_no_list(self) -> None:
        make("a.mp4")
        assert [clip.path for clip in find_clips(Path("a.mp4")).clips("frames")] == ["a.mp4"]

    def test_training_takes_videos_only(self) -> None:
        make("in/a.mp4", "in/frames/1.jpg", "in/frames/2.jpg", "in/cat.jpg")
        assert find_videos(["in"]) == [Path("in/a.mp4")]


class TestLinks:
    @pytest.fixture(autouse=True)
    def links(self) -> None:
        make("out/side.mp4", "in/a.mp4")
        Path("in/link.mp4").symlink_to("../out/side.mp4")
        Path("in/folder").symlink_to("../out", target_is_directory=True)

    def test_found_ones_are_left_out_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        assert paths("in") == ["in/a.mp4"]
        assert "2 symbolic links left out; --follow-symlinks takes them" in caplog.text

    def test_matched_ones_are_left_out_too(self, caplog: pytest.LogCaptureFixture) -> None:
        assert paths("in/**/*.mp4") == ["in/a.mp4"]
        assert "2 symbolic links left out" in caplog.text

    def test_links_that_a_pattern_spells_out_are_the_users_own(self) -> None:
        assert paths("in/folder/*.mp4") == ["in/folder/side.mp4"]

    def test_a_directory_of_links_only_says_so(self) -> None:
        Path("in/a.mp4").unlink()
        with pytest.raises(InputError, match=r"left out 2 symbolic links \(see --follow-symlinks\)"):
            paths("in")

    @pytest.mark.parametrize("name", ["in/link.mp4", "in/folder", "list.txt"])
    def test_named_ones_are_refused(self, name: str) -> None:
        Path("list.txt").write_text("in/link.mp4\n")
        with pytest.raises(InputError, match=r"in/\S+: is a symbolic link; pass --follow-symlinks to read what it"):
            paths(name)

    def test_all_are_followed_on_demand(self) -> None:
        assert paths("in", links="follow") == ["in/a.mp4", "in/folder/side.mp4", "in/link.mp4"]
        assert paths("in/link.mp4", links="follow") == ["in/link.mp4"]

    def test_a_loop_ends(self) -> None:
        Path("in/loop").symlink_to(".", target_is_directory=True)
        assert paths("in", links="follow") == ["in/a.mp4", "in/folder/side.mp4", "in/link.mp4"]

    def test_training_follows_those_that_are_named(self) -> None:
        assert find_videos(["in/folder"]) == [Path("in/folder/side.mp4")]
        assert find_videos(["in"]) == [Path("in/a.mp4")]


class TestLists:
    def read(self, name: str, text: str | bytes) -> list[tuple[Any, ...]]:
        make("d/a.mp4", "d/b.mp4")
        Path("d", name).write_bytes(text if isinstance(text, bytes) else text.encode())
        clips = find_clips([f"d/{name}"]).clips("frames")
        return [(clip.path, clip.id, clip.start_seconds, clip.end_seconds) for clip in clips]

    def test_text_holds_one_path_a_line_relative_to_the_list(self) -> None:
        assert self.read("l.txt", "b.mp4\n\na.mp4\r\n") == [
            ("d/a.mp4", "d/a.mp4", None, None),
            ("d/b.mp4", "d/b.mp4", None, None),
        ]

    def test_an_at_sign_reads_a_list_of_any_suffix(self) -> None:
        make("a.mp4")
        Path("clips.lst").write_text("a.mp4\n")
        assert paths("@clips.lst") == ["a.mp4"]
        with pytest.raises(InputError, match=r"absent\.lst: no such list"):
            paths("@absent.lst")

    def test_a_file_whose_name_begins_with_an_at_sign_is_a_file(self) -> None:
        make("@a.mp4")
        assert paths("@a.mp4") == ["@a.mp4"]

    def test_csv_gives_ids_and_parts(self) -> None:
        text = "id,path,end_seconds,start_seconds,label\nx,b.mp4,2.5,1,run\n,a.mp4,3,,\n,a.mp4,,3,walk\n"
        assert self.read("l.csv", text) == [
            ("d/a.mp4", "d/a.mp4#t=,3", None, 3.0),
            ("d/a.mp4", "d/a.mp4#t=3", 3.0, None),
            ("d/b.mp4", "x", 1.0, 2.5),
        ]

    def test_csv_without_a_header_is_the_official_list(self) -> None:
        assert [row[0] for row in self.read("l.csv", "a.mp4 0\nb.mp4 17\n")] == ["d/a.mp4", "d/b.mp4"]

    def test_csv_names_may_hold_commas_quotes_and_line_breaks(self) -> None:
        make('d/a,"\n.mp4')
        assert [row[0] for row in self.read("l.csv", 'path\n"a,""\n.mp4"\n')] == ['d/a,"\n.mp4']

    def test_json_lines_give_the_same(self) -> None:
        rows = [{"path": "b.mp4", "id": 7, "start_seconds": 1, "end_seconds": 2}, {"path": "a.mp4", "id": None}]
        assert self.read("l.jsonl", "\n".join(map(json.dumps, rows))) == [
            ("d/a.mp4", "d/a.mp4", None, None),
            ("d/b.mp4", "7", 1.0, 2.0),
        ]

    def test_names_need_not_be_utf8(self) -> None:
        make(name := os.fsdecode(b"d/\xff.mp4"))
        assert self.read("l.txt", b"\xff.mp4\n")[0][0] == name

    def test_a_byte_order_mark_is_no_part_of_a_name(self) -> None:
        assert self.read("l.txt", "\ufeffa.mp4\n")[0][0] == "d/a.mp4"

    def test_missing_clips_are_kept_for_the_report(self) -> None:
        assert [row[0] for row in self.read("l.txt", "a.mp4\nabsent.mp4\n")] == ["d/a.mp4", "d/absent.mp4"]

    def test_a_directory_in_a_list_is_one_video(self) -> None:
        make("d/frames/cat.jpg", "d/frames/dog.jpg")
        assert [row[0] for row in self.read("l.txt", "frames\n")] == ["d/frames"]

    def test_repeated_lines_are_one_clip(self) -> None:
        assert len(self.read("l.csv", "path,id,start_seconds\na.mp4,x,1\na.mp4,x,1\na.mp4,,1\na.mp4,,1.0\n")) == 2

    def test_one_id_for_two_clips_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"id 'x' stands for two clips, d/a\.mp4 and d/b\.mp4 from 1 to 2\.0 s"):
            self.read("l.csv", "path,id,start_seconds,end_seconds\na.mp4,x,,\nb.mp4,x,1,2\n")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("l.txt", "\n", "lists no clips"),
            ("l.txt", "no.mp4\n", r"none of its 1 clips exists, for example d/no\.mp4; paths are relative to the list"),
            ("l.txt", "a.mp4\nhttp://host/b.mp4\n", "is a URL or protocol string"),
            ("l.csv", "path,id\n,x\n", "line 2 has no path"),
            ("l.csv", "path,start\na.mp4,1\n", "line 2: unknown column 'start'; use start_seconds and end_seconds"),
            ("l.csv", "path,start_seconds\na.mp4,soon\n", "line 2: start_seconds='soon' must be a number of seconds"),
            ("l.csv", "path,end_seconds\na.mp4,nan\n", "line 2: end_seconds='nan' must be a number of seconds"),
            ("l.csv", "path,start_seconds\na.mp4,-1\n", "line 2: start_seconds='-1' must be a number"),
            ("l.csv", "path,start_seconds,end_seconds\na.mp4,2,2\n", "end_seconds=2 must lie after start_seconds=2"),
            ("l.jsonl", '{"path": "a.mp4"}\n[]\n', "line 2 must be an object with a path"),
            ("l.jsonl", '{"path": 3}\n', "line 1 must be an object with a path"),
            ("l.jsonl", "path\n", "line 1: not valid JSON"),
            ("l.jsonl", '{"path": "a.mp4", "id": []}', r"line 1: id=\[\] must be a text"),
            ("l.jsonl", '{"path": "a.mp4", "start_seconds": "1e999"}', "must be a number of seconds"),
        ],
    )
    def test_bad_lines_are_named(self, name: str, text: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            self.read(name, text)


def test_files_that_look_like_videos_and_are_not_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.mp4", "b.rm", "sub/c.swf", ".hidden.rm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [Path(each.path).name for each in find_clips(tmp_path).clips("frames")] == ["a.mp4"]
    assert "2 files left out, videos of a format that is not read" in caplog.text


def test_every_container_that_is_read_is_found_in_a_directory(tmp_path: Path) -> None:
    names = ["a.f4v", "b.3g2", "c.vob", "d.m2v", "e.mxf", "f.h264", "g.MOD", "h.y4m"]
    for name in names:
        (tmp_path / name).touch()
    assert [Path(each.path).name for each in find_clips(tmp_path).clips("frames")] == names


def test_an_animation_beside_videos_and_stills_is_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    images[0].save(tmp_path / "b.webp", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "c.webp")
    found = find_clips(tmp_path)
    assert [Path(each.path).name for each in found.clips("frames")] == ["a.mp4", "b.webp"]
    assert [Path(each.path).name for each in found.clips("stills")] == ["c.webp"]
