"""Read animated WebP, PNG and AVIF as videos: what FFmpeg does not read, calls images, or takes the alpha from."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .containers import VideoInfo
from .images import open_image, rgb_of, size_of
from .safety import PathLike, ascending_indices, checked_indices, open_regular_file

_FORMATS = ("PNG", "WEBP", "AVIF")
_SECONDS_OF_NONE = 0.1  # how long browsers show a frame that says 0


class AnimationReader:
    """The frames of an animation in order, as Pillow draws them: each from the first on."""

    def __init__(self, path: PathLike) -> None:
        self._path = os.fspath(path)
        with open_regular_file(path) as file:
            self._data = file.read()  # Pillow moves about in the file, and each iteration needs a place of its own
        with self._open() as image:
            durations = []
            for number in range(image.n_frames):
                image.seek(number)
                image.load()
                durations.append(float(image.info.get("duration", 0)) / 1000 or _SECONDS_OF_NONE)
            self._describe(image, durations)

    def _open(self) -> AbstractContextManager[Any]:
        return open_image(io.BytesIO(self._data), self._path, _FORMATS)

    def _describe(self, image: Any, durations: list[float]) -> None:
        ends = np.cumsum(durations)
        self.timestamps = ends - durations
        height, width = size_of(image)
        self.info = VideoInfo(
            path=self._path,
            num_frames=len(durations),
            fps=len(durations) / float(ends[-1]),
            width=width,
            height=height,
            rotation=0,
            codec=str(image.format).lower(),
            duration_seconds=float(ends[-1]),
            start_seconds=0.0,
        )

    def __len__(self) -> int:
        return self.info.num_frames

    def get_frames(self, indices: ArrayLike) -> np.ndarray:
        wanted = checked_indices(indices, len(self), self._path)
        if not len(wanted):
            return np.empty((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        needed, places = np.unique(wanted, return_inverse=True)
        return np.stack(list(self.iter_frames(needed)))[places]

    def iter_frames(self, indices: ArrayLike | None = None) -> Iterator[np.ndarray]:
        wanted = np.arange(len(self)) if indices is None else ascending_indices(indices, len(self), self._path)
        with self._open() as image:
            for number in wanted.tolist():
                image.seek(number)
                yield rgb_of(image)

    def close(self) -> None:
        self._data = b""

    def __enter__(self) -> AnimationReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
