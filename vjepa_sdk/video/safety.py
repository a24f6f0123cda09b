"""Open files that strangers made, and say in one line what is wrong with them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError, VideoDecodeError, VJEPAError, printable

PathLike = str | os.PathLike[str]

MAX_PIXELS = 89_478_485  # per frame; the limit at which Pillow suspects a decompression bomb

_URL = re.compile(r"[a-z][a-z0-9+.\-]*://|(?:concatf?|subfile|data|pipe|fd|file|async|cache|crypto|tee)[:,]", re.I)


def open_regular_file(path: PathLike) -> BinaryIO:
    """Open a local regular file and nothing else; a FIFO or device neither blocks nor gets read."""
    check_is_path(path)
    # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise failure(path, "does not exist") from error
    except PermissionError as error:
        raise failure(path, "permission denied") from error
    except OSError as error:
        raise failure(path, f"cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    problem = None
    if stat.S_ISDIR(status.st_mode):
        problem = "is a directory, not a file"
    elif not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file"
    elif status.st_size == 0:
        problem = "is empty (0 bytes)"
    if problem:
        os.close(descriptor)
        raise failure(path, problem)
    return os.fdopen(descriptor, "rb", buffering=0)


def check_is_path(path: object) -> None:
    """Raise InputError unless this is a path, and not a URL or protocol string; a file may be named like one."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"a path must be str or os.PathLike, got {type(path).__name__}")
    if not text or "\0" in text:
        raise InputError(f"{printable(text)!r} is not a path: it is empty or contains a null character")
    if _URL.match(text) and not os.path.lexists(text):
        raise InputError(f"{printable(text)}: is a URL or protocol string, not a file; download it and pass the file")


def check_pixels(width: int, height: int, path: PathLike) -> None:
    """Raise VideoDecodeError for frames of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise failure(path, f"has more than {MAX_PIXELS} pixels per frame ({width}x{height})")


def checked_indices(indices: ArrayLike, num_available: int, path: PathLike) -> np.ndarray:
    """Return frame indices as int64 [K], or raise InputError if one is outside the video."""
    wanted = np.asarray(indices)
    if wanted.size == 0:
        return np.empty(0, dtype=np.int64)
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise InputError(f"indices must be a list of integers, got shape {wanted.shape} of {wanted.dtype}")
    outside = wanted[(wanted < 0) | (wanted >= num_available)]
    if len(outside):
        raise InputError(f"{printable(path)}: index {outside[0]} must be from 0 to {num_available - 1}")
    return wanted.astype(np.int64)


def ascending_indices(indices: ArrayLike, num_available: int, path: PathLike) -> np.ndarray:
    """Return frame indices as `checked_indices` does, or raise InputError if they do not ascend."""
    wanted = checked_indices(indices, num_available, path)
    if np.any(np.diff(wanted) <= 0):
        raise InputError(f"{printable(path)}: indices must ascend without repeats here; pass np.unique(indices)")
    return wanted


@contextmanager
def decoder_errors(path: str, reason: str = "is truncated or corrupt") -> Iterator[None]:
    """Turn whatever a decoder raises into one VideoDecodeError that names the file."""
    try:
        yield
    except VJEPAError:
        raise
    except Exception as error:  # decoders raise OSError, ValueError, RuntimeError, IndexError, DECORDError …
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise failure(path, f"{reason}: {detail.splitlines()[0]}") from error


def failure(path: PathLike, reason: str) -> VideoDecodeError:
    """Return the error that names a file and what is wrong with it."""
    return VideoDecodeError(f"{printable(path)}: {reason}")
