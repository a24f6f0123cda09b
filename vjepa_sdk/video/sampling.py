"""Choose which frames of a video make its clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config.choices import Decoder
from ..errors import InputError

Span = tuple[float | None, float | None]
"""Seconds from which to which, None where the rate is not known."""

CLOCK_SECONDS = 1e-3  # how far a time that a container gives may be from the true one


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

    Examples:
        >>> from vjepa_sdk import sample_indices
        >>> sample_indices(10, 4).tolist(), sample_indices(2, 4).tolist()
        ([0, 3, 6, 9], [0, 0, 1, 1])
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


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a video make its clip."""

    num_frames: int
    fps: float | None = None
    """None: `num_frames` spread evenly over the whole video; else this many a second from its start."""
    source_fps: float | None = None
    """Frame rate of arrays and frame directories, for `fps` and for seconds."""
    start_seconds: float | None = None
    """Take the clip from the part of the video that starts here, by its time stamps; None: from its first frame on."""
    end_seconds: float | None = None
    """Where that part ends; None: when the last frame goes."""
    decoder: Decoder = "pyav"


@dataclass(frozen=True)
class FrameTimes:
    """When frames appear."""

    seconds: np.ndarray
    """float64 `[N + 1]`: of each frame, and when the last one goes."""
    is_known: bool
    """False where nobody said at which rate the frames were taken."""


def steady_times(count: int, sampling: Sampling) -> FrameTimes:
    """Return when frames appear that were taken at a steady rate, `source_fps`, if that is known."""
    return FrameTimes(np.arange(count + 1) / (sampling.source_fps or 1.0), sampling.source_fps is not None)


def choose_frames(times: FrameTimes, sampling: Sampling, *, name: str) -> tuple[np.ndarray, Span]:
    """Return frame indices and the seconds from the first to the end of the last."""
    starts = times.seconds[:-1]
    asked = {"fps": sampling.fps, "start_seconds": sampling.start_seconds, "end_seconds": sampling.end_seconds}
    for option, value in asked.items():
        if value is not None and not times.is_known:
            raise InputError(
                f"{option}={value:g} needs the frame rate of arrays and frame directories; pass source_fps="
            )
    if any(value is not None for value in asked.values()):
        check_ascending(starts, name=name)
    first, last = frames_of_part(times.seconds, sampling.start_seconds, sampling.end_seconds)
    if sampling.fps is None:
        indices = first + sample_indices(last - first, sampling.num_frames)
    else:
        start = starts[0] if sampling.start_seconds is None else sampling.start_seconds
        indices = np.clip(frames_at(starts, start + np.arange(sampling.num_frames) / sampling.fps), first, last - 1)
    if not times.is_known:
        return indices, (None, None)
    return indices, (float(starts[indices.min()]), float(times.seconds[indices.max() + 1]))


def frames_of_part(seconds: np.ndarray, start: float | None, end: float | None) -> tuple[int, int]:
    """Return the first frame of a part, the one on screen at its start, and the one after its last.

    Args:
        seconds: see `FrameTimes`.
        start: of the part, in seconds; None: that of the video.
        end: of the part; None: that of the video.

    Raises:
        InputError: the part lies outside the video.
    """
    first, last = 0, len(seconds) - 1
    if start is not None and start >= seconds[-1]:
        raise InputError(f"start_seconds={start:g} must lie before the end of the video at {seconds[-1]:g} s")
    if end is not None and end <= seconds[0]:
        raise InputError(f"end_seconds={end:g} must lie after the start of the video at {seconds[0]:g} s")
    if start is not None:
        first = int(frames_at(seconds[:-1], np.array(start)))
    if end is not None:
        last = max(first + 1, int(np.searchsorted(seconds[:-1], end - CLOCK_SECONDS, side="left")))
    return first, last
