"""Windows that move over frames, and patches that cross a clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_sdk.training.data.motion import add_sprite, draw_boxes, moving_window


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


def test_a_window_that_stays_cuts_what_it_covers() -> None:
    frames, box = noise(4, 3, 40, 60), (8.0, 20.0, 16.0, 16.0)
    cut = moving_window(frames, box, box, crop_size=16, flip=False)
    assert torch.equal(cut, frames[:, :, 8:24, 20:36])


def test_a_flipped_window_is_the_mirror_image() -> None:
    frames, first, last = noise(4, 3, 40, 60), (3.0, 5.0, 20.0, 24.0), (9.0, 30.0, 30.0, 24.0)
    plain, flipped = (moving_window(frames, first, last, crop_size=16, flip=flip) for flip in (False, True))
    assert torch.equal(plain.flip(-1), flipped)


def test_a_pan_by_whole_pixels_shows_a_still_frame_shifted() -> None:
    still = noise(1, 3, 40, 60).expand(5, -1, -1, -1)
    cut = moving_window(still, (4.0, 8.0, 16.0, 16.0), (12.0, 24.0, 16.0, 16.0), crop_size=16, flip=False)
    for t in range(5):
        assert torch.equal(cut[t], still[0, :, 4 + 2 * t : 20 + 2 * t, 8 + 4 * t : 24 + 4 * t])


@given(height=st.integers(16, 200), width=st.integers(16, 200), seed=st.integers(0, 2**31), low=st.floats(0.05, 1.0))
@settings(deadline=None)
def test_windows_lie_inside_the_frame(height: int, width: int, seed: int, low: float) -> None:
    for top, left, h, w in draw_boxes(height, width, scale=(low, 1.0), ratio=(0.75, 1.35), generator=generator(seed)):
        assert 0 <= top <= top + h <= height + 1e-6 and 0 <= left <= left + w <= width + 1e-6


def test_half_of_the_windows_pan_and_the_others_zoom() -> None:
    boxes = [draw_boxes(90, 120, scale=(0.3, 1.0), ratio=(1.0, 1.0), generator=generator(seed)) for seed in range(400)]
    pans = sum(first[2:] == last[2:] for first, last in boxes)
    assert 160 < pans < 240


def test_a_sprite_leaves_most_of_a_clip_alone_and_crosses_it() -> None:
    clip = noise(8, 3, 48, 48)
    changed = (add_sprite(clip, generator=generator(1)) != clip).any(dim=1)
    assert 0 < changed.float().mean() < 0.3
    centres = np.stack([changed[t].nonzero().float().mean(dim=0).numpy() for t in range(8) if changed[t].any()])
    steps = np.diff(centres, axis=0)
    assert np.linalg.norm(steps.sum(axis=0)) > 5


@pytest.mark.parametrize("seed", range(30))
def test_a_sprite_fits_wherever_it_goes(seed: int) -> None:
    clip = noise(4, 3, 32, 32)
    before = clip.clone()
    assert add_sprite(clip, generator=generator(seed)).shape == clip.shape
    assert torch.equal(clip, before)
