"""Damage that decoders pass over is an error, and what is whole stays what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import read_numbers, write_video
from silent_damage import FORMATS, scene, write_scenes

from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.video import damage
from vjepa_sdk.video.nal_units import find_damage, length_size
from vjepa_sdk.video.reader import open_video, read_video
from vjepa_sdk.video.superframes import split_superframe


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a clip in a format of `silent_damage`, rendered once."""
    directory, written = tmp_path_factory.mktemp("clips"), dict[str, Path]()

    def clip(name: str) -> Path:
        if name not in written:
            [written[name]] = write_scenes(FORMATS[name], directory, [scene(0)])
        return written[name]

    return clip


def _packet(path: Path, number: int) -> tuple[int, int]:
    """Return where a packet's bytes start in its file, and how many there are."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        return path.read_bytes().index(bytes(packet)), packet.size


def _overwritten(path: Path, copy: Path, start: int, data: bytes) -> Path:
    whole = path.read_bytes()
    copy.write_bytes(whole[:start] + data + whole[start + len(data) :])
    return copy


@pytest.mark.parametrize("name", ["H.264, MP4", "HEVC, MP4"])
@pytest.mark.parametrize(
    ("block", "reason"),
    [(bytes(16), "bytes that no encoder writes"), (b"\xff" * 100, "erased block"), (b"\0\0\1", "no encoder writes")],
    ids=["zeros", "ones", "start code"],
)
def test_blocks_that_no_encoder_writes_are_damage(
    name: str, block: bytes, reason: str, clips: Callable[[str], Path], tmp_path: Path
) -> None:
    start, size = _packet(clips(name), 3)
    path = _overwritten(clips(name), tmp_path / "a.mp4", start + size // 2, block)
    with pytest.raises(VideoDecodeError, match=rf"a\.mp4: is truncated or corrupt: a coded picture holds .*{reason}"):
        read_video(path)


def test_a_picture_that_ends_in_zeros_is_damaged(clips: Callable[[str], Path], tmp_path: Path) -> None:
    start, size = _packet(clips("H.264, MP4"), 3)
    path = _overwritten(clips("H.264, MP4"), tmp_path / "a.mp4", start + size - 40, bytes(40))
    with pytest.raises(VideoDecodeError, match="a coded picture ends in zeros"):
        read_video(path)


def test_damage_in_packets_that_are_not_decoded_does_not_matter(clips: Callable[[str], Path], tmp_path: Path) -> None:
    start, size = _packet(clips("H.264, MP4"), 35)
    path = _overwritten(clips("H.264, MP4"), tmp_path / "a.mp4", start + size // 2, bytes(40))
    np.testing.assert_array_equal(read_video(path, [0, 5]), read_video(clips("H.264, MP4"), [0, 5]))


@pytest.mark.parametrize("name", ["VP9, MP4", "VP9, WebM"])
@pytest.mark.parametrize("number", range(0, 40, 4))
def test_a_vp9_frame_with_one_flipped_byte_is_an_error(
    name: str, number: int, clips: Callable[[str], Path], tmp_path: Path
) -> None:
    start, size = _packet(clips(name), number)
    flipped = bytes([clips(name).read_bytes()[start + size // 2] ^ 0x55])
    with pytest.raises(VideoDecodeError, match="is truncated or corrupt"):
        read_video(_overwritten(clips(name), tmp_path / f"a{clips(name).suffix}", start + size // 2, flipped))


def test_vp9_is_read_the_same_with_and_without_libvpx(
    clips: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = read_video(clips("VP9, WebM"))
    monkeypatch.setattr(damage, "_reference_decoder", lambda stream: None)
    np.testing.assert_array_equal(read_video(clips("VP9, WebM")), strict)


def test_a_build_without_libvpx_reads_vp9_too(clips: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from av.codec.codec import UnknownCodecError

    def lacks(name: str, mode: str) -> Any:
        raise UnknownCodecError(name)

    strict = read_video(clips("VP9, WebM"))
    monkeypatch.setattr(av.codec, "Codec", lacks)
    np.testing.assert_array_equal(read_video(clips("VP9, WebM")), strict)


@pytest.mark.parametrize("rotation", [0, 90, 180])
def test_vp9_is_turned_as_its_container_says(rotation: int, tmp_path: Path) -> None:
    options = {"deadline": "realtime", "cpu-used": "8"}
    path = write_video(tmp_path / "a.mp4", codec="libvpx-vp9", rotation=rotation, options=options)
    with open_video(path) as reader:
        assert reader.info.rotation == rotation
        assert read_numbers(reader.get_frames([0, 7, 19])) == [0, 7, 19]


@pytest.mark.parametrize("name", ["H.264, Matroska", "HEVC, Matroska"])
def test_one_flipped_bit_breaks_the_checksum_of_a_cluster(
    name: str, clips: Callable[[str], Path], tmp_path: Path
) -> None:
    start, size = _packet(clips(name), 5)
    at = start + size // 2
    path = _overwritten(clips(name), tmp_path / "a.mkv", at, bytes([clips(name).read_bytes()[at] ^ 1]))
    with pytest.raises(VideoDecodeError, match="a Matroska cluster differs from its checksum"):
        read_video(path)


def test_clusters_that_are_not_read_are_not_checked(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", num_frames=200, options={"x264-params": "scenecut=0"})  # clusters of 5 s
    start, size = _packet(path, 190)
    _overwritten(path, tmp_path / "b.mkv", start + size // 2, b"\x55\x55")
    with open_video(tmp_path / "b.mkv") as reader:
        assert read_numbers(reader.get_frames([0, 12])) == [0, 12]
        with pytest.raises(VideoDecodeError, match="differs from its checksum"):
            reader.get_frames([195])


def test_a_lost_block_in_vp8_is_damage(clips: Callable[[str], Path], tmp_path: Path) -> None:
    start, size = _packet(clips("VP8, WebM"), 0)
    path = _overwritten(clips("VP8, WebM"), tmp_path / "a.webm", start + size // 2, bytes(200))
    with pytest.raises(VideoDecodeError, match="a packet holds a lost block"):
        read_video(path)


H264_SLICE, H264_SEI, HEVC_SLICE = 0x41, 0x06, 0x02


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("size_of_length", [0, 1, 2, 4])
@pytest.mark.parametrize(
    ("payload", "is_damaged"),
    [
        (b"\x80\0\0\3\0\0\3\1\x80", False),  # escaped zeros
        (b"\x80\0\0\x04\x80", False),  # two zeros alone
        (b"\x80\0\0\3", False),  # a slice may end in an escaped zero word
        (b"\x80\0\0\x80\0\0", False),  # trailing zeros, as muxers leave them
        (b"\x80" + b"\xff" * 63, False),
        (b"\x80\0\0\2\x80", True),
        (b"\x80\0\0\3\x04\x80", True),  # an escape where there is nothing to escape
        (b"\x80" + b"\xff" * 64, True),
    ],
)
def test_forbidden_bytes_are_those_of_the_standard(
    codec: str, size_of_length: int, payload: bytes, is_damaged: bool
) -> None:
    unit = bytes([H264_SLICE] if codec == "h264" else [HEVC_SLICE, 1]) + payload
    before = len(unit).to_bytes(size_of_length, "big") if size_of_length else b"\0\0\0\1"
    assert (find_damage(codec, (before + unit) * 2, size_of_length) is not None) == is_damaged


def test_messages_that_cameras_write_wrongly_are_no_damage() -> None:
    unit = bytes([H264_SEI]) + bytes(40) + b"\x80"
    assert find_damage("h264", len(unit).to_bytes(4, "big") + unit, 4) is None


@pytest.mark.parametrize("packet", [b"", b"\0", b"\0\0\0\0\0", b"\0\0\0\x09\x41\x80", b"\0\0\0\1\x41\0\0\0\x09\x80"])
def test_lengths_that_do_not_hold_are_left_to_the_decoder(packet: bytes) -> None:
    assert find_damage("h264", packet, 4) is None


def test_the_size_of_lengths_is_read_from_the_stream_header(clips: Callable[[str], Path]) -> None:
    for name, expected in (("H.264, MP4", 4), ("HEVC, MP4", 4), ("H.264, MPEG-TS", 0)):
        with av.open(str(clips(name))) as container:
            context = container.streams.video[0].codec_context
            assert length_size(context.codec.canonical_name, context.extradata or b"") == expected


def test_superframes_come_apart() -> None:
    first, second = b"\x82" * 300, b"\x86" * 5
    index = b"\xc9" + (300).to_bytes(2, "little") + (5).to_bytes(2, "little") + b"\xc9"
    assert split_superframe(first + second + index) == [first, second]
    assert split_superframe(first) == [first]
    with pytest.raises(ValueError, match="lists more bytes than it has"):
        split_superframe(first + index)


@pytest.mark.parametrize("name", ["H.264, MP4", "H.264, Matroska", "HEVC, MP4"])
def test_what_decord_would_guess_is_an_error(name: str, clips: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("decord")
    start, size = _packet(clips(name), 30)
    path = _overwritten(clips(name), tmp_path / f"a{clips(name).suffix}", start + size // 2, bytes(16))
    with pytest.raises(VideoDecodeError, match="no encoder writes|differs from its checksum"):
        open_video(path, decoder="decord")
