"""Decode one small picture of each of many clips, in processes that may hang or crash.

Imports no torch: the decoding processes start with this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.choices import Decoder
from ..errors import printable
from ..runtime.progress import progress_bar
from ..runtime.workers.pool import WorkerPool
from ..runtime.workers.wire import WorkerResult
from ..video.images import is_still_file, read_frame_directory, read_image
from ..video.reader import open_video

DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, or why there is none."""

    pixels: np.ndarray | None
    """uint8 `[h, w, 3]`."""
    reason: str = ""


@dataclass(frozen=True)
class _Wanted:
    path: str
    frame: int | None
    """Its number; None: the middle one."""


def read_thumbnails(
    entries: Sequence[Mapping[str, Any]],
    *,
    side: int = 96,
    decoder: Decoder = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = DEADLINE_SECONDS,
    show_progress_bar: bool | None = None,
) -> list[Thumbnail]:
    """Read the middle frame of each entry of an index.

    Args:
        entries: with `path`, and `frames`, the numbers of the encoded frames; without them all frames count.
        side: of the picture's longer side at most, in pixels.
        num_workers: decoding processes; 0 decodes in this process, without a deadline.
        deadline_seconds: for one picture.
    """
    wanted = [_Wanted(entry["path"], _middle(entry.get("frames"))) for entry in entries]
    task = _Read(side=side, decoder=decoder)
    with (
        WorkerPool(task, num_workers=num_workers, deadline_seconds=deadline_seconds, crash_retries=1) as pool,
        progress_bar("thumbnails", total=len(wanted), show=show_progress_bar, unit="clip") as bar,
    ):
        found = []
        for result in pool.map(wanted, prefetch=2 * max(1, num_workers)):
            found.append(_checked(result.request, result.array, result.error, side))
            bar.advance()
    return found


@dataclass(frozen=True)
class _Read:
    """Read one frame and make it small; runs in the decoding processes."""

    side: int
    decoder: Decoder

    def __call__(self, wanted: _Wanted) -> WorkerResult:
        from PIL import Image

        image = Image.fromarray(self._frame(wanted))
        image.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        return np.asarray(image), {}

    def _frame(self, wanted: _Wanted) -> np.ndarray:
        if os.path.isdir(wanted.path):
            first: np.ndarray = read_frame_directory(wanted.path, [wanted.frame or 0])[0]
            return first
        if is_still_file(wanted.path):
            return read_image(wanted.path)
        with open_video(wanted.path, decoder=self.decoder) as reader:
            number = len(reader) // 2 if wanted.frame is None else wanted.frame
            frame: np.ndarray = reader.get_frames([number])[0]
            return frame


def _checked(wanted: _Wanted, array: np.ndarray | None, error: str | None, side: int) -> Thumbnail:
    # a hostile file may have taken the process over that says this
    if error is None and (array is None or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3):
        error = "the decoding process sent something other than a picture"
    if error is None and array is not None and not 0 < max(array.shape[:2]) <= side:
        error = "the decoding process sent a picture of another size"
    if error is not None:
        return Thumbnail(None, printable(error).removeprefix(f"{printable(wanted.path)}: "))
    return Thumbnail(array)


def _middle(frames: object) -> int | None:
    return frames[len(frames) // 2] if isinstance(frames, list) and frames and type(frames[0]) is int else None
