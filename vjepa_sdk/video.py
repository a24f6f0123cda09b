"""Decode a video file into frames.

Two decoders stand behind one interface. "pyav" is the default: frames by index are exactly those of a full
decode, and rotation and edit lists are honoured. "decord" is for frame-for-frame parity with the official
pipelines; it returns neighbouring frames for open-GOP and cut files and cannot read AV1 or GIF.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from .containers import VideoInfo
from .decord_reader import DecordReader
from .errors import ConfigError, InputError
from .files import PathLike
from .images import IMAGE_SUFFIXES, STILL_SUFFIXES, list_frame_directory, read_frame_directory, read_image
from .pyav_reader import PyAVReader

__all__ = [
    "CLOCK_SECONDS",
    "IMAGE_SUFFIXES",
    "STILL_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Decoder",
    "VideoInfo",
    "VideoReader",
    "check_ascending",
    "frames_at",
    "iter_clip",
    "list_frame_directory",
    "open_video",
    "read_frame_directory",
    "read_image",
    "read_video",
    "sample_indices",
]

Decoder = Literal["pyav", "decord"]

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv"}
    | {".asf", ".ogv", ".3gp", ".gif"}
)

CLOCK_SECONDS = 1e-3  # how far a time that a container gives may be from the true one


@runtime_checkable
class VideoReader(Protocol):
    """Read frames of one open video. Not for sharing between threads."""

    @property
    def info(self) -> VideoInfo: ...

    @property
    def timestamps(self) -> np.ndarray:
        """Presentation time of each frame in seconds, float64 [num_frames]."""

    def __len__(self) -> int: ...

    def get_frames(self, indices: ArrayLike) -> np.ndarray:
        """Return uint8 [K, H, W, 3] RGB for K indices in any order, repeats allowed."""

    def iter_frames(self, indices: ArrayLike | None = None) -> Iterator[np.ndarray]:
        """Yield every frame in order, or those at ascending indices, as uint8 [H, W, 3] RGB, holding a few at a time.

        Each frame is decoded at most once. Stretches without a wanted frame are jumped over where key frames allow.
        """

    def close(self) -> None: ...

    def __enter__(self) -> VideoReader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_video(path: PathLike, *, decoder: Decoder = "pyav") -> VideoReader:
    """Open a video file for reading; use it as a context manager.

    Args:
        path: a regular file. URLs and protocol strings are refused.
        decoder: "pyav" (exact on every file) or "decord" (parity with the official pipelines).

    Raises:
        ConfigError: the decoder is unknown or not installed.
        InputError: the path is a URL or cannot be a path.
        VideoDecodeError: the file is missing, not a video, damaged or too large; the message says which.
    """
    if decoder == "pyav":
        return PyAVReader(path)
    if decoder == "decord":
        return DecordReader(path)
    raise ConfigError(f"Unknown decoder {decoder!r}. Available: {', '.join(get_args(Decoder))}")


def read_video(path: PathLike, indices: ArrayLike | None = None, *, decoder: Decoder = "pyav") -> np.ndarray:
    """Read the frames of a video at the given indices, or all of them.

    Args:
        path: a regular file.
        indices: K frame indices in any order, repeats allowed; None for every frame.
        decoder: see `open_video`.

    Returns:
        uint8 [K, H, W, 3] RGB.

    Raises:
        InputError: an index is outside the video.
        VideoDecodeError: as `open_video`.
    """
    with open_video(path, decoder=decoder) as reader:
        if indices is not None:
            return reader.get_frames(indices)
        frames = np.empty((len(reader), reader.info.height, reader.info.width, 3), dtype=np.uint8)
        for i, frame in enumerate(reader.iter_frames()):
            frames[i] = frame
        return frames


def iter_clip(reader: VideoReader, indices: np.ndarray) -> Iterable[np.ndarray]:
    """Return the frames of one clip, `uint8 [H, W, 3]` each, as they are decoded; `indices` ascend.

    decord decodes them all at once: asked as the official pipelines do, it gives the frames that these get.
    """
    return reader.get_frames(indices) if isinstance(reader, DecordReader) else reader.iter_frames(indices)


def sample_indices(num_available: int, num_frames: int) -> np.ndarray:
    """Spread frame indices evenly over a video, first and last frame included.

    The positions are linspace(0, num_available - 1, num_frames), rounded half to even. With fewer frames than
    asked, indices repeat.

    Args:
        num_available: frames in the video, at least 1.
        num_frames: indices wanted, at least 1.

    Returns:
        int64 [num_frames], non-decreasing.

    Raises:
        InputError: either count is below 1.
    """
    if num_available < 1 or num_frames < 1:
        raise InputError(f"num_available={num_available} and num_frames={num_frames} must both be at least 1")
    return np.rint(np.linspace(0, num_available - 1, num_frames)).astype(np.int64)


def frames_at(timestamps: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return which frame is on screen at each moment: the last one whose time is at most the moment + 1 ms.

    The millisecond is for containers that round times, such as Matroska. Before the first frame, it is the first.

    Args:
        timestamps: presentation times of all frames in seconds, float64 [N], ascending.
        moments: seconds, of any shape.

    Returns:
        int64, of the shape of `moments`.
    """
    return np.maximum(np.searchsorted(timestamps, moments + CLOCK_SECONDS, side="right") - 1, 0)


def check_ascending(timestamps: np.ndarray, *, name: str) -> None:
    """Raise InputError if a frame is shown before the one it follows, as in files that were joined by force.

    Args:
        name: what the error calls the video.
    """
    backward = np.flatnonzero(np.diff(timestamps) < 0)
    if len(backward):
        i = int(backward[0])
        raise InputError(
            f"{name} shows frame {i} at {timestamps[i]:g} s and the next one at {timestamps[i + 1]:g} s; "
            "times must ascend to sample by them, remux or re-encode the video"
        )
