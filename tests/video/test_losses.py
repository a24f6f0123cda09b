"""Frames that a damaged file lost must be missed: what the container promises is held against what is decoded."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from media import read_numbers, remux, write_video

from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.video.reader import open_video, read_video

FAST = {"deadline": "realtime", "cpu-used": "8"}
STEADY = {"x264-params": "scenecut=0:aud=1"}


def _packet_place(path: Path, number: int) -> tuple[int, int]:
    """Return where a packet lies in a file, and its size."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        return packet.pos, packet.size


def _overwrite(path: Path, start: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".flv"])
@pytest.mark.parametrize("with_what", [b"\0", b"\xa5", b"\xff"], ids=["zeros", "noise", "ones"])
def test_a_damaged_first_key_frame_takes_no_frames_along_in_silence(
    suffix: str, with_what: bytes, tmp_path: Path
) -> None:
    path = write_video(tmp_path / f"a{suffix}", num_frames=30, options=STEADY)
    with av.open(str(path)) as container:
        first = bytes(next(container.demux(video=0)))
    place = path.read_bytes().index(first)
    _overwrite(path, place, with_what * (len(first) - 8))
    with pytest.raises(VideoDecodeError, match=rf"a\{suffix}: is (truncated|cut) or corrupt"):
        read_video(path)


def test_a_transport_stream_that_lost_packets_at_its_start_is_damaged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", num_frames=30, options=STEADY)
    start, _ = _packet_place(path, 0)
    _overwrite(path, start, bytes(188 * 3))
    with pytest.raises(VideoDecodeError, match=r"a\.ts: is truncated or corrupt: packets of the transport stream are"):
        open_video(path)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_bytes_around_a_transport_stream_do_no_harm(place: str, tmp_path: Path) -> None:
    data, rest = write_video(tmp_path / "a.ts").read_bytes(), b"\x11" * 150
    (tmp_path / "b.ts").write_bytes(rest + data if place == "before" else data + rest + bytes(1000))
    assert read_numbers(read_video(tmp_path / "b.ts")) == list(range(20))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_file_that_says_it_was_cut_starts_at_its_first_key_frame(suffix: str, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", num_frames=30)
    assert read_numbers(read_video(remux(whole, tmp_path / f"a{suffix}", first_packet=4))) == list(range(10, 30))


def test_an_avi_without_a_key_frame_at_its_start_says_so(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi", codec="mpeg4", num_frames=30)
    path = remux(whole, tmp_path / "a.avi", first_packet=4)
    with pytest.raises(VideoDecodeError, match=r"a\.avi: is cut or corrupt: it does not start with a key frame"):
        open_video(path)


@pytest.mark.parametrize(
    ("codec", "header"),
    [("libvpx-vp9", "lacing"), ("libvpx-vp9", "track"), ("libvpx", "lacing"), ("libvpx", "track")],
)
def test_blocks_that_the_demuxer_drops_are_missed(codec: str, header: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.webm", num_frames=25, codec=codec, options=FAST)
    head, _ = _packet_place(path, 5)  # the number of the track, a time of two bytes, flags
    assert path.read_bytes()[head] == 0x81
    _overwrite(path, *((head + 3, b"\xe7") if header == "lacing" else (head, b"\x85")))
    with pytest.raises(VideoDecodeError, match=r"a\.webm: is truncated or corrupt"):
        read_video(path)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_blocks_of_every_stream_are_counted_apart(suffix: str, tmp_path: Path) -> None:
    codec, sound = ("libvpx-vp9", "libopus") if suffix == ".webm" else ("libx264", "aac")
    path, whole = tmp_path / f"a{suffix}", write_video(tmp_path / "b.mkv", codec=codec)
    with av.open(str(whole)) as given, av.open(str(path), "w") as written:
        audio = written.add_stream(sound, rate=48000, layout="mono")
        video = written.add_stream_from_template(given.streams.video[0])
        samples = np.zeros((1, 960 if sound == "libopus" else 1024), np.float32)
        for _ in range(50):
            frame = av.AudioFrame.from_ndarray(samples, format="fltp" if sound == "aac" else "flt", layout="mono")
            frame.sample_rate = 48000
            written.mux(audio.encode(frame))
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = video
                written.mux(packet)
        written.mux(audio.encode(None))
    assert read_numbers(read_video(path)) == list(range(20))


def test_a_chunk_of_an_avi_that_the_demuxer_does_not_find_is_missed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", codec="mpeg4", num_frames=30, key_frame_every=1)
    data = path.read_bytes()
    start = data.index(b"00dc", data.index(b"00dc", data.index(b"movi")) + 4)
    _overwrite(path, start, b"junk")
    with pytest.raises(VideoDecodeError, match=r"a\.avi: is truncated or corrupt: only 29 of 30 packets can be read"):
        open_video(path)


def test_a_file_cut_between_two_frames_is_missed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    with av.open(str(path)) as given, av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    start, size = _packet_place(tmp_path / "b.mp4", 14)
    with (tmp_path / "b.mp4").open("r+b") as file:
        file.truncate(start + size)
    with pytest.raises(VideoDecodeError, match=r"b\.mp4: is truncated or corrupt: only 15 of 20 packets can be read"):
        open_video(tmp_path / "b.mp4")


@pytest.mark.parametrize("what", ["the size of the one before", "its head"])
def test_a_tag_of_flash_video_that_cannot_be_is_damage(what: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.flv", num_frames=30)
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0)][5]
    end = path.read_bytes().index(packet) + len(packet)
    _overwrite(path, *((end + 4, bytes(11)) if what == "its head" else (end, b"\x7f\0\0\0")))
    with pytest.raises(VideoDecodeError, match=r"a\.flv: is truncated or corrupt: no valid tag before byte"):
        open_video(path)
