"""Let one run at a time own an output."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ..errors import InUseError

PATIENCE_SECONDS = 1.0


class Lock:
    """Hold a lock file for as long as the block runs; a dead owner's lock frees itself.

    Raises:
        InUseError: another live run holds it; the message names its host and process.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor = -1

    def __enter__(self) -> Lock:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            self._acquire()
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def _acquire(self) -> None:
        # an owner killed while it was starting a process leaves that one the lock, for an instant
        refuse_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= refuse_at:
                    break
            time.sleep(0.02)
        owner = os.pread(self._descriptor, 4096, 0).decode(errors="replace").strip() or "another process"
        raise InUseError(f"{self.path.parent}: in use by {owner}; wait for it or choose another output")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # closing the descriptor releases the lock; the file stays, since deleting it would race with a new owner
        os.close(self._descriptor)


class RemovableLock(Lock):
    """A lock whose owner may delete its file: a lock won on a file that is gone does not count."""

    def __enter__(self) -> RemovableLock:
        while True:
            with suppress(FileExistsError):  # not mkdir(exist_ok=True): that fails if the directory goes meanwhile
                os.mkdir(self.path.parent)
            try:
                super().__enter__()
            except FileNotFoundError:  # the owner before removed the directory this very moment
                continue
            if self._is_on_disk():
                return self

    def _is_on_disk(self) -> bool:
        held = os.fstat(self._descriptor)
        try:
            if os.path.samestat(held, os.stat(self.path)):
                return True
        except FileNotFoundError:
            pass
        os.close(self._descriptor)
        return False
