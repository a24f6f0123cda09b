"""Keep a resumable job on disk: its frozen plan, its finished parts, and a journal of which parts count.

    feats.npy.work/
      lock             held while a run is alive
      plan.json        what is to be done, with its own checksum and that of the units
      units.jsonl      what the units are, one line for each
      part-00000016    results of the units from number 16 on
      part-00000020-00000300   results of unit 20, which has many, from its 300th on
      journal.jsonl    one line for each finished part, with its own checksum
      commit           the output is finished: what is left to do is to move it to its place

A part counts once its journal line is on disk. A kill at any moment, a full disk or a damaged byte costs the parts it
touches and nothing else; the next run finds out which by their checksums.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ...errors import OutputError, printable
from ...features.embeddings import ERRORS, INDEX, INPUTS, META
from ...runtime.files import atomic_file, canonical_json, digest_of, disk_errors, sha256_of, sync_directory, write_json
from ...runtime.lock import RemovableLock, check_lock
from ...runtime.ownership import stranger_in

logger = logging.getLogger(__name__)

_LOCK, _PLAN, _UNITS, _JOURNAL, _COMMIT = "lock", "plan.json", "units.jsonl", "journal.jsonl", "commit"
_UNITS_SHA256 = "units_sha256"
FEATURES = "features"
_NAMED = (_LOCK, _PLAN, _UNITS, _JOURNAL, _COMMIT, FEATURES, INDEX, ERRORS, INPUTS, META)
_NAMES = "|".join([*map(re.escape, _NAMED), r"part-\d{8,}(-\d{8,})?"])
_OURS = re.compile(rf"{_NAMES}|\.({_NAMES})\.[0-9a-f]{{12}}\.tmp")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A finished part: results of the units `first` to `last - 1`, or some of those of one unit that has many."""

    first: int
    last: int
    begin: int = 0
    """How many results of unit `first` are in the parts before this one."""
    end: int | None = None
    """Where the results of unit `first` go on in the part after this one; None: they end here."""
    sha256: str
    facts: dict[str, Any]
    """What the job wants to know without opening the part, as plain JSON data."""

    @property
    def name(self) -> str:
        """Of the part's file."""
        return f"part-{self.first:08d}" + (f"-{self.begin:08d}" if self.begin else "")

    def follows(self, other: Part | None) -> bool:
        """Whether this part may come after another one, None for the start."""
        if self.begin:
            return other is not None and (other.first, other.end) == (self.first, self.begin)
        return other is None or self.first >= other.last


class Workspace:
    """Directory of one job, owned by one run at a time while the block lasts.

    A block that ends without a plan on disk leaves no directory behind. Only files of a job are ever deleted: a
    directory that holds anything else is refused.

    Raises:
        InUseError: another live run owns it.
        OutputError: it cannot be made, or it is not a job's.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = RemovableLock(directory / _LOCK)

    def __enter__(self) -> Workspace:
        with disk_errors(self.directory):
            self._refuse_what_is_not_ours()
            self._lock.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not (self.directory / _PLAN).exists() and not self.is_committed:
                with suppress(OSError):  # an empty directory harms nobody, and must not hide the block's own error
                    self._remove_directory()
        finally:
            self._lock.__exit__(kind, error, trace)

    def _refuse_what_is_not_ours(self) -> None:
        """Raise OutputError if something of somebody else's is there: a link, a file, or a directory that holds any."""
        remedy = "move it away, or choose another output"
        try:
            if not stat.S_ISDIR(self.directory.lstat().st_mode):
                raise OutputError(f"{self.directory}: is in the place of a job's directory; {remedy}")
            stranger = stranger_in(self.directory, _OURS)
        except FileNotFoundError:
            return
        if stranger is not None:
            raise OutputError(f"{self.directory}: holds {printable(stranger)}, which is no file of a job; {remedy}")
        check_lock(self.directory / _LOCK)

    def read_plan(self) -> dict[str, Any] | None:
        """Return the plan, or None where there is none that can be trusted; of units it says their `units_sha256`."""
        path = self.directory / _PLAN
        try:
            stored = json.loads(path.read_bytes())
            plan: dict[str, Any] = stored["plan"]
            if stored["sha256"] == digest_of(plan):
                units = self.directory / _UNITS
                if _UNITS_SHA256 not in plan or (units.exists() and sha256_of(units) == plan[_UNITS_SHA256]):
                    return plan
                path = units
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        logger.warning("%s is damaged; starting over", path)
        return None

    def read_units(self) -> Iterator[Any]:
        """Read what the units of the plan are, one by one."""
        with open(self.directory / _UNITS, "rb") as lines:
            for line in lines:
                yield json.loads(line)

    def start(self, plan: dict[str, Any], units: Iterable[bytes] | None = None) -> None:
        """Forget whatever was here and freeze a new plan.

        Args:
            units: what each is, as lines of JSON; None: the plan says all.
        """
        with disk_errors(self.directory):
            self._forget()
            with atomic_file(self.directory / _JOURNAL):
                pass
            if units is not None:
                with atomic_file(self.directory / _UNITS) as file:
                    plan = {**plan, _UNITS_SHA256: lines_sha256(_copied(units, file))}
            write_json(self.directory / _PLAN, {"plan": plan, "sha256": digest_of(plan)})

    def recover(self) -> list[Part]:
        """Return the finished parts in order, and delete what is torn, damaged or left over."""
        with disk_errors(self.directory):
            path = self.directory / _JOURNAL
            lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
            parts: list[Part] = []
            for part in sorted(filter(None, map(_parse, lines)), key=lambda part: (part.first, part.begin)):
                if part.follows(parts[-1] if parts else None) and self._damage(part) is None:
                    parts.append(part)
            if len(parts) != len(lines) - 1 or lines[-1]:
                logger.warning("%s: %d parts are intact, the rest is done again", self.directory, len(parts))
                with atomic_file(path) as file:
                    file.writelines(_line(part) for part in parts)
            self._keep_only([_PLAN, _UNITS, _JOURNAL, *(part.name for part in parts)])
        return parts

    def commit(
        self,
        *,
        first: int,
        last: int,
        begin: int = 0,
        end: int | None = None,
        data: Sequence[bytes],
        facts: dict[str, Any],
    ) -> Part:
        """Write a part and then its journal line, each forced to disk.

        Args:
            first, last, begin, end: see `Part`.
            data: the part's content, in pieces.
            facts: plain JSON data to keep in the journal.

        Raises:
            WriteError: the disk is full or not writable; parts committed before are intact.
        """
        sha256 = hashlib.sha256()
        for piece in data:
            sha256.update(piece)
        part = Part(first=first, last=last, begin=begin, end=end, sha256=sha256.hexdigest(), facts=facts)
        with disk_errors(self.directory, needed=sum(map(len, data))):
            with atomic_file(self.directory / part.name) as file:
                file.writelines(data)
            with open(self.directory / _JOURNAL, "ab") as journal:
                journal.write(_line(part))
                journal.flush()
                os.fsync(journal.fileno())
        return part

    def read(self, part: Part) -> bytes:
        """Return a part's content.

        Raises:
            OutputError: it is no longer what was committed.
        """
        try:
            data = (self.directory / part.name).read_bytes()
            damage = None if hashlib.sha256(data).hexdigest() == part.sha256 else "its content changed"
        except OSError as error:
            data, damage = b"", error.strerror or str(error)
        if damage is not None:
            raise OutputError(f"{self.directory / part.name}: is damaged ({damage}); run again to redo this part")
        return data

    @property
    def is_committed(self) -> bool:
        """Whether a run was killed while it published: the new output counts, call `replace_output`
        again before all else."""
        return (self.directory / _COMMIT).exists()

    def replace_output(self, files: Sequence[tuple[str, Path]]) -> None:
        """Replace an output by finished files of this directory, and forget the job.

        The old output goes first and the new one comes last, so that neither ever stands beside files that belong to
        the other. From the moment the commit mark is on disk the next run finishes what a kill leaves undone.

        Args:
            files: name here and final path of each; the last is the output itself.
        """
        name, output = files[-1]
        with disk_errors(output):
            if not self.is_committed:
                for source, _ in files:
                    os.stat(self.directory / source)  # all must be there before the old output goes
                with atomic_file(self.directory / _COMMIT):
                    pass
            if (self.directory / name).exists():
                output.unlink(missing_ok=True)
                for source, final in files[:-1]:
                    with suppress(FileNotFoundError):  # moved already, before a kill
                        os.replace(self.directory / source, final)
                sync_directory(output.parent)
                os.replace(self.directory / name, output)
            sync_directory(output.parent)
            self._forget()

    def clear(self) -> None:
        """Forget the job; the directory goes when the block ends."""
        with disk_errors(self.directory):
            self._forget()

    def _forget(self) -> None:
        # the plan goes first: parts without one are never taken for results
        for name in (_PLAN, _COMMIT):
            (self.directory / name).unlink(missing_ok=True)
        self._keep_only([])

    def _keep_only(self, names: Sequence[str]) -> None:
        kept = {_LOCK, *names}
        for path in self.directory.iterdir():
            if path.name not in kept and _OURS.fullmatch(path.name):
                path.unlink()

    def _remove_directory(self) -> None:
        self._keep_only([])
        self._lock.remove()

    def _damage(self, part: Part) -> str | None:
        try:
            self.read(part)
        except OutputError as error:
            return str(error)
        return None


def lines_sha256(lines: Iterable[bytes]) -> str:
    """Return the sha256 of a file of these lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def _copied(lines: Iterable[bytes], file: IO[bytes]) -> Iterator[bytes]:
    for line in lines:
        file.write(line)
        yield line


def has_plan(directory: Path) -> bool:
    """Whether work lies there that is not finished, or not in its place yet."""
    return (directory / _PLAN).exists() or (directory / _COMMIT).exists()


def _line(part: Part) -> bytes:
    body = asdict(part)
    return canonical_json({**body, "crc32": zlib.crc32(canonical_json(body))}) + b"\n"


def _parse(line: bytes) -> Part | None:
    try:
        body = json.loads(line)
        checksum = body.pop("crc32")
        return Part(**body) if checksum == zlib.crc32(canonical_json(body)) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
