"""Open a video container so that nothing but this one file is read; refuse what is no video or is damaged.

Demuxers get an open file and never a name, so that no URL, playlist or protocol string is ever interpreted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from .matroska import count_blocks
from .safety import MAX_PIXELS, check_pixels, failure

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Demuxers that read one self-contained file. Playlists (hls, dash, concat, sdp) would open further files or URLs.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,mxf,nut,dv,gif,webp_pipe,"
    "mpegvideo,m4v,h264,hevc,vc1,ivf,obu,yuv4mpegpipe"  # bare streams
)
_KNOWN = "MP4, MOV, Matroska, WebM, AVI, MPEG, TS, Ogg, FLV, WMV, MXF, NUT, DV, GIF, bare streams"


@dataclass(frozen=True)
class VideoInfo:
    """Describe a video as it is shown: its size upright and of square pixels, seconds of the frames that exist."""

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
def open_container(path: str, file: BinaryIO, *, parse: bool = True) -> Iterator[InputContainer]:
    """Open a demuxer on an open file; several may read one file in turn.

    Args:
        parse: let FFmpeg look into packets, and correct by them what the container says.
    """
    import av

    flags = {} if parse else {"fflags": "+noparse"}
    try:
        container = av.open(
            _FileView(file),
            mode="r",
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"} | flags,
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
    return f"is not a video of a known format ({_KNOWN}); try `ffmpeg -i x -c copy x.mp4`"


def check_structure(path: str, file: BinaryIO) -> list[int]:
    """Find damage that a demuxer skips in silence, and frames with it: cut or overwritten Matroska, cut AVI.

    Returns:
        How many blocks of frames each stream has, for Matroska; for other containers nothing.
    """
    head = _head(file)
    file_size = os.fstat(file.fileno()).st_size
    if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > file_size + 1:
        raise failure(path, "is truncated: the file is shorter than it says")
    if head[:3] == b"FLV":
        _check_flv(path, file, file_size)
    return count_blocks(path, file, file_size) if head[:4] == b"\x1aE\xdf\xa3" else []


def _check_flv(path: str, file: BinaryIO, file_size: int) -> None:
    """Walk over the tags, each of which is followed by its size; some programs write 0, or that of the content."""
    file.seek(5)
    position = int.from_bytes(file.read(4), "big")
    content = -11
    while position + 4 <= file_size:
        file.seek(position)
        head = file.read(8)  # the size of the tag before, the kind and size of this one
        if int.from_bytes(head[:4], "big") not in (content + 11, content, 0):
            raise failure(path, f"is truncated or corrupt: no valid tag before byte {position}")
        content = int.from_bytes(head[5:8], "big")
        position += 4 + 11 + content
