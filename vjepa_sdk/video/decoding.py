"""Decode packets so that damage is an error, from a key frame on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from .pictures import lacks_picture
from .safety import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Without these FFmpeg conceals damage and returns wrong pixels without a word.
STRICT_DECODING = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_PIXELS)}


class Decoder(Protocol):
    """Decode the packets of one stream."""

    def __call__(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the frames that come out; an empty packet ends the stream."""

    def restart(self) -> None:
        """Forget what was decoded, after a jump."""


class Cursor:
    """Walk forward through a stream, decoding or in jumps, and count the packets read."""

    def __init__(self, container: InputContainer, stream: VideoStream, decoder: Decoder) -> None:
        self._container, self._stream, self._decoder = container, stream, decoder
        self.jump(None, num_packets=0)

    def jump(self, target: int | None, *, num_packets: int) -> None:
        """Go to a key frame before which so many packets lie; None: to the start."""
        if target is not None:
            self._container.seek(target, stream=self._stream, backward=True)
            self._decoder.restart()
        self.num_packets = num_packets
        packets = self._packets()
        key = next(packets, None)
        self._frames = decode_from(key, packets, self._decoder) if key is not None and key.is_keyframe else iter(())

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


def decode_from(
    key: Packet[VideoStream], packets: Iterator[Packet[VideoStream]], decoder: Decoder
) -> Iterator[VideoFrame]:
    """Decode a key frame and all that follows it.

    Pictures right after the key frame that are shown before it (in Matroska possibly without a time) may refer to
    others before it. Where the decoder starts here they fail, and only there is failing no sign of damage.
    """
    import av

    yield from decode(key, decoder)
    start = key.pts
    is_leading = True
    for packet in packets:
        is_earlier = start is not None and packet.size > 0 and (packet.pts is None or packet.pts < start)
        is_leading = is_leading and is_earlier
        try:
            frames = decode(packet, decoder)
        except (av.InvalidDataError, CorruptFrameError):
            if not is_leading:
                raise
            continue
        yield from frames


def _is_invalid_data(error: Exception) -> bool:
    """Whether a decoder could make nothing of a packet."""
    import av

    return isinstance(error, av.InvalidDataError)


class CorruptFrameError(Exception):
    pass


def decode(packet: Packet[VideoStream], decoder: Decoder) -> list[VideoFrame]:
    """Return the frames that a packet brings out, or raise if it or one of them is damaged."""
    if packet.is_corrupt:
        raise CorruptFrameError("a packet is damaged")
    try:
        frames = decoder(packet)
    except ValueError as error:  # av.InvalidDataError is one; importing av here would cost time at each packet
        if not _is_invalid_data(error) or not lacks_picture(packet):  # to decoders that is an error too
            raise
        return []
    for frame in frames:
        if frame.is_corrupt:
            raise CorruptFrameError("the decoder marks a frame as corrupt")
    return frames
