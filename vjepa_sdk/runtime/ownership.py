"""Know what is ours before it is written over or deleted, and follow no link there.

Whoever can write to a directory can plant a link or a file in it, and whoever mistypes an output names another's
directory. What is not surely ours is refused by its name and stays as it is.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError, printable
from .files import write_json

MARK = ".vjepa-sdk-writing"
"""In a directory while its files are written: their names, so that a kill leaves nothing that nobody knows."""

_MAX_MARK_BYTES = 1 << 20
_REMEDY = "move it away, or choose another place"


def refuse_link(path: Path) -> None:
    """Raise OutputError if a symbolic link, dangling or not, is in the place of what is to be written."""
    if path.is_symlink():
        raise OutputError(f"{printable(path)}: is a symbolic link, which is not followed here; {_REMEDY}")


def stranger_in(directory: Path, ours: re.Pattern[str]) -> str | None:
    """Return the first entry that is none of ours, by its name or because it is no regular file; None without any."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if not ours.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            return entry.name
    return None


def is_file_here(path: Path) -> bool:
    """Whether a path is a regular file itself, and not a link to one."""
    with suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def check_place(directory: Path) -> None:
    """Raise OutputError unless a path is a directory, or nothing yet."""
    refuse_link(directory)
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{printable(directory)}: is not a directory; {_REMEDY}")


def check_files(directory: Path, *, reserved: re.Pattern[str], written: Callable[[Path], set[str]]) -> set[str]:
    """Return the names of the files here that an earlier writing left, complete or killed.

    Args:
        reserved: names that the files of such a directory have.
        written: what its content proves to be ours.

    Raises:
        OutputError: the directory holds a reserved name that is not ours, or that is no regular file.
    """
    check_place(directory)
    if not directory.exists():
        return set()
    # in this order, since another process may begin and end to write the same directory meanwhile
    found = sorted(name for name in os.listdir(directory) if reserved.fullmatch(name))
    ours = _marked(directory)
    ours |= written(directory)
    for name in found:
        if name not in ours or not is_file_here(directory / name):
            raise OutputError(
                f"{printable(directory)}: holds {printable(name)}, which was not written there by vjepa-sdk; {_REMEDY}"
            )
    return ours & set(found)


@contextmanager
def writing(
    directory: Path, names: Collection[str], *, reserved: re.Pattern[str], written: Callable[[Path], set[str]]
) -> Iterator[set[str]]:
    """Make a directory of ours, or take one over, while the block writes its files.

    Args:
        names: of the files that the block writes.
        reserved, written: as in `check_files`.

    Yields:
        the names of the files that an earlier writing left, which the block may replace or delete.

    Raises:
        OutputError: see `check_files`; nothing was touched.
    """
    old, is_new = check_files(directory, reserved=reserved, written=written), not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / MARK, {"writing": sorted(old | set(names))})
    try:
        yield old
    except BaseException:
        if os.listdir(directory) == [MARK]:
            (directory / MARK).unlink()
            if is_new:
                directory.rmdir()
        raise
    (directory / MARK).unlink(missing_ok=True)


def is_unfinished(directory: Path) -> bool:
    """Whether a writing of this directory was killed, or goes on."""
    return bool(_marked(directory))


def _marked(directory: Path) -> set[str]:
    """Return the names in the mark of a directory; none without a mark of ours."""
    if not is_file_here(directory / MARK):
        return set()
    try:
        names = json.loads((directory / MARK).read_bytes()[:_MAX_MARK_BYTES])["writing"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
