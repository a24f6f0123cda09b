"""Turn frames into a normalised clip.

Everything geometric happens on uint8: that is what the official pipelines' results rest on, and it is several times
faster than resizing floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from ..config.choices import CropOffset
from ..errors import ConfigError, InputError
from .resize import resize

_GROUP_BYTES = 32 << 20


def resize_and_crop(frames: torch.Tensor, *, resize_size: int, crop_size: int, crop_offset: CropOffset) -> torch.Tensor:
    """Resize the short side and cut out the centre square.

    Args:
        frames: uint8 [T, 3, H, W].
        resize_size: short side after resizing, in pixels; the long side is rounded down.
        crop_size: side of the square, in pixels, at most resize_size.
        crop_offset: "round" places the crop at int(round((side - crop) / 2)) as the official code does, "floor"
            at (side - crop) // 2, pixel-equal to transformers' VJEPA2VideoProcessor.

    Returns:
        uint8 [T, 3, crop_size, crop_size].

    Raises:
        ConfigError: sizes or crop_offset are not valid.
        InputError: frames are not uint8 [T, 3, H, W].
    """
    _check_frames(frames)
    if not 1 <= crop_size <= resize_size:
        raise ConfigError(f"crop_size={crop_size} must be from 1 to resize_size={resize_size}")
    if crop_offset not in get_args(CropOffset):
        raise ConfigError(f"Unknown crop_offset {crop_offset!r}. Available: {', '.join(get_args(CropOffset))}")
    height, width = frames.shape[-2:]
    if height <= width:
        size = [resize_size, int(resize_size * width / height)]
    else:
        size = [int(resize_size * height / width), resize_size]
    frames = resize(frames, size, antialias=True)
    top, left = (_crop_start(side, crop_size, crop_offset) for side in size)
    return frames[..., top : top + crop_size, left : left + crop_size].contiguous()


def _crop_start(side: int, crop_size: int, crop_offset: CropOffset) -> int:
    # round() is to even: (257 - 256) / 2 = 0.5 becomes 0 and 1.5 becomes 2, as in the official code.
    return round((side - crop_size) / 2) if crop_offset == "round" else (side - crop_size) // 2


def normalize(clips: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Scale pixels to [0, 1], standardise each channel and put channels before time.

    Args:
        clips: [..., T, 3, H, W], uint8, or float in [0, 1].
        mean: of each channel, on the [0, 1] scale.
        std: of each channel, on the [0, 1] scale.

    Returns:
        float32 [..., 3, T, H, W].

    Raises:
        InputError: clips have another type or shape.
    """
    if clips.ndim < 4 or clips.shape[-3] != 3:
        raise InputError(f"clips must be [..., T, 3, H, W], got shape {list(clips.shape)}")
    if clips.dtype == torch.uint8:
        pixels = clips.to(torch.float32) / 255
    elif clips.is_floating_point():
        pixels = clips.to(torch.float32)
    else:
        raise InputError(f"clips must be uint8, or float in [0, 1], got {str(clips.dtype).removeprefix('torch.')}")
    shape = (3, 1, 1)
    means = torch.tensor(mean, dtype=torch.float32, device=clips.device).view(shape)
    stds = torch.tensor(std, dtype=torch.float32, device=clips.device).view(shape)
    return ((pixels - means) / stds).transpose(-4, -3).contiguous()


@dataclass(frozen=True)
class RandomCrop:
    """A rectangle that was drawn for frames of one size; the same for all frames of a clip."""

    top: int
    left: int
    height: int
    width: int
    crop_size: int
    antialias: bool
    flip: bool

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Cut it out of frames `uint8 [T, 3, H, W]` and resize it to a square, mirrored or not, of side `crop_size`."""
        _check_frames(frames)
        frames = frames[..., self.top : self.top + self.height, self.left : self.left + self.width]
        size = [self.crop_size, self.crop_size]
        frames = resize(frames, size, antialias=self.antialias)
        return (frames.flip(-1) if self.flip else frames).contiguous()


def draw_crop(
    height: int,
    width: int,
    *,
    crop_size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    horizontal_flip: bool,
    antialias: bool = True,
    generator: torch.Generator,
) -> RandomCrop:
    """Draw the random resized crop of a clip.

    Args:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        crop_size: side of the result, in pixels.
        scale: lowest and highest share of the frame's area.
        ratio: lowest and highest width / height; drawn uniformly on a logarithmic scale.
        horizontal_flip: mirror all frames with probability one half.
        antialias: smooth before scaling down, as I-JEPA does; the official video code does not.
        generator: the only source of randomness. The number of draws does not depend on what is drawn.

    Raises:
        ConfigError: crop_size, scale or ratio are not valid.
    """
    if crop_size < 1:
        raise ConfigError(f"crop_size={crop_size} must be at least 1")
    for name, (low, high) in {"scale": scale, "ratio": ratio}.items():
        if not 0 < low <= high:
            raise ConfigError(f"{name}=({low}, {high}) must be two positive numbers in ascending order")
    draws = torch.rand(41, generator=generator, dtype=torch.float64).tolist()
    box = _random_box(height, width, scale, ratio, draws[1:])
    return RandomCrop(*box, crop_size=crop_size, antialias=antialias, flip=horizontal_flip and draws[0] < 0.5)


def crop_in_groups(frames: Iterable[np.ndarray], crop: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Crop the frames of a clip as they are decoded, so that it is never held in full size.

    In groups, since one by one costs a quarter more time where frames are small.

    Args:
        frames: each `uint8 [H, W, 3]`; at least one.
        crop: takes `uint8 [K, 3, H, W]`.

    Returns:
        what `crop` returns for all of them, `uint8 [T, 3, h, w]`.
    """
    pieces: list[torch.Tensor] = []
    group: list[np.ndarray] = []
    for frame in frames:
        group.append(frame)
        if len(group) * frame.nbytes >= _GROUP_BYTES:
            pieces.append(crop(as_frames(group)))
            group = []
    return torch.cat([*pieces, *([crop(as_frames(group))] if group else [])])


def as_frames(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Put images `uint8 [H, W, 3]` together as frames `uint8 [K, 3, H, W]`."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draws: list[float]
) -> tuple[int, int, int, int]:
    """Try ten rectangles, then take the largest centred one that keeps the ratio."""
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(0, 40, 4):
        area = height * width * (scale[0] + draws[i] * (scale[1] - scale[0]))
        aspect = math.exp(log_low + draws[i + 1] * (log_high - log_low))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(draws[i + 2] * (height - crop_height + 1))
            left = int(draws[i + 3] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_width = max(1, min(width, round(height * aspect)))
    crop_height = max(1, min(height, round(width / aspect)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _check_frames(frames: torch.Tensor) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape:
        kind = str(frames.dtype).removeprefix("torch.")
        raise InputError(f"frames must be uint8 [T, 3, H, W], got {kind} {list(frames.shape)}")
