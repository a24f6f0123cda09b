"""Cut one training clip out of a video or a still: which frames, which rectangle, which augmentations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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
from .cache import FrameCache
from .motion import add_sprite, draw_boxes, moving_window


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
    cache: FrameCache | None = None
    """Where the frames are, decoded and small; None: in the videos."""

    def __call__(self, request: ClipRequest) -> tuple[np.ndarray, dict[str, Any]]:
        """Return pixels `uint8 [T, 3, H, W]` and the frame indices they come from."""
        config, generator = self.config, torch.Generator().manual_seed(request.seed)
        clip, indices = self._read(request.path, generator)
        if config.sprites and _chance(config.sprites, generator):
            clip = add_sprite(clip.expand(len(indices), -1, -1, -1), generator=generator)
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
        if self.cache is not None:
            frames, fps = self.cache.read(path)
            indices = self._choose(len(frames), fps, generator)
            return self._crop(lambda needed: frames[needed], indices, frames.shape[1:3], generator), indices
        if is_image(path):
            image = read_image(path)
            indices = np.zeros(self.num_frames, np.int64)
            return self._crop(lambda needed: [image], indices, image.shape[:2], generator), indices
        with open_video(path, decoder=self.config.decoder) as reader:
            indices = self._choose(len(reader), reader.info.fps, generator)
            size = reader.info.height, reader.info.width
            return self._crop(lambda needed: iter_clip(reader, needed), indices, size, generator), indices

    def _choose(self, num_available: int, fps: float, generator: torch.Generator) -> np.ndarray:
        indices = self.choose_frames(num_available, fps, generator)
        if self.config.still and _chance(self.config.still, generator):
            indices[:] = indices[0]
        return indices

    def _crop(
        self,
        read: Callable[[np.ndarray], Iterable[np.ndarray]],
        indices: np.ndarray,
        size: tuple[int, ...],
        generator: torch.Generator,
    ) -> Tensor:
        """Read the frames at `indices`, each once, and cut a rectangle or a moving window out of them.

        Args:
            read: gives the frames at ascending indices, `uint8 [H, W, 3]` each.
            size: height and width of the frames.

        Returns:
            uint8 [T, 3, crop, crop]; one frame where all are the same.
        """
        config = self.config
        crop = self._draw_crop(size[0], size[1], generator)
        needed, places = np.unique(indices, return_inverse=True)
        if config.moving_window and _chance(config.moving_window, generator):
            first, last = draw_boxes(
                size[0], size[1], scale=config.crop_scale, ratio=config.crop_aspect_ratio, generator=generator
            )
            frames = as_frames(list(read(needed)))[torch.from_numpy(places)]
            return moving_window(frames, first, last, crop_size=self.crop_size, flip=crop.flip)
        frames = crop_in_groups(read(needed), crop)
        return frames if len(needed) == 1 else frames[torch.from_numpy(places)]

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


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


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
