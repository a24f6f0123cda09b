"""Lay windows of time over a video: when each starts and ends, and which frames it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from ..config.choices import Tail
from ..config.schema import check_types
from ..errors import ConfigError, InputError
from .sampling import CLOCK_SECONDS, frames_at

MIN_SECONDS = CLOCK_SECONDS
MAX_WINDOWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """Where windows lie and how many frames each has."""

    num_frames: int
    window_seconds: float
    stride_seconds: float
    """From the start of one window to the start of the next."""
    tail: Tail = "pad"
    start_seconds: float | None = None
    """Where the first window starts; None: at the first frame."""
    end_seconds: float | None = None
    """What follows is not looked at; None: where the last frame ends."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.num_frames < 1:
            raise ConfigError(f"num_frames={self.num_frames} must be at least 1; pass for example 16")
        for name in ("window_seconds", "stride_seconds"):
            seconds = getattr(self, name)
            if seconds < MIN_SECONDS:
                raise ConfigError(f"{name}={seconds:g} must be at least {MIN_SECONDS:g}; pass for example 2")
        start, end = self.start_seconds, self.end_seconds
        if start is not None and end is not None and start >= end:
            raise ConfigError(f"start_seconds={start:g} must be below end_seconds={end:g}; exchange them")


@dataclass(frozen=True)
class Windows:
    """Windows of one video, in the order of time."""

    start_seconds: np.ndarray
    """float64 `[W]`, on the clock of the video's time stamps."""
    end_seconds: np.ndarray
    """float64 `[W]`"""
    frame_indices: np.ndarray
    """int64 `[W, T]`, ascending: which frames of the video each window takes; frames repeat."""

    def __len__(self) -> int:
        return len(self.start_seconds)


def as_seconds(name: str, value: object) -> float | None:
    """Return any kind of number, numpy's too, as seconds; ConfigError if it is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{name}={value!r} must be a number of seconds; pass for example 2")
    return float(value)


def settle_windows(
    *, window_seconds: float | None, num_frames: int | None, fps: float | None, default_num_frames: int
) -> tuple[int, float]:
    """Return number of frames and seconds of a window: `window_seconds = num_frames / fps`, so two give the third.

    Args:
        default_num_frames: taken where two cannot be had without it.

    Raises:
        ConfigError: neither `window_seconds` nor `fps` is given, all three are, or they make no whole number of frames.
    """
    if window_seconds is None and fps is None:
        raise ConfigError("windows need a length; pass window_seconds=, or fps= for num_frames / fps seconds")
    if window_seconds is not None and fps is not None:
        if num_frames is not None:
            raise ConfigError(f"num_frames={num_frames} is one too many beside window_seconds and fps; leave one out")
        exact = window_seconds * fps
        if abs(exact - round(exact)) > 1e-6:
            raise ConfigError(
                f"window_seconds={window_seconds:g} at fps={fps:g} are {exact:g} frames, which is no whole number; "
                "pass num_frames= instead of fps="
            )
        return round(exact), window_seconds
    count = default_num_frames if num_frames is None else num_frames
    return count, window_seconds if window_seconds is not None else count / float(fps or 1)


def plan_windows(
    timestamps: np.ndarray, end_seconds: float, windowing: Windowing, *, name: str = "the video"
) -> Windows:
    """Lay windows over a video.

    Window k starts at `start_seconds + k * stride_seconds`. Of T frames, frame i is the one on screen i / T of the
    window's length after its start (see `frames_at`). Windows follow each other while they end within the video; the
    first that does not is the tail, unless everything before the end is in a window already, or it would start behind
    the end. A video shorter than one window is one tail. No further window follows a tail.

    Args:
        timestamps: presentation times of all frames in seconds, float64 [N], ascending.
        end_seconds: when the last frame ends.
        name: what an error calls the video.

    Raises:
        InputError: no window or more than MAX_WINDOWS, or time stamps that do not ascend.
    """
    first, last = _span(timestamps, end_seconds, windowing, name)
    starts = _starts(first, last, windowing, name)
    if not len(starts):
        raise InputError(
            f"{name} runs from {first:g} to {last:g} s, too short for one window of {windowing.window_seconds:g} s; "
            "pass a shorter one, or tail='pad'"
        )
    step = windowing.window_seconds / windowing.num_frames
    indices = frames_at(timestamps, starts[:, None] + step * np.arange(windowing.num_frames))
    if last < end_seconds:
        # what is shown from there on is not looked at
        indices = np.minimum(indices, max(0, int(np.searchsorted(timestamps, last - CLOCK_SECONDS)) - 1))
    return Windows(starts, np.minimum(starts + windowing.window_seconds, last), indices)


def _span(timestamps: np.ndarray, end_seconds: float, windowing: Windowing, name: str) -> tuple[float, float]:
    """Return from when to when windows are wanted and there is something to see."""
    begin, first, last = float(timestamps[0]), windowing.start_seconds, windowing.end_seconds
    if (first is not None and first >= end_seconds) or (last is not None and last <= begin):
        asked = " and ".join(
            f"{key}={value:g}" for key, value in (("start_seconds", first), ("end_seconds", last)) if value is not None
        )
        raise InputError(f"{name} runs from {begin:g} to {end_seconds:g} s, {asked} leaves nothing of it; pass less")
    return max(begin, -math.inf if first is None else first), min(end_seconds, math.inf if last is None else last)


def _starts(first: float, last: float, windowing: Windowing, name: str) -> np.ndarray:
    """Return when the windows of what is shown from `first` to `last` start."""
    length, stride = windowing.window_seconds, windowing.stride_seconds
    num_whole = max(0, math.floor((last + CLOCK_SECONDS - first - length) / stride) + 1)
    if num_whole > MAX_WINDOWS:
        raise InputError(
            f"{name} runs from {first:g} to {last:g} s, which makes {num_whole} windows, more than {MAX_WINDOWS}; "
            "pass a longer stride_seconds, or a part of it with start_seconds and end_seconds"
        )
    starts = first + stride * np.arange(num_whole + 1)
    covered = max(starts[-1], starts[-2] + length) if num_whole else -math.inf
    if windowing.tail == "drop" or last - covered <= CLOCK_SECONDS:
        return starts[:-1]
    if windowing.tail == "overlap":
        starts[-1] = max(first, last - length)
    return starts
