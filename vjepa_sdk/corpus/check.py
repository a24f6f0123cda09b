"""Find out which clips can be decoded, before a job meets those that cannot."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..config.choices import Decoder
from ..errors import InputError, VJEPAError, printable
from ..runtime.progress import progress_bar
from ..runtime.workers.pool import TaskResult, WorkerPool
from ..runtime.workers.wire import WorkerResult
from ..video.images import is_still_file, iter_images, list_frame_directory, read_image
from ..video.pyav_reader import PyAVReader
from ..video.reader import open_video
from ..video.safety import PathLike
from .find import find_clips
from .lists import ClipSource

Kind = Literal["video", "frames", "image"]


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """What a file holds, or why it cannot be decoded."""

    path: str
    reason: str | None
    """Why it cannot be decoded; None: it can."""
    kind: Kind
    """A video, a directory of frames, or an image."""
    codec: str | None = None
    width: int | None = None
    """Of the frames as they are shown, in pixels."""
    height: int | None = None
    fps: float | None = None
    """Average rate; None for images, and for frame directories."""
    num_frames: int | None = None
    duration_seconds: float | None = None
    num_decoded: int | None = None
    """How many frames of a video were looked at: all with `full`, else up to three."""
    num_interlaced: int | None = None
    """How many of them are marked as interlaced: combed where something moves, unless `pyav-deinterlace` reads them."""

    @property
    def is_good(self) -> bool:
        """Whether it can be decoded."""
        return self.reason is None


def check_files(
    inputs: PathLike | Iterable[PathLike],
    *,
    full: bool = False,
    decoder: Decoder = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    follow_symlinks: bool = False,
    show_progress_bar: bool | None = None,
) -> list[CheckedFile]:
    """Try to decode every video, frame directory and image, in processes that may hang or crash.

    Args:
        inputs: as for `embed_files`. A file that a list names several times is checked once; of parts only that they
            begin before its end.
        full: decode every frame; else the first, the middle and the last one.
        decoder: `pyav`, `decord` or `pyav-deinterlace`.
        num_workers: decoding processes; 0 decodes in this process, without a deadline.
        deadline_seconds: a file that takes longer is tried once more, then it counts as bad.
        follow_symlinks: read what symbolic links point to.
        show_progress_bar: on stderr; None: if it is a terminal.

    Returns:
        One entry for each file, sorted by path.

    Raises:
        InputError: an input does not exist or is a link, or a directory holds nothing to check.
    """
    clips = find_clips(inputs, links="follow" if follow_symlinks else "refuse").clips("both")
    requests: dict[str, _Request] = {}
    for clip in clips:
        latest = max(clip.start_seconds or 0.0, requests[clip.path].start_seconds if clip.path in requests else 0.0)
        requests[clip.path] = _Request(clip.path, _kind(clip), latest)
    found, num_bad = [], 0
    with (
        WorkerPool(
            _Check(full=full, decoder=decoder),
            num_workers=num_workers,
            deadline_seconds=deadline_seconds,
            crash_retries=1,
        ) as pool,
        progress_bar("check", total=len(requests), show=show_progress_bar, unit="file") as bar,
    ):
        for result in pool.map(requests.values(), prefetch=2 * num_workers):
            found.append(_checked(result))
            num_bad += not found[-1].is_good
            bar.advance(f"{num_bad} bad" if num_bad else "")
    return found


@dataclass(frozen=True)
class _Request:
    path: str
    kind: Kind
    start_seconds: float
    """Of the last part that is wanted."""


def _kind(clip: ClipSource) -> Kind:
    if os.path.isdir(clip.path):
        return "frames"
    return "image" if is_still_file(clip.path) else "video"


@dataclass(frozen=True)
class _Check:
    """Look at one file; runs in the decoding processes."""

    full: bool
    decoder: Decoder

    def __call__(self, request: _Request) -> WorkerResult:
        """Return what is known of the file, as far as decoding got, and the `reason` if it failed."""
        facts: dict[str, Any] = {}
        look = {"video": self._video, "frames": self._frames, "image": self._image}[request.kind]
        try:
            look(request, facts)
        except VJEPAError as error:
            facts["reason"] = str(error)
        return np.empty(0, np.uint8), facts

    def _video(self, request: _Request, facts: dict[str, Any]) -> None:
        with open_video(request.path, decoder=self.decoder) as reader:
            for name in ("codec", "width", "height", "fps", "num_frames", "duration_seconds"):
                facts[name] = getattr(reader.info, name)
            start, end = request.start_seconds, reader.info.start_seconds + reader.info.duration_seconds
            if start >= end:
                raise InputError(f"start_seconds={start:g} must lie before the end of the video at {end:g} s")
            wanted = np.arange(len(reader)) if self.full else np.unique([0, len(reader) // 2, len(reader) - 1])
            for _ in reader.iter_frames(None if self.full else wanted):
                pass
            facts["num_decoded"] = len(wanted)
            if isinstance(reader, PyAVReader):
                facts["num_interlaced"] = reader.num_interlaced

    def _frames(self, request: _Request, facts: dict[str, Any]) -> None:
        files = list_frame_directory(request.path)
        facts["num_frames"] = count = len(files)
        for image in iter_images(files if self.full else [files[i] for i in sorted({0, count // 2, count - 1})]):
            facts["height"], facts["width"] = image.shape[:2]

    def _image(self, request: _Request, facts: dict[str, Any]) -> None:
        facts["num_frames"] = 1
        facts["height"], facts["width"] = read_image(request.path).shape[:2]


_TYPES: dict[str, type[Any]] = {
    "codec": str, "width": int, "height": int, "fps": float, "num_frames": int, "duration_seconds": float,
    "num_decoded": int, "num_interlaced": int, "reason": str,
}  # fmt: skip


def _checked(result: TaskResult[_Request]) -> CheckedFile:
    request, reason = result.request, result.error
    # a hostile file may have taken the process over that says this
    facts = {name: value for name, value in result.info.items() if type(value) is _TYPES.get(name)}
    if reason is None:
        reason = facts.pop("reason", None) if facts == result.info else "the decoding process sent something else"
    if reason is not None:
        reason = printable(reason).removeprefix(f"{printable(request.path)}: ")
    return CheckedFile(path=request.path, kind=request.kind, reason=reason, **facts)
