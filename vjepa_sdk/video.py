"""Decode a video file into frames.

Two decoders stand behind one interface. "pyav" is the default: frames by index are exactly those of a full
decode, and rotation and edit lists are honoured. "decord" is for frame-for-frame parity with the official
pipelines; it returns neighbouring frames for open-GOP and cut files and cannot read AV1 or GIF.

Files are opened here and handed to the decoder as open files, so that no URL, playlist or protocol string
is ever interpreted. Decoding is exact or it fails: a damaged frame raises VideoDecodeError.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import struct
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConfigError, InputError, VideoDecodeError, VJEPAError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Decoder = Literal["pyav", "decord"]
PathLike = str | os.PathLike[str]

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".flv", ".wmv"}
    | {".asf", ".ogv", ".3gp", ".gif"}
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"])

MAX_PIXELS = 89_478_485  # per frame; the limit at which Pillow suspects a decompression bomb

# Demuxers that read one self-contained file. Playlists (hls, dash, concat, sdp) would open further files or URLs.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,gif,webp_pipe"
# In these containers and codecs each packet is one shown frame with its own time stamp and key frame flag, so the
# packets alone say which frames exist. VP8 has hidden packets, MPEG-4 and MPEG-2 may pack or drop frames.
_INDEXED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_INDEXED_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "png", "prores", "ffv1", "dnxhd"})
# Without these FFmpeg conceals damage and returns wrong pixels without a word.
_STRICT_DECODING = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_PIXELS)}

_URL = re.compile(r"[a-z][a-z0-9+.\-]*://|(?:concatf?|subfile|data|pipe|fd|file|async|cache|crypto|tee)[:,]", re.I)


@dataclass(frozen=True)
class VideoInfo:
    """Describe a video as it is shown: sizes after rotation, seconds of the frames that exist."""

    path: str
    num_frames: int
    fps: float  # average; 0.0 for a single frame without a rate
    width: int
    height: int
    rotation: int  # 0, 90, 180 or 270 degrees clockwise, already applied to the frames
    codec: str
    duration_seconds: float  # from the start of the first frame to the end of the last
    start_seconds: float  # presentation time of the first frame


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

    def iter_frames(self) -> Iterator[np.ndarray]:
        """Yield every frame in order as uint8 [H, W, 3] RGB, holding a few at a time."""

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
        return _PyAVReader(path)
    if decoder == "decord":
        return _DecordReader(path)
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


def find_videos(inputs: Sequence[PathLike]) -> list[Path]:
    """List the video files that paths, directories and glob patterns name, sorted and without duplicates.

    Directories are searched recursively for video suffixes; hidden files and symbolic links inside are left out.
    A file named directly is taken whatever its suffix.

    Args:
        inputs: files, directories or patterns with * ? [. A path that exists is never read as a pattern.

    Raises:
        InputError: a path does not exist, or a directory or pattern holds no video.
    """
    found: set[Path] = set()
    for item in inputs:
        _check_is_path(item)
        path = Path(item)
        if path.is_dir():
            found.update(_videos_in_directory(path))
        elif os.path.lexists(path):
            found.add(path)
        elif glob.has_magic(str(path)):
            found.update(_videos_of_pattern(str(path)))
        else:
            raise InputError(f"{_printable(path)}: does not exist; check the spelling or the working directory")
    return sorted(found)


def _videos_in_directory(directory: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{_printable(error.filename)}: cannot be listed: {error.strerror}") from error

    videos = []
    for folder, subfolders, names in os.walk(directory, onerror=refuse, followlinks=False):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".") and not path.is_symlink():
                videos.append(path)
    if not videos:
        raise InputError(f"{_printable(directory)}: no video in this directory; looked for {_suffixes()}")
    return videos


def _videos_of_pattern(pattern: str) -> list[Path]:
    videos: list[Path] = []
    for path in map(Path, glob.iglob(pattern, recursive=True)):
        if path.is_dir():
            continue  # a pattern names files; "clips/**/*.mp4" is recursive
        if path.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(path)
    if not videos:
        raise InputError(f"{_printable(pattern)}: no video matches this pattern; looked for {_suffixes()}")
    return videos


def _suffixes() -> str:
    return " ".join(sorted(VIDEO_SUFFIXES))


def list_frame_directory(path: PathLike) -> list[Path]:
    """List the image files of a directory in natural order: frame2 before frame10.

    Raises:
        InputError: the directory does not exist or holds no image.
    """
    _check_is_path(path)
    directory = Path(path)
    if not directory.is_dir():
        raise InputError(f"{_printable(path)}: is not a directory of frames")
    images = [p for p in directory.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not images:
        expected = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{_printable(path)}: no image in this directory; looked for {expected}")
    return sorted(images, key=lambda image: _natural_key(image.name))


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", name.lower())
    # Odd parts are digit runs. The name itself settles ties such as "1.png" and "01.png".
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


def read_frame_directory(path: PathLike, indices: ArrayLike | None = None) -> np.ndarray:
    """Read a directory of equally sized images, naturally sorted, as the frames of one video.

    Args:
        path: a directory.
        indices: K indices in any order, repeats allowed; None for every frame.

    Returns:
        uint8 [K, H, W, 3] RGB.

    Raises:
        InputError: no images, an index outside the directory, or images of different sizes.
        VideoDecodeError: an image cannot be read.
    """
    files = list_frame_directory(path)
    wanted = np.arange(len(files)) if indices is None else _checked_indices(indices, len(files), path)
    images: dict[int, np.ndarray] = {}
    for i in dict.fromkeys(wanted.tolist()):
        images[i] = read_image(files[i])
        first = next(iter(images.values()))
        if images[i].shape != first.shape:
            (height, width), (h, w) = first.shape[:2], images[i].shape[:2]
            raise InputError(f"{_printable(files[i])}: is {w}x{h}, but frames before it are {width}x{height}")
    return np.stack([images[i] for i in wanted.tolist()]) if len(wanted) else np.empty((0, 0, 0, 3), np.uint8)


def read_image(path: PathLike) -> np.ndarray:
    """Read a JPEG, PNG, WebP, BMP or GIF image; EXIF orientation applied, alpha composited on black.

    Returns:
        uint8 [H, W, 3] RGB; the first frame of an animation.

    Raises:
        VideoDecodeError: the file is missing, not such an image, damaged or above MAX_PIXELS.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with _open_regular_file(path) as file:
        try:
            with Image.open(file, formats=["JPEG", "PNG", "WEBP", "BMP", "GIF"]) as image:
                _check_pixels(image.width, image.height, path)
                return _rgb_of_image(ImageOps.exif_transpose(image))
        except VJEPAError:
            raise
        except UnidentifiedImageError as error:
            raise _failure(path, "is not a JPEG, PNG, WebP, BMP or GIF image") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _failure(path, f"has more than {MAX_PIXELS} pixels per frame") from error
        except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
            raise _failure(path, f"is truncated or corrupt: {error}") from error


def _rgb_of_image(image: Any) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"), dtype=np.uint8)


@dataclass(frozen=True)
class _FrameIndex:
    """Say which frames a file shows and how to reach them."""

    pts: np.ndarray  # int64 [N], display order, in units of the stream's time base
    timestamps: np.ndarray  # float64 [N], seconds
    last_seconds: float  # how long the last frame is shown; 0.0 if unknown
    keys: np.ndarray  # int64 [K], positions of the key frames; empty: decode from the start
    seek_targets: np.ndarray  # int64 [K], where to seek for each key frame


class _PyAVReader:
    """Exact frames through PyAV: from the key frame before where packets tell which frames exist, else in order."""

    def __init__(self, path: PathLike) -> None:
        self._file = _open_regular_file(path)
        self._path = os.fspath(path)
        self._converter: Any = None
        try:
            _refuse_by_content(self._path, self._file)
            _check_structure(self._path, self._file)
            with _decoder_errors(self._path):
                self._read_index()
        except BaseException:
            self.close()
            raise

    @property
    def timestamps(self) -> np.ndarray:
        return self._index.timestamps

    def __len__(self) -> int:
        return self.info.num_frames

    def get_frames(self, indices: ArrayLike) -> np.ndarray:
        wanted = _checked_indices(indices, len(self), self._path)
        needed = np.unique(wanted)
        frames = np.empty((len(needed), self.info.height, self.info.width, 3), dtype=np.uint8)
        with _decoder_errors(self._path):
            if len(needed) and not self._decode_from_keys(needed, frames):
                self._decode_from_start(needed, frames)
        return frames if np.array_equal(needed, wanted) else frames[np.searchsorted(needed, wanted)]

    def iter_frames(self) -> Iterator[np.ndarray]:
        with _decoder_errors(self._path):
            for frame in self._frames_in_order():
                yield self._rgb(frame)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _PyAVReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _stream(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the container anew: only a fresh demuxer and decoder surely start at the first frame."""
        with _open_container(self._path, self._file) as container:
            stream = _video_stream(self._path, container)
            codec = stream.codec_context
            codec.thread_count = 1  # parallelism comes from processes; threaded decoders have deadlocked
            codec.thread_type = "NONE"
            codec.options = _STRICT_DECODING
            yield container, stream

    def _read_index(self) -> None:
        with self._stream() as (container, stream):
            codec = stream.codec_context.codec.canonical_name
            rate = float(stream.average_rate or 0)
            self._time_base = stream.time_base or Fraction(1)
            indexed = container.format.name in _INDEXED_CONTAINERS and codec in _INDEXED_CODECS
            packets = _scan_packets(container, stream) if indexed else []
        index = _index_of_packets(packets, self._time_base)
        if index is None:
            index, first = self._index_by_decoding(rate)
        else:
            first = self._first_frame()
        self._index = index
        self._frame_size = (first.width, first.height)
        self._orientation = _orientation(first)
        height, width = (first.width, first.height) if self._orientation[0] else (first.height, first.width)
        times = index.timestamps
        fps = _average_fps(times, rate)
        last_seconds = index.last_seconds or (1 / fps if fps else 0.0)
        self.info = VideoInfo(
            path=self._path,
            num_frames=len(times),
            fps=fps,
            width=width,
            height=height,
            rotation=-first.rotation % 360,
            codec=codec,
            duration_seconds=float(times[-1] - times[0]) + last_seconds,
            start_seconds=float(times[0]),
        )

    def _first_frame(self) -> VideoFrame:
        frames = self._decode_all()
        first = next(frames, None)
        frames.close()
        if first is None:
            raise _failure(self._path, "holds no frame that can be decoded")
        return first

    def _index_by_decoding(self, rate: float) -> tuple[_FrameIndex, VideoFrame]:
        """Find the frames by decoding all of them; the only sure way for transport streams, AVI, GIF and cuts."""
        first: VideoFrame | None = None
        shown: list[int | None] = []
        last_duration = 0
        for frame in self._decode_all():
            first = first or frame
            shown.append(frame.pts)
            last_duration = frame.duration
        if first is None:
            raise _failure(self._path, "holds no frame that can be decoded")
        if None in shown:
            rate = rate or 25.0  # FFmpeg's own assumption for streams without any timing
            pts = np.arange(len(shown), dtype=np.int64)
            return _FrameIndex(pts, pts / rate, 1 / rate, _NO_KEYS, _NO_KEYS), first
        pts = np.array(shown, dtype=np.int64)
        return _frame_index(pts, self._time_base, last_duration, _NO_KEYS, _NO_KEYS), first

    def _decode_all(self) -> Generator[VideoFrame, None, None]:
        """Decode every frame that is shown, in the decoder's order."""
        with self._stream() as (container, stream):
            packets = container.demux(stream)
            # A stream that was cut inside a group of pictures cannot be decoded before its first key frame.
            key = next((packet for packet in packets if packet.is_keyframe), None)
            if key is not None:
                yield from _decode_from(key, packets)

    def _frames_in_order(self) -> Iterator[VideoFrame]:
        """Decode every frame and hold the result against the index."""
        count = 0
        has_pts = len(self._index.keys) > 0
        for frame in self._decode_all():
            if count == len(self) or (has_pts and frame.pts != self._index.pts[count]):
                raise _failure(self._path, f"is corrupt: decoded frame {count} of {len(self)} is not the listed one")
            yield frame
            count += 1
        if count < len(self):
            raise _failure(self._path, f"is truncated or corrupt: only {count} of {len(self)} frames can be decoded")

    def _decode_from_start(self, needed: np.ndarray, frames: np.ndarray) -> None:
        rows = {int(position): row for row, position in enumerate(needed)}
        for position, frame in enumerate(self._frames_in_order()):
            if position in rows:
                frames[rows[position]] = self._rgb(frame)
            if position == needed[-1]:
                return

    def _decode_from_keys(self, needed: np.ndarray, frames: np.ndarray) -> bool:
        """Fill `frames` from the key frames at or before the needed ones; say whether all were found."""
        import av

        keys = self._index.keys
        if not len(keys):
            return False
        groups = np.searchsorted(keys, needed, side="right") - 1
        try:
            with self._stream() as (container, stream):
                for group in np.unique(groups):
                    rows = {int(self._index.pts[needed[row]]): int(row) for row in np.flatnonzero(groups == group)}
                    target = int(self._index.seek_targets[group])
                    if not self._decode_group(container, stream, target, rows, frames):
                        return False
        except (av.FFmpegError, _CorruptFrameError):
            return False  # not a true entry point, or damage: decoding from the start will tell
        return True

    def _decode_group(
        self,
        container: InputContainer,
        stream: VideoStream,
        target: int,
        rows: dict[int, int],
        frames: np.ndarray,
    ) -> bool:
        container.seek(target, stream=stream, backward=True)
        packets = container.demux(stream)
        key = next(packets)
        if not key.is_keyframe or key.pts is None or key.pts > min(rows):
            return False
        last = max(rows)
        for frame in _decode_from(key, packets):
            # What is shown before the key frame refers to pictures that were not decoded.
            if frame.pts is None or frame.pts < key.pts:
                continue
            if frame.pts in rows:
                frames[rows.pop(frame.pts)] = self._rgb(frame)
            if frame.pts >= last:
                break
        return not rows

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        """Convert to RGB as the ffmpeg program does by default, and turn upright."""
        from av.video.reformatter import Interpolation, VideoReformatter

        if (frame.width, frame.height) != self._frame_size:
            (width, height), size = self._frame_size, f"{frame.width}x{frame.height}"
            raise _failure(self._path, f"changes its frame size from {width}x{height} to {size}; re-encode it")
        if self._converter is None:
            self._converter = VideoReformatter()
        rgb = self._converter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        transpose, flip_vertically, flip_horizontally = self._orientation
        image: np.ndarray = rgb.to_ndarray()
        image = image.transpose(1, 0, 2) if transpose else image
        return np.ascontiguousarray(image[:: -1 if flip_vertically else 1, :: -1 if flip_horizontally else 1])


_NO_KEYS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class _Packet:
    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_discard: bool


def _scan_packets(container: InputContainer, stream: VideoStream) -> list[_Packet]:
    return [
        _Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
        for packet in container.demux(stream)
        if packet.size
    ]


def _index_of_packets(packets: list[_Packet], time_base: Fraction) -> _FrameIndex | None:
    """Derive the frames from the packets, or return None where only decoding tells which frames are shown."""
    if not packets or any(p.pts is None or p.is_discard for p in packets):
        return None
    pts = np.array([p.pts for p in packets], dtype=np.int64)
    order = np.argsort(pts, kind="stable")
    # A first packet that is not a key frame, or pictures shown before it, may or may not be decodable.
    if not packets[0].is_keyframe or order[0] != 0 or len(np.unique(pts)) < len(pts):
        return None
    in_decoding_order = [i for i, p in enumerate(packets) if p.is_keyframe]
    position = np.empty(len(packets), dtype=np.int64)
    position[order] = np.arange(len(packets))
    keys = position[in_decoding_order]
    if np.any(np.diff(keys) <= 0):
        return None
    # Matroska stores no decoding times; those that FFmpeg cannot derive are missing.
    dts = np.array([p.pts if p.dts is None else p.dts for p in packets], dtype=np.int64)[in_decoding_order]
    # MP4 seeks by decoding time, Matroska by presentation time. A target between a key frame's own times and
    # the decoding time of the next suits both.
    before_next = np.append(dts[1:], np.iinfo(np.int64).max) - 1
    targets = np.maximum(dts, np.minimum(pts[in_decoding_order], before_next))
    return _frame_index(pts[order], time_base, packets[order[-1]].duration, keys, targets)


def _frame_index(
    pts: np.ndarray, time_base: Fraction, last_duration: int, keys: np.ndarray, seek_targets: np.ndarray
) -> _FrameIndex:
    timestamps = pts * time_base.numerator / time_base.denominator
    return _FrameIndex(pts, timestamps, float(last_duration * time_base), keys, seek_targets)


def _decode_from(key: Packet[VideoStream], packets: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame]:
    """Decode a key frame and all that follows it.

    Pictures right after the key frame that are shown before it (in Matroska possibly without a time) may refer to
    others before it. Where the decoder starts here they fail, and only there is failing no sign of damage.
    """
    import av

    yield from _decode(key)
    start = key.pts
    is_leading = True
    for packet in packets:
        is_earlier = start is not None and packet.size > 0 and (packet.pts is None or packet.pts < start)
        is_leading = is_leading and is_earlier
        try:
            frames = list(_decode(packet))
        except (av.InvalidDataError, _CorruptFrameError):
            if not is_leading:
                raise
            continue
        yield from frames


class _CorruptFrameError(Exception):
    pass


def _decode(packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
    if packet.is_corrupt:
        raise _CorruptFrameError("a packet is damaged")
    for frame in packet.decode():
        if frame.is_corrupt:
            raise _CorruptFrameError("the decoder marks a frame as corrupt")
        yield frame


def _average_fps(timestamps: np.ndarray, rate: float) -> float:
    """Prefer the container's rate (30000/1001 exactly) unless the frames' own times contradict it."""
    span = float(timestamps[-1] - timestamps[0])
    if span <= 0:
        return rate
    measured = (len(timestamps) - 1) / span
    return rate if abs(rate - measured) <= 0.01 * measured else measured


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Read a display matrix as (transpose, flip vertically, flip horizontally), to the nearest quarter turn."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data  # PyAV's stubs describe it wrongly
    if Type.DISPLAYMATRIX not in side_data:
        return False, False, False
    matrix = bytes(side_data[Type.DISPLAYMATRIX])
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _video_stream(path: str, container: InputContainer) -> VideoStream:
    from av.stream import Disposition
    from av.video.stream import VideoStream

    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise _failure(path, f"has no video stream, it holds {kinds} only")
    _check_pixels(stream.codec_context.width, stream.codec_context.height, path)
    if stream.codec_context.codec is None:
        raise _failure(path, "is encoded with a codec that this FFmpeg cannot decode")
    return stream


@contextmanager
def _open_container(path: str, file: BinaryIO) -> Iterator[InputContainer]:
    import av

    try:
        container = av.open(
            _FileView(file),
            mode="r",
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=1 << 18,
        )
    except av.FFmpegError as error:
        raise _failure(path, _reason_not_opened(file)) from error
    with container:
        yield container


class _FileView:
    """Give each demuxer its own position in the open file, and no name to guess a format from."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0

    def read(self, size: int) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = offset + self._position, os.SEEK_SET
        self._position = self._file.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position


class _DecordReader:
    """Frames as decord's get_batch gives them, for parity with the official pipelines."""

    def __init__(self, path: PathLike) -> None:
        decord = _import_decord()
        self._file = _open_regular_file(path)
        self._path = os.fspath(path)
        try:
            _refuse_by_content(self._path, self._file)
            # decord has no allow-list of its own, so a file gets to it only if PyAV knows a harmless format in it.
            with _decoder_errors(self._path), _open_container(self._path, self._file) as container:
                codec = _video_stream(self._path, container).codec_context.codec.canonical_name
            with _decoder_errors(self._path, "cannot be read by decord; decoder='pyav' reads more formats"):
                self._file.seek(0)
                descriptor = f"/proc/self/fd/{self._file.fileno()}"
                source = descriptor if os.path.exists(descriptor) else self._file
                self._reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
                self.info = self._describe(codec)
        except BaseException:
            self.close()
            raise

    def _describe(self, codec: str) -> VideoInfo:
        num_frames = len(self._reader)
        times = np.asarray(self._reader.get_frame_timestamp(range(num_frames)), dtype=np.float64)
        self.timestamps = times[:, 0]
        height, width = self._reader[0].shape[:2]
        return VideoInfo(
            path=self._path,
            num_frames=num_frames,
            fps=float(self._reader.get_avg_fps()),
            width=width,
            height=height,
            rotation=0,  # decord turns frames upright without telling by how much
            codec=codec,
            duration_seconds=float(times[-1, 1] - times[0, 0]),
            start_seconds=float(times[0, 0]),
        )

    def __len__(self) -> int:
        return self.info.num_frames

    def get_frames(self, indices: ArrayLike) -> np.ndarray:
        wanted = _checked_indices(indices, len(self), self._path)
        if not len(wanted):
            return np.empty((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        with _decoder_errors(self._path):
            frames: np.ndarray = self._reader.get_batch(wanted.tolist()).asnumpy()
        return frames

    def iter_frames(self) -> Iterator[np.ndarray]:
        with _decoder_errors(self._path):
            self._reader.seek(0)
            for _ in range(len(self)):
                yield self._reader.next().asnumpy()

    def close(self) -> None:
        self._reader = None
        self._file.close()

    def __enter__(self) -> _DecordReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise ConfigError(
            "decoder='decord' needs the package decord, which has no wheel for every platform; "
            "install it with `pip install decord`, or use decoder='pyav'"
        ) from error
    # Otherwise its FFmpeg prints file contents to the terminal.
    decord.logging.set_level(decord.logging.QUIET)  # type: ignore[no-untyped-call]
    return decord


def _open_regular_file(path: PathLike) -> BinaryIO:
    """Open a local regular file and nothing else; a FIFO or device neither blocks nor gets read."""
    _check_is_path(path)
    # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise _failure(path, "does not exist") from error
    except PermissionError as error:
        raise _failure(path, "permission denied") from error
    except OSError as error:
        raise _failure(path, f"cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    problem = None
    if stat.S_ISDIR(status.st_mode):
        problem = "is a directory, not a file"
    elif not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file"
    elif status.st_size == 0:
        problem = "is empty (0 bytes)"
    if problem:
        os.close(descriptor)
        raise _failure(path, problem)
    return os.fdopen(descriptor, "rb", buffering=0)


def _check_is_path(path: object) -> None:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"a path must be str or os.PathLike, got {type(path).__name__}")
    if not text or "\0" in text:
        raise InputError(f"{_printable(text)!r} is not a path: it is empty or contains a null character")
    if _URL.match(text):
        raise InputError(f"{_printable(text)}: is a URL or protocol string, not a file; download it and pass the file")


_PLAYLISTS = {b"#EXTM3U": "an HLS playlist", b"ffconcat": "a concat list", b"v=0": "an SDP description"}
_OTHER_CONTENT = {
    b"\x89PNG": "is a PNG image, not a video",
    b"\xff\xd8\xff": "is a JPEG image, not a video",
    b"BM": "is a BMP image, not a video",
    b"ID3": "has no video stream, it is an MP3 file",
    b"fLaC": "has no video stream, it is a FLAC file",
    b"PK\x03\x04": "is a zip archive, not a video",
}


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(512)


def _refuse_by_content(path: str, file: BinaryIO) -> None:
    """Refuse files whose text would make a demuxer open other files or addresses."""
    text = _head(file).removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, name in _PLAYLISTS.items():
        if text.startswith(start):
            raise _failure(path, f"is {name}, not a video")
    if text.startswith(b"<"):
        raise _failure(path, "is an XML or HTML document, not a video")


def _reason_not_opened(file: BinaryIO) -> str:
    head = _head(file)
    for start, reason in _OTHER_CONTENT.items():
        if head.startswith(start):
            return reason
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "has no video stream, it is a WAVE file"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"GIF8"):
        return "is truncated or corrupt: its header or index cannot be read"
    return "is not a video of a known format"


_MATROSKA_ELEMENTS = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}  # in the segment
    | {0xE7, 0x5854, 0xA7, 0xAB, 0xA0, 0xA3, 0xAF}  # in a cluster
)
_MATROSKA_CLUSTER = 0x1F43B675


def _check_structure(path: str, file: BinaryIO) -> None:
    """Find damage that a demuxer skips in silence, and frames with it: cut or overwritten Matroska, cut AVI."""
    head = _head(file)
    file_size = os.fstat(file.fileno()).st_size
    if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > file_size + 1:
        raise _failure(path, "is truncated: the file is shorter than it says")
    if head[:4] != b"\x1aE\xdf\xa3":
        return
    _, position, size = _matroska_element(file, 0)
    _, position, size = _matroska_element(file, position + (size or 0))
    end = file_size if size is None else position + size
    if end > file_size:
        raise _failure(path, "is truncated: the file is shorter than it says")
    while position < end:
        identifier, start, size = _matroska_element(file, position)
        if identifier == _MATROSKA_CLUSTER:
            position = start  # its elements are walked like those around it, which also suits unknown sizes
        elif identifier in _MATROSKA_ELEMENTS and size is not None and start + size <= end:
            position = start + size
        else:
            raise _failure(path, f"is truncated or corrupt: no valid element at byte {position}")


def _matroska_element(file: BinaryIO, position: int) -> tuple[int, int, int | None]:
    """Return an element's identifier (0: none), where its content starts, and its size or None if unknown."""
    file.seek(position)
    head = file.read(12)
    id_length = 9 - head[0].bit_length() if head else 9
    if id_length > 4 or len(head) <= id_length:
        return 0, position, None
    size_length = 9 - head[id_length].bit_length()
    coded = int.from_bytes(head[id_length : id_length + size_length], "big")
    unknown = (1 << 7 * size_length) - 1
    size = coded & unknown  # the length marker is the bit above
    identifier = int.from_bytes(head[:id_length], "big")
    return identifier, position + id_length + size_length, None if size == unknown else size


def _check_pixels(width: int, height: int, path: PathLike) -> None:
    if width * height > MAX_PIXELS:
        raise _failure(path, f"has more than {MAX_PIXELS} pixels per frame ({width}x{height})")


def _checked_indices(indices: ArrayLike, num_available: int, path: PathLike) -> np.ndarray:
    wanted = np.asarray(indices)
    if wanted.size == 0:
        return np.empty(0, dtype=np.int64)
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise InputError(f"indices must be a list of integers, got shape {wanted.shape} of {wanted.dtype}")
    outside = wanted[(wanted < 0) | (wanted >= num_available)]
    if len(outside):
        raise InputError(f"{_printable(path)}: index {outside[0]} must be from 0 to {num_available - 1}")
    return wanted.astype(np.int64)


@contextmanager
def _decoder_errors(path: str, reason: str = "is truncated or corrupt") -> Iterator[None]:
    """Turn whatever a decoder raises into one VideoDecodeError that names the file."""
    try:
        yield
    except VJEPAError:
        raise
    except Exception as error:  # decoders raise OSError, ValueError, RuntimeError, IndexError, DECORDError …
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _failure(path, f"{reason}: {detail.splitlines()[0]}") from error


def _failure(path: PathLike, reason: str) -> VideoDecodeError:
    return VideoDecodeError(f"{_printable(path)}: {reason}")


def _printable(path: object) -> str:
    """Escape what could drive a terminal or break a line: names come from strangers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))
