"""Frames are resized as torchvision resizes them, pixel for pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import resize as torchvision_resize

from vjepa_sdk.video import resize as module
from vjepa_sdk.video.resize import resize

SIDES = st.integers(1, 90)
NEW_SIDES = st.integers(2, 90)  # to a single pixel torch fails, in torchvision too


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 3), old=st.tuples(SIDES, SIDES), new=st.tuples(NEW_SIDES, NEW_SIDES), seed=st.integers(0, 99),
    antialias=st.booleans(), is_channels_last=st.booleans(),
)  # fmt: skip
def test_pixels_are_torchvisions(
    frames: int, old: tuple[int, int], new: tuple[int, int], seed: int, antialias: bool, is_channels_last: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    shape = (frames, *old, 3) if is_channels_last else (frames, 3, *old)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    pixels = pixels.permute(0, 3, 1, 2) if is_channels_last else pixels
    expected = torchvision_resize(pixels, list(new), antialias=antialias)
    assert torch.equal(resize(pixels, new, antialias=antialias), expected)


def test_without_code_for_bytes_pixels_are_still_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(module, "_HAS_NATIVE_CODE", False)
    pixels = torch.randint(256, (2, 3, 50, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(pixels, (20, 30), antialias=True), torchvision_resize(pixels, [20, 30]))
