"""Count the calls that put bytes and names on disk, and do something at the k-th of them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vjepa_sdk.training import checkpoint

_CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


class Faults:
    """Wrap the calls of this process, until `undo`."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.at, self.count, self._action = at, 0, action
        self._originals: list[tuple[Any, str, Any]] = []
        for name in _CALLS:
            self._wrap(os, name, self._before)
        self._wrap(checkpoint, "write_tensors", self._torn)

    def undo(self) -> None:
        for owner, name, original in self._originals:
            setattr(owner, name, original)

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        self._originals.append((owner, name, original))
        setattr(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))

    def _before(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._tick()
        return original(*args, **kwargs)

    def _torn(self, original: Callable[..., Any], path: Path, tensors: Any) -> None:
        """Fail before the file is there, when half of it is, and when all of it is."""
        self._tick()
        original(path, tensors)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        self._tick()
        path.write_bytes(whole)
        self._tick()

    def _tick(self) -> None:
        self.count += 1
        if self.count == self.at:
            self._action()


@contextmanager
def faults(at: int, action: Callable[[], None]) -> Iterator[Faults]:
    """Do something at the k-th call in this block."""
    counted = Faults(at, action)
    try:
        yield counted
    finally:
        counted.undo()


def fail(number: int = errno.ENOSPC) -> None:
    """Do what a full disk does."""
    raise OSError(number, os.strerror(number))


def die() -> None:
    """Do what the kernel does to a process that is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
