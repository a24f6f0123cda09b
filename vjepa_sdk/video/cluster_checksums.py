"""Hold the clusters of a Matroska file against the checksums it carries; FFmpeg's muxer writes them, WebM has none."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from typing import BinaryIO

from .matroska import CLUSTER, read_element

_HEADER, _CRC_32 = 0x1A45DFA3, 0xBF
_CRC_32_BYTES = 6  # with identifier and size
_CHUNK = 1 << 20


class ClusterChecksums:
    """Check each cluster once, when a packet of it is about to be decoded."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._starts: list[int] = []  # of clusters with a checksum, ascending
        self._contents: list[tuple[int, int]] = []  # where their checksum element starts, and where they end
        self._checked: set[int] = set()
        self._find_clusters()

    def __len__(self) -> int:
        return len(self._starts)

    def is_damaged(self, position: int | None) -> bool:
        """Whether the cluster around this byte of the file differs from its checksum."""
        if position is None:
            return False
        number = bisect_right(self._starts, position) - 1
        if number < 0 or number in self._checked or position >= self._contents[number][1]:
            return False
        start, end = self._contents[number]
        self._file.seek(start)
        stored = self._file.read(_CRC_32_BYTES)[-4:]
        checksum, left = 0, end - start - _CRC_32_BYTES
        while left > 0 and (data := self._file.read(min(left, _CHUNK))):
            checksum, left = zlib.crc32(data, checksum), left - len(data)
        if checksum != int.from_bytes(stored, "little"):
            return True
        self._checked.add(number)
        return False

    def _find_clusters(self) -> None:
        header = read_element(self._file, 0)
        if header.identifier != _HEADER or header.size is None:  # another format
            return
        position = read_element(self._file, header.start + header.size).start
        while True:
            element = read_element(self._file, position)
            if not element.identifier or element.size is None:  # the end, or a live recording: these have no checksums
                return
            if element.identifier == CLUSTER:
                self._add(position, element.start, element.start + element.size)
            position = element.start + element.size

    def _add(self, position: int, start: int, end: int) -> None:
        first = read_element(self._file, start)
        # RFC 9559: it comes first, if there is one
        if (first.identifier, first.start - start, first.size) == (_CRC_32, 2, 4):
            self._starts.append(position)
            self._contents.append((start, end))
