"""Where packets are not frames, and their times not the frames' times."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from fields import FIELDS_PER_SECOND, write_fields
from media import read_numbers, write_video

from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.video.reader import open_video, read_video

ALONE = {"x264-params": "open-gop=0:scenecut=0"}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
def test_two_packets_with_a_field_each_are_one_frame(suffix: str, tmp_path: Path) -> None:
    with open_video(write_fields(tmp_path / f"a{suffix}", num_frames=6)) as reader:
        assert read_numbers(reader.get_frames(range(len(reader)))) == list(range(6))
        np.testing.assert_allclose(reader.timestamps, np.arange(6) * 2 / FIELDS_PER_SECOND, atol=1e-9)
        assert read_numbers(reader.get_frames([4, 1])) == [4, 1]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_the_last_of_field_coded_frames_lasts_two_fields(suffix: str, tmp_path: Path) -> None:
    with open_video(write_fields(tmp_path / f"a{suffix}", num_frames=6)) as reader:
        assert reader.info.duration_seconds == pytest.approx(6 * 2 / FIELDS_PER_SECOND)
        assert reader.info.fps == pytest.approx(FIELDS_PER_SECOND / 2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_decord_refuses_fields_that_it_would_count_as_frames(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = write_fields(tmp_path / f"a{suffix}", num_frames=6)
    with pytest.raises(VideoDecodeError, match="has packets of half a frame or none, each of which decord counts as"):
        open_video(path, decoder="decord")


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
def test_decord_refuses_streams_whose_first_frames_it_would_skip(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    codec = "mpeg1video" if suffix == ".mpg" else "libx264"
    path = write_video(tmp_path / f"a{suffix}", codec=codec, num_frames=40, fps=25)
    with pytest.raises(VideoDecodeError, match="is an MPEG stream, of which decord skips the first frames"):
        open_video(path, decoder="decord")


def _add_packet(source: Path, path: Path, data: bytes, *, after: int) -> Path:
    """Copy a video and put a packet in, half a frame after another."""
    with av.open(str(source)) as given, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(given.streams.video[0]) if packet.size]
        for number, packet in enumerate(packets):
            packet.stream = stream
            pts, step, time_base = packet.pts, packet.duration // 2, packet.time_base
            written.mux(packet)
            if number == after:
                extra = av.Packet(data)
                extra.stream, extra.pts, extra.dts, extra.time_base = stream, pts + step, pts + step, time_base
                written.mux(extra)
    return path


SUPPLEMENT = b"\0\0\0\5\6\5\1\xaa\x80"
DELIMITER, FILLER = b"\0\0\0\2\x09\xf0", b"\0\0\0\5\x0c\xff\xff\xff\x80"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("after", [0, 7, 19])
@pytest.mark.parametrize("data", [SUPPLEMENT, DELIMITER + FILLER], ids=["supplement", "filler"])
def test_a_packet_without_a_picture_is_no_frame(data: bytes, suffix: str, after: int, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4")
    path = _add_packet(whole, tmp_path / f"a{suffix}", data, after=after)
    with open_video(path) as reader:
        np.testing.assert_array_equal(reader.get_frames(range(20)), read_video(whole))
        np.testing.assert_allclose(reader.timestamps, np.arange(20) / 10, atol=1e-3)


def test_a_packet_of_hevc_without_a_picture_is_no_frame(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", codec="libx265", options={"x265-params": "log-level=error:bframes=0"})
    path = _add_packet(whole, tmp_path / "a.mp4", b"\0\0\0\6\x4e\1\5\1\xaa\x80", after=7)
    np.testing.assert_array_equal(read_video(path), read_video(whole))


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\5\1\5\1\xaa\x80",
        b"\0\0\0\6\6\5\1\xaa\x80",
        b"\0\0\0\5\6\5\2\xaa\x80",
        b"\0\0\0\5\7\5\1\xaa\x80",
        b"\0\0\0\5\0\0\0\0\0",
        b"\0" * 9,
    ],
    ids=bytes.hex,
)
def test_a_packet_without_a_picture_that_is_not_sound_is_damage(data: bytes, tmp_path: Path) -> None:
    path = _add_packet(write_video(tmp_path / "whole.mp4"), tmp_path / "a.mp4", data, after=7)
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: is (truncated or )?corrupt"):
        read_video(path)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("num_b_frames", [0, 1, 3])
def test_seconds_of_avi_ascend_as_its_frames_are_shown(codec: str, num_b_frames: int, tmp_path: Path) -> None:
    options = ALONE if codec == "libx264" else {}
    path = write_video(tmp_path / "a.avi", codec=codec, num_b_frames=num_b_frames, options=options)
    with open_video(path) as reader:
        assert read_numbers(reader.get_frames(range(20))) == list(range(20))
        with av.open(str(path)) as container:
            # the packet that brings the first frame out is as many after its own as the decoder has to wait for
            first = next(container.decode(video=0)).dts
        np.testing.assert_allclose(reader.timestamps, (first + np.arange(20)) / 10)
        assert reader.info.duration_seconds == pytest.approx(2.0)


def _write_part(path: Path, first: int, codec: str = "libx264") -> bytes:
    """Write ten frames, their times counted from `first` on, in a transport stream whose counters start at 0."""
    options = {"libx264": ALONE, "libx265": {"x265-params": "log-level=error"}}.get(codec, {})
    fps = 25 if codec == "mpeg2video" else 10  # it has no slower one
    pts = range(first, first + 10)
    write_video(path, num_frames=10, pts=pts, fps=fps, key_frame_every=5, codec=codec, options=options)
    return path.read_bytes()


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("second", [20, 500], ids=["without a gap", "after a gap"])
def test_joined_transport_streams_are_not_damaged(second: int, codec: str, tmp_path: Path) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(_write_part(tmp_path / "1.ts", 10, codec) + _write_part(tmp_path / "2.ts", second, codec))
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    with open_video(path) as reader:
        assert read_numbers(reader.get_frames(range(len(reader)))) == [*range(10), *range(10)]
        fps = 25 if codec == "mpeg2video" else 10
        assert reader.timestamps[10] - reader.timestamps[0] == pytest.approx((second - 10) / fps)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_joint_that_lost_the_end_of_a_picture_is_damage(codec: str, tmp_path: Path) -> None:
    first, second = _write_part(tmp_path / "1.ts", 10, codec), _write_part(tmp_path / "2.ts", 20, codec)
    packets = [first[start : start + 188] for start in range(0, len(first), 188)]
    packets = [packet for packet in packets if packet[1] & 31 == 1]  # the video's: without tables
    starts = [number for number, packet in enumerate(packets) if packet[1] & 0x40]
    end = [after - 1 for start, after in pairwise(starts) if after - start > 1][-1]
    path = tmp_path / "cut.ts"
    path.write_bytes(first[: 3 * 188] + b"".join(packets[:end]) + second)
    with pytest.raises(VideoDecodeError, match=r"cut\.ts: is truncated or corrupt"):
        read_video(path)


def test_packets_lost_inside_a_picture_are_damage(tmp_path: Path) -> None:
    data = write_video(tmp_path / "whole.ts", width=320, height=240).read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    starts = [number for number, packet in enumerate(packets) if packet[1:3] == b"\x41\0"]
    longest = max(range(len(starts) - 1), key=lambda number: starts[number + 1] - starts[number])
    del packets[starts[longest] + 1]
    (tmp_path / "lost.ts").write_bytes(b"".join(packets))
    with pytest.raises(VideoDecodeError, match=r"lost\.ts: is truncated or corrupt"):
        read_video(tmp_path / "lost.ts")
