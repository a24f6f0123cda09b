"""Files by what they hold and not by their suffix: rare containers, bare streams, animations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media import numbered_frame, read_numbers, write_video
from PIL import Image, features

from vjepa_sdk.errors import InputError, VideoDecodeError
from vjepa_sdk.video.images import is_animation, is_still_file, read_frame_directory
from vjepa_sdk.video.reader import OTHER_VIDEO_SUFFIXES, VIDEO_SUFFIXES, open_video, read_video

FAST = {"deadline": "realtime", "cpu-used": "8"}
X265 = {"x265-params": "log-level=error"}
RARE = {
    "a.3g2": ("libx264", 10, {}),
    "a.f4v": ("libx264", 10, {}),
    "a.vob": ("mpeg2video", 25, {}),
    "a.m2v": ("mpeg2video", 25, {}),
    "a.mxf": ("mpeg2video", 25, {}),
    "a.nut": ("libx264", 10, {}),
    "a.y4m": ("wrapped_avframe", 10, {}),
    "a.h264": ("libx264", 10, {}),
    "a.hevc": ("libx265", 10, X265),
    "a.ivf": ("libvpx-vp9", 10, FAST),
    "a.m4v": ("mpeg4", 10, {}),
}


@pytest.mark.parametrize("name", RARE)
def test_rare_containers_and_bare_streams_are_read(name: str, tmp_path: Path) -> None:
    codec, fps, options = RARE[name]
    if codec == "wrapped_avframe":
        path = _write_y4m(tmp_path / name)
    else:
        path = write_video(tmp_path / name, codec=codec, fps=fps, options=options)
    with open_video(path) as reader:
        assert read_numbers(reader.get_frames(range(len(reader)))) == list(range(20))
        assert read_numbers(reader.get_frames([17, 3])) == [17, 3]
        np.testing.assert_allclose(np.diff(reader.timestamps), 1 / fps, atol=1e-6)
    assert path.suffix in VIDEO_SUFFIXES


def _write_y4m(path: Path) -> Path:
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W64 H48 F10:1 Ip A1:1 C444\n")
        for number in range(20):
            luma = 16 + numbered_frame(number)[:, :, 0].astype(int) * 219 // 255
            file.write(b"FRAME\n" + luma.astype(np.uint8).tobytes() + bytes([128]) * (2 * 64 * 48))
    return path


def test_a_bare_stream_runs_at_the_rate_that_it_states(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "a.h264", fps=20, num_b_frames=2)) as reader:
        assert reader.info.fps == 20
        assert reader.info.duration_seconds == pytest.approx(1.0)


@pytest.mark.parametrize("content", [b"text", bytes(5000), b"\0\0\1" * 200, b"%PDF-1.7\n" * 50], ids=repr)
def test_what_is_no_video_names_the_formats_and_a_way(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.rm").write_bytes(content)
    with pytest.raises(
        VideoDecodeError, match=r"a\.rm: is not a video of a known format \(MP4, .*; try `ffmpeg -i x -c copy x\.mp4`$"
    ):
        open_video(tmp_path / "a.rm")


def test_no_suffix_is_read_and_not_read() -> None:
    assert not VIDEO_SUFFIXES & OTHER_VIDEO_SUFFIXES


def write_animation(path: Path, *, num_frames: int = 6, duration: int = 40) -> Path:
    images = [Image.fromarray(numbered_frame(number)) for number in range(num_frames)]
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    if path.suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, **lossless)
    return path


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_animation_is_a_video_of_its_frames(suffix: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / f"a{suffix}")
    assert is_animation(path) and not is_still_file(path)
    expected = np.stack([numbered_frame(number) for number in range(6)])
    with open_video(path) as reader:
        np.testing.assert_array_equal(np.stack(list(reader.iter_frames())), expected)
        np.testing.assert_array_equal(reader.get_frames([4, 1, 4]), expected[[4, 1, 4]])
        np.testing.assert_allclose(reader.timestamps, np.arange(6) * 0.04)
        assert (reader.info.width, reader.info.height, reader.info.duration_seconds) == (64, 48, pytest.approx(0.24))
        assert reader.get_frames([]).shape == (0, 48, 64, 3)


def test_alpha_of_an_animated_avif_is_on_black(tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    images = [Image.new("RGBA", (64, 48), (200, 100, 60, alpha)) for alpha in (0, 128, 255)]
    images[0].save(tmp_path / "a.avif", save_all=True, append_images=images[1:], duration=40, quality=100)
    with open_video(tmp_path / "a.avif") as reader:
        np.testing.assert_allclose(reader.timestamps, [0, 0.04, 0.08])
        pixels = reader.get_frames(range(3))[:, 20, 20]
    np.testing.assert_allclose(pixels, [(0, 0, 0), (100, 50, 30), (200, 100, 60)], atol=4)


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_two_iterations_of_an_animation_do_not_disturb_each_other(suffix: str, tmp_path: Path) -> None:
    with open_video(write_animation(tmp_path / f"a{suffix}")) as reader:
        first, second = reader.iter_frames(), reader.iter_frames([1, 5])
        numbers = [read_numbers(np.stack(pair)) for pair in zip(first, second, strict=False)]
    assert numbers == [[0, 1], [1, 5]]


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_image_of_one_frame_is_no_animation(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(numbered_frame(1)).save(tmp_path / f"a{suffix}")
    assert is_still_file(tmp_path / f"a{suffix}")
    assert not is_animation(tmp_path / "missing.webp")


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_a_cut_animation_is_an_error(suffix: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoDecodeError, match=rf"a\{suffix}: is (truncated or corrupt|not a JPEG)"):
        read_video(path)


def test_an_animation_is_no_frame_of_a_directory(tmp_path: Path) -> None:
    for number in range(2):
        write_animation(tmp_path / f"{number}.webp")
    with pytest.raises(InputError, match=r"0\.webp: is an animation, not a frame of a video; pass it as a"):
        read_frame_directory(tmp_path)
