"""`check_files` tells good files from bad ones, with what they hold and why they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import numbered_frame, write_audio, write_video
from PIL import Image

from vjepa_sdk.corpus import check
from vjepa_sdk.corpus.check import CheckedFile, check_files
from vjepa_sdk.errors import InputError


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_video(tmp_path / "in" / "clip.mp4", num_frames=20)


def damaged_at_the_end(path: Path) -> Path:
    """Write a video whose index and first pictures are whole, and whose pictures at two thirds are not."""
    write_video(path, num_frames=200, key_frame_every=5)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    at = start + (len(data) - start) // 3  # mdat comes first, then the index
    data[at : at + 300] = bytes(300)
    path.write_bytes(data)
    return path


def one(*inputs: Path, **options: Any) -> CheckedFile:
    [file] = check_files(list(inputs), **{"num_workers": 0, **options})
    return file


def test_a_good_video_is_described(clip: Path) -> None:
    assert one(clip.parent) == CheckedFile(
        path=str(clip),
        reason=None,
        kind="video",
        codec="h264",
        width=64,
        height=48,
        fps=10.0,
        num_frames=20,
        duration_seconds=2.0,
        num_decoded=3,
        num_interlaced=0,
    )


def test_frame_directories_and_images_are_described(tmp_path: Path) -> None:
    for name in ("frames/1.png", "frames/2.png", "photos/cat.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(numbered_frame(3)).save(tmp_path / name)
    frames, image = check_files(tmp_path, num_workers=0)
    assert (frames.kind, frames.num_frames, frames.width, frames.height) == ("frames", 2, 64, 48)
    assert (image.kind, image.num_frames, image.width, image.height) == ("image", 1, 64, 48)
    assert frames.is_good and image.is_good


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.mp4", b"", "is empty (0 bytes)"),
        (
            "a.mp4",
            b"text",
            "is not a video of a known format (MP4, MOV, Matroska, WebM, AVI, MPEG, TS, Ogg, FLV, WMV, MXF, NUT, DV, "
            "GIF, bare streams); try `ffmpeg -i x -c copy x.mp4`",
        ),
        ("a.jpg", b"text", "is not a JPEG, PNG, WebP, BMP or GIF image"),
        ("a.mp4", b"\x89PNG", "is a PNG image, not a video"),
    ],
)
def test_the_reason_of_a_bad_file_is_told(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert one(tmp_path / name).reason == reason


@pytest.mark.parametrize(("full", "num_decoded"), [(False, 3), (True, 6)])
def test_interlaced_frames_are_counted(full: bool, num_decoded: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=6, options={"x264-params": "tff=1"})
    file = one(path, full=full)
    assert (file.num_decoded, file.num_interlaced) == (num_decoded, num_decoded)


def test_a_video_that_fails_late_still_says_what_it_is(tmp_path: Path) -> None:
    file = one(damaged_at_the_end(tmp_path / "a.mp4"), full=True)
    assert (file.codec, file.num_frames) == ("h264", 200)
    assert file.reason is not None and "corrupt" in file.reason


def test_damage_between_the_probed_frames_takes_a_full_check(tmp_path: Path) -> None:
    path = damaged_at_the_end(tmp_path / "a.mp4")
    assert one(path).is_good
    assert not one(path, full=True).is_good


def test_a_full_check_reads_each_frame_of_a_directory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    opened: list[str] = []
    listed: list[Path] = []
    open_image, iterdir = Image.open, Path.iterdir
    monkeypatch.setattr(Image, "open", lambda file, **how: opened.append(file.name) or open_image(file, **how))
    monkeypatch.setattr(Path, "iterdir", lambda self: listed.append(self) or iterdir(self))
    assert one(tmp_path, full=True).num_frames == 30
    assert len(opened) == 30
    assert len(listed) < 4


def test_a_frame_of_another_size_takes_a_full_check(tmp_path: Path) -> None:
    for number in range(9):
        Image.new("RGB", (8, 9 if number == 3 else 8)).save(tmp_path / f"{number}.png")
    assert one(tmp_path).is_good
    assert one(tmp_path, full=True).reason == f"{tmp_path / '3.png'}: is 8x9, but frames before it are 8x8"


def test_parts_of_one_file_are_one_check_and_must_begin_in_it(clip: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,start_seconds\nin/clip.mp4,0\nin/clip.mp4,1.5\n")
    assert one(manifest).is_good
    manifest.write_text("path,start_seconds\nin/clip.mp4,2.5\nin/clip.mp4,1\n")
    assert one(manifest).reason == "start_seconds=2.5 must lie before the end of the video at 2 s"


def test_files_are_checked_in_processes_with_a_deadline(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    (tmp_path / "in" / "zero.mp4").touch()
    found = check_files(clip.parent, num_workers=2, deadline_seconds=30.0)
    assert [(Path(file.path).name, file.reason) for file in found] == [
        ("clip.mp4", None),
        ("pipe.mp4", "is not a regular file"),
        ("zero.mp4", "is empty (0 bytes)"),
    ]


@pytest.mark.parametrize("facts", [{"codec": 3}, {"path": "x"}, {"fps": "fast"}, {"reason": ["a"]}])
def test_a_decoding_process_that_sends_nonsense_is_not_believed(
    clip: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any]
) -> None:
    monkeypatch.setattr(check._Check, "__call__", lambda self, request: (np.empty(0, np.uint8), facts))
    assert one(clip).reason == "the decoding process sent something else"


def test_missing_inputs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: does not exist"):
        check_files(tmp_path / "absent")


def run(*arguments: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "vjepa_sdk", "check", *map(str, arguments), "--num-workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_command_prints_a_table_and_says_how_it_ended(clip: Path, tmp_path: Path) -> None:
    code, table = run(clip.parent)
    assert code == 0
    assert table.splitlines() == [
        f"ok  h264     64x48       10 fps     20 frames    2.00 s     {clip}",
        "1 of 1 can be decoded",
    ]
    write_audio(clip.parent / "sound.mp4")
    code, table = run(clip.parent, "--quiet")
    assert code == 3
    assert table.splitlines() == [
        f"BAD video    -           -          -            -          {clip.parent / 'sound.mp4'}: "
        "has no video stream, it holds audio only",
        "1 of 2 can be decoded",
    ]
    assert run(clip.parent / "sound.mp4")[0] == 1


def test_the_command_prints_json(clip: Path) -> None:
    (clip.parent / "b.mp4").touch()
    code, text = run(clip.parent, "--json")
    found = json.loads(text)
    assert (code, found["checked"], found["bad"]) == (3, 2, 1)
    assert [file["reason"] for file in found["files"]] == ["is empty (0 bytes)", None]
    assert found["files"][1]["codec"] == "h264"


def test_the_command_needs_no_torch(clip: Path) -> None:
    program = f"""
import sys
from vjepa_sdk.corpus.check import check_files
print(len(check_files({str(clip)!r}, num_workers=0)), "torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "1 False\n"
