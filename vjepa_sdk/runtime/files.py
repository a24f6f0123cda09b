"""Write files that are whole or absent, and let one run at a time own an output."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import VJEPAError, WriteError


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
    with open(path, "r+b" if os.name == "nt" else "rb") as file:  # Windows flushes what may be written only
        os.fsync(file.fileno())


def sync_directory(path: str | Path) -> None:
    """Force a directory's names to disk, so that a rename outlives a power cut; Windows opens no directories."""
    if os.name == "nt" or not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str | Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_on_disk(path: str | Path) -> int:
    """Return the bytes of a file, or of the files right in a directory; 0 if there is nothing to ask."""
    try:
        if not os.path.isdir(path):
            return os.path.getsize(path)
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except OSError:  # who reads it will say so
        return 0


@contextmanager
def disk_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn what the file system refuses into a WriteError that says how much room there is."""
    try:
        yield
    except VJEPAError:
        raise
    except OSError as error:
        what = "cannot write" if needed is None else f"cannot write {needed:,} bytes"
        raise WriteError(
            f"{path}: {what} ({error.strerror or error}), {_free_bytes(path):,} bytes are free; "
            "what is finished is kept, run again once this is solved"
        ) from error


def digest_of(data: Any) -> str:
    """Return the sha256 of plain JSON data, whatever the order of its keys."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


def canonical_json(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
