from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import numbered_frame, read_number, read_numbers, remux, write_audio, write_cut_video, write_video
from PIL import Image

from vjepa_sdk.errors import ConfigError, InputError, VideoDecodeError
from vjepa_sdk.video import decoding, images, safety
from vjepa_sdk.video import reader as video
from vjepa_sdk.video.images import list_frame_directory, read_frame_directory, read_image
from vjepa_sdk.video.reader import open_video, read_video
from vjepa_sdk.video.sampling import sample_indices

FAST = {"deadline": "realtime", "cpu-used": "8"}
OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0"}
WRITERS: dict[str, Callable[[Path], Path]] = {
    "h264 with b frames": lambda d: write_video(d / "a.mp4", num_b_frames=3),
    "h264 matroska": lambda d: write_video(d / "a.mkv", num_b_frames=3),
    "h264 open gop": lambda d: write_video(d / "a.mp4", num_b_frames=3, num_frames=40, options=OPEN_GOP),
    "h264 open gop matroska": lambda d: write_video(d / "a.mkv", num_b_frames=3, num_frames=40, options=OPEN_GOP),
    "h264 intra refresh": lambda d: write_video(d / "a.mp4", num_frames=40, options={"x264-params": "intra-refresh=1"}),
    "hevc open gop": lambda d: write_video(
        d / "a.mp4", codec="libx265", num_frames=40, options={"x265-params": "log-level=error:open-gop=1:keyint=10"}
    ),
    "vp8": lambda d: write_video(d / "a.webm", codec="libvpx", options=FAST),
    "vp9": lambda d: write_video(d / "a.webm", codec="libvpx-vp9", options=FAST),
    "av1": lambda d: write_video(d / "a.mp4", codec="libsvtav1", options={"preset": "11", "svtav1-params": "lp=1"}),
    "mpeg4": lambda d: write_video(d / "a.mp4", codec="mpeg4", num_b_frames=2),
    "mpeg4 avi": lambda d: write_video(d / "a.avi", codec="mpeg4", num_b_frames=2),
    "mpeg2 program stream": lambda d: write_video(d / "a.mpg", codec="mpeg2video", fps=25, num_b_frames=2),
    "mjpeg": lambda d: write_video(d / "a.mov", codec="mjpeg", pixel_format="yuvj420p"),
    "gif": lambda d: write_video(d / "a.gif", codec="gif", pixel_format="rgb8"),
    "transport stream": lambda d: write_video(d / "a.ts", num_b_frames=3),
    "ten bit": lambda d: write_video(d / "a.mp4", pixel_format="yuv420p10le"),
    "odd size 4:4:4": lambda d: write_video(d / "a.mp4", pixel_format="yuv444p", width=65, height=49),
    "variable rate": lambda d: write_video(d / "a.mp4", pts=[0, 1, 2, 10, 11, 30, 31, 32, 60], num_b_frames=2),
    "non-zero start": lambda d: write_video(d / "a.mp4", pts=range(50, 70), num_b_frames=2),
    "one frame": lambda d: write_video(d / "a.mp4", num_frames=1),
    "rotated 90": lambda d: write_video(d / "a.mp4", rotation=90),
    "rotated 180": lambda d: write_video(d / "a.mp4", rotation=180),
    "rotated 270": lambda d: write_video(d / "a.mov", rotation=270),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty numbered frames, H.264 with B frames, key frame every ten."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", num_b_frames=3)


@pytest.mark.parametrize("kind", WRITERS)
def test_frames_by_index_are_those_of_the_full_decode(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    with open_video(path) as reader:
        full = np.stack(list(reader.iter_frames()))
        assert read_numbers(full) == list(range(len(reader)))
        rng = np.random.default_rng(0)
        for indices in ([len(reader) - 1], [0], rng.integers(0, len(reader), 7), rng.permutation(len(reader))):
            np.testing.assert_array_equal(reader.get_frames(indices), full[indices])
        for indices in ([], [len(reader) - 1], range(0, len(reader), 3), np.unique(rng.integers(0, len(reader), 4))):
            numbers = [read_number(frame) for frame in reader.iter_frames(indices)]
            assert numbers == list(indices)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("indices", [range(40), range(1, 40, 2), [0, 9, 10, 11, 12, 33], [38, 39]], ids=str)
def test_no_packet_is_decoded_twice_while_frames_are_iterated(
    kind: str, indices: Sequence[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_video(WRITERS[kind](tmp_path)) as reader:
        wanted = [i for i in indices if i < len(reader)]
        decode = decoding.decode
        decoded: list[tuple[object, ...]] = []

        def count(packet: Any, decoder: Any) -> Any:
            if packet.size:
                decoded.append((packet.pts, packet.dts, packet.pos, bytes(packet)))
            return decode(packet, decoder)

        monkeypatch.setattr(decoding, "decode", count)
        assert [read_number(frame) for frame in reader.iter_frames(wanted)] == wanted
    assert len(decoded) == len(set(decoded))


def test_frames_that_nobody_asks_for_are_jumped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(write_video(tmp_path / "a.mp4", num_frames=200)) as reader:
        decode = decoding.decode
        decoded: list[int] = []
        monkeypatch.setattr(
            decoding, "decode", lambda packet, decoder: decoded.append(packet.pts) or decode(packet, decoder)
        )
        assert [read_number(frame) for frame in reader.iter_frames([5, 6, 150, 199])] == [5, 6, 150, 199]
    assert len(decoded) < 30


@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("indices", [[3, 3], [4, 3]])
def test_frames_to_iterate_must_ascend(indices: list[int], decoder: video.Decoder, clip: Path) -> None:
    if decoder != "pyav":
        pytest.importorskip(decoder)
    with (
        open_video(clip, decoder=decoder) as reader,
        pytest.raises(InputError, match=r"clip\.mp4: indices must ascend"),
    ):
        list(reader.iter_frames(indices))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_late_frame_is_decoded_from_its_key_frame(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    options = FAST if suffix == ".webm" else OPEN_GOP | {"tune": "zerolatency"}
    path = write_video(tmp_path / f"a{suffix}", num_frames=40, codec=codec, options=options)
    with open_video(path) as reader:
        monkeypatch.setattr(reader, "_frames_in_order", lambda: pytest.fail("decoded everything"))
        assert read_numbers(reader.get_frames([35, 12, 35])) == [35, 12, 35]


def test_each_needed_frame_is_converted_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(clip) as reader:
        converted: list[object] = []
        convert = reader._rgb  # type: ignore[attr-defined]
        monkeypatch.setattr(reader, "_rgb", lambda frame: converted.append(frame) or convert(frame))
        assert read_numbers(reader.get_frames([5, 17, 5, 5, 0])) == [5, 17, 5, 5, 0]
    assert len(converted) == 3


def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    with open_video(write_cut_video(tmp_path / "cut.mp4", shown_from=4)) as reader:
        assert len(reader) == 16
        assert read_numbers(reader.get_frames([0, 15, 3])) == [4, 19, 7]
        assert reader.timestamps[0] == 0.0


def test_an_index_with_gaps_in_time_keeps_every_time_stamp(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "a.mp4", pts=[0, 1, 2, 10, 11, 30], num_b_frames=2)) as reader:
        np.testing.assert_allclose(reader.timestamps, [0.0, 0.1, 0.2, 1.0, 1.1, 3.0])
        assert reader.info.fps == pytest.approx(5 / 3.0)


def test_time_stamps_start_where_the_video_starts(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "a.mp4", pts=range(50, 70), num_b_frames=2)) as reader:
        assert reader.info.start_seconds == pytest.approx(5.0)
        assert reader.info.duration_seconds == pytest.approx(2.0)
        np.testing.assert_allclose(np.diff(reader.timestamps), 0.1)


def test_a_transport_stream_cut_inside_a_group_of_pictures_starts_at_its_first_key_frame(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", num_frames=30, num_b_frames=0)
    with open_video(remux(whole, tmp_path / "a.ts", first_packet=4)) as reader:
        assert read_numbers(np.stack(list(reader.iter_frames()))) == list(range(10, 30))


def test_info_describes_the_video_as_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", width=64, height=48, rotation=90)
    with open_video(path) as reader:
        info = reader.info
    assert (info.num_frames, info.fps, info.width, info.height) == (20, 10.0, 64, 48)
    assert (info.rotation, info.codec, info.duration_seconds, info.path) == (90, "h264", 2.0, str(path))


def test_mirrored_display_matrix_mirrors_the_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=3)
    data = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    position = data.index(matrix, data.index(b"tkhd"))
    data[position : position + 4] = struct.pack(">i", -65536)
    path.write_bytes(data)
    assert read_number(read_video(path, [2])[0][:, ::-1]) == 2


def test_read_video_without_indices_reads_everything(clip: Path) -> None:
    frames = read_video(clip)
    assert (frames.shape, frames.dtype) == ((20, 48, 64, 3), np.uint8)
    assert read_numbers(frames) == list(range(20))


def test_no_indices_give_no_frames(clip: Path) -> None:
    assert read_video(clip, []).shape == (0, 48, 64, 3)


def test_two_iterations_of_one_reader_do_not_disturb_each_other(clip: Path) -> None:
    with open_video(clip) as reader:
        first = reader.iter_frames()
        numbers = [read_number(next(first)) for _ in range(3)]
        assert read_numbers(reader.get_frames([19, 0])) == [19, 0]
        assert numbers + [read_number(frame) for frame in first] == list(range(20))


@pytest.mark.parametrize("indices", [[20], [-1], [0, 99]])
def test_an_index_outside_the_video_is_named(indices: list[int], clip: Path) -> None:
    with pytest.raises(InputError, match=rf"clip\.mp4: index {indices[-1]} must be from 0 to 19"):
        read_video(clip, indices)


@pytest.mark.parametrize("indices", [[0.5], [[1, 2]], 3])
def test_indices_must_be_a_list_of_integers(indices: object, clip: Path) -> None:
    with pytest.raises(InputError, match="indices must be a list of integers"):
        read_video(clip, indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["h264 with b frames", "vp9", "rotated 90"])
def test_decord_returns_the_same_frames_on_plain_files(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = WRITERS[kind](tmp_path)
    with open_video(path, decoder="decord") as reader, open_video(path) as exact:
        assert read_numbers(reader.get_frames([9, 0, 9, 3])) == [9, 0, 9, 3]
        assert read_numbers(np.stack(list(reader.iter_frames()))) == list(range(20))
        assert (reader.info.width, reader.info.height, len(reader)) == (64, 48, 20)
        np.testing.assert_allclose(reader.timestamps, exact.timestamps, atol=1e-5)


def test_decord_refuses_av1_and_names_the_remedy(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = WRITERS["av1"](tmp_path)
    with pytest.raises(VideoDecodeError, match="cannot be read by decord; decoder='pyav' reads more formats"):
        open_video(path, decoder="decord")


def test_missing_decord_is_a_configuration_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ConfigError, match="pip install decord"):
        open_video(clip, decoder="decord")


def test_an_unknown_decoder_lists_those_that_exist(clip: Path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown decoder 'cv2'\. Available: pyav, decord"):
        open_video(clip, decoder="cv2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1/a.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:a.mp4", "data:video/mp4;base64,AA",
     "pipe:0", "file:///etc/passwd", "rtsp://host/stream", "async:a.mp4"],
)  # fmt: skip
def test_urls_and_protocol_strings_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is a URL or protocol string"):
        open_video(text)


@pytest.mark.parametrize("path", ["", "a\0b.mp4", b"a.mp4", 7, None])
def test_what_cannot_be_a_path_is_refused(path: object) -> None:
    with pytest.raises(InputError, match="path"):
        open_video(path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXTINF:10,\nseg.ts\n", "\ufeff#EXTM3U\nseg.ts\n", "ffconcat version 1.0\nfile a.mp4\n",
     "v=0\no=- 0 0 IN IP4 127.0.0.1\n", '<?xml version="1.0"?><MPD type="static"></MPD>', "<html></html>"],
)  # fmt: skip
@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec"])
def test_playlists_are_refused_under_any_suffix(text: str, decoder: video.Decoder, tmp_path: Path) -> None:
    if decoder != "pyav":
        pytest.importorskip(decoder)
    path = tmp_path / "a.mp4"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VideoDecodeError, match=r"is an? .*, not a video"):
        open_video(path, decoder=decoder)


def test_only_self_contained_formats_reach_a_demuxer(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("[Script Info]\nScriptType: v4.00+\n\n[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,Default,hi\n")
    with pytest.raises(VideoDecodeError, match="is not a video of a known format"):
        open_video(path)


def _missing(directory: Path) -> Path:
    return directory / "missing.mp4"


def _empty(directory: Path) -> Path:
    (directory / "empty.mp4").touch()
    return directory / "empty.mp4"


def _noise(directory: Path) -> Path:
    (directory / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    return directory / "noise.mp4"


def _half(directory: Path) -> Path:
    whole = write_video(directory / "whole.mp4").read_bytes()
    (directory / "half.mp4").write_bytes(whole[: len(whole) // 2])
    return directory / "half.mp4"


def _png(directory: Path) -> Path:
    Image.new("RGB", (8, 8)).save(directory / "image.png")
    return directory / "image.png"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_missing, "missing.mp4: does not exist"),
        (lambda d: d, "is a directory, not a file"),
        (_empty, r"empty.mp4: is empty \(0 bytes\)"),
        (_noise, "noise.mp4: is not a video of a known format"),
        (_half, "half.mp4: is truncated or corrupt"),
        (_png, "image.png: is a PNG image, not a video"),
        (lambda d: write_audio(d / "sound.wav"), "sound.wav: has no video stream"),
        (lambda d: write_audio(d / "sound.m4a"), "sound.m4a: has no video stream, it holds audio only"),
    ],
)
@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec"])
def test_each_bad_file_gets_its_own_reason(
    make: Callable[[Path], Path], reason: str, decoder: video.Decoder, tmp_path: Path
) -> None:
    if decoder != "pyav":
        pytest.importorskip(decoder)
    with pytest.raises(VideoDecodeError, match=reason):
        open_video(make(tmp_path), decoder=decoder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_neither_blocks_nor_opens(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(VideoDecodeError, match="is not a regular file"):
        open_video(tmp_path / "fifo.mp4")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs devices")
def test_a_device_is_refused() -> None:
    with pytest.raises(VideoDecodeError, match="is not a regular file"):
        open_video("/dev/zero")


def test_a_file_without_permission_says_so(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:  # the tests may run as root, whom chmod does not stop
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(safety.os, "open", refuse)
    with pytest.raises(VideoDecodeError, match="permission denied"):
        open_video(clip)


def test_too_many_pixels_are_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(VideoDecodeError, match=r"has more than 3071 pixels per frame \(64x48\)"):
        open_video(clip)


def test_names_cannot_drive_a_terminal(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match=r"a\\x1b\]0;b\\n\.mp4: does not exist") as caught:
        open_video(tmp_path / "a\x1b]0;b\n.mp4")
    assert "\x1b" not in str(caught.value)


def test_the_decoders_own_error_is_chained(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError) as caught:
        open_video(_half(tmp_path))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_damaged_picture_is_an_error_and_never_other_pixels(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"a{suffix}", num_frames=30)
    data = bytearray(path.read_bytes())
    start = len(data) * 6 // 10
    data[start : start + 300] = b"\xff" * 300
    path.write_bytes(data)
    with pytest.raises(VideoDecodeError, match="corrupt"):
        read_video(path)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi"])
def test_a_cut_off_file_is_truncated_and_not_shorter(suffix: str, tmp_path: Path) -> None:
    codec = {".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}[suffix]
    path = write_video(
        tmp_path / f"a{suffix}", num_frames=30, codec=codec, options=FAST if codec == "libvpx-vp9" else {}
    )
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(VideoDecodeError, match="is truncated: the file is shorter than it says"):
        open_video(path)


def test_fewer_frames_than_listed_is_an_error(clip: Path) -> None:
    with open_video(clip) as reader:
        decode_all = reader._decode_all  # type: ignore[attr-defined]
        reader._decode_all = lambda: list(decode_all())[:-1]  # type: ignore[attr-defined]
        with pytest.raises(VideoDecodeError, match="only 19 of 20 frames"):
            list(reader.iter_frames())


@given(num_available=st.integers(1, 10_000), num_frames=st.integers(1, 300))
def test_sampled_indices_are_in_range_in_order_and_reach_both_ends(num_available: int, num_frames: int) -> None:
    indices = sample_indices(num_available, num_frames)
    assert (indices.dtype, len(indices)) == (np.int64, num_frames)
    assert np.all(np.diff(indices) >= 0) and indices[0] == 0 and indices[-1] <= num_available - 1
    assert num_frames == 1 or indices[-1] == num_available - 1


def test_a_short_video_repeats_frames() -> None:
    assert sample_indices(3, 6).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("counts", [(0, 4), (4, 0)])
def test_sampling_needs_at_least_one_frame(counts: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="must both be at least 1"):
        sample_indices(*counts)


def test_frame_directories_are_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 2, 1):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in list_frame_directory(tmp_path)] == [f"frame{n}.png" for n in (1, 2, 9, 10)]
    assert read_numbers(read_frame_directory(tmp_path)) == [1, 2, 9, 10]
    assert read_numbers(read_frame_directory(tmp_path, [3, 0, 3])) == [10, 1, 10]


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    Image.new("RGB", (9, 6)).save(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"2\.png: is 9x6, but frames before it are 8x6"):
        read_frame_directory(tmp_path)


def test_a_directory_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image in this directory; .* for a directory of videos use embed_files"):
        list_frame_directory(tmp_path)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (200, 100, 50, 128), (100, 50, 25)),
        ("RGBA", (200, 100, 50, 0), (0, 0, 0)),
        ("LA", (200, 0), (0, 0, 0)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 0x4D00, (0x4D, 0x4D, 0x4D)),
    ],
)
def test_images_of_every_mode_become_rgb(mode: str, colour: object, expected: object, tmp_path: Path) -> None:
    Image.new(mode, (4, 3), colour).save(tmp_path / "a.png")  # type: ignore[arg-type]
    image = read_image(tmp_path / "a.png")
    assert (image.shape, image.dtype) == ((3, 4, 3), np.uint8)
    np.testing.assert_allclose(image[0, 0], expected, atol=1)


def test_cmyk_and_palette_images_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    Image.new("RGB", (4, 3), (255, 0, 0)).convert("P").save(tmp_path / "b.gif")
    for name in ("a.jpg", "b.gif"):
        np.testing.assert_allclose(read_image(tmp_path / name)[0, 0], (255, 0, 0), atol=3)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (8, 4, 3)


def test_image_formats_outside_the_allow_list_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="TIFF")
    with pytest.raises(VideoDecodeError, match="is not a JPEG, PNG, WebP, BMP or GIF image"):
        read_image(tmp_path / "a.png")


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    with pytest.raises(VideoDecodeError, match=r"a\.png: is truncated or corrupt"):
        read_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [15, 7])
def test_an_image_bomb_is_refused(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for module in (safety, images):
        monkeypatch.setattr(module, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(VideoDecodeError, match=f"has more than {limit} pixels per frame"):
        read_image(tmp_path / "a.png")


def test_importing_the_module_imports_no_decoder() -> None:
    import subprocess

    code = "import sys, vjepa_sdk.video.reader; print(sorted({'av', 'decord', 'PIL', 'torch'} & set(sys.modules)))"
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
