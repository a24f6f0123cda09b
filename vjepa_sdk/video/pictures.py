"""Say of packets, from the headers in them, how much of a picture they hold.

Most hold one that is shown. Field-coded H.264 has a packet for each half of a picture, and any stream may have packets
without one. Layouts are those of ITU-T H.264 (7.3, annex B), H.265 (7.3.1) and ISO/IEC 14496-15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from .nal_units import length_size

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_UNIT_CODECS = ("h264", "hevc")
_REFERRED_TO = frozenset(importance << 5 | kind for importance in (1, 2, 3) for kind in (1, 5))  # first byte, H.264
_MANY = 1 << 30  # a number no header has


class PacketContent:
    """Say of each packet of a stream what it shows, and then of any whether others need it."""

    count_fields: Callable[[Any], int]
    """Return how many fields a packet shows: 2, a picture; 1, half of one; or 0. Of a damaged packet, 2."""
    is_unreferenced: Callable[[Any], bool]
    """Return whether every other frame is the same without a packet; to be asked when all packets were counted.

    Only H.264 and HEVC tell. A frame of VP9 that none refers to still leaves motion and probabilities to the next.
    """

    is_filled: Callable[[Any], bool]
    """Return whether units fill a packet, as they do unless damage of the one before it runs on into it.

    False for H.264 and HEVC that do not tell. For other codecs True: their decoders give a frame at once, so that
    no packet is looked at for the sake of the one before it.
    """

    def __init__(self, stream: VideoStream) -> None:
        if stream.codec_context.codec.canonical_name in _UNIT_CODECS:
            units = _Units(stream)
            self.count_fields, self.is_unreferenced = units.count_fields, units.are_unreferenced
            self.is_filled = units.fill
        else:
            self.count_fields, self.is_unreferenced = lambda _: 2, lambda _: False
            self.is_filled = lambda _: True


def fields_counter(stream: VideoStream) -> Callable[[Any], int]:
    """Return the function that says of a packet how many fields it shows: 2, a picture; 1, half of one; or 0.

    Of a damaged packet it says 2, and leaves it to the decoder.
    """
    return PacketContent(stream).count_fields


def lacks_picture(packet: Packet[VideoStream]) -> bool:
    """Whether a packet is sound and holds nothing of a picture."""
    is_known = packet.stream.codec_context.codec.canonical_name in _UNIT_CODECS
    return is_known and _Units(packet.stream).hold_no_picture(packet)


def is_entry(packet: Packet[VideoStream]) -> bool:
    """Whether a packet says that decoding may start at it, whatever FFmpeg makes of it."""
    is_known = packet.stream.codec_context.codec.canonical_name in _UNIT_CODECS
    return is_known and _Units(packet.stream).hold_picture_of(packet, h264=range(5, 6), hevc=range(16, 22))


def forgets_all(packet: Packet[VideoStream]) -> bool:
    """Whether neither a packet nor any after it needs a picture before it."""
    codec = packet.stream.codec_context.codec.canonical_name
    if codec in ("mpeg1video", "mpeg2video"):
        return _is_closed_group(bytes(packet))
    is_known = codec in _UNIT_CODECS
    return is_known and _Units(packet.stream).hold_picture_of(packet, h264=range(5, 6), hevc=range(19, 21))


def _is_closed_group(packet: bytes) -> bool:
    """Whether a packet of MPEG-1 or 2 starts a group of pictures that says so, by ISO/IEC 13818-2, 6.2.2.6."""
    start = packet.find(b"\0\0\1\xb8")
    return start >= 0 and len(packet) > start + 7 and bool(packet[start + 7] & 0x40)


@dataclass(frozen=True)
class _Sequence:
    """What a slice header of H.264 cannot be read without."""

    has_fields: bool
    has_planes: bool
    frame_number_bits: int


class _Units:
    """The network abstraction layer units of H.264 or HEVC, behind their lengths or between start codes."""

    def __init__(self, stream: VideoStream) -> None:
        setup = bytes(stream.codec_context.extradata or b"")
        self._is_h264 = stream.codec_context.codec.canonical_name == "h264"
        self._length_size = length_size(stream.codec_context.codec.canonical_name, setup)
        self._setup = setup
        self._highest_layer = 0  # temporal, of the pictures of HEVC that were counted

    @cached_property
    def _sequences(self) -> set[_Sequence]:
        units = _parameter_sets(self._setup) if self._length_size else self._split(self._setup)
        return {_read_sequence(bytes(unit)) for unit in units if self._kind(unit) == 7}

    @property
    def _may_have_fields(self) -> bool:
        """Whether a sequence in use allows fields; some streams, as AVC-Intra, do not even say."""
        return not self._sequences or any(sequence.has_fields for sequence in self._sequences)

    @cached_property
    def _is_frames_only(self) -> bool:
        """Whether units of H.264 lie behind lengths of four bytes, and no sequence allows fields."""
        return self._is_h264 and self._length_size == 4 and not self._may_have_fields

    def count_fields(self, packet: Any) -> int:
        data = memoryview(packet)
        # what nearly all packets are, a slice from the first byte on; the rest of this method would say the same
        if len(data) > 4 and data[4] & 31 in (1, 5) and self._is_frames_only:
            return 2
        for unit in self._split(packet):
            if self._is_picture(unit):
                if not self._is_h264:
                    self._highest_layer = max(self._highest_layer, unit[1] & 7)
                return 1 if self._is_h264 and self._is_field(unit) else 2
            if self._is_h264 and self._kind(unit) == 7:
                self._sequences.add(_read_sequence(bytes(unit)))
                self.__dict__.pop("_is_frames_only", None)
        return 0 if self.hold_no_picture(packet) else 2

    def fill(self, packet: Any) -> bool:
        """Whether the lengths of units lead from one to the next up to the end."""
        data = memoryview(packet)
        return bool(self._length_size) and sum(self._length_size + len(unit) for unit in self._split(data)) == len(data)

    def are_unreferenced(self, packet: Any) -> bool:
        """Whether units are parts of a picture that none refers to, and what else concerns this picture alone.

        That is not said of H.264 with fields: if a picture is shown as interlaced may depend on the one before.
        """
        data, used, has_picture = memoryview(packet), 0, False
        if self._is_h264 and (not self._is_frames_only or (len(data) > 4 and data[4] in _REFERRED_TO)):
            return False
        for unit in self._split(data):
            used += self._length_size + len(unit)
            if self._is_picture(unit):
                has_picture = True
                if not self._is_droppable(unit):
                    return False
            elif self._kind(unit) not in ((6, 9) if self._is_h264 else (35, 39, 40)):  # messages and delimiters
                return False
        return has_picture and used == len(data)

    def _is_droppable(self, unit: Any) -> bool:
        if self._is_h264:
            return self._kind(unit) == 1 and not unit[0] & 0x60  # nal_ref_idc
        # in HEVC that is said for pictures of the same layer; those of higher ones may refer to it
        return self._kind(unit) in range(0, 15, 2) and unit[1] & 7 == self._highest_layer

    def hold_picture_of(self, packet: Any, *, h264: range, hevc: range) -> bool:
        kinds = h264 if self._is_h264 else hevc
        return any(self._is_picture(unit) and self._kind(unit) in kinds for unit in self._split(packet))

    def hold_no_picture(self, packet: Any) -> bool:
        """Whether all units are sound ones of no picture: a flipped bit makes such out of a picture's, by its kind."""
        data, used = bytes(packet), 0
        for unit in self._split(data):
            if not self._is_beside(bytes(unit)):
                return False
            used += self._length_size + len(unit)
        return bool(used) and (not self._length_size or used == len(data))

    def _is_beside(self, unit: bytes) -> bool:
        kind, head = self._kind(unit), 1 if self._is_h264 else 2
        if unit[0] & 128 or len(unit) < head:
            return False
        if kind in ((7, 8) if self._is_h264 else (32, 33, 34)):  # parameter sets
            return unit in self._setup
        if kind in ((9, 10, 11) if self._is_h264 else (35, 36, 37)):  # a delimiter, the end of a sequence or stream
            return len(unit) <= head + 1
        if kind == (12 if self._is_h264 else 38):  # filler
            return unit[head:].rstrip(b"\0").strip(b"\xff") in (b"", b"\x80")
        return kind in ((6,) if self._is_h264 else (39, 40)) and _are_supplements(unit[head:])

    def _split(self, packet: Any) -> Iterator[Any]:
        """Yield the units, none of them empty, up to where lengths stop making sense."""
        if not self._length_size:
            # The zero before a longer start code ends the unit before it, where it means nothing.
            yield from (unit for unit in bytes(packet).split(b"\0\0\1")[1:] if unit)
            return
        data, position = memoryview(packet), 0
        while position + self._length_size < len(data):
            start = position + self._length_size
            position = start + int.from_bytes(data[position:start], "big")
            if not start < position <= len(data):
                return
            yield data[start:position]

    def _kind(self, unit: Any) -> int:
        kind: int = unit[0] & 31 if self._is_h264 else unit[0] >> 1 & 63
        return kind

    def _is_picture(self, unit: Any) -> bool:
        """Whether a unit is a part of a picture; of several layers FFmpeg shows the first."""
        if self._is_h264:
            return 1 <= self._kind(unit) <= 5
        return self._kind(unit) < 32 and len(unit) > 1 and not (unit[0] & 1 or unit[1] >> 3)

    def _is_field(self, unit: Any) -> bool:
        """Whether a slice of H.264 belongs to a field; if of which sequence it is cannot be told, whether it may."""
        if not self._may_have_fields:
            return False
        if len(self._sequences) != 1:
            return True
        (sequence,) = self._sequences
        bits = _Bits(bytes(unit[1:33]))
        for _ in range(3):  # first macroblock, kind of slice, picture parameter set
            bits.exp_golomb()
        bits.skip(2 * sequence.has_planes + sequence.frame_number_bits)
        return bits.read(1) == 1


def _are_supplements(data: bytes) -> bool:
    """Whether bytes are supplemental enhancement information: messages of kind, size and content, and an end."""
    data = data.rstrip(b"\0").replace(b"\0\0\3", b"\0\0")
    position = 0
    while position < len(data) - 1:
        for _ in ("kind", "size"):
            number = 0
            while position < len(data) and data[position] == 255:
                number, position = number + 255, position + 1
            number += data[position] if position < len(data) else 0
            position += 1
        position += number
    return position == len(data) - 1 and data[position] == 128


def _parameter_sets(setup: bytes) -> Iterator[bytes]:
    """Yield the sequence parameter sets of an MP4 or Matroska description of H.264."""
    position = 6
    for _ in range(setup[5] & 31 if len(setup) > 5 else 0):
        size = int.from_bytes(setup[position : position + 2], "big")
        if unit := setup[position + 2 : position + 2 + size]:
            yield unit
        position += 2 + size


class _Bits:
    """Bits from the left, without the bytes that keep start codes apart; behind the end come zeros."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._bits = format(int.from_bytes(data, "big"), f"0{8 * len(data)}b")
        self._position = 0

    def read(self, count: int) -> int:
        start, self._position = self._position, self._position + count
        return int(self._bits[start : self._position].ljust(count, "0"), 2)

    def skip(self, count: int) -> None:
        self._position += count

    def exp_golomb(self) -> int:
        zeros = self._bits.find("1", self._position) - self._position
        if not 0 <= zeros < 32:
            return _MANY
        self._position += zeros
        return self.read(zeros + 1) - 1


_PROFILES_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


@lru_cache(maxsize=64)  # the files of a collection are often coded alike
def _read_sequence(unit: bytes) -> _Sequence:
    """Read a sequence parameter set of H.264 (7.3.2.1.1) as far as the flag that allows fields."""
    bits = _Bits(unit[1:])
    profile = bits.read(8)
    bits.skip(16)
    bits.exp_golomb()
    has_planes = False
    if profile in _PROFILES_WITH_CHROMA:
        chroma = bits.exp_golomb()
        has_planes = chroma == 3 and bits.read(1) == 1
        bits.exp_golomb(), bits.exp_golomb(), bits.read(1)  # bit depths, bypass of the transform
        if bits.read(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    frame_number_bits = bits.exp_golomb() + 4
    order = bits.exp_golomb()
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.skip(1)
        bits.exp_golomb(), bits.exp_golomb()
        for _ in range(min(bits.exp_golomb(), 255)):
            bits.exp_golomb()
    bits.exp_golomb(), bits.read(1), bits.exp_golomb(), bits.exp_golomb()  # references, gaps, width, height
    return _Sequence(not bits.read(1), has_planes, min(frame_number_bits, 16))


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for number in range(count):
        last = following = 8
        for _ in range((16 if number < 6 else 64) if bits.read(1) else 0):
            if following:
                code = bits.exp_golomb()
                following = (last + (code + 1 >> 1) * (1 if code & 1 else -1)) % 256
            last = following or last
