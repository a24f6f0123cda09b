"""Say which frames a file shows and how to reach them, from its packets where these tell."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# In these containers and codecs each packet is one shown frame with its own time stamp and key frame flag, so the
# packets alone say which frames exist. VP8 has hidden packets, MPEG-4 and MPEG-2 may pack or drop frames.
INDEXED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
INDEXED_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "png", "prores", "ffv1", "dnxhd"})
NO_KEYS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class FrameIndex:
    """Say which frames a file shows and how to reach them."""

    pts: np.ndarray  # int64 [N], display order, in units of the stream's time base
    timestamps: np.ndarray  # float64 [N], seconds
    last_seconds: float  # how long the last frame is shown; 0.0 if unknown
    keys: np.ndarray  # int64 [K], positions of the key frames; empty: decode from the start
    key_packets: np.ndarray  # int64 [K], how many packets lie before each key frame
    seek_targets: np.ndarray  # int64 [K], where to seek for each key frame


def scan_packets(container: InputContainer, stream: VideoStream) -> np.ndarray | None:
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


def index_of_packets(packets: np.ndarray, time_base: Fraction) -> FrameIndex | None:
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
    timestamps = seconds(pts[order], time_base)
    last_seconds = float(int(durations[order[-1]]) * time_base)
    return FrameIndex(pts[order], timestamps, last_seconds, keys, key_packets, targets)


def seconds(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    return pts * time_base.numerator / time_base.denominator


def average_fps(timestamps: np.ndarray, rate: float) -> float:
    """Prefer the container's rate (30000/1001 exactly) unless the frames' own times contradict it."""
    span = float(timestamps[-1] - timestamps[0])
    if span <= 0:
        return rate
    measured = (len(timestamps) - 1) / span
    return rate if abs(rate - measured) <= 0.01 * measured else measured
