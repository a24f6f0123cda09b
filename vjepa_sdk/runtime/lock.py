"""Let one run at a time own an output."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from ..errors import InUseError, OutputError

logger = logging.getLogger(__name__)

# an owner killed while it was starting a process leaves that one the lock, for an instant
PATIENCE_SECONDS = 1.0

_SIGNATURE = re.compile(rb"(process \d+ on \S+\n)?")


class Lock:
    """Hold a lock file for as long as the block runs; a dead owner's lock frees itself.

    The file stays, since deleting it would race with a new owner.

    Raises:
        InUseError: another live run holds it; the message names its host and process.
        OutputError: the file is there, and is no lock of ours.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: FileLock | None = None
        # with `on_acquired` it is a lock of the kernel or an error: never a file that outlives its owner
        with suppress(ValueError):
            self._lock = FileLock(self.path, thread_local=False, preserve_lock_file=True, on_acquired=self._sign)

    def __enter__(self) -> Lock:
        if self._lock is None:
            logger.warning("%s: this system locks no files, so nothing keeps a second run out", self.path.parent)
            return self
        check_lock(self.path)
        try:
            self._lock.acquire(timeout=PATIENCE_SECONDS, poll_interval=0.02)
        except Timeout as error:
            owner = ""
            with suppress(FileNotFoundError, PermissionError):  # Windows lets nobody read what is locked
                owner = self.path.read_text(errors="replace").strip()
            raise InUseError(
                f"{self.path.parent}: in use by {owner or 'another process'}; wait for it or choose another output"
            ) from error
        return self

    def _sign(self, descriptor: int) -> None:
        # filelock counts links, and NFS leaves one to a file that was deleted while it was open here
        if not os.path.samestat(os.fstat(descriptor), os.lstat(self.path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()


def check_lock(path: Path) -> bool:
    """Return whether the lock of a run is there; raise OutputError if another file is, which must not be signed."""
    try:
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind):
            return False  # which is never followed: to take it fails
        with open(path, "rb") as file:
            is_ours = stat.S_ISREG(kind) and _SIGNATURE.fullmatch(file.read(1000)) is not None
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # on Windows nobody reads what another holds
    if not is_ours:
        raise OutputError(
            f"{path.parent}: its file {path.name} is not the lock of a job; move it away, or choose another output"
        )
    return True


class RemovableLock(Lock):
    """A lock whose owner may delete its file and directory: a lock won on a file that is gone does not count.

    Raises:
        NotADirectoryError: a file or a link, which somebody may have planted, is in the directory's place.
    """

    def __enter__(self) -> RemovableLock:
        directory = self.path.parent
        while True:
            with suppress(FileExistsError):  # not mkdir(exist_ok=True): that fails if the directory goes meanwhile
                os.mkdir(directory)
            # the owner before may remove the directory this very moment
            with suppress(FileNotFoundError, FileExistsError):
                if not stat.S_ISDIR(directory.lstat().st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
                super().__enter__()
                return self

    def remove(self) -> None:
        """Delete the lock's file, and its directory unless more is in it."""
        if (
            os.name == "nt" and self._lock is not None
        ):  # which deletes no open file, and so none that the next owner has taken meanwhile
            self._lock.release()
        self.path.unlink(missing_ok=self._lock is None)
        try:
            self.path.parent.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # the next run has moved in already
                raise
