"""Videos that are no files: bytes, open files, and rows of data sets that hold them."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, VJEPAError
from .images import is_animated

NAMELESS = "the video"
"""What errors call what has no path."""

_STILLS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")


def content_of(video: object) -> object:
    """Return the path or bytes behind an open file or the row of a data set; anything else as it is.

    A row is what `datasets.Video(decode=False)` gives: `path` and `bytes`, one of which may be None.

    Raises:
        InputError: a row without either, or a file that was opened as text.
    """
    if isinstance(video, Mapping) and ("bytes" in video or "path" in video):
        content = video.get("path") if video.get("bytes") is None else video["bytes"]
        if content is None:
            raise InputError("a row with neither path nor bytes holds no video; pass one that has either")
        return content_of(content)
    if isinstance(video, bytes | bytearray | memoryview):
        return bytes(video)
    if isinstance(video, io.BytesIO):
        return video.getvalue()
    if isinstance(video, io.TextIOBase):
        raise InputError("a file that was opened as text is no video; open it with mode 'rb'")
    if isinstance(video, io.IOBase):
        if video.seekable():  # else it is a pipe, which is read from where it is
            video.seek(0)
        return video.read()
    return video


def is_open_file_or_row(video: object) -> bool:
    """Whether this is one input for `content_of`, although it can be iterated over."""
    return isinstance(video, bytes | bytearray | memoryview | io.IOBase | Mapping)


def is_still(content: bytes) -> bool:
    """Whether bytes are a single image: PNG, JPEG, WebP or BMP, and no animation."""
    is_image = content.startswith(_STILLS) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")
    return is_image and not is_animated(io.BytesIO(content))


@contextmanager
def lent_path(content: bytes) -> Iterator[str]:
    """Lend bytes a path, so that they are read and checked as files are; errors name `the video` instead of it."""
    with _memory_file(content) if _has_memory_files() else _temporary_file(content) as path:
        try:
            yield path
        except VJEPAError as error:
            raise type(error)(str(error).replace(path, NAMELESS)) from error


def _has_memory_files() -> bool:
    return sys.platform == "linux" and hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    if sys.platform != "linux":
        raise NotImplementedError("see _has_memory_files")
    with open(os.memfd_create("video"), "wb", buffering=0) as file:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        yield f"/proc/self/fd/{file.fileno()}"


@contextmanager
def _temporary_file(content: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vjepa-", ignore_cleanup_errors=True) as place:
        path = Path(place) / "video"
        path.write_bytes(content)
        yield str(path)
        with suppress(OSError):
            path.unlink()
