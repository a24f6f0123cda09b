"""One training clip: which frames it takes, and what it makes of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from media import read_numbers, write_video
from PIL import Image

from vjepa_sdk.config.training import DataConfig
from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.training.data.cutter import ClipCutter, ClipRequest, even_indices, official_indices


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cutter(num_frames: int = 4, crop_size: int = 32, **settings: object) -> ClipCutter:
    config = DataConfig(**{"frame_stride": (1, 3), **settings})  # type: ignore[arg-type]
    return ClipCutter(config=config, num_frames=num_frames, crop_size=crop_size)


def cut(path: Path, seed: int = 0, **settings: object) -> torch.Tensor:
    return torch.from_numpy(cutter(**settings)(ClipRequest(0, 0, 0, str(path), seed))[0])  # type: ignore[arg-type]


counts = st.integers(1, 400)


@given(available=counts, num_frames=st.integers(1, 64), stride=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None)
def test_even_indices_have_one_stride_and_stay_inside(available: int, num_frames: int, stride: int, seed: int) -> None:
    indices = even_indices(available, num_frames=num_frames, stride=stride, generator=generator(seed))
    assert indices.shape == (num_frames,) and indices.min() >= 0 and indices.max() < available
    steps = set(np.diff(indices).tolist())
    if available >= num_frames:
        assert len(steps) <= 1 and max(steps, default=1) <= stride
        # as wide as the stride allows: one more would not fit
        assert num_frames == 1 or steps == {stride} or (num_frames - 1) * (max(steps) + 1) + 1 > available
    else:
        assert indices.tolist() == [*range(available), *[available - 1] * (num_frames - available)]


def test_stride_and_start_vary_and_stay_inside() -> None:
    draw = generator()
    drawn = [cutter().choose_frames(24, 30.0, draw) for _ in range(200)]
    assert {int(frames[1] - frames[0]) for frames in drawn} == {1, 2, 3}
    assert {int(frames[0]) for frames in drawn} >= {0, 5, 10}
    assert all(0 <= frames.min() and frames.max() < 24 for frames in drawn)


def official_clips(available: int, num_frames: int, stride: int) -> set[tuple[int, ...]]:
    """Every clip that the official rule may give, written down from its description.

    A window of num_frames * stride frames ends before frame `end`, drawn from [window, available); the positions are
    spread from its start to `end` inclusive, limited to end - 1 and cut to integers. In a shorter video there are
    available // stride positions spread from 0 to its length, followed by its last frame as often as needed.
    """
    window = num_frames * stride
    if available > window:
        clips = [np.clip(np.linspace(end - window, end, num_frames), 0, end - 1) for end in range(window, available)]
    else:
        spread = np.linspace(0, available, available // stride)
        clips = [np.minimum(np.concatenate([spread, np.repeat(available, num_frames - len(spread))]), available - 1)]
    return {tuple(int(moment) for moment in clip) for clip in clips}


@given(available=counts, num_frames=st.integers(1, 32), stride=st.integers(1, 12), seed=st.integers(0, 10**6))
@example(available=64, num_frames=16, stride=4, seed=0)
@example(available=65, num_frames=16, stride=4, seed=0)
@example(available=3, num_frames=16, stride=4, seed=0)
@settings(deadline=None)
def test_official_indices_are_those_of_the_official_code(
    available: int, num_frames: int, stride: int, seed: int
) -> None:
    drawn = official_indices(available, num_frames=num_frames, stride=stride, generator=generator(seed))
    assert tuple(drawn.tolist()) in official_clips(available, num_frames, stride)
    assert drawn.dtype == np.int64 and drawn.max() < available


def test_every_official_window_is_drawn() -> None:
    draw = generator()
    drawn = {tuple(official_indices(40, num_frames=8, stride=4, generator=draw).tolist()) for _ in range(200)}
    assert drawn == official_clips(40, 8, 4) and len(drawn) == 8


def test_official_strides_differ_by_one() -> None:
    indices = official_indices(65, num_frames=16, stride=4, generator=generator())
    assert indices.tolist() == [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]


@pytest.mark.parametrize("rule", ["even", "official"])
@pytest.mark.parametrize(("source_fps", "fps"), [(30.0, 4.0), (29.97, 4.0), (24.0, 5.0), (12.5, 30.0), (3.0, 4.0)])
def test_a_rate_becomes_a_stride(rule: str, source_fps: float, fps: float) -> None:
    """Official: ceil(rate) // fps; ours: the nearest; never below 1."""
    stride = math.ceil(source_fps) // int(fps) if rule == "official" else int(source_fps / fps + 0.5)
    chosen = cutter(16, fps=fps, index_rule=rule).choose_frames(10_000, source_fps, generator())
    steps = set(np.diff(chosen).tolist())
    assert min(steps) == max(1, stride) and (rule == "official" or len(steps) == 1)


def test_a_rate_computed_from_times_is_not_rounded_up() -> None:
    strides = [
        np.diff(cutter(16, fps=4.0, index_rule="official").choose_frames(9999, rate, generator())).min()
        for rate in (15.0, 15.000000000000002, 15.1)
    ]
    assert strides == [3, 3, 4]


def test_a_video_without_a_rate_has_stride_one() -> None:
    assert cutter(fps=4.0).choose_frames(1, 0.0, generator()).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("rule", ["even", "official"])
def test_pixels_are_those_of_the_frames_named(tmp_path: Path, rule: str) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=60, width=64, height=64, fps=12)
    whole = {"crop_scale": (1.0, 1.0), "crop_aspect_ratio": (1.0, 1.0), "horizontal_flip": False}
    for seed in range(3):
        cut_clip = cutter(6, 64, fps=3.0, index_rule=rule, **whole)(ClipRequest(0, 0, 0, str(path), seed))
        assert read_numbers(cut_clip[0].transpose(0, 2, 3, 1)) == cut_clip[1]["frames"]


def test_a_still_is_repeated_to_a_clip(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.PNG")
    on = {"color_jitter": 0.3, "rand_augment": True, "random_erasing": 0.5}
    clip = cut(tmp_path / "a.PNG", num_frames=6, crop_size=24, **on)
    assert clip.shape == (6, 3, 24, 24)
    assert all(torch.equal(frame, clip[0]) for frame in clip)
    assert not torch.equal(clip, cut(tmp_path / "a.PNG", seed=1, num_frames=6, crop_size=24, **on))


def test_an_image_model_takes_a_random_frame_of_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=12)
    drawn = {cutter(1)(ClipRequest(0, 0, 0, str(path), seed))[1]["frames"][0] for seed in range(60)}
    assert drawn == set(range(12))


def test_a_damaged_still_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(VideoDecodeError, match=r"a\.jpg: is not a JPEG, PNG"):
        cut(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "settings", [{"antialias": False}, {"color_jitter": 0.4}, {"rand_augment": True}, {"random_erasing": 1.0}]
)
def test_every_setting_has_an_effect_and_is_reproducible(tmp_path: Path, settings: dict[str, object]) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=12)
    assert not torch.equal(cut(path, 3, **settings), cut(path, 3))
    assert torch.equal(cut(path, 3, **settings), cut(path, 3, **settings))


def test_augmentations_leave_frames_and_crop_as_they_are(tmp_path: Path) -> None:
    """Switching one on must not redraw the rest: runs stay comparable."""
    path = write_video(tmp_path / "a.mp4", num_frames=12)
    plain, erased = cut(path, 3), cut(path, 3, random_erasing=1.0)
    assert ((plain == erased).all(dim=1).float().mean()) > 0.5
