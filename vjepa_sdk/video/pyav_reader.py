"""Read exact frames through PyAV: those by index are the ones of a full decode, or reading fails.

A damaged frame raises VideoDecodeError. Rotation and edit lists are honoured.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .containers import VideoInfo, check_structure, open_container, refuse_by_content, video_stream
from .safety import MAX_PIXELS, PathLike, ascending_indices, checked_indices, decoder_errors, failure, open_regular_file

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
    key_packets: np.ndarray  # int64 [K], how many packets lie before each key frame
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
        for row, frame in enumerate(self.iter_frames(needed)):
            frames[row] = frame
        return frames if np.array_equal(needed, wanted) else frames[np.searchsorted(needed, wanted)]

    def iter_frames(self, indices: ArrayLike | None = None) -> Iterator[np.ndarray]:
        if indices is None:
            needed, frames = np.arange(len(self)), self._frames_in_order()
        else:
            needed = ascending_indices(indices, len(self), self._path)
            frames = self._frames_by_key(needed)
        done = 0
        with decoder_errors(self._path):
            for frame in frames:
                yield self._rgb(frame)
                done += 1
            for frame in self._frames_from_start(needed[done:]):
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
            packets = _scan_packets(container, stream) if indexed else None
        index = None if packets is None else _index_of_packets(packets, self._time_base)
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
            return _FrameIndex(pts, pts / rate, 1 / rate, _NO_KEYS, _NO_KEYS, _NO_KEYS), first
        pts = np.array(shown, dtype=np.int64)
        timestamps, last_seconds = _seconds(pts, self._time_base), float(last_duration * self._time_base)
        return _FrameIndex(pts, timestamps, last_seconds, _NO_KEYS, _NO_KEYS, _NO_KEYS), first

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

    def _frames_from_start(self, needed: np.ndarray) -> Iterator[VideoFrame]:
        """Decode everything up to the last needed frame."""
        row = 0
        if len(needed):
            for position, frame in enumerate(self._frames_in_order()):
                if position == needed[row]:
                    yield frame
                    row += 1
                if row == len(needed):
                    return

    def _frames_by_key(self, needed: np.ndarray) -> Iterator[VideoFrame]:
        """Decode each needed frame, and jump ahead to a key frame where that saves decoding others.

        Ends early where jumping does not lead to the frame.
        """
        import av

        index = self._index
        if not len(index.keys):
            return
        groups = np.searchsorted(index.keys, needed, side="right") - 1
        try:
            with self._stream() as (container, stream):
                cursor = _Cursor(container, stream)
                for position, group in zip(needed.tolist(), groups.tolist(), strict=True):
                    if index.key_packets[group] > cursor.num_packets:
                        cursor.jump(int(index.seek_targets[group]), num_packets=int(index.key_packets[group]))
                    frame = cursor.find(int(index.pts[position]))
                    if frame is None:
                        return
                    yield frame
        except (av.FFmpegError, _CorruptFrameError):
            return  # not a true entry point, or damage: decoding from the start will tell

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


class _Cursor:
    """Walk forward through a stream, decoding or in jumps, and count the packets read."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self.jump(None, num_packets=0)

    def jump(self, target: int | None, *, num_packets: int) -> None:
        """Go to a key frame before which so many packets lie; None: to the start."""
        if target is not None:
            self._container.seek(target, stream=self._stream, backward=True)
        self.num_packets = num_packets
        packets = self._packets()
        key = next(packets, None)
        self._frames = _decode_from(key, packets) if key is not None and key.is_keyframe else iter(())

    def find(self, pts: int) -> VideoFrame | None:
        """Decode up to the frame of this time; None if it does not come."""
        # What is shown before the key frame refers to pictures that were not decoded; it has an earlier time.
        for frame in self._frames:
            if frame.pts is not None and frame.pts >= pts:
                return frame if frame.pts == pts else None
        return None

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        for packet in self._container.demux(self._stream):
            self.num_packets += packet.size > 0
            yield packet


def _scan_packets(container: InputContainer, stream: VideoStream) -> np.ndarray | None:
    """Return time, decoding time, duration and whether it is a key frame of each packet, int64 [N, 4].

    None where only decoding tells which frames are shown.
    """
    numbers = array("q")  # and not objects: a day of video has millions of packets
    for packet in container.demux(stream):
        if packet.size:
            if packet.pts is None or packet.is_discard:
                return None
            # Matroska stores no decoding times; those that FFmpeg cannot derive are missing.
            dts = packet.pts if packet.dts is None else packet.dts
            numbers.extend((packet.pts, dts, packet.duration or 0, packet.is_keyframe))
    return np.frombuffer(numbers, np.int64).reshape(-1, 4) if numbers else None


def _index_of_packets(packets: np.ndarray, time_base: Fraction) -> _FrameIndex | None:
    """Derive the frames from the packets, or return None where only decoding tells which frames are shown."""
    pts, dts, durations, is_key = packets.T
    order = np.argsort(pts, kind="stable")
    # A first packet that is not a key frame, or pictures shown before it, may or may not be decodable.
    if not is_key[0] or order[0] != 0 or np.any(np.diff(pts[order]) == 0):
        return None
    position = np.empty(len(packets), dtype=np.int64)
    position[order] = np.arange(len(packets))
    key_packets = np.flatnonzero(is_key)
    keys = position[key_packets]
    if np.any(np.diff(keys) <= 0):
        return None
    # MP4 seeks by decoding time, Matroska by presentation time. A target between a key frame's own times and
    # the decoding time of the next suits both.
    before_next = np.append(dts[key_packets][1:], np.iinfo(np.int64).max) - 1
    targets = np.maximum(dts[key_packets], np.minimum(pts[key_packets], before_next))
    timestamps = _seconds(pts[order], time_base)
    last_seconds = float(int(durations[order[-1]]) * time_base)
    return _FrameIndex(pts[order], timestamps, last_seconds, keys, key_packets, targets)


def _seconds(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    return pts * time_base.numerator / time_base.denominator


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
