"""Resize frames, pixel for pixel as torchvision's `resize` does it on uint8 tensors.

transformers' `VJEPA2VideoProcessor` and the official image pipelines go through that function. It is written out here
because importing torchvision loads `torch._dynamo`; a test holds it against the original.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
from torch.nn import functional as F


def resize(frames: torch.Tensor, size: Sequence[int], *, antialias: bool) -> torch.Tensor:
    """Resize bilinearly.

    Args:
        frames: uint8 `[T, 3, H, W]`, on the CPU.
        size: height and width of the result, in pixels.
        antialias: smooth before scaling down.

    Returns:
        uint8 `[T, 3, height, width]`; the frames themselves if that is their size.
    """
    if list(frames.shape[-2:]) == list(size):
        return frames
    # torchvision lets torch resize bytes where torch has code of its own for them, and floats elsewhere
    is_native = _HAS_NATIVE_CODE
    pixels = _marked_channels_last(frames) if is_native else frames.to(torch.float32)
    resized = F.interpolate(pixels, list(size), mode="bilinear", align_corners=False, antialias=antialias)
    return resized if is_native else resized.round_().to(torch.uint8)


_HAS_NATIVE_CODE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in (
    "aarch64",
    "arm64",
)


def _marked_channels_last(frames: torch.Tensor) -> torch.Tensor:
    """Give a single channels-last frame strides that torch tells from others', so that its result is not repacked."""
    if len(frames) != 1 or not frames.is_contiguous(memory_format=torch.channels_last):
        return frames
    _, *strides = frames.stride()
    return frames.as_strided(frames.shape, (frames.numel(), *strides))
