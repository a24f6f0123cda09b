"""Read exact frames through PyAV: those by index are the ones of a full decode, or reading fails.

A damaged or missing frame raises VideoDecodeError. Rotation, edit lists, shape of pixels and alpha are honoured.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .containers import VideoInfo, check_structure, open_container, refuse_by_content, video_stream
from .damage import DamageChecks
from .decoding import STRICT_DECODING, CorruptFrameError, Cursor, decode_from, end_of
from .deinterlace import deinterlaced
from .frame_image import FrameImage
from .frame_index import (
    BARE_STREAMS,
    COUNTED_CONTAINERS,
    INDEXED_CODECS,
    INDEXED_CONTAINERS,
    KEYED_CONTAINERS,
    FrameIndex,
    PacketLog,
    ShownTimes,
    average_fps,
    index_of_packets,
    scan_packets,
)
from .pictures import PacketContent, is_entry
from .safety import PathLike, ascending_indices, checked_indices, decoder_errors, failure, open_regular_file
from .transport_stream import loses_nothing, without_marks

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class PyAVReader:
    """Exact frames through PyAV: from the key frame before where packets tell which frames exist, else in order."""

    def __init__(self, path: PathLike, *, deinterlace: bool = False) -> None:
        self._deinterlace = deinterlace
        self._opened = ExitStack()
        self._cursor: Cursor | None = None
        self._file = open_regular_file(path)
        self._path = os.fspath(path)
        try:
            refuse_by_content(self._path, self._file)
            self._blocks = check_structure(self._path, self._file)
            self._damage = DamageChecks(self._file)
            with decoder_errors(self._path):
                self._read_index()
        except BaseException:
            self.close()
            raise

    @property
    def timestamps(self) -> np.ndarray:
        return self._index.timestamps

    @property
    def is_listed(self) -> bool:
        """Whether packets alone tell which frames there are, so that each can be reached from a key frame."""
        return len(self._index.keys) > 0

    @property
    def num_interlaced(self) -> int:
        """How many of the frames that were read so far are marked as interlaced."""
        return self._image.num_interlaced

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
            needed, frames = np.arange(len(self)), self._shown_in_order()
        else:
            needed = ascending_indices(indices, len(self), self._path)
            # what makes an interlaced frame whole are those around it, so none is jumped to
            frames = iter(()) if self._deinterlace else self._frames_by_key(needed)
        done = 0
        with decoder_errors(self._path):
            for frame in frames:
                yield self._rgb(frame)
                done += 1
            for frame in self._frames_from_start(needed[done:]):
                yield self._rgb(frame)

    def close(self) -> None:
        self._cursor = None
        self._opened.close()
        self._file.close()

    def __enter__(self) -> PyAVReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _stream(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the container anew: without a seek, only a fresh demuxer and decoder surely start at the first frame."""
        with open_container(self._path, self._file) as container:
            stream = video_stream(self._path, container)
            codec = stream.codec_context
            codec.thread_count = 1  # parallelism comes from processes; threaded decoders have deadlocked
            codec.thread_type = "NONE"
            codec.options = STRICT_DECODING
            yield container, stream

    def _read_index(self) -> None:
        with ExitStack() as opened:
            container, stream = opened.enter_context(self._stream())
            self._format = container.format.name
            self._codec = stream.codec_context.codec.canonical_name
            self._rate = float((stream.guessed_rate if self._format in BARE_STREAMS else stream.average_rate) or 0)
            self._time_base = stream.time_base or Fraction(1)
            aspect = stream.sample_aspect_ratio  # the container's, or else the codec's
            if self._format == "mpegts" and not loses_nothing(self._file, stream, container.demux(stream)):
                raise failure(self._path, "is truncated or corrupt: packets of the transport stream are missing")
            index, first = self._index_by_packets(container, stream)
            if index is not None:
                self._opened = opened.pop_all()  # it serves to read frames, too
        if index is None:
            index, first = self._index_by_decoding()
        first = first or self._first_frame()
        self._index = index
        self._image = FrameImage(self._path, first, aspect=aspect, container=self._format, codec=self._codec)
        times = index.timestamps
        fps = average_fps(times, self._rate)
        last_seconds = index.last_seconds or (1 / fps if fps else 0.0)
        self.info = VideoInfo(
            path=self._path,
            num_frames=len(times),
            fps=fps,
            width=self._image.width,
            height=self._image.height,
            rotation=self._image.rotation,
            codec=self._codec,
            duration_seconds=float(times[-1] - times[0]) + last_seconds,
            start_seconds=float(times[0]),
        )

    def _index_by_packets(
        self, container: InputContainer, stream: VideoStream
    ) -> tuple[FrameIndex | None, VideoFrame | None]:
        """Return the index, None where only decoding gives it; with it the first frame, if it comes soon."""
        if self._format not in COUNTED_CONTAINERS:
            return None, None
        self._content = PacketContent(stream)
        packets, first_packet = scan_packets(container, stream, self._content)
        listed = self._blocks[stream.index] if stream.index < len(self._blocks) else len(stream.index_entries)
        if len(packets) < listed and not self._blocks:
            listed = sum(entry.size > 0 for entry in stream.index_entries)
        if len(packets) < listed:
            raise failure(self._path, f"is truncated or corrupt: only {len(packets)} of {listed} packets can be read")
        is_indexed = self._format in INDEXED_CONTAINERS and self._codec in INDEXED_CODECS
        index = index_of_packets(packets, self._time_base) if is_indexed else None
        if index is None or first_packet is None:
            return None, None
        # decoding it here saves to open the file once more for it
        decoder = self._damage.decoder(stream)
        self._cursor = Cursor(container, stream, decoder, self._content)
        return index, next(decode_from(first_packet, iter([end_of(stream)]), decoder), None)

    def _first_frame(self) -> VideoFrame:
        frames = self._decode_all()
        first = next(frames, None)
        frames.close()
        if first is None:
            raise failure(self._path, "holds no frame that can be decoded")
        return first

    def _index_by_decoding(self) -> tuple[FrameIndex, VideoFrame]:
        """Find the frames by decoding all of them; the only sure way for transport streams, AVI, GIF and cuts."""
        with self._stream() as (_, stream):
            log = PacketLog(stream)
        first: VideoFrame | None = None
        times = ShownTimes([], [], [])
        for frame in self._decode_all(log):
            first = first or frame
            times.pts.append(frame.pts)
            times.dts.append(frame.dts)
            times.durations.append(frame.duration)
        if first is None:
            raise failure(self._path, "holds no frame that can be decoded")
        promised, given = log.promised(times.pts)
        if given < promised:
            raise failure(self._path, f"is truncated or corrupt: only {given} of {promised} frames can be decoded")
        if self._format == "avi":
            times.pts[:] = [None] * len(times.pts)  # it has none; FFmpeg guesses them for packets in decoding order
        return times.index(self._time_base, self._rate), first

    def _decode_all(self, log: PacketLog | None = None) -> Generator[VideoFrame, None, None]:
        """Decode every frame that is shown, in the decoder's order."""
        with self._stream() as (container, stream):
            packets = container.demux(stream)
            if self._format == "mpegts":
                packets = without_marks(packets)  # `loses_nothing` has told what they mean
            key = self._find_start(packets)
            if key is not None:
                checked = self._damage.decoder(stream)
                yield from decode_from(key, packets if log is None else log.watch(key, packets), checked)

    def _find_start(self, packets: Iterator[Packet[VideoStream]]) -> Packet[VideoStream] | None:
        """Return the first packet that decoding can start at.

        A stream that was cut inside a group of pictures cannot be decoded before its first key frame. Of a damaged key
        frame FFmpeg does not say that it is one; there decoding has to start, and to fail.
        """
        first = next(packets, None)
        if first is None or first.is_keyframe or is_entry(first) or self._is_key_by_container:
            return first
        if self._format in KEYED_CONTAINERS:
            raise failure(self._path, "is cut or corrupt: it does not start with a key frame")
        return next((packet for packet in packets if packet.is_keyframe or is_entry(packet)), None)

    @cached_property
    def _is_key_by_container(self) -> bool:
        """Whether the container calls the first packet a key frame, whatever the packet holds."""
        with open_container(self._path, self._file, parse=False) as container:
            first = next(container.demux(video_stream(self._path, container)), None)
            return first is not None and first.is_keyframe

    def _frames_in_order(self) -> Iterator[VideoFrame]:
        """Decode every frame and hold the result against the index."""
        count = 0
        for frame in self._decode_all():
            if count == len(self) or (self.is_listed and frame.pts != self._index.pts[count]):
                raise failure(self._path, f"is corrupt: decoded frame {count} of {len(self)} is not the listed one")
            yield frame
            count += 1
        if count < len(self):
            raise failure(self._path, f"is truncated or corrupt: only {count} of {len(self)} frames can be decoded")

    def _shown_in_order(self) -> Iterator[VideoFrame]:
        return deinterlaced(self._frames_in_order()) if self._deinterlace else self._frames_in_order()

    def _frames_from_start(self, needed: np.ndarray) -> Iterator[VideoFrame]:
        """Decode everything up to the last needed frame."""
        row = 0
        if len(needed):
            for position, frame in enumerate(self._shown_in_order()):
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
        if not self.is_listed or not len(needed):
            return
        # whoever reads while another reading goes on has a container of its own
        kept, self._cursor = self._cursor, None
        try:
            with ExitStack() as opened:
                cursor = kept or self._new_cursor(opened)
                for target, positions in index.runs(needed):
                    frames = cursor.read(target, index.pts[positions].tolist())
                    for _ in positions:
                        frame = next(frames, None)
                        if frame is None:
                            return
                        yield frame
            self._cursor = kept
        except (av.FFmpegError, CorruptFrameError):
            return  # not a true entry point, or damage: decoding from the start will tell

    def _new_cursor(self, opened: ExitStack) -> Cursor:
        container, stream = opened.enter_context(self._stream())
        return Cursor(container, stream, self._damage.decoder(stream), self._content)

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        return self._image(frame)
