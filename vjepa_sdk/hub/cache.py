"""Know which files of the hub's cache are what the hub says they are, without reading gigabytes at each load.

What was verified is noted beside the files, with a stamp by which a file that was touched since is recognised:

    models--owner--name/verified/<commit>.json        {file: {"algorithm": ..., "digest": ..., "stamp": [...]}}
    models--owner--name/verified/<commit>.part.json   the same, of files found without asking the hub what there is
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import WeightsError
from ..runtime.files import write_json, write_text

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Digest:
    """What a file's content must be."""

    algorithm: Literal["sha256", "git-sha1"]
    digits: str

    def of(self, path: Path) -> Digest:
        """Return the same kind of digest of a file."""
        with open(path, "rb") as file:
            if self.algorithm == "sha256":
                return Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
            # git puts the size before the content
            sha1 = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
            while chunk := file.read(1 << 20):
                sha1.update(chunk)
            return Digest("git-sha1", sha1.hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm} {self.digits}"


@dataclass(frozen=True)
class CachedCommit:
    """The files of one commit in the hub's cache."""

    storage: Path
    """Of the repository: `models--owner--name`."""
    commit: str
    is_whole: bool = True
    """The notes are of all files that the hub has of it, and not only of those that somebody left here."""

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.storage / "snapshots" / self.commit

    def is_verified(self) -> bool:
        """Whether all files are there and are what they were when they were verified; a damaged one is deleted."""
        notes = self._read()
        touched = False
        for name, (digest, stamp) in notes.items():
            path = self.directory / name
            if not path.is_file():
                return False
            if stamp != _stamp(path):
                touched = True
                if digest.of(path) != digest:
                    logger.warning("%s: is damaged; deleting it", path)
                    discard(path)
                    return False
        if touched:
            self.note({name: digest for name, (digest, _) in notes.items()})
        return bool(notes)

    def note(self, digests: Mapping[str, Digest]) -> None:
        """Note that these are all files of the commit, and that they have these digests."""
        with _if_possible(self._notes):
            _make_directory(self._notes.parent)
            notes = {
                name: {"algorithm": digest.algorithm, "digest": digest.digits, "stamp": _stamp(self.directory / name)}
                for name, digest in digests.items()
            }
            write_json(self._notes, notes)

    def name_branch(self, branch: str) -> None:
        """Make the cache answer to a branch or tag with this commit."""
        place = self.storage / "refs" / branch
        with _if_possible(place):
            _make_directory(place.parent)
            write_text(place, self.commit)

    @property
    def _notes(self) -> Path:
        return self.storage / "verified" / f"{self.commit}{'' if self.is_whole else '.part'}.json"

    def _read(self) -> dict[str, tuple[Digest, list[int]]]:
        """Return digest and stamp of each verified file; empty if there are no notes, or not ours."""
        try:
            notes: dict[str, Any] = json.loads(self._notes.read_bytes())
            return {
                name: (Digest(note["algorithm"], note["digest"]), note["stamp"])
                for name, note in notes.items()
                if Path(name).name == name
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}


def stated_digest(path: Path) -> Digest:
    """Return the digest that the cache states for a file: the name of its blob, or, without links, the file's own."""
    name = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return Digest("sha256", name)
    return Digest("git-sha1", name) if COMMIT.fullmatch(name) else Digest("sha256", "").of(path)


def discard(path: Path) -> None:
    """Delete a file of the cache and what its link leads to, provided that this is the same repository's.

    Raises:
        WeightsError: it leads elsewhere, and nothing is deleted; or the disk refuses.
    """
    chain, storage = [path], path.parents[2].resolve()
    while chain[-1].is_symlink():
        chain.append(chain[-1].parent / os.readlink(chain[-1]))
    for link in chain:
        if not link.parent.resolve().is_relative_to(storage):
            raise WeightsError(f"{path}: is damaged, and links to {link}, outside the hub's cache; delete the link")
    try:
        for link in reversed(chain):
            link.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: is damaged and cannot be deleted ({error.strerror}); delete it") from error


def _stamp(path: Path) -> list[int]:
    """Return numbers that change when somebody writes to a file, whatever time he gives it."""
    facts = path.stat()
    return [facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _make_directory(place: Path) -> None:
    if place.is_symlink():
        raise OSError(errno.ELOOP, "is a link, which is not followed", str(place))
    place.mkdir(parents=True, exist_ok=True)


@contextmanager
def _if_possible(path: Path) -> Iterator[None]:
    """Let a note fail: a cache that cannot be written to does without, and is verified at each load."""
    try:
        yield
    except OSError as error:
        logger.info("%s: cannot be written (%s); the cache is verified at each load", path, error.strerror)
