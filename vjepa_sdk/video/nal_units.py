"""Find damage in H.264 and HEVC packets by the bytes that no encoder writes.

Decoders end a NAL unit at the first such byte and fill the rest of the picture by guessing, often without a word.
"""

from __future__ import annotations

_START_CODE = b"\0\0\1"
# An erased block of flash memory. Test pictures reach 19 such bytes in a row, filmed ones none.
_ERASED = b"\xff" * 64
_WITHIN_ERASED = len(_ERASED) - 1  # one of so many bytes apart lies in such a block, wherever it is
_MAX_TRAILING_ZEROS = 4  # muxers leave the first zeros of the next start code, and no block of zeros


def length_size(codec: str, extradata: bytes) -> int:
    """Return how many bytes tell a NAL unit's length (ISO/IEC 14496-15), or 0 for start codes (Annex B)."""
    if codec == "h264" and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21 and (extradata[0] or extradata[1] or extradata[2] > 1):
        return (extradata[21] & 3) + 1
    return 0


def find_damage(codec: str, packet: bytes, size_of_length: int) -> str | None:
    """Say what is wrong with the coded pictures of a packet, or return None.

    Other units, such as messages (SEI), change no pixel, and there are cameras that write them wrongly.

    Args:
        codec: `h264` or `hevc`.
        packet: one access unit.
        size_of_length: of `length_size`.
    """
    if packet.find(b"\0\0", size_of_length) < 0 and packet[-1:] > b"\0" and b"\xff" not in packet[::_WITHIN_ERASED]:
        return None  # as most packets, of one unit; what follows would find nothing either
    is_h264 = codec == "h264"
    for start, end in _after_lengths(packet, size_of_length) if size_of_length else _after_start_codes(packet):
        header = packet[start]
        if not (1 <= header & 31 <= 5 if is_h264 else header >> 1 & 63 < 32):
            continue  # no picture
        last = end
        while last > start and not packet[last - 1]:
            last -= 1
        if size_of_length and end - last > _MAX_TRAILING_ZEROS:
            return "a coded picture ends in zeros"
        zeros = packet.find(b"\0\0", start, last)
        if zeros >= 0 and _is_forbidden(packet, zeros, last):
            return "a coded picture holds bytes that no encoder writes"
        if last - start > len(_ERASED) and _is_erased(packet, start, last):
            return "a coded picture holds an erased block"
    return None


def _is_forbidden(packet: bytes, position: int, end: int) -> bool:
    """Whether what starts with two zeros here is in no NAL unit by ITU-T H.264 and H.265, 7.4.1; it ends in no zero.

    Where the data would be 00 00 00 to 00 00 03, encoders put 03 before the third byte.
    """
    while position >= 0:
        after = packet[position + 2]
        if after < 3 or (after == 3 and position + 3 < end and packet[position + 3] > 3):
            return True
        position = packet.find(b"\0\0", position + 3, end)
    return False


def _is_erased(packet: bytes, start: int, end: int) -> bool:
    return b"\xff" in packet[start:end:_WITHIN_ERASED] and packet.find(_ERASED, start, end) >= 0


def _after_lengths(packet: bytes, size: int) -> list[tuple[int, int]]:
    """Return where each unit starts and ends, as far as the lengths hold; decoders refuse those that do not."""
    units, position = [], 0
    while position + size < len(packet):
        start = position + size
        position = start + int.from_bytes(packet[position:start], "big")
        if start == position or position > len(packet):
            break
        units.append((start, position))
    return units


def _after_start_codes(packet: bytes) -> list[tuple[int, int]]:
    units = []
    position = packet.find(_START_CODE)
    while position >= 0:
        start = position + len(_START_CODE)
        position = packet.find(_START_CODE, start)
        end = position if position >= 0 else len(packet)
        if start < end:
            units.append((start, end))
    return units
