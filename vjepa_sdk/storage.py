"""Write files that are whole or absent, and let one run at a time own an output."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .errors import InUseError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Lend a temporary path beside `path`; what is written there takes its name only when the block ends well."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        # a library may have made the file private; it gets the mode that any new file gets here
        temporary.chmod(0o666 & ~_umask())
        sync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a new file that appears under its name, complete and on disk, only when the block ends well."""
    # "x" makes the file or fails: nobody's planted link is written through
    with atomic_path(path) as temporary, open(temporary, "xb") as file:
        yield file


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON atomically: sorted keys, indented, newline at the end."""
    with atomic_file(path) as file:
        file.write(json_text(data))


def json_text(data: Any) -> bytes:
    """Return what `write_json` writes."""
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_file(path) as file:
        file.write(text.encode())


def sync_file(path: str | Path) -> None:
    """Force a file's content to disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: str | Path) -> None:
    """Force a directory's names to disk, so that a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str | Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
