"""A part of a video gives the frames that are on screen in it, and says from when to when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from media import numbered_frame, read_numbers, write_video
from PIL import Image

from vjepa_sdk.errors import InputError
from vjepa_sdk.video import transforms
from vjepa_sdk.video.inputs import Frames, load_frames
from vjepa_sdk.video.sampling import Sampling


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 10 frames a second."""
    return write_video(tmp_path_factory.mktemp("parts") / "clip.mp4", num_frames=20, fps=10)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    for number in range(20):
        Image.fromarray(numbered_frame(number)).save(directory / f"{number}.png")
    return directory


def load(video: object, **options: float | None) -> Frames:
    sampling = replace(Sampling(num_frames=4), **options)
    return load_frames(video, sampling)


@pytest.mark.parametrize(
    ("options", "indices", "seconds"),
    [
        ({}, (0, 6, 13, 19), (0.0, 2.0)),
        ({"start_seconds": 1.0}, (10, 13, 16, 19), (1.0, 2.0)),
        ({"end_seconds": 1.0}, (0, 3, 6, 9), (0.0, 1.0)),
        ({"start_seconds": 0.5, "end_seconds": 0.9}, (5, 6, 7, 8), (0.5, 0.9)),
        ({"start_seconds": 0.55, "end_seconds": 0.85}, (5, 6, 7, 8), (0.5, 0.9)),
        ({"start_seconds": 0.51, "end_seconds": 0.52}, (5, 5, 5, 5), (0.5, 0.6)),
        ({"start_seconds": 1.95, "end_seconds": 99.0}, (19, 19, 19, 19), (1.9, 2.0)),
        ({"start_seconds": 1.0, "fps": 5.0}, (10, 12, 14, 16), (1.0, 1.7)),
        ({"start_seconds": 1.0, "end_seconds": 1.3, "fps": 5.0}, (10, 12, 12, 12), (1.0, 1.3)),
        ({"fps": 5.0}, (0, 2, 4, 6), (0.0, 0.7)),
    ],
)
@pytest.mark.parametrize("source", ["video", "frames", "array"])
def test_frames_and_seconds_of_a_part(
    video: Path,
    frames: Path,
    source: str,
    options: dict[str, float],
    indices: tuple[int, ...],
    seconds: tuple[float, float],
) -> None:
    array = np.stack([numbered_frame(number) for number in range(20)])
    given = {"video": video, "frames": frames, "array": array}[source]
    loaded = load(given, **options, source_fps=None if source == "video" else 10.0)
    assert loaded.indices == indices
    assert tuple(read_numbers(loaded.pixels.permute(0, 2, 3, 1).numpy())) == indices
    assert (loaded.start_seconds, loaded.end_seconds) == pytest.approx(seconds, abs=1e-6)


def test_seconds_are_those_of_the_time_stamps(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", num_frames=10, pts=range(30, 40))
    assert load(path).start_seconds == pytest.approx(3.0, abs=2e-3)
    assert load(path, fps=5.0).indices == (0, 2, 4, 6)
    loaded = load(path, start_seconds=3.5)
    assert (loaded.indices, loaded.start_seconds) == ((5, 6, 8, 9), pytest.approx(3.5, abs=2e-3))
    assert load(path, start_seconds=0.0, end_seconds=3.2).indices == (0, 0, 1, 1)
    with pytest.raises(InputError, match="end_seconds=2 must lie after the start of the video at 3 s"):
        load(path, end_seconds=2.0)


@pytest.mark.parametrize("name", ["fps", "start_seconds", "end_seconds"])
def test_seconds_of_frames_need_a_rate(frames: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}=1 needs the frame rate of arrays and frame directories"):
        load(frames, **{name: 1.0})


def test_without_a_rate_seconds_are_unknown(frames: Path) -> None:
    loaded = load(frames)
    assert (loaded.indices, loaded.start_seconds, loaded.end_seconds) == ((0, 6, 13, 19), None, None)


def test_a_still_has_no_seconds() -> None:
    loaded = load(torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert (loaded.start_seconds, loaded.end_seconds) == (None, None)


def test_a_part_beyond_the_end_is_an_error(video: Path) -> None:
    with pytest.raises(InputError, match="start_seconds=2 must lie before the end of the video at 2 s"):
        load(video, start_seconds=2.0)


@pytest.mark.parametrize("source", ["video", "frames"])
@pytest.mark.parametrize("num_frames", [7, 40])
def test_frames_are_cropped_in_groups_and_come_in_order(
    video: Path, frames: Path, source: str, num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, sampling, sizes = video if source == "video" else frames, Sampling(num_frames=num_frames), []
    whole = load_frames(given, sampling)
    monkeypatch.setattr(transforms, "_GROUP_BYTES", 3 * whole.pixels[0].nbytes)

    def crop(group: torch.Tensor) -> torch.Tensor:
        sizes.append(len(group))
        return group[..., :24, :]  # the half that tells the number

    cropped = load_frames(given, sampling, crop)
    assert max(sizes) == 3 and sum(sizes) == len(set(whole.indices))
    assert cropped.indices == whole.indices
    torch.testing.assert_close(cropped.pixels, whole.pixels[..., :24, :], rtol=0, atol=0)
