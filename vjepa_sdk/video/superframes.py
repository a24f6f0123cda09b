"""Take VP9 superframes apart: a frame that is shown, with hidden ones that it refers to (VP9 bitstream, Annex B)."""

from __future__ import annotations


def split_superframe(packet: bytes) -> list[bytes]:
    """Return the frames of a packet; the packet itself where it is one frame.

    Raises:
        ValueError: its index lists more bytes than there are.
    """
    marker = packet[-1]
    num_frames, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    start = len(packet) - 2 - width * num_frames
    if marker & 0xE0 != 0xC0 or start < 0 or packet[start] != marker:
        return [packet]
    frames, position = [], 0
    for number in range(num_frames):
        entry = start + 1 + width * number
        size = int.from_bytes(packet[entry : entry + width], "little")
        frames.append(packet[position : position + size])
        position += size
    if position > start:
        raise ValueError("a superframe lists more bytes than it has")
    return [frame for frame in frames if frame]
