"""Read exact frames through PyAV: those by index are the ones of a full decode, or reading fails.

A damaged frame raises VideoDecodeError. Rotation and edit lists are honoured.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .containers import VideoInfo, check_structure, open_container, refuse_by_content, video_stream
from .files import MAX_PIXELS, PathLike, checked_indices, decoder_errors, failure, open_regular_file

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# In these containers and codecs each packet is one shown frame with its own time stamp and key frame flag, so the
# packets alone say which frames exist. VP8 has hidden packets, MPEG-4 and MPEG-2 may pack or drop frames.
_INDEXED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_INDEXED_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "png", "prores", "ffv1", "dnxhd"})
# Without these FFmpeg conceals damage and returns wrong pixels without a word.
_STRICT_DECODING = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_PIXELS)}


@dataclass(frozen=True)
class _FrameIndex:
    """Say which frames a file shows and how to reach them."""

    pts: np.ndarray  # int64 [N], display order, in units of the stream's time base
    timestamps: np.ndarray  # float64 [N], seconds
    last_seconds: float  # how long the last frame is shown; 0.0 if unknown
    keys: np.ndarray  # int64 [K], positions of the key frames; empty: decode from the start
    seek_targets: np.ndarray  # int64 [K], where to seek for each key frame


class PyAVReader:
    """Exact frames through PyAV: from the key frame before where packets tell which frames exist, else in order."""

    def __init__(self, path: PathLike) -> None:
        self._file = open_regular_file(path)
        self._path = os.fspath(path)
        self._converter: Any = None
        try:
            refuse_by_content(self._path, self._file)
            check_structure(self._path, self._file)
            with decoder_errors(self._path):
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
        wanted = checked_indices(indices, len(self), self._path)
        needed = np.unique(wanted)
        frames = np.empty((len(needed), self.info.height, self.info.width, 3), dtype=np.uint8)
        with decoder_errors(self._path):
            if len(needed) and not self._decode_from_keys(needed, frames):
                self._decode_from_start(needed, frames)
        return frames if np.array_equal(needed, wanted) else frames[np.searchsorted(needed, wanted)]

    def iter_frames(self) -> Iterator[np.ndarray]:
        with decoder_errors(self._path):
            for frame in self._frames_in_order():
                yield self._rgb(frame)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> PyAVReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _stream(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the container anew: only a fresh demuxer and decoder surely start at the first frame."""
        with open_container(self._path, self._file) as container:
            stream = video_stream(self._path, container)
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
            raise failure(self._path, "holds no frame that can be decoded")
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
            raise failure(self._path, "holds no frame that can be decoded")
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
                raise failure(self._path, f"is corrupt: decoded frame {count} of {len(self)} is not the listed one")
            yield frame
            count += 1
        if count < len(self):
            raise failure(self._path, f"is truncated or corrupt: only {count} of {len(self)} frames can be decoded")

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
            raise failure(self._path, f"changes its frame size from {width}x{height} to {size}; re-encode it")
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
