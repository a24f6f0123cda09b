"""Look at a sample of clips without decoding them whole: which can be opened, how long and how large they are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.choices import Decoder
from ..runtime.workers.pool import WorkerPool
from ..video.images import is_still_file, read_image
from ..video.reader import open_video


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    num_frames: int
    width: int
    height: int
    fps: float
    """0.0 for an image."""


@dataclass(frozen=True)
class HeaderSample:
    """Some of the clips of a list."""

    found: int
    """Clips in the list."""
    headers: tuple[Header, ...]
    unreadable: dict[str, str]
    """Reason by path of the sampled clips that could not be opened."""

    @property
    def checked(self) -> int:
        """Clips that were opened, or could not be."""
        return len(self.headers) + len(self.unreadable)

    @property
    def typical(self) -> Header | None:
        """Medians over the sample; None, if nothing could be opened."""
        if not self.headers:
            return None
        numbers = zip(*((each.num_frames, each.width, each.height, each.fps) for each in self.headers), strict=True)
        frames, width, height, fps = map(statistics.median, numbers)
        return Header(int(frames), int(width), int(height), fps)


def sample_headers(
    paths: Sequence[str],
    *,
    decoder: Decoder = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    limit: int = 200,
    seconds: float = 4.0,
) -> HeaderSample:
    """Open clips that lie evenly over a list, until there are enough or the time is up.

    Args:
        paths: videos and images.
        num_workers: processes that open them; 0 opens them in this one.
        deadline_seconds: a clip that takes longer to open counts as unreadable.
        limit: most clips that are opened.
        seconds: time to open clips in, from the first answer; the clip that is being waited for is finished.
    """
    count = min(limit, len(paths))
    chosen = [paths[number * len(paths) // count] for number in range(count)]
    # in an order of chance, so that time running out does not leave out the end of the list
    order = np.random.default_rng(0).permutation(count)
    headers: list[Header] = []
    unreadable: dict[str, str] = {}
    start: float | None = None
    with WorkerPool(
        HeaderReader(decoder), num_workers=min(num_workers, 4), deadline_seconds=deadline_seconds, crash_retries=1
    ) as pool:
        for result in pool.map((chosen[number] for number in order), prefetch=0):
            start = time.monotonic() if start is None else start
            if result.array is None:
                unreadable[result.request] = result.error or "unknown"
            else:
                frames, width, height, fps = result.array.tolist()
                headers.append(Header(int(frames), int(width), int(height), fps))
            if time.monotonic() - start > seconds:
                break
    return HeaderSample(found=len(paths), headers=tuple(headers), unreadable=unreadable)


@dataclass(frozen=True)
class HeaderReader:
    """Open one clip; runs in worker processes, so this module imports neither torch nor a decoder."""

    decoder: Decoder

    def __call__(self, path: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Return (frames, width, height, fps), float64 [4]."""
        if is_still_file(path):
            height, width = read_image(path).shape[:2]
            return np.array([1.0, width, height, 0.0]), {}
        with open_video(path, decoder=self.decoder) as reader:
            info = reader.info
        return np.array([info.num_frames, info.width, info.height, info.fps], dtype=np.float64), {}
