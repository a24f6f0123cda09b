from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.video.transforms import draw_crop, normalize, resize_and_crop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _frames(height: int, width: int, *, count: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def _columns(height: int, width: int) -> torch.Tensor:
    """Every pixel holds its column number."""
    return torch.arange(width, dtype=torch.uint8).expand(1, 3, height, width).contiguous()


@pytest.mark.parametrize("size", [(48, 85), (85, 48), (36, 36), (30, 53), (200, 113), (40, 300)])
@pytest.mark.parametrize("crop_size", [32, 48])
def test_floor_crop_equals_the_transformers_processor(size: tuple[int, int], crop_size: int) -> None:
    transformers = pytest.importorskip("transformers")
    frames = _frames(*size)
    processor = transformers.VJEPA2VideoProcessor(crop_size=crop_size, do_rescale=False, do_normalize=False)
    expected = processor(frames, return_tensors="pt")["pixel_values_videos"][0]
    ours = resize_and_crop(frames, resize_size=int(crop_size * 256 / 224), crop_size=crop_size, crop_offset="floor")
    assert expected.dtype == ours.dtype == torch.uint8
    assert torch.equal(ours, expected)


def test_normalised_clip_equals_the_transformers_processor() -> None:
    transformers = pytest.importorskip("transformers")
    frames = _frames(48, 85)
    processor = transformers.VJEPA2VideoProcessor(crop_size=32)
    expected = processor(frames, return_tensors="pt")["pixel_values_videos"][0]  # [T, 3, H, W]
    ours = normalize(resize_and_crop(frames, resize_size=36, crop_size=32, crop_offset="floor"), mean=MEAN, std=STD)
    torch.testing.assert_close(ours.transpose(0, 1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("width", "left_round", "left_floor"),
    # (width - 10) / 2 = 0.5, 1.0, 1.5, 2.5, 3.5: halves go to the even neighbour
    [(11, 0, 0), (12, 1, 1), (13, 2, 1), (15, 2, 2), (17, 4, 3)],
)
def test_crop_offset_rounds_half_to_even_or_down(width: int, left_round: int, left_floor: int) -> None:
    frames = _columns(10, width)
    for crop_offset, left in (("round", left_round), ("floor", left_floor)):
        clip = resize_and_crop(frames, resize_size=10, crop_size=10, crop_offset=crop_offset)  # type: ignore[arg-type]
        assert clip[0, 0, 0].tolist() == list(range(left, left + 10))


def test_long_side_is_rounded_down() -> None:
    # 30 x 53 at short side 36: 63.6 becomes 63, whose centre crop of 32 starts at column 15.
    frames = _frames(30, 53)
    clip = resize_and_crop(frames, resize_size=36, crop_size=32, crop_offset="floor")
    resized = torch.nn.functional.interpolate(frames, (36, 63), mode="bilinear", antialias=True)
    assert torch.equal(clip, resized[..., 2:34, 15:47])


@given(height=st.integers(1, 80), width=st.integers(1, 80), crop=st.integers(2, 24), extra=st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_any_frame_becomes_the_asked_square(height: int, width: int, crop: int, extra: int) -> None:
    frames = _frames(height, width, count=1)
    before = frames.clone()
    clip = resize_and_crop(frames, resize_size=crop + extra, crop_size=crop, crop_offset="round")
    assert (clip.shape, clip.dtype) == ((1, 3, crop, crop), torch.uint8)
    assert torch.equal(frames, before)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
     torch.zeros(0, 3, 8, 8, dtype=torch.uint8)],
)  # fmt: skip
def test_frames_must_be_uint8_with_channels_second(frames: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"frames must be uint8 \[T, 3, H, W\], got "):
        resize_and_crop(frames, resize_size=8, crop_size=8, crop_offset="round")


def test_crop_cannot_exceed_the_resized_frame() -> None:
    with pytest.raises(ConfigError, match="crop_size=9 must be from 1 to resize_size=8"):
        resize_and_crop(_frames(8, 8), resize_size=8, crop_size=9, crop_offset="round")


def test_unknown_crop_offset_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"Unknown crop_offset 'ceil'\. Available: round, floor"):
        resize_and_crop(_frames(8, 8), resize_size=8, crop_size=8, crop_offset="ceil")  # type: ignore[arg-type]


def test_normalize_standardises_and_puts_channels_before_time() -> None:
    clips = _frames(5, 7, count=12).view(2, 6, 3, 5, 7)
    out = normalize(clips, mean=MEAN, std=STD)
    assert (out.shape, out.dtype) == ((2, 3, 6, 5, 7), torch.float32)
    expected = (clips[1, 4, 2, 3, 6].item() / 255 - MEAN[2]) / STD[2]
    assert out[1, 2, 4, 3, 6].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize_takes_floats_in_the_unit_range(dtype: torch.dtype) -> None:
    clips = _frames(5, 7)
    torch.testing.assert_close(
        normalize(clips.to(dtype) / 255, mean=MEAN, std=STD), normalize(clips, mean=MEAN, std=STD), atol=1e-6, rtol=0
    )


def test_normalize_refuses_other_integers() -> None:
    with pytest.raises(InputError, match=r"clips must be uint8, or float in \[0, 1\], got int64"):
        normalize(torch.zeros(2, 3, 4, 4, dtype=torch.int64), mean=MEAN, std=STD)


def test_normalize_refuses_channels_elsewhere() -> None:
    with pytest.raises(InputError, match=r"clips must be \[\.\.\., T, 3, H, W\], got shape \[2, 4, 4, 3\]"):
        normalize(torch.zeros(2, 4, 4, 3), mean=MEAN, std=STD)


def _crop(
    frames: torch.Tensor, seed: int, *, size: int = 16, flip: bool = False, **ranges: tuple[float, float]
) -> torch.Tensor:
    height, width = frames.shape[-2:]
    crop = draw_crop(
        height,
        width,
        crop_size=size,
        scale=ranges.get("scale", (0.3, 1.0)),
        ratio=ranges.get("ratio", (0.75, 1.35)),
        horizontal_flip=flip,
        generator=torch.Generator().manual_seed(seed),
    )
    return crop(frames)


def test_a_crop_is_a_function_of_its_generator() -> None:
    frames = _frames(40, 60)
    assert torch.equal(_crop(frames, 3), _crop(frames, 3))
    assert not torch.equal(_crop(frames, 3), _crop(frames, 4))


def test_global_random_state_neither_matters_nor_moves() -> None:
    frames = _frames(40, 60)
    expected = _crop(frames, 3)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert torch.equal(_crop(frames, 3), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_frames_get_the_same_crop() -> None:
    frames = _frames(40, 60, count=1).repeat(4, 1, 1, 1)
    clip = _crop(frames, 5, flip=True)
    assert all(torch.equal(clip[0], frame) for frame in clip)


def test_the_number_of_draws_does_not_depend_on_what_is_drawn() -> None:
    states = []
    for ratio in ((1.0, 1.0), (8.0, 9.0)):  # accepted at once; never accepted
        generator = torch.Generator().manual_seed(0)
        draw_crop(40, 40, crop_size=8, scale=(0.9, 1.0), ratio=ratio, horizontal_flip=False, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_half_of_the_crops_are_mirrored() -> None:
    frames = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    frames[..., 8:] = 255
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    mirrored = sum(int(_crop(frames, seed, flip=True, **whole)[0, 0, 8, 0] > 127) for seed in range(200))
    assert 70 < mirrored < 130
    assert not any(_crop(frames, seed, flip=False, **whole)[0, 0, 8, 0] > 127 for seed in range(20))


def test_area_and_ratio_stay_in_their_ranges() -> None:
    # Pixels hold their coordinates, so a crop's corners tell its box.
    rows = torch.arange(200, dtype=torch.uint8).view(1, 1, 200, 1).expand(1, 1, 200, 250)
    columns = torch.arange(250, dtype=torch.uint8).view(1, 1, 1, 250).expand(1, 1, 200, 250)
    frames = torch.cat([rows, columns, rows], dim=1).contiguous()
    ratios = []
    for seed in range(100):
        clip = _crop(frames, seed, size=300).to(torch.int64)[0]
        height = int(clip[0, -1, 0] - clip[0, 0, 0]) + 1
        width = int(clip[1, 0, -1] - clip[1, 0, 0]) + 1
        assert 0.28 <= height * width / (200 * 250) <= 1.0
        ratios.append(width / height)
    assert 0.72 <= min(ratios) < 0.85 and 1.2 < max(ratios) <= 1.4
    assert abs(float(np.mean(np.log(ratios))) - np.log(0.75 * 1.35) / 2) < 0.06  # uniform on the logarithmic scale


def test_an_impossible_ratio_falls_back_to_the_largest_centred_box() -> None:
    clip = _crop(_columns(40, 120), 0, size=40, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.equal(clip, _columns(40, 120)[..., 40:80])


def test_without_antialias_pixels_are_interpolated_between_neighbours_only() -> None:
    frames = _frames(64, 96)
    crop = draw_crop(
        64,
        96,
        crop_size=16,
        scale=(1.0, 1.0),
        ratio=(1.5, 1.5),
        horizontal_flip=False,
        antialias=False,
        generator=torch.Generator().manual_seed(0),
    )
    clip = crop(frames)
    whole = torch.nn.functional.interpolate(frames.float(), (16, 16), mode="bilinear", align_corners=False)
    assert (clip - whole).abs().max() <= 1.0  # integers round twice, after rows and after columns
    assert not torch.equal(clip, _crop(frames, 0, scale=(1.0, 1.0), ratio=(1.5, 1.5)))


@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_any_frame_can_be_cropped(height: int, width: int, seed: int) -> None:
    clip = _crop(_frames(height, width, count=1), seed, size=8, flip=True)
    assert (clip.shape, clip.dtype) == ((1, 3, 8, 8), torch.uint8)


@pytest.mark.parametrize("ranges", [{"scale": (0.5, 0.3)}, {"ratio": (0.0, 1.0)}])
def test_ranges_must_be_positive_and_ascending(ranges: dict[str, tuple[float, float]]) -> None:
    name = next(iter(ranges))
    with pytest.raises(ConfigError, match=rf"{name}=\(.*\) must be two positive numbers in ascending order"):
        _crop(_frames(8, 8), 0, **ranges)
