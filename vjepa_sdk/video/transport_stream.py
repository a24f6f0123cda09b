"""Tell the joints of an MPEG transport stream from losses; at both, the count of packets jumps.

FFmpeg calls the packet at a jump damaged. Where parts that are whole were put one behind the other, as recorders and
segmenters do, nothing is lost: the jump lies between two pictures, and the second of them needs none that is missing.
For the layout see ISO/IEC 13818-1, 2.4.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .pictures import forgets_all

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_SYNC, _SIZES = 0x47, (188, 192, 204)
_PACKETS_AT_ONCE = 1 << 15


def loses_nothing(file: BinaryIO, stream: VideoStream, packets: Iterator[Packet[VideoStream]]) -> bool:
    """Whether the packets of a video follow each other in a file, or parts that are whole were joined where not.

    Args:
        packets: of the video, as FFmpeg puts them together.
    """
    return _has_only_joints(file, stream, frozenset()) or _has_only_joints(file, stream, _entries(packets))


def without_marks(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """Yield packets without FFmpeg's mark of damage, which decoders pass on to frames."""
    for packet in packets:
        packet.is_corrupt = False
        yield packet


def _has_only_joints(file: BinaryIO, stream: VideoStream, entries: frozenset[int]) -> bool:
    # That the end of a picture is missing the decoder of H.264 notices, others do not: there a packet that is filled
    # up must say that it is the last. One in 184 pictures fits its packets and counts as cut.
    needs_end = stream.codec_context.codec.canonical_name != "h264"
    first_entry = min(entries, default=0)  # what lies before is not decoded
    last, is_end, is_in_step = None, True, True
    for position, packet in _packets(file, stream.id):
        if packet[0] != _SYNC:
            is_in_step = False  # bytes that are no packet; behind the last one they do no harm
            continue
        has_adaptation, has_payload, count = packet[3] & 0x20, packet[3] & 0x10, packet[3] & 15
        length, flags = packet[4:6] if has_adaptation else (1, 0)
        is_announced = has_adaptation and length and flags & 0x80
        is_next = last is None or is_announced or count == (last + bool(has_payload)) % 16
        is_joint = packet[1] & 0x40 and position in entries and (is_end or not needs_end)
        is_unmended = packet[1] & 0x80  # so says the receiver
        if is_unmended or not (is_joint or (is_in_step and (is_next or position < first_entry))):
            return False
        last, is_in_step = count, True
        if has_payload:  # the rest of the adaptation field, after two clocks and a countdown, is filler
            is_end = length == 0 or length > 1 + 6 * (flags >> 4 & 1) + 6 * (flags >> 3 & 1) + (flags >> 2 & 1)
    return True


def _entries(packets: Iterator[Packet[VideoStream]]) -> frozenset[int]:
    """Return where in the file key frames start after which nothing that was lost is needed.

    Either no picture needs one from before the key frame, or none is missing: time goes on without a gap.
    """
    entries: set[int] = set()
    end = last_end = 0  # of what is shown so far, and of what is shown before the last key frame
    key: Packet[VideoStream] | None = None
    for packet in packets:
        if packet.pts is None or packet.pos is None:
            continue
        duration = packet.duration or 0
        if packet.is_keyframe:
            key, last_end = packet, end
            if forgets_all(packet):
                entries.add(packet.pos)
        # pictures after a key frame may be shown before it, so any of them may be the one that follows in time
        if key is not None and key.pos is not None and abs(packet.pts - last_end) <= duration:
            entries.add(key.pos)
        end = max(end, packet.pts + duration)
    return frozenset(entries)


def _packets(file: BinaryIO, stream_id: int) -> Iterator[tuple[int, bytes]]:
    """Yield position, as FFmpeg counts it, and first bytes of each packet of a stream, or of what is no packet."""
    start, size = _layout(file)
    while True:
        file.seek(start)
        data = file.read(size * _PACKETS_AT_ONCE)
        if len(data) < size:
            return
        rows = np.frombuffer(data[: len(data) // size * size], np.uint8).reshape(-1, size)
        identifiers = (rows[:, 1].astype(int) & 31) << 8 | rows[:, 2]
        for row in np.flatnonzero((rows[:, 0] != _SYNC) | (identifiers == stream_id)).tolist():
            yield start + row * size - (size - _SIZES[0]), bytes(rows[row, :6])
        start += len(rows) * size


def _layout(file: BinaryIO) -> tuple[int, int]:
    """Return where the first packet starts and how far apart packets are."""
    file.seek(0)
    head = file.read(16 * max(_SIZES))
    for start in range(max(_SIZES)):
        for size in _SIZES:
            marks = head[start : start + 8 * size : size]
            if len(marks) > 1 and set(marks) == {_SYNC}:
                return start, size
    return 0, _SIZES[0]
