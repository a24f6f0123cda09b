"""Memory through which a child hands its arrays to its parent, instead of in pieces through a socket; on Linux.

It has a descriptor and no name, so the system frees it when the last of its processes ends, however it ends. Its size
is sealed, and the parent copies out of it: what a child does to it later changes nothing that was received.
"""

from __future__ import annotations

import contextlib
import os
import sys

import numpy as np

NUM_BYTES = 64 << 20
"""Of one child; pages take memory from when they are first written to."""
MIN_BYTES = 32 << 10
"""Below this the socket is as fast."""


def create() -> int | None:
    """Return a descriptor of memory; None where the system has none of this kind, and arrays take the socket."""
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        return None
    import fcntl

    descriptor = -1
    try:
        descriptor = os.memfd_create("vjepa-worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, NUM_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:  # an old kernel, or one that is told to refuse it
        with contextlib.suppress(OSError):
            os.close(descriptor)
        return None
    return descriptor


def fits(array: np.ndarray) -> bool:
    """Whether an array goes through shared memory where there is some."""
    return MIN_BYTES <= array.nbytes <= NUM_BYTES


def write(descriptor: int, array: np.ndarray) -> None:
    """Put a contiguous array there, in the place of the one before."""
    if sys.platform != "linux":
        raise NotImplementedError("see create")
    left, position = array.reshape(-1).view(np.uint8).data, 0
    while left:
        written = os.pwrite(descriptor, left, position)
        left, position = left[written:], position + written


def read(descriptor: int, shape: list[int], dtype: str) -> np.ndarray:
    """Return a copy of what was written there.

    Raises:
        ValueError: there cannot be as much.
    """
    if sys.platform != "linux":
        raise NotImplementedError("see create")
    array = np.empty(shape, dtype)
    left, position = array.reshape(-1).view(np.uint8).data, 0
    while left:
        num_read = os.preadv(descriptor, [left], position)
        if not num_read:
            raise ValueError(f"the array has {array.nbytes} bytes, more than the {NUM_BYTES} that are shared")
        left, position = left[num_read:], position + num_read
    return array
