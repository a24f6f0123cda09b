"""Open a video container so that nothing but this one file is read; refuse what is no video or is damaged.

Demuxers get an open file and never a name, so that no URL, playlist or protocol string is ever interpreted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from .safety import MAX_PIXELS, check_pixels, failure

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Demuxers that read one self-contained file. Playlists (hls, dash, concat, sdp) would open further files or URLs.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,gif,webp_pipe"


@dataclass(frozen=True)
class VideoInfo:
    """Describe a video as it is shown: sizes after rotation, seconds of the frames that exist."""

    path: str
    num_frames: int
    fps: float  # average; 0.0 for a single frame without a rate
    width: int
    height: int
    rotation: int  # 0, 90, 180 or 270 degrees clockwise, already applied to the frames
    codec: str
    duration_seconds: float  # from the start of the first frame to the end of the last
    start_seconds: float  # presentation time of the first frame


@contextmanager
def open_container(path: str, file: BinaryIO) -> Iterator[InputContainer]:
    """Open a demuxer on an open file; several may read one file in turn."""
    import av

    try:
        container = av.open(
            _FileView(file),
            mode="r",
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=1 << 18,
        )
    except av.FFmpegError as error:
        raise failure(path, _reason_not_opened(file)) from error
    with container:
        yield container


class _FileView:
    """Give each demuxer its own position in the open file, and no name to guess a format from."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0

    def read(self, size: int) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = offset + self._position, os.SEEK_SET
        self._position = self._file.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position


def video_stream(path: str, container: InputContainer) -> VideoStream:
    """Return the video to read, or raise VideoDecodeError if there is none that can be."""
    from av.stream import Disposition
    from av.video.stream import VideoStream

    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise failure(path, f"has no video stream, it holds {kinds} only")
    check_pixels(stream.codec_context.width, stream.codec_context.height, path)
    if stream.codec_context.codec is None:
        raise failure(path, "is encoded with a codec that this FFmpeg cannot decode")
    return stream


_PLAYLISTS = {b"#EXTM3U": "an HLS playlist", b"ffconcat": "a concat list", b"v=0": "an SDP description"}
_OTHER_CONTENT = {
    b"\x89PNG": "is a PNG image, not a video",
    b"\xff\xd8\xff": "is a JPEG image, not a video",
    b"BM": "is a BMP image, not a video",
    b"ID3": "has no video stream, it is an MP3 file",
    b"fLaC": "has no video stream, it is a FLAC file",
    b"PK\x03\x04": "is a zip archive, not a video",
}


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(512)


def refuse_by_content(path: str, file: BinaryIO) -> None:
    """Refuse files whose text would make a demuxer open other files or addresses."""
    text = _head(file).removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, name in _PLAYLISTS.items():
        if text.startswith(start):
            raise failure(path, f"is {name}, not a video")
    if text.startswith(b"<"):
        raise failure(path, "is an XML or HTML document, not a video")


def _reason_not_opened(file: BinaryIO) -> str:
    head = _head(file)
    for start, reason in _OTHER_CONTENT.items():
        if head.startswith(start):
            return reason
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "has no video stream, it is a WAVE file"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"GIF8"):
        return "is truncated or corrupt: its header or index cannot be read"
    return "is not a video of a known format"


_MATROSKA_ELEMENTS = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}  # in the segment
    | {0xE7, 0x5854, 0xA7, 0xAB, 0xA0, 0xA3, 0xAF}  # in a cluster
)
MATROSKA_CLUSTER = 0x1F43B675


def check_structure(path: str, file: BinaryIO) -> None:
    """Find damage that a demuxer skips in silence, and frames with it: cut or overwritten Matroska, cut AVI."""
    head = _head(file)
    file_size = os.fstat(file.fileno()).st_size
    if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > file_size + 1:
        raise failure(path, "is truncated: the file is shorter than it says")
    if not is_matroska(file):
        return
    _, position, size = matroska_element(file, 0)
    _, position, size = matroska_element(file, position + (size or 0))
    end = file_size if size is None else position + size
    if end > file_size:
        raise failure(path, "is truncated: the file is shorter than it says")
    while position < end:
        identifier, start, size = matroska_element(file, position)
        if identifier == MATROSKA_CLUSTER:
            position = start  # its elements are walked like those around it, which also suits unknown sizes
        elif identifier in _MATROSKA_ELEMENTS and size is not None and start + size <= end:
            position = start + size
        else:
            raise failure(path, f"is truncated or corrupt: no valid element at byte {position}")


def is_matroska(file: BinaryIO) -> bool:
    """Whether this is Matroska or WebM."""
    return _head(file)[:4] == b"\x1aE\xdf\xa3"


def matroska_element(file: BinaryIO, position: int) -> tuple[int, int, int | None]:
    """Return an element's identifier (0: none), where its content starts, and its size or None if unknown."""
    file.seek(position)
    head = file.read(12)
    id_length = 9 - head[0].bit_length() if head else 9
    if id_length > 4 or len(head) <= id_length:
        return 0, position, None
    size_length = 9 - head[id_length].bit_length()
    coded = int.from_bytes(head[id_length : id_length + size_length], "big")
    unknown = (1 << 7 * size_length) - 1
    size = coded & unknown  # the length marker is the bit above
    identifier = int.from_bytes(head[:id_length], "big")
    return identifier, position + id_length + size_length, None if size == unknown else size
