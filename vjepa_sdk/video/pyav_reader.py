"""Read exact frames through PyAV: those by index are the ones of a full decode, or reading fails.

A damaged frame raises VideoDecodeError. Rotation and edit lists are honoured.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .containers import VideoInfo, check_structure, open_container, refuse_by_content, video_stream
from .damage import DamageChecks
from .decoding import STRICT_DECODING, CorruptFrameError, Cursor, decode_from
from .frame_image import orientation
from .frame_index import (
    INDEXED_CODECS,
    INDEXED_CONTAINERS,
    NO_KEYS,
    FrameIndex,
    average_fps,
    index_of_packets,
    scan_packets,
    seconds,
)
from .safety import PathLike, ascending_indices, checked_indices, decoder_errors, failure, open_regular_file

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class PyAVReader:
    """Exact frames through PyAV: from the key frame before where packets tell which frames exist, else in order."""

    def __init__(self, path: PathLike) -> None:
        self._file = open_regular_file(path)
        self._path = os.fspath(path)
        self._converter: Any = None
        try:
            refuse_by_content(self._path, self._file)
            check_structure(self._path, self._file)
            self._damage = DamageChecks(self._file)
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
            codec.options = STRICT_DECODING
            yield container, stream

    def _read_index(self) -> None:
        with self._stream() as (container, stream):
            codec = stream.codec_context.codec.canonical_name
            rate = float(stream.average_rate or 0)
            self._time_base = stream.time_base or Fraction(1)
            indexed = container.format.name in INDEXED_CONTAINERS and codec in INDEXED_CODECS
            packets = scan_packets(container, stream) if indexed else None
        index = None if packets is None else index_of_packets(packets, self._time_base)
        if index is None:
            index, first = self._index_by_decoding(rate)
        else:
            first = self._first_frame()
        self._index = index
        self._frame_size = (first.width, first.height)
        self._orientation = orientation(first)
        height, width = (first.width, first.height) if self._orientation[0] else (first.height, first.width)
        times = index.timestamps
        fps = average_fps(times, rate)
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

    def _index_by_decoding(self, rate: float) -> tuple[FrameIndex, VideoFrame]:
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
            return FrameIndex(pts, pts / rate, 1 / rate, NO_KEYS, NO_KEYS, NO_KEYS), first
        pts = np.array(shown, dtype=np.int64)
        timestamps, last_seconds = seconds(pts, self._time_base), float(last_duration * self._time_base)
        return FrameIndex(pts, timestamps, last_seconds, NO_KEYS, NO_KEYS, NO_KEYS), first

    def _decode_all(self) -> Generator[VideoFrame, None, None]:
        """Decode every frame that is shown, in the decoder's order."""
        with self._stream() as (container, stream):
            packets = container.demux(stream)
            # A stream that was cut inside a group of pictures cannot be decoded before its first key frame.
            key = next((packet for packet in packets if packet.is_keyframe), None)
            if key is not None:
                yield from decode_from(key, packets, self._damage.decoder(stream))

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
                cursor = Cursor(container, stream, self._damage.decoder(stream))
                for position, group in zip(needed.tolist(), groups.tolist(), strict=True):
                    if index.key_packets[group] > cursor.num_packets:
                        cursor.jump(int(index.seek_targets[group]), num_packets=int(index.key_packets[group]))
                    frame = cursor.find(int(index.pts[position]))
                    if frame is None:
                        return
                    yield frame
        except (av.FFmpegError, CorruptFrameError):
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
