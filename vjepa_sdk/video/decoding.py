"""Decode packets so that damage is an error, from a key frame on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .pictures import PacketContent, lacks_picture
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
    """Jump about in a stream, and decode no more of it than the frames that are wanted need."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, decoder: Decoder, content: PacketContent
    ) -> None:
        self._container, self._stream = container, stream
        self._decoder, self._content = decoder, content

    def read(self, target: int, wanted: Sequence[int]) -> Iterator[VideoFrame]:
        """Seek a key frame, and yield the frames of these times, which ascend; end early where one does not come."""
        self._container.seek(target, stream=self._stream, backward=True)
        self._decoder.restart()
        packets = self._needed(set(wanted))
        key = next(packets, None)
        if key is None or not key.is_keyframe:
            return
        frames = decode_from(key, packets, self._decoder)
        for pts in wanted:
            # What is shown before the key frame refers to pictures that were not decoded; it has an earlier time.
            frame = next((each for each in frames if each.pts is not None and each.pts >= pts), None)
            if frame is None or frame.pts != pts:
                return
            yield frame

    def _needed(self, left: set[int]) -> Iterator[Packet[VideoStream]]:
        """Yield the packets up to the last one that is wanted, but those that are not and that none refers to."""
        for packet in self._container.demux(self._stream):
            # one that is not filled is damaged, and perhaps that before it, too: the decoder shall tell
            if not packet.size or (not left and self._content.is_filled(packet)):
                break
            if packet.pts in left:
                left.discard(packet.pts)
            elif not packet.is_keyframe and self._content.is_unreferenced(packet):
                continue
            yield packet
        yield end_of(self._stream)


def end_of(stream: VideoStream) -> Packet[VideoStream]:
    """Return the empty packet after the last one, which brings out what a decoder holds back."""
    from av.packet import Packet

    end: Any = Packet()
    end.time_base = stream.time_base
    packet: Packet[VideoStream] = end
    return packet


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
        if is_leading:
            is_leading = start is not None and packet.size > 0 and (packet.pts is None or packet.pts < start)
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
