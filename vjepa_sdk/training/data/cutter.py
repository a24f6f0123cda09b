"""Cut one training clip out of a video or a still: which frames, which rectangle, which augmentations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config.training import DataConfig
from ...video.images import read_image
from ...video.inputs import is_image
from ...video.reader import iter_clip, open_video
from ...video.transforms import RandomCrop, as_frames, crop_in_groups, draw_crop
from .augment import augment


@dataclass(frozen=True)
class ClipRequest:
    """One clip to cut from one file; `seed` decides frames, crop, flip and augmentations."""

    position: int
    attempt: int
    source: int
    path: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class ClipCutter:
    """Cut a random, augmented clip from a video, or repeat a still; runs in the decoding processes."""

    config: DataConfig
    num_frames: int
    crop_size: int

    def __call__(self, request: ClipRequest) -> tuple[np.ndarray, dict[str, Any]]:
        """Return pixels `uint8 [T, 3, H, W]` and the frame indices they come from."""
        config, generator = self.config, torch.Generator().manual_seed(request.seed)
        clip, indices = self._read(request.path, generator)
        clip = augment(
            clip,
            color_jitter=config.color_jitter,
            rand_augment=config.rand_augment,
            random_erasing=config.random_erasing,
            generator=generator,
        )
        clip = clip.expand(len(indices), -1, -1, -1)  # a still has been one frame up to here
        return clip.contiguous().numpy(), {"frames": indices.tolist()}

    def _read(self, path: str, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
        """Return cropped frames `uint8 [T, 3, H, W]`, a still once, and the index of each frame of the clip."""
        if is_image(path):
            image = read_image(path)
            crop = self._draw_crop(image.shape[0], image.shape[1], generator)
            return crop(as_frames([image])), np.zeros(self.num_frames, np.int64)
        with open_video(path, decoder=self.config.decoder) as reader:
            indices = self.choose_frames(len(reader), reader.info.fps, generator)
            crop = self._draw_crop(reader.info.height, reader.info.width, generator)
            needed, places = np.unique(indices, return_inverse=True)
            frames = crop_in_groups(iter_clip(reader, needed), crop)
        return frames[torch.from_numpy(places)], indices

    def _draw_crop(self, height: int, width: int, generator: torch.Generator) -> RandomCrop:
        config = self.config
        return draw_crop(
            height,
            width,
            crop_size=self.crop_size,
            scale=config.crop_scale,
            ratio=config.crop_aspect_ratio,
            horizontal_flip=config.horizontal_flip,
            antialias=config.antialias,
            generator=generator,
        )

    def choose_frames(self, num_available: int, source_fps: float, generator: torch.Generator) -> np.ndarray:
        """Draw the frame indices of a clip, `int64 [num_frames]`, from a video of so many frames and this rate."""
        is_official = self.config.index_rule == "official"
        low, high = self.config.frame_stride
        if self.config.fps is None:
            stride = low + int(torch.randint(0, high - low + 1, (), generator=generator))
        elif is_official:
            # A rate that was computed from times may lie a hair above a whole number.
            stride = int(math.ceil(source_fps - 1e-6) // self.config.fps)
        else:
            stride = round(source_fps / self.config.fps)
        choose = official_indices if is_official else even_indices
        return choose(num_available, num_frames=self.num_frames, stride=max(1, stride), generator=generator)


def even_indices(num_available: int, *, num_frames: int, stride: int, generator: torch.Generator) -> np.ndarray:
    """Draw the start of a clip of constant stride.

    The stride shrinks as far as needed to fit a short video; one with fewer than `num_frames` frames repeats its last.

    Returns:
        int64 [num_frames], rising, below `num_available`.
    """
    stride = min(stride, max(1, (num_available - 1) // max(1, num_frames - 1)))
    span = (num_frames - 1) * stride + 1
    start = int(torch.randint(0, max(1, num_available - span + 1), (), generator=generator))
    return np.minimum(start + stride * np.arange(num_frames), num_available - 1)


def official_indices(num_available: int, *, num_frames: int, stride: int, generator: torch.Generator) -> np.ndarray:
    """Draw a clip as the official code does for one clip a video (vjepa2 `src/datasets/video_dataset.py`).

    The indices spread over a window of `num_frames * stride` frames, both ends included, so that most steps are
    `stride` and some one more. A video that does not exceed the window gives every `stride`-th frame or so, from its
    start to its end, and then repeats its last frame.

    Returns:
        int64 [num_frames], rising, below `num_available`.
    """
    window = num_frames * stride
    if num_available > window:
        start = int(torch.randint(0, num_available - window, (), generator=generator))
        moments, last = np.linspace(start, start + window, num_frames), start + window - 1
    else:
        num_sampled, last = num_available // stride, num_available - 1
        moments = np.full(num_frames, float(num_available))
        moments[:num_sampled] = np.linspace(0, num_available, num_sampled)
    return np.minimum(moments, last).astype(np.int64)
