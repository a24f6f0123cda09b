"""Decode a video file into frames.

Three decoders stand behind one interface. "pyav" is the default: frames by index are exactly those of a full
decode, and rotation and edit lists are honoured. "decord" is for frame-for-frame parity with the official
pipelines; it returns neighbouring frames for open-GOP and cut files and cannot read AV1 or GIF. "torchcodec" is for
parity with pipelines of transformers; it reads the files whose packets list their frames, and fails where it finds
others.

Frames are shown as players and the ffmpeg program show them: upright; with square pixels, for which the width is scaled
and the height stays (`scale=iw*sar:ih`), unless they are within 1 % of square; alpha composited on black, but for GIF,
whose frames are drawn over one another. A video whose size changes is scaled to the size of its first frame. Interlaced
frames are shown as they are, combed where something moves; "pyav-deinterlace" makes them whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from ..config.choices import Decoder
from ..errors import ConfigError
from .animation import AnimationReader
from .containers import VideoInfo
from .decord_reader import DecordReader
from .images import is_animation
from .in_memory import content_of, lent_path
from .pyav_reader import PyAVReader
from .safety import PathLike, check_is_path
from .torchcodec_reader import TorchcodecReader

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mj2", ".mkv", ".mk3d", ".webm", ".avi", ".divx"}
    | {".mpg", ".mpeg", ".mpe", ".m2p", ".vob", ".mod", ".tod", ".ts", ".m2ts", ".mts", ".m2t", ".tp", ".trp"}
    | {".flv", ".wmv", ".asf", ".ogv", ".ogm", ".mxf", ".nut", ".dv", ".gif"}
    | {".m1v", ".m2v", ".mpv", ".h264", ".264", ".avc", ".hevc", ".h265", ".265", ".vc1", ".ivf", ".obu", ".y4m"}
)
OTHER_VIDEO_SUFFIXES = frozenset(
    {".rm", ".rmvb", ".swf", ".wtv", ".dvr-ms", ".evo", ".vro", ".bik", ".bk2", ".smk", ".roq", ".nsv", ".amv", ".mlv"}
    | {".r3d", ".braw", ".ari", ".cine", ".insv", ".lrv", ".360", ".mjpeg", ".mjpg", ".vvc", ".266"}
)
"""Files that look like videos and are not read: in a directory they are counted in a warning."""


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
        decoder: "pyav" (exact on every file), "decord" (parity with the official pipelines), "torchcodec" (parity with
            those of transformers; needs the extra `torchcodec` and FFmpeg), or "pyav-deinterlace": frames that are
            marked as interlaced are made whole, one for one, by FFmpeg's filter yadif. That decodes from the start.

    Raises:
        ConfigError: the decoder is unknown or not installed.
        InputError: the path is a URL or cannot be a path.
        VideoDecodeError: the file is missing, not a video, damaged or too large; the message says which.
    """
    if decoder in ("pyav", "pyav-deinterlace"):
        deinterlace = decoder == "pyav-deinterlace"
        check_is_path(path)
        if Path(path).suffix.lower() not in VIDEO_SUFFIXES and is_animation(path):
            return AnimationReader(path)
        return PyAVReader(path, deinterlace=deinterlace)
    if decoder == "decord":
        return DecordReader(path)
    if decoder == "torchcodec":
        return TorchcodecReader(path)
    raise ConfigError(f"Unknown decoder {decoder!r}. Available: {', '.join(get_args(Decoder))}")


def read_video(
    path: PathLike | bytes | BinaryIO, indices: ArrayLike | None = None, *, decoder: Decoder = "pyav"
) -> np.ndarray:
    """Read the frames of a video at the given indices, or all of them.

    Args:
        path: a regular file; or the bytes of one, or a file opened with mode `rb`, which is read from its start.
        indices: K frame indices in any order, repeats allowed; None for every frame.
        decoder: see `open_video`.

    Returns:
        uint8 [K, H, W, 3] RGB.

    Raises:
        InputError: an index is outside the video.
        VideoDecodeError: as `open_video`.
    """
    content = content_of(path)
    if isinstance(content, bytes):
        with lent_path(content) as lent:
            return read_video(lent, indices, decoder=decoder)
    with open_video(path, decoder=decoder) as reader:  # type: ignore[arg-type]
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
