"""Walk over a video at a steady pace, for windows that overlap: each frame is read and cropped once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ..config.choices import Decoder
from ..config.model import PreprocessConfig
from ..config.surprise import SurpriseSettings
from ..errors import InputError
from .inputs import FrameSource, open_frames
from .resize import resize
from .sampling import CLOCK_SECONDS, frames_at
from .transforms import resize_and_crop
from .windows import MAX_WINDOWS


@dataclass(frozen=True)
class Walk:
    """The frames of one video that are looked at, as they come."""

    name: str
    """What errors call the video."""
    seconds: np.ndarray
    """float64 `[K + 1]`: when each frame begins, by the video's time stamps, and when the last one ends."""
    frames: Iterator[np.ndarray]
    """K times `uint8 [3, crop, crop]`; can be gone through once."""


@dataclass(frozen=True, kw_only=True)
class FrameWalk:
    """Open videos as walks; small enough to send to a decoding process."""

    settings: SurpriseSettings
    preprocess: PreprocessConfig
    decoder: Decoder = "pyav"
    source_fps: float | None = None
    """Frame rate of arrays, lists of images and frame directories."""

    @contextmanager
    def open(
        self, video: object, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> Iterator[Walk]:
        """Choose the frames of a video and keep it open for reading.

        With `fps`, frame k is the one on screen at `start + k / fps`, as long as its turn ends within the video; with
        `frame_step` it is every n-th one.

        Raises:
            InputError: not a video, or shorter than a window.
            VideoDecodeError: a file that cannot be decoded.
        """
        with open_frames(video, source_fps=self.source_fps, decoder=self.decoder) as source:
            choose = self._at_rate if self.settings.frame_step is None else self._by_steps
            indices, seconds = choose(source, start_seconds, end_seconds)
            self._check_length(len(indices), source.name, seconds)
            yield Walk(source.name, seconds, self._read(source, indices))

    def _at_rate(
        self, source: FrameSource, start_seconds: float | None, end_seconds: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        first = max(float(source.timestamps[0]), -np.inf if start_seconds is None else start_seconds)
        last = min(source.end_seconds, np.inf if end_seconds is None else end_seconds)
        fps = self.settings.fps or 1.0
        # the millisecond is for containers that round times, as in `frames_at`
        seconds = first + np.arange(max(0, int((last - first + CLOCK_SECONDS) * fps)) + 1) / fps
        return frames_at(source.timestamps, seconds[:-1]), seconds

    def _by_steps(
        self, source: FrameSource, start_seconds: float | None, end_seconds: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        times, step = source.timestamps, self.settings.frame_step or 1
        is_inside = np.ones(len(times), bool)
        if start_seconds is not None:
            is_inside &= times >= start_seconds - CLOCK_SECONDS
        if end_seconds is not None:
            is_inside &= times < end_seconds - CLOCK_SECONDS
        indices = np.flatnonzero(is_inside)[: self.settings.max_frames][::step]
        ends = np.append(times, source.end_seconds)
        after = ends[np.minimum(indices[-1:] + step, len(times))]
        return indices, np.concatenate([times[indices], after])

    def _check_length(self, count: int, name: str, seconds: np.ndarray) -> None:
        settings = self.settings
        rate = f"at fps={settings.fps:g}" if settings.fps is not None else f"with frame_step={settings.frame_step}"
        if count < settings.num_frames:
            raise InputError(
                f"{name} has {count} frames {rate}, too short for a window of {settings.num_frames}; "
                "pass a longer video, fewer num_frames or a finer rate"
            )
        if count > MAX_WINDOWS:
            raise InputError(
                f"{name} has {count} frames {rate}, more than {MAX_WINDOWS}; pass parts of it, or a coarser rate"
            )

    def _read(self, source: FrameSource, indices: np.ndarray) -> Iterator[np.ndarray]:
        needed, repeats = np.unique(indices, return_counts=True)
        for frame, count in zip(source.read(needed), repeats.tolist(), strict=True):
            cropped = self._crop(frame).numpy()[0]
            for _ in range(count):
                yield cropped

    def _crop(self, frame: torch.Tensor) -> torch.Tensor:
        """Make a frame `uint8 [1, 3, H, W]` the size that the model takes."""
        size = self.preprocess.crop_size
        if self.settings.crop == "model":
            return resize_and_crop(
                frame,
                resize_size=self.preprocess.resize_size,
                crop_size=size,
                crop_offset=self.preprocess.crop_offset,
            )
        if self.settings.crop == "square":
            height, width = frame.shape[-2:]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            frame = frame[..., top : top + side, left : left + side]
        return resize(frame, [size, size], antialias=False).contiguous()


def windows_of(frames: Iterator[np.ndarray], *, num_frames: int, stride: int) -> Iterator[np.ndarray]:
    """Yield windows `[T, ...]` of a stream of frames, each `stride` frames after the one before; no tail."""
    held: deque[np.ndarray] = deque(maxlen=num_frames)
    for number, frame in enumerate(frames, start=1):
        held.append(frame)
        if number >= num_frames and (number - num_frames) % stride == 0:
            yield np.stack(held)
