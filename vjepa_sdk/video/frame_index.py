"""Say which frames a file shows and how to reach them, from its packets where these tell."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from .pictures import PacketContent, fields_counter, forgets_all

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# In these containers and codecs each packet is one shown frame with its own time stamp and key frame flag, so the
# packets alone say which frames exist. VP8 has hidden packets, MPEG-4 and MPEG-2 may pack or drop frames.
INDEXED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
INDEXED_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "png", "prores", "ffv1", "dnxhd"})
# These say how many packets there are.
COUNTED_CONTAINERS = INDEXED_CONTAINERS | {"avi"}
BARE_STREAMS = frozenset({"h264", "hevc"})  # without times; the rate is that which the stream states, if it does
# Files in these are written from a key frame on, and nobody cuts them by hand.
KEYED_CONTAINERS = frozenset({"avi", "asf", "flv"})
NO_KEYS = np.empty(0, dtype=np.int64)
NO_TIME = -(2**63)


@dataclass(frozen=True)
class FrameIndex:
    """Say which frames a file shows and how to reach them."""

    pts: np.ndarray  # int64 [N], display order, in units of the stream's time base
    timestamps: np.ndarray  # float64 [N], seconds
    last_seconds: float  # how long the last frame is shown; 0.0 if unknown
    keys: np.ndarray  # int64 [K], positions of the key frames; empty: decode from the start
    key_packets: np.ndarray  # int64 [K], how many packets lie before each key frame
    seek_targets: np.ndarray  # int64 [K], where to seek for each key frame
    packets: np.ndarray  # int64 [N], how many packets lie before that of each frame; empty without keys

    def runs(self, needed: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Part ascending positions of frames into those decoded in one go; yield where to seek for them, and them."""
        groups = np.searchsorted(self.keys, needed, side="right") - 1
        # pictures that are shown before a key frame may come after it, and then lead into the next group
        last_packets = np.maximum.accumulate(self.packets[needed])
        starts = np.flatnonzero(self.key_packets[groups[1:]] > last_packets[:-1] + 1) + 1
        for run in np.split(np.arange(len(needed)), starts):
            yield int(self.seek_targets[groups[run[0]]]), needed[run]


def scan_packets(
    container: InputContainer, stream: VideoStream, content: PacketContent
) -> tuple[np.ndarray, Packet[VideoStream] | None]:
    """Return time, decoding time, duration, whether it is a key frame, and shown fields of each packet, int64 [N, 5].

    A time that is missing is NO_TIME. The first packet itself is returned, too: it most often gives a frame.
    """
    count_fields = content.count_fields
    numbers = array("q")  # and not objects: a day of video has millions of packets
    first: Packet[VideoStream] | None = None
    for packet in container.demux(stream):
        if packet.size:
            first = first or packet
            pts = NO_TIME if packet.pts is None else packet.pts
            # Matroska stores no decoding times; those that FFmpeg cannot derive are missing.
            dts = pts if packet.dts is None else packet.dts
            fields = 0 if packet.is_discard else count_fields(packet)
            numbers.extend((pts, dts, packet.duration or 0, packet.is_keyframe, fields))
    return np.frombuffer(numbers, np.int64).reshape(-1, 5), first


def index_of_packets(packets: np.ndarray, time_base: Fraction) -> FrameIndex | None:
    """Derive the frames from the packets, or return None where only decoding tells which frames are shown."""
    pts, dts, durations, is_key, fields = packets.T
    if not len(packets) or np.any(fields != 2) or np.any(pts == NO_TIME):
        return None
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
    timestamps = seconds(pts[order], time_base)
    last_seconds = float(int(durations[order[-1]]) * time_base)
    return FrameIndex(pts[order], timestamps, last_seconds, keys, key_packets, targets, order)


class PacketLog:
    """Hold the frames that come out of a decoder against the packets that went in."""

    def __init__(self, stream: VideoStream) -> None:
        # What holds for the packets of the indexed codecs in files holds for those of any container.
        is_counted = stream.codec_context.codec.canonical_name in INDEXED_CODECS
        self._count_fields = fields_counter(stream) if is_counted else None
        self._fields: dict[int, int] = {}  # by time: hidden frames of VP9 have that of the shown one
        self._start: int | None = None

    def watch(self, key: Packet[VideoStream], packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        """Yield packets as they are, those after the key frame that decoding starts at, and count what they hold."""
        # FFmpeg may call a picture a key frame that others are needed to show; not so one that only the container does.
        self._start = key.pts if forgets_all(key) or not key.is_keyframe else None
        self._count(key)
        for packet in packets:
            self._count(packet)
            yield packet

    def _count(self, packet: Packet[VideoStream]) -> None:
        if self._count_fields and packet.size and packet.pts is not None and not packet.is_discard:
            self._fields.setdefault(packet.pts, self._count_fields(packet))

    def promised(self, shown: list[int | None]) -> tuple[int, int]:
        """Return how many frames there must be and are, of those whose number is sure.

        That is not that of the first ones, where decoding starts at a key frame after which some may fail.
        """
        times = [time for time in shown if time is not None]
        start = self._start if self._start is not None else min(times, default=0)
        fields = sum(fields for time, fields in self._fields.items() if time >= start)
        return fields // 2, sum(time >= start for time in times)


@dataclass(frozen=True)
class ShownTimes:
    """What a decoder says of the time of each frame, in the order in which they are shown."""

    pts: list[int | None]
    dts: list[int | None]  # of the packet that brought the frame out
    durations: list[int]

    def index(self, time_base: Fraction, rate: float) -> FrameIndex:
        """Return an index of frames that are found by decoding all of them."""
        times = _best_effort(self.pts, self.dts)
        if None in times[:1]:
            rate = rate or 25.0  # FFmpeg's own assumption for streams without any timing
            counted = np.arange(len(times), dtype=np.int64)
            return FrameIndex(counted, counted / rate, 1 / rate, NO_KEYS, NO_KEYS, NO_KEYS, NO_KEYS)
        for number, time in enumerate(times):
            if time is None:  # decoders that are emptied at the end do not say
                times[number] = (times[number - 1] or 0) + self.durations[number]
        pts = np.array(times, dtype=np.int64)
        last_seconds = float(self._last_duration(pts) * time_base)
        return FrameIndex(pts, seconds(pts, time_base), last_seconds, NO_KEYS, NO_KEYS, NO_KEYS, NO_KEYS)

    def _last_duration(self, pts: np.ndarray) -> int:
        """Return how long the last frame is shown; decoders of field-coded streams give the time of one field."""
        last, gaps = self.durations[-1], np.diff(pts)
        is_of_field = len(gaps) > 0 and set(self.durations) == {last} and abs(np.median(gaps) - 2 * last) < last / 4
        return 2 * last if is_of_field else last


def _best_effort(all_pts: list[int | None], all_dts: list[int | None]) -> list[int | None]:
    """Choose between two times of each frame as FFmpeg does for `best_effort_timestamp` (guess_correct_pts)."""
    last_pts = last_dts = NO_TIME
    num_bad_pts = num_bad_dts = 0
    times = []
    for pts, dts in zip(all_pts, all_dts, strict=True):
        if dts is not None:
            num_bad_dts += dts <= last_dts
        if pts is not None:
            num_bad_pts += pts <= last_pts
        last_dts = dts if dts is not None else pts if pts is not None else last_dts
        last_pts = pts if pts is not None else dts if dts is not None else last_pts
        times.append(pts if pts is not None and (num_bad_pts <= num_bad_dts or dts is None) else dts)
    return times


def seconds(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    return pts * time_base.numerator / time_base.denominator


def average_fps(timestamps: np.ndarray, rate: float) -> float:
    """Prefer the container's rate (30000/1001 exactly) unless the frames' own times contradict it."""
    span = float(timestamps[-1] - timestamps[0])
    if span <= 0:
        return rate
    measured = (len(timestamps) - 1) / span
    return rate if abs(rate - measured) <= 0.01 * measured else measured
