"""What people see of a frame: its shape, what alpha hides, its size, whole frames of interlaced video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import numbered_frame, read_number, read_numbers, write_video
from PIL import Image

from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.video.images import read_frame_directory
from vjepa_sdk.video.reader import open_video, read_video


def write_aspect(
    path: Path, aspect: Fraction, *, rotation: int = 0, codec: str = "libx264", width: int = 64, height: int = 48
) -> Path:
    """Write four numbered frames whose pixels have this width over their height."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(-rotation)
        for number in range(4):
            image = numbered_frame(number, width=width, height=height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov"])
@pytest.mark.parametrize(
    ("aspect", "width"),
    [(Fraction(2), 128), (Fraction(4, 3), 85), (Fraction(1, 3), 21), (Fraction(1), 64), (Fraction(215, 216), 64)],
    ids=str,
)
def test_pixels_that_are_not_square_are_shown_in_their_shape(
    aspect: Fraction, width: int, suffix: str, tmp_path: Path
) -> None:
    with open_video(write_aspect(tmp_path / f"a{suffix}", aspect)) as reader:
        frames = reader.get_frames(range(4))
        assert frames.shape == (4, 48, width, 3) == (4, reader.info.height, reader.info.width, 3)
        if width > 30:
            assert read_numbers(frames) == list(range(4))


def test_a_picture_is_as_if_it_had_been_stored_with_square_pixels(tmp_path: Path) -> None:
    wide = read_video(write_aspect(tmp_path / "a.mp4", Fraction(2)))
    stored = read_video(write_aspect(tmp_path / "b.mp4", Fraction(1)))
    shown = [np.asarray(Image.fromarray(frame).resize((128, 48), Image.Resampling.BICUBIC)) for frame in stored]
    assert np.abs(wide.astype(int) - np.stack(shown)).mean() < 2


@pytest.mark.parametrize("rotation", [90, 270])
def test_the_shape_of_pixels_is_turned_with_the_picture(rotation: int, tmp_path: Path) -> None:
    with open_video(write_aspect(tmp_path / "a.mp4", Fraction(2), rotation=rotation)) as reader:
        assert (reader.info.width, reader.info.height, reader.info.rotation) == (24, 64, rotation)
        turned = np.rot90(reader.get_frames([2])[0], k=rotation // 90)
    assert read_number(np.asarray(Image.fromarray(np.ascontiguousarray(turned)).resize((64, 48)))) == 2


def _set_aspect(path: Path, horizontal: int, vertical: int) -> Path:
    data = bytearray(path.read_bytes())
    start = data.index(b"pasp") + 4
    data[start : start + 8] = horizontal.to_bytes(4, "big") + vertical.to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("aspect", [(0, 1), (1, 0), (0, 0), (1, 65535)], ids=str)
def test_a_shape_that_no_pixel_has_is_ignored(aspect: tuple[int, int], tmp_path: Path) -> None:
    path = write_aspect(tmp_path / "a.mp4", Fraction(1), codec="mpeg4")
    if b"pasp" not in path.read_bytes():
        pytest.skip("this FFmpeg writes no aspect of 1:1")
    with open_video(_set_aspect(path, *aspect)) as reader:
        assert (reader.info.width, reader.info.height) == (64, 48)


def test_a_shape_that_makes_a_picture_too_large_is_refused(tmp_path: Path) -> None:
    path = _set_aspect(write_aspect(tmp_path / "a.mp4", Fraction(2), codec="mpeg4"), 65535, 1)
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: has more than 89478485 pixels per frame \(4194240x48\)"):
        open_video(path)


ALPHA = np.concatenate([np.zeros((48, 20)), np.full((48, 20), 128), np.full((48, 24), 255)], axis=1).astype(np.uint8)


def _transparent_frames() -> list[np.ndarray]:
    return [np.dstack([numbered_frame(number) | 0x20, ALPHA]) for number in range(3)]


def write_transparent(path: Path, codec: str, pixel_format: str, options: dict[str, str] | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for image in _transparent_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"), [("a.mov", "png", "rgba"), ("a.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "bgra")]
)
def test_alpha_in_a_video_is_that_of_its_frames_as_images(
    name: str, codec: str, pixel_format: str, tmp_path: Path
) -> None:
    path = write_transparent(tmp_path / name, codec, pixel_format)
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(_transparent_frames()):
        Image.fromarray(image, "RGBA").save(tmp_path / "frames" / f"{number}.png")
    frames = read_video(path)
    np.testing.assert_array_equal(frames, read_frame_directory(tmp_path / "frames"))
    assert not frames[:, :, :20].any()


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"), [("a.mkv", "ffv1", "yuva420p"), ("a.mov", "prores_ks", "yuva444p10le")]
)
def test_alpha_beside_brightness_and_colour_is_on_black_too(
    name: str, codec: str, pixel_format: str, tmp_path: Path
) -> None:
    frames = read_video(write_transparent(tmp_path / name, codec, pixel_format)).astype(float)
    assert frames[:, :, :18].max() <= 2
    opaque = np.stack(_transparent_frames())[..., :3].astype(float)
    np.testing.assert_allclose(frames[:, 30:, 22:38], opaque[:, 30:, 22:38] * 128 / 255, atol=4)
    np.testing.assert_allclose(frames[:, 30:, 44:], opaque[:, 30:, 44:], atol=6)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_beside_the_packets_of_a_webm_is_on_black_too(codec: str, tmp_path: Path) -> None:
    path = write_transparent(tmp_path / "a.webm", codec, "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b": "4M"})
    with open_video(path) as reader:
        frames = reader.get_frames([0, 1, 2]).astype(float)
        np.testing.assert_array_equal(reader.get_frames([1])[0], frames[1])
    assert frames[:, :, :12].max() <= 8
    opaque = np.stack(_transparent_frames())[..., :3].astype(float)
    assert np.abs(frames[:, 30:, 26:34] - opaque[:, 30:, 26:34] * 128 / 255).mean() < 12
    pytest.importorskip("decord")
    with pytest.raises(VideoDecodeError, match=r"a\.webm: has alpha, of which decord shows the hidden colours"):
        open_video(path, decoder="decord")


def test_the_fourth_byte_of_raw_pixels_in_avi_is_no_alpha(tmp_path: Path) -> None:
    frames = read_video(write_transparent(tmp_path / "a.avi", "rawvideo", "bgra"))
    np.testing.assert_array_equal(frames, np.stack(_transparent_frames())[..., :3])


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    for name, pixel_format in (("a.mov", "rgba"), ("b.mov", "rgb24")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("png", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(5), format="rgb24")))
            container.mux(stream.encode(None))
    np.testing.assert_array_equal(read_video(tmp_path / "a.mov"), read_video(tmp_path / "b.mov"))


def test_decord_refuses_what_it_would_show_wrong(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: has pixels of 2:1, which decord takes for square; decoder='p"):
        open_video(write_aspect(tmp_path / "a.mp4", Fraction(2)), decoder="decord")
    with pytest.raises(VideoDecodeError, match=r"a\.mov: has alpha, of which decord shows the hidden colours; decoder"):
        open_video(write_transparent(tmp_path / "a.mov", "png", "rgba"), decoder="decord")


def test_a_video_whose_size_changes_has_frames_of_its_first_size(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.webm", codec="libvpx", num_frames=5, options={"deadline": "realtime"})
    large = write_video(
        tmp_path / "large.webm", codec="libvpx", num_frames=5, width=128, height=96, options={"deadline": "realtime"}
    )
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as written:
        stream = None
        for offset, part in enumerate((small, large)):
            with av.open(str(part)) as given:
                stream = stream or written.add_stream_from_template(given.streams.video[0])
                for packet in given.demux(given.streams.video[0]):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + 500 * offset, packet.dts + 500 * offset
                        packet.stream = stream
                        written.mux(packet)
    frames, large_frames = read_video(path), read_video(large)
    assert frames.shape == (10, 48, 64, 3)
    assert read_numbers(frames) == [*range(5), *range(5)]
    bicubic = Image.Resampling.BICUBIC
    shown = np.stack([np.asarray(Image.fromarray(frame).resize((64, 48), bicubic)) for frame in large_frames])
    shown = [
        np.asarray(Image.fromarray(frame).resize((64, 48), Image.Resampling.BICUBIC)) for frame in read_video(large)
    ]
    assert np.abs(frames[5:].astype(int) - shown).mean() < 8


def test_a_frame_that_is_marked_as_interlaced_is_converted_whole(tmp_path: Path) -> None:
    lossless = "qp=0:scenecut=0"
    marked = write_video(tmp_path / "a.mp4", num_frames=2, options={"x264-params": f"tff=1:{lossless}"}, height=64)
    plain = write_video(tmp_path / "b.mp4", num_frames=2, options={"x264-params": lossless}, height=64)
    with av.open(str(marked)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    np.testing.assert_array_equal(read_video(marked), read_video(plain))


def write_woven(path: Path) -> Path:
    """Write frames whose odd lines are a moment later than the even ones: an edge runs from left to right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"x264-params": "tff=1:qp=0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(8):
            image = np.zeros((64, 64, 3), np.uint8)
            image[0::2, : 8 * number] = image[1::2, : 8 * number + 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _combs(frames: np.ndarray) -> float:
    """Return how far each line is from the mean of the two around it, away from the rims."""
    lines = frames[:, 8:-8].astype(float).mean(axis=3)
    return float(np.abs(lines[:, 1:-1] - (lines[:, :-2] + lines[:, 2:]) / 2).mean())


def test_interlaced_frames_are_made_whole_where_asked_for(tmp_path: Path) -> None:
    path = write_woven(tmp_path / "a.mp4")
    woven, whole = read_video(path), read_video(path, decoder="pyav-deinterlace")
    assert _combs(woven) > 10 and _combs(whole) < 1
    np.testing.assert_array_equal(whole[:, 9:-8:2], woven[:, 9:-8:2])  # one of the two moments stays
    np.testing.assert_array_equal(read_video(path, [6, 2], decoder="pyav-deinterlace"), whole[[6, 2]])


def test_frames_that_are_not_interlaced_stay_as_they_are(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_b_frames=2)
    np.testing.assert_array_equal(read_video(path, decoder="pyav-deinterlace"), read_video(path))


def test_seconds_that_decord_makes_up_are_not_believed(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = write_video(tmp_path / "a.avi", num_b_frames=2)
    with pytest.raises(VideoDecodeError, match=r"a\.avi: has no times that decord knows, and it would find wrong"):
        open_video(path, decoder="decord")
