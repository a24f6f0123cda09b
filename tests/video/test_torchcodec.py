"""torchcodec behind the interface of the other decoders: its frames are the listed ones, or reading fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from media import read_number, read_numbers, remux, write_cut_video, write_video

from vjepa_sdk.errors import ConfigError, InputError, VideoDecodeError
from vjepa_sdk.video.reader import open_video

FAST = {"deadline": "realtime", "cpu-used": "8"}
WRITERS: dict[str, Callable[[Path], Path]] = {
    "h264": lambda d: write_video(d / "a.mp4", num_b_frames=3),
    "h264 open gop": lambda d: write_video(
        d / "a.mp4", num_b_frames=3, num_frames=40, options={"x264-params": "open-gop=1:scenecut=0"}
    ),
    "h264 matroska": lambda d: write_video(d / "a.mkv", num_b_frames=3),
    "hevc": lambda d: write_video(d / "a.mp4", codec="libx265", options={"x265-params": "log-level=error"}),
    "vp9": lambda d: write_video(d / "a.webm", codec="libvpx-vp9", options=FAST),
    "variable rate": lambda d: write_video(d / "a.mp4", pts=[0, 1, 2, 10, 11, 30, 31, 32, 60], num_b_frames=2),
    "late start": lambda d: write_video(d / "a.mp4", pts=range(50, 70), num_b_frames=2),
    "turned": lambda d: write_video(d / "a.mp4", rotation=90),
}


@pytest.fixture
def usable(tmp_path: Path) -> None:
    """Skip without torchcodec, or where it finds no FFmpeg."""
    pytest.importorskip("torchcodec")
    try:
        open_video(write_video(tmp_path / "any.mp4"), decoder="torchcodec").close()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", WRITERS)
def test_frames_are_those_of_the_full_decode(kind: str, tmp_path: Path, usable: None) -> None:
    path = WRITERS[kind](tmp_path)
    with open_video(path, decoder="torchcodec") as reader, open_video(path) as exact:
        last = len(exact) - 1
        assert reader.info == exact.info
        np.testing.assert_array_equal(reader.timestamps, exact.timestamps)
        assert read_numbers(reader.get_frames([last, 0, last, 3])) == [last, 0, last, 3]
        assert [read_number(frame) for frame in reader.iter_frames()] == list(range(len(exact)))
        assert [read_number(frame) for frame in reader.iter_frames([2, 5])] == [2, 5]
        assert reader.get_frames([]).shape == (0, exact.info.height, exact.info.width, 3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda d: remux(write_video(d / "a.mp4"), d / "b.ts"), "does not list its frames"),
        (lambda d: write_cut_video(d / "cut.mp4", shown_from=4), "does not list its frames"),
        (lambda d: write_video(d / "a.gif", codec="gif", pixel_format="rgb8"), "does not list its frames"),
        (lambda d: write_video(d / "a.mov", codec="png", pixel_format="rgba"), "has alpha, of which torchcodec shows"),
    ],
    ids=["transport stream", "edit list", "gif", "alpha"],
)
def test_what_it_would_show_wrongly_is_refused(
    make: Callable[[Path], Path], reason: str, tmp_path: Path, usable: None
) -> None:
    with pytest.raises(VideoDecodeError, match=rf"{reason}.*; decoder='pyav' does not"):
        open_video(make(tmp_path), decoder="torchcodec")


def test_pixels_that_are_not_square_are_refused(tmp_path: Path, usable: None) -> None:
    path = write_video(tmp_path / "a.mp4", options={"aspect": "2:1"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    with pytest.raises(VideoDecodeError, match="has pixels of 2:1, which torchcodec takes for square"):
        open_video(path, decoder="torchcodec")


def test_damage_that_it_would_conceal_is_an_error(tmp_path: Path, usable: None) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=30)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][10]
    with path.open("r+b") as file:
        file.seek(packet.pos + packet.size // 2)
        file.write(bytes(packet.size - packet.size // 2))
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: is truncated or corrupt"):
        open_video(path, decoder="torchcodec")


def test_a_frame_with_another_time_than_the_listed_one_is_refused(tmp_path: Path, usable: None) -> None:
    with open_video(write_video(tmp_path / "a.mp4"), decoder="torchcodec") as reader:
        reader.timestamps[5] += 0.01
        with pytest.raises(VideoDecodeError, match="torchcodec gives other frames than those listed"):
            reader.get_frames([4, 5])


def test_indices_outside_are_named(tmp_path: Path, usable: None) -> None:
    with open_video(write_video(tmp_path / "a.mp4"), decoder="torchcodec") as reader:
        with pytest.raises(InputError, match=r"a\.mp4: index 20 must be from 0 to 19"):
            reader.get_frames([20])
        with pytest.raises(InputError, match="indices must ascend"):
            list(reader.iter_frames([3, 2]))


def test_its_absence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match=r"pip install 'vjepa-sdk\[torchcodec\]'.*decoder='pyav'"):
        open_video(write_video(tmp_path / "a.mp4"), decoder="torchcodec")


def test_ffmpeg_that_is_not_there_is_told_from_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:  # what torchcodec 0.17 says when it is asked for a decoder
        raise RuntimeError("Could not load libtorchcodec. Likely causes: 1. FFmpeg is not properly installed")

    fake = ModuleType("torchcodec.decoders")
    fake.VideoDecoder = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    with pytest.raises(ConfigError, match="needs shared libraries of FFmpeg 4 to 9"):
        open_video(write_video(tmp_path / "a.mp4"), decoder="torchcodec")
