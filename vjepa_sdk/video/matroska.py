"""Walk over the elements of a Matroska or WebM file (RFC 9559), of which demuxers skip damaged ones in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .safety import failure

_IN_SEGMENT = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}  # in the segment
    | {0xE7, 0x5854, 0xA7, 0xAB, 0xA0, 0xA3, 0xAF}  # in a cluster
)
CLUSTER, _TRACKS, _TRACK, _TRACK_NUMBER, _TRACK_TYPE = 0x1F43B675, 0x1654AE6B, 0xAE, 0xD7, 0x83
_BLOCK_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3
_TYPES_OF_STREAMS = (1, 2, 17, 33)  # video, audio, subtitles, metadata: what FFmpeg makes a stream of


def count_blocks(path: str, file: BinaryIO, file_size: int) -> list[int]:
    """Return how many blocks of frames the file holds for each of its streams, in their order.

    Raises:
        VideoDecodeError: the file is cut or overwritten.
    """
    first = read_element(file, 0)
    segment = read_element(file, first.start + (first.size or 0))
    position = segment.start
    end = file_size if segment.size is None else position + segment.size
    if end > file_size:
        raise failure(path, "is truncated: the file is shorter than it says")
    numbers: list[int] = []
    blocks: Counter[int] = Counter()
    while position < end:
        element = read_element(file, position)
        if element.identifier == CLUSTER:
            position = element.start  # its elements are walked like those around it, which also suits unknown sizes
            continue
        if element.identifier not in _IN_SEGMENT or element.size is None or element.start + element.size > end:
            raise failure(path, f"is truncated or corrupt: no valid element at byte {position}")
        if element.identifier == _TRACKS:
            numbers += _numbers_of_streams(file, element)
        blocks.update(_block_numbers(file, element))
        position = element.start + element.size
    return [blocks[number] for number in numbers]


@dataclass(frozen=True)
class Element:
    identifier: int  # 0: none
    start: int  # of its content
    size: int | None  # of its content; None: unknown
    content: bytes  # the first bytes of it


def read_element(file: BinaryIO, position: int) -> Element:
    file.seek(position)
    head = file.read(24)
    id_length = 9 - head[0].bit_length() if head else 9
    if id_length > 4 or len(head) <= id_length:
        return Element(0, position, None, b"")
    size_length = 9 - head[id_length].bit_length()
    length = id_length + size_length
    coded = int.from_bytes(head[id_length:length], "big")
    unknown = (1 << 7 * size_length) - 1
    size = coded & unknown  # the length marker is the bit above
    identifier = int.from_bytes(head[:id_length], "big")
    return Element(identifier, position + length, None if size == unknown else size, head[length:])


def _children(file: BinaryIO, parent: Element) -> Iterator[Element]:
    """Yield the elements in one whose size is known, up to where they stop making sense."""
    position, end = parent.start, parent.start + (parent.size or 0)
    while position < end:
        child = read_element(file, position)
        if not child.identifier or child.size is None or child.start + child.size > end:
            return
        yield child
        position = child.start + child.size


def _numbers_of_streams(file: BinaryIO, tracks: Element) -> Iterator[int]:
    for track in _children(file, tracks):
        if track.identifier == _TRACK:
            entries = {each.identifier: each.content[: each.size] for each in _children(file, track)}
            if int.from_bytes(entries.get(_TRACK_TYPE, b""), "big") in _TYPES_OF_STREAMS:
                yield int.from_bytes(entries.get(_TRACK_NUMBER, b""), "big")


def _block_numbers(file: BinaryIO, element: Element) -> Iterator[int]:
    """Yield the number of the track that a block is of, if the element is or holds one with a frame in it."""
    blocks = [element] if element.identifier == _SIMPLE_BLOCK else []
    if element.identifier == _BLOCK_GROUP:
        blocks = [child for child in _children(file, element) if child.identifier == _BLOCK]
    for block in blocks:
        if block.content:
            length = 9 - block.content[0].bit_length()
            if (block.size or 0) > length + 3:
                yield int.from_bytes(block.content[:length], "big") & (1 << 7 * length) - 1
