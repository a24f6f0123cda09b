"""Find the damage that decoders pass over, packet by packet as they are decoded.

FFmpeg's own checks come on top of it (`decoding.STRICT_DECODING`). What is left is measured in docs/damaged-files.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from .cluster_checksums import ClusterChecksums
from .decoding import CorruptFrameError
from .frame_image import has_alpha_apart
from .nal_units import find_damage, length_size
from .superframes import split_superframe

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_NAL_CODECS = frozenset({"h264", "hevc"})
# What a lost block of a disk reads as. Test pictures in VP8 reach 41 zeros in a row, filmed ones none.
_LOST_BLOCKS = (bytes(128), b"\xff" * 128)
_EIGHT_BITS = frozenset({"yuv420p", "yuv422p", "yuv440p", "yuv444p", "gbrp"})


class DamageChecks:
    """What one file offers to tell damage by."""

    def __init__(self, file: BinaryIO) -> None:
        self._checksums = ClusterChecksums(file)

    def decoder(self, stream: VideoStream) -> CheckedDecoder:
        """Return a decoder of a stream of the file, which was opened anew."""
        return CheckedDecoder(stream, self._checksums)


class CheckedDecoder:
    """Decode the packets of one stream, and raise CorruptFrameError for those that are damaged."""

    def __init__(self, stream: VideoStream, checksums: ClusterChecksums) -> None:
        self._checksums = checksums if len(checksums) else None
        self._context = stream.codec_context
        self._codec = self._context.codec.canonical_name
        self._has_nal_units = self._codec in _NAL_CODECS
        self._length_size = length_size(self._codec, self._context.extradata or b"")
        self._has_alpha = has_alpha_apart(stream)
        self._reference = _reference_decoder(stream) if self._codec == "vp9" or self._has_alpha else None
        self._is_first = True
        if self._codec == "av1":  # dav1d then also checks the bits that end each unit
            self._context.options = {**self._context.options, "strict": "strict"}

    def __call__(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Decode a packet; an empty one ends the stream."""
        self.check(packet)
        if self._reference is None or (self._is_first and self._is_turned(packet)):
            return self._context.decode(packet)
        self._is_first = False
        # what lies beside a packet belongs to all of its frames
        parts = [packet] if self._has_alpha else _frames_of(packet)
        return [frame for part in parts for frame in self._reference.decode(part)]

    def check(self, packet: Packet[VideoStream]) -> None:
        """Look at a packet without decoding it, for readers that decode elsewhere too."""
        if not packet.size:
            return
        if self._checksums is not None and self._checksums.is_damaged(packet.pos):
            raise CorruptFrameError("a Matroska cluster differs from its checksum")
        if self._has_nal_units:
            if reason := find_damage(self._codec, bytes(packet), self._length_size):
                raise CorruptFrameError(reason)
        elif self._codec == "vp8" and any(block in bytes(packet) for block in _LOST_BLOCKS):
            raise CorruptFrameError("a packet holds a lost block")

    def restart(self) -> None:
        """Forget what was decoded, after a jump."""
        if self._reference is not None:
            self._reference.flush_buffers()

    def _is_turned(self, packet: Packet[VideoStream]) -> bool:
        """Whether the container says how to turn the picture, which only FFmpeg's own decoder of the stream is told."""
        from av.sidedata.sidedata import Type

        is_turned = any(Type.DISPLAYMATRIX in frame.side_data for frame in self._context.decode(packet))
        self._context.flush_buffers()
        if is_turned:
            self._reference = None
        return is_turned


def _frames_of(packet: Packet[VideoStream]) -> Iterator[Any]:
    """Take a VP9 packet apart, since libvpx looks at the end of a packet alone, and not of the frames within."""
    from av.packet import Packet

    try:
        parts = split_superframe(bytes(packet)) if packet.size else []
    except ValueError as error:
        raise CorruptFrameError(str(error)) from error
    if len(parts) < 2:
        yield packet
        return
    for data in parts:
        part = Packet(data)
        part.pts, part.dts, part.duration, part.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
        yield part


def _reference_decoder(stream: VideoStream) -> VideoCodecContext | None:
    """Return libvpx for a VP9 stream, or one in VP8 that has alpha, that it can decode; else None.

    FFmpeg's own VP9 decoder stops reading where the picture is full; libvpx fails unless a frame's data ends there too,
    and gives the same pixels in much the same time. Alpha, which Matroska has beside the packets, it alone decodes.
    """
    from av.codec import Codec, CodecContext
    from av.codec.codec import UnknownCodecError

    native = stream.codec_context
    if native.pix_fmt not in _EIGHT_BITS:
        return None
    try:
        codec = Codec("libvpx" if native.codec.canonical_name == "vp8" else "libvpx-vp9", "r")
    except UnknownCodecError:  # builds of FFmpeg that leave it out
        return None
    context: Any = CodecContext.create(codec, "r")
    context.thread_count, context.thread_type, context.options = 1, "NONE", native.options
    context.color_primaries, context.color_trc = native.color_primaries, native.color_trc
    if native.sample_aspect_ratio is not None:
        context.sample_aspect_ratio = native.sample_aspect_ratio
    reference: VideoCodecContext = context
    return reference
