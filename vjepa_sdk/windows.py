"""Read the clips of a video's windows, in one pass over its frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .config import PreprocessConfig
from .inputs import FrameSource, open_frames
from .preprocess import resize_and_crop
from .windowing import Windowing, Windows, plan_windows


def cut_clips(frames: Iterator[np.ndarray], frame_indices: np.ndarray) -> Iterator[np.ndarray]:
    """Put frames together into the clips of windows; a frame is held as long as a window to come needs it.

    Args:
        frames: those at `np.unique(frame_indices)`, in this order.
        frame_indices: int64 `[W, T]`, ascending in every row and every column.

    Yields:
        W times `[T, ...]`.
    """
    needed, places = np.unique(frame_indices, return_inverse=True)
    places = places.reshape(frame_indices.shape)
    last_window = np.zeros(len(needed), dtype=np.int64)
    np.maximum.at(last_window, places, np.arange(len(places))[:, None])
    held: dict[int, np.ndarray] = {}
    num_read = 0
    for window in range(len(places)):
        row: list[int] = places[window].tolist()
        while num_read <= row[-1]:
            held[num_read] = next(frames)
            num_read += 1
        yield np.stack([held[place] for place in row])
        for place in set(row):
            if last_window[place] == window:
                del held[place]


@dataclass(frozen=True)
class WindowedVideo:
    """An open video and its windows."""

    windows: Windows
    source: FrameSource
    preprocess: PreprocessConfig

    def clips(self, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the clips of windows `first` up to, not including, `last`, `uint8 [T, 3, crop, crop]`.

        Each frame is decoded and cropped at most once, however windows overlap. Held are only cropped frames that an
        open window still needs.
        """
        indices = self.windows.frame_indices[first:last]
        return cut_clips(map(self._crop, self.source.read(np.unique(indices))), indices)

    def _crop(self, frame: Tensor) -> np.ndarray:
        cropped: np.ndarray = resize_and_crop(
            frame,
            resize_size=self.preprocess.resize_size,
            crop_size=self.preprocess.crop_size,
            crop_offset=self.preprocess.crop_offset,
        ).numpy()[0]
        return cropped


@dataclass(frozen=True, kw_only=True)
class WindowLoader:
    """Open a video as windows; small enough to send to a decoding process."""

    preprocess: PreprocessConfig
    windowing: Windowing
    decoder: Literal["pyav", "decord"] = "pyav"
    source_fps: float | None = None
    """Frame rate of arrays, lists of images and frame directories."""

    @property
    def clip_lengths(self) -> tuple[int, ...]:
        """How many frames a clip may have."""
        return (self.windowing.num_frames,)

    @contextmanager
    def open(self, video: object) -> Iterator[WindowedVideo]:
        """Lay windows over a video and keep it open for reading.

        Raises:
            InputError: not a video, or it has no window (see `plan_windows`).
            VideoDecodeError: a file that cannot be decoded.
        """
        with open_frames(video, source_fps=self.source_fps, decoder=self.decoder) as source:
            windows = plan_windows(source.timestamps, source.end_seconds, self.windowing, name=source.name)
            yield WindowedVideo(windows, source, self.preprocess)
